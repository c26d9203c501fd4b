"""A run that takes a second: a model of 38 thousand weights, texts of a few words, and an evaluator without a model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counting_evaluator import SOURCE
from gguf_files import METADATA, write_gguf

from bitclass3_core.progress import Progress, Silent
from bitclass3_core.run_config import RunConfig
from bitclass3_core.runs.config_file import load_config
from bitclass3_core.runs.context import Context
from bitclass3_core.runs.inputs import Inputs
from bitclass3_core.runs.pipeline import Pipeline
from bitclass3_core.runs.solution import Solution, solution_of

MENU = ["Q4_K", "Q8_0"]
TENSORS: dict[str, tuple[tuple[int, ...], str]] = {
    "token_embd.weight": ((48, 256), "BF16"),
    "blk.0.attn_q.weight": ((32, 256), "BF16"),
    "blk.0.ffn_down.weight": ((16, 512), "BF16"),
    "blk.1.attn_q.weight": ((32, 256), "BF16"),
    "output_norm.weight": ((256,), "F32"),
}
MATRICES = sorted(name for name, (shape, _) in TENSORS.items() if len(shape) > 1)
OF_MODEL = {**METADATA, "llama.embedding_length": 256, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 4}
HOOKS = "from pathlib import Path\nimport numpy as np\nfrom bitclass3_core import hookimpl\n"
LOG = "with (Path(__file__).parent / 'log.txt').open('a') as log: log.write(Path(__file__).stem + '\\n')"  # a plugin's line


class Heard(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def warn(self, line: str) -> None:
        self.warned.append(line)


def write_documents(path: Path, *texts: str) -> Path:
    """One document a line."""
    path.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    return path


@dataclass
class SmallRun:
    """A model, texts and an evaluator in a folder, and whatever is made of them in its folder ``out``.

    Each ``context``, and all that is made without one, is a run that is started again.
    """

    folder: Path
    gguf: Path
    progress: Heard = field(default_factory=Heard)

    def __post_init__(self) -> None:
        write_documents(self.folder / "calibration.jsonl", "a", "b", "c", "d")
        write_documents(self.folder / "evaluation.jsonl", "e", "f", "g", "h")
        self.plugin("counting", SOURCE)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def plugin(self, name: str, source: str) -> str:
        """A plugin's file; what it is called by."""
        path = self.folder / f"{name}.py"
        path.write_text(source)
        return str(path)

    def config(self, *settings: str, **flags: Any) -> RunConfig:
        """The usual one, 6 bits per weight, with some keys set: ``settings`` as ``--set`` takes them, ``flags`` as whole sections."""
        values: dict[tuple[str, ...], Any] = {
            ("model", "gguf"): self.gguf,
            ("corpus", "calibration"): [self.folder / "calibration.jsonl"],
            ("corpus", "evaluation"): [self.folder / "evaluation.jsonl"],
            ("qtypes", "menu"): MENU,
            ("architecture", "plugin"): "generic",
            ("estimate", "plugin"): "uniform",
            ("export", "plugin"): ["gguf"],
            ("evaluate", "plugin"): str(self.folder / "counting.py"),
            ("report", "plugin"): [],
            ("baseline", "plugin"): "none",
            ("out",): self.out,
            ("threads",): 1,
            **{(key,): value for key, value in flags.items()},
        }
        if not any(setting.startswith("budget.") for setting in settings):
            values["budget", "target_bpw"] = 6.0
        return load_config(flags=values, settings=settings)

    def context(self, progress: Progress | None = None) -> Context:
        return Context.of(self.config(), progress or self.progress, "bitclass3 run")

    def pipeline(self, *settings: str, context: Context | None = None, **flags: Any) -> Pipeline:
        return Pipeline(self.config(*settings, **flags), context or self.context())

    def solution(self, *settings: str, context: Context | None = None, **flags: Any) -> Solution:
        return solution_of(self.config(*settings, **flags), context or self.context())

    def inputs(self, *settings: str, context: Context | None = None, **flags: Any) -> Inputs:
        return self.solution(*settings, context=context, **flags).inputs

    @property
    def measured(self) -> list[str]:
        """The files that the evaluator has measured, in order."""
        log = self.folder / "calls.txt"
        return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []

    @property
    def logged(self) -> list[str]:
        """The plugins that wrote the line ``LOG``, in order."""
        log = self.folder / "log.txt"
        return log.read_text().splitlines() if log.exists() else []

    def files(self, *endings: str) -> set[str]:
        """Names of the files in the run's folder that end so."""
        return {path.name for path in self.out.glob("*") if path.name.endswith(endings or "") and path.name != "imatrix.gguf"}


def write_model(path: Path, **options: Any) -> Path:
    """The small model's GGUF."""
    return write_gguf(path, options.pop("tensors", TENSORS), metadata=OF_MODEL, **options)


def said(lines: Sequence[str], stage: str) -> list[str]:
    """What was said of a stage, without its name."""
    return [line.removeprefix(f"{stage}: ") for line in lines if line.startswith(f"{stage}: ")]
