"""The answers that the built-in plugins gave, each beside the BITCLASS3_ANSWERS that it belongs to: what keeps old run folders good.

usage: python tests/answers.py      writes tests/data/answers.json again, after BITCLASS3_ANSWERS of what has changed was changed
"""

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from questions import QUESTIONS
from questions.asking import environment

from bitclass3_core.plugin.manager import load_plugin

FILE = Path(__file__).parent / "data" / "answers.json"
# Plugins whose answers are for people: no artefact is made again for them, and their texts are edited freely.
FOR_PEOPLE = {"explorer", "model-card", "plots"}
# How far another machine's arithmetic may come from the kept numbers; after feedback one rounding decides the next.
RELATIVE = {"gguf": 5e-3, "kl-hessian": 1e-3, "torch": 1e-3}
_OTHERS = 1e-4


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Threads that wait for each other over such small models take ten times the time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def answer_of(plugin: str) -> Any:
    """The plugin's answer to its question, as JSON has it."""
    with tempfile.TemporaryDirectory(prefix="bitclass3-answers-") as temporary, one_torch_thread():
        folder = Path(temporary).resolve()
        with environment("BITCLASS3_CACHE", folder / "cache"):  # probes of other runs lie in the user's
            return json.loads(json.dumps(QUESTIONS[plugin](folder)))


def version_of(plugin: str) -> str:
    """Its version without the distribution's: what it declares as BITCLASS3_ANSWERS."""
    return load_plugin(plugin).version.partition("+")[2]


def difference(answer: Any, kept: Any, relative: float, place: str = "") -> str:
    """Where an answer differs from the kept one, and how; empty if nowhere."""
    if isinstance(answer, dict) and isinstance(kept, dict) and answer.keys() == kept.keys():
        parts = [(answer[key], kept[key], f"{place}/{key}") for key in answer]
    elif isinstance(answer, list) and isinstance(kept, list) and len(answer) == len(kept):
        parts = [(*pair, f"{place}[{number}]") for number, pair in enumerate(zip(answer, kept, strict=True))]
    elif answer == kept or (
        isinstance(answer, float) and isinstance(kept, float) and math.isclose(answer, kept, rel_tol=relative, abs_tol=1e-15)
    ):
        return ""
    else:
        return f"{place} is {answer}, was {kept}"
    return next((found for part in parts if (found := difference(part[0], part[1], relative, part[2]))), "")


def changed(plugin: str, kept: dict[str, Any]) -> str:
    """What is no longer as it was kept: the version, or where the answer differs; empty if all is."""
    if version_of(plugin) != kept["version"]:
        return f"BITCLASS3_ANSWERS is {version_of(plugin)}, was {kept['version']}"
    return difference(answer_of(plugin), kept["answer"], RELATIVE.get(plugin, _OTHERS))


def main() -> None:
    """Write the file."""
    answers = {plugin: {"version": version_of(plugin), "answer": answer_of(plugin)} for plugin in sorted(QUESTIONS)}
    FILE.write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
