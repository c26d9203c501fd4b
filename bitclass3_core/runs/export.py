"""The files that a run writes: ours and the stock mix beside it; solved again where a tensor turns out unable to have its type."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bitclass3_core.constraints.gpu import write_override
from bitclass3_core.errors import ContractError, UnusableTypeError
from bitclass3_core.gguf.imatrix import write_imatrix
from bitclass3_core.layout import Budget
from bitclass3_core.run_config import Keep
from bitclass3_core.runs.candidates import TEST, CandidateFile
from bitclass3_core.runs.select import Choice, choose
from bitclass3_core.runs.solution import Solution


@dataclass(frozen=True, slots=True)
class Shipped:
    """The file that ships first, then the stock mix to compare with, written or still good; and how ours was chosen."""

    files: list[CandidateFile]
    choice: Choice


def ship(solution: Solution) -> Shipped:
    """Choose and write the files of a solution. Raises ContractError for a file that is larger than asked."""
    context = solution.inputs.context
    write_imatrix(context.folder.path / "imatrix.gguf", solution.estimate.sensitivity, "bitclass3")
    shipped = None
    while shipped is None:
        try:
            shipped = _make(solution)
        except UnusableTypeError as error:
            solution.without(error)
    ours = shipped.files[0]
    check_size(ours, solution.budget)
    write_override(context.folder.path, ours.name, solution.inputs.model, solution.inputs.limits.gpu)
    if ours.allocation is not solution.allocation:
        solution.write_allocation(ours.allocation)
    return shipped


def _make(solution: Solution) -> Shipped:
    choice = choose(solution)
    inputs, context = solution.inputs, solution.inputs.context
    problem = replace(solution.problem, budget_bytes=solution.quantizable_bytes(choice.winner.allocation))
    baseline = inputs.stages.baseline(problem, inputs.model, inputs.architecture)
    keep, has_text = inputs.config.keep, bool(inputs.corpus.evaluation)
    files = [choice.store.make(choice.winner, context.progress, TEST if keep == "none" and has_text else None)]
    if baseline is not None:
        planned = CandidateFile.of_mix(solution.usable(baseline), inputs.model)
        figures = TEST if keep in ("shipped", "none") and has_text else None
        files.append(solution.store.make(planned, context.progress, figures))
    return Shipped(files, choice)


def check_size(ours: CandidateFile, budget: Budget) -> None:
    """Keep the promise: never larger than asked, whatever the exporter added to the metadata."""
    size, asked = ours.n_bytes, budget.file_bytes
    if asked is not None and size > asked:
        raise ContractError(f"{ours.name}.gguf is {size:,} bytes, asked were {asked:,}; lower the target by {size - asked:,} bytes")


def unwanted(shipped: Shipped, keep: Keep) -> Sequence[CandidateFile]:
    """The files that do not stay: all that only stood for selection, and of those that were written what ``keep`` leaves out."""
    if keep == "all":
        return []
    names = {made.name for made in shipped.files}
    stood = [made for made in shipped.choice.candidates if made.name not in names]
    return [*stood, *{"stock": [], "shipped": shipped.files[1:], "none": shipped.files}[keep]]
