"""A small question to each built-in plugin, asked through its hook, and what tells its answer from another: numbers, texts, digests.

Where a number depends on the machine's arithmetic, the answer has sums that another machine finds to within ``answers.RELATIVE``.
"""

from questions import architectures, costs, files, programs, solutions

QUESTIONS = {
    name: question for room in (architectures, costs, solutions, files, programs) for name, question in room.QUESTIONS.items()
}
