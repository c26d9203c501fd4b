"""A plugin of every stage, as a file's source: it answers as built-ins do, and logs what it was called with.

Each call is a line of ``calls.jsonl`` beside it: stage, its option ``x``, the threads and the llama.cpp that this process is to use.
"""

import json
from pathlib import Path
from typing import Any

_SOURCE = '''
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import bitclass3_generic, bitclass3_gguf, bitclass3_greedy, bitclass3_uniform, bitclass3_weighted_error
import numpy as np
from bitclass3_core import hookimpl, machine
from bitclass3_core.evaluation import summarize
from bitclass3_core.layout import budget_for_bpw
from bitclass3_core.options import PluginOptions
from bitclass3_core.qtypes import qtype

BITCLASS3_API = 1


class Options(PluginOptions):
    """What tests ask for."""

    efforts: ClassVar[Mapping[str, Mapping[str, Any]]] = {"normal": {"x": 7}}
    reads_text: ClassVar[bool] = READS_TEXT
    x: int = 0


def note(stage, options, **more):
    facts = {"stage": stage, "x": options.x, "threads": machine.default_threads(0), "llama_cpp": str(machine.llama_cpp_folder())}
    with (Path(__file__).parent / "calls.jsonl").open("a") as log:
        log.write(json.dumps({**facts, **more}) + "\\n")


@hookimpl
def bitclass3_architecture(model, options: Options):
    note("architecture", options)
    return bitclass3_generic.bitclass3_architecture(model)


@hookimpl
def bitclass3_estimate(model, architecture, corpus, options: Options):
    note("estimate", options, calibration=len(corpus.calibration), imatrix=len(corpus.imatrix))
    return bitclass3_uniform.bitclass3_estimate(model, architecture)


@hookimpl
def bitclass3_measure(model, sensitivity, qtypes, options: Options):
    note("measure", options)
    return bitclass3_weighted_error.bitclass3_measure(model, sensitivity, qtypes, bitclass3_weighted_error.Options())


@hookimpl
def bitclass3_budget(model, level, options: Options):
    note("budget", options, level=level)
    return budget_for_bpw(model, 6.5)


@hookimpl
def bitclass3_solve(problem, options: Options):
    note("solve", options)
    return bitclass3_greedy.bitclass3_solve(problem)


@hookimpl
def bitclass3_export(model, architecture, allocation, sensitivity, corpus, out, stem, options: Options, progress):
    note("export", options, stem=stem)
    plain = bitclass3_gguf.Options()
    return bitclass3_gguf.bitclass3_export(model, architecture, allocation, sensitivity, corpus, out, stem, plain, progress)


@hookimpl
def bitclass3_evaluate(reference, candidates, corpus, options: Options):
    note("evaluate", options, candidates=[c.path.stem for c in candidates], documents=len(corpus.evaluation))
    answers = []
    for candidate in candidates:
        infos = [info for info in candidate.tensors.values() if len(info.shape) > 1]
        kld = sum(info.n_params * 4.0 ** -qtype(info.dtype).bpw for info in infos) / sum(info.n_params for info in infos)
        tokens = (kld * np.random.default_rng(0).gamma(2, 0.5, 512)).astype(np.float32)
        nll = np.full(512, 2.0)
        answers.append(summarize(candidate.path.stem, tokens, tokens < 1, nll + tokens, nll, np.full(512, "text"), 16, "spy"))
    return answers


@hookimpl
def bitclass3_report(run, out, options: Options):
    note("report", options)
    (out / "report.txt").write_text(run.ours.name)
    return [out / "report.txt"]
'''
_WRAPPER = """
from pathlib import Path
from bitclass3_core import hookimpl

@hookimpl(wrapper=True)
def bitclass3_estimate():
    answer = yield
    with (Path(__file__).parent / "wrapped.txt").open("a") as log:
        log.write("estimate\\n")
    return answer
"""


def write_spy(folder: Path, reads_text: bool = False) -> Path:
    """The plugin's file."""
    path = folder / "spy.py"
    path.write_text(_SOURCE.replace("READS_TEXT", str(reads_text)))
    return path


def write_wrapper(folder: Path, name: str = "around.py") -> Path:
    """A wrapper around the estimator; what it went around is in ``wrapped.txt`` beside it."""
    path = folder / name
    path.write_text(_WRAPPER)
    return path


def calls(folder: Path, stage: str) -> list[dict[str, Any]]:
    """What the plugin noted of a stage."""
    path = folder / "calls.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [entry for entry in map(json.loads, lines) if entry["stage"] == stage]
