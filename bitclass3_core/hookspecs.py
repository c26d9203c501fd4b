"""The extension surface: one hook a stage. Read this file first.

A plugin is a module with one function, named after its hook and marked with ``bitclass3_core.hookimpl``: data in, frozen data
out. It may leave out any argument that it does not use. Its ``options`` argument is annotated with a pydantic class: the core
makes one from the pipeline's ``[stage] options`` and refuses unknown keys. The core checks every answer, and computes sizes and
costs itself.

    source -> estimate -> measure -> (budget) -> solve -> export -> evaluate -> report
"""

from pathlib import Path
from typing import Any

from bitclass3_core import hookspec
from bitclass3_core.corpus import Corpus
from bitclass3_core.costs import CostTable
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.layout import Budget
from bitclass3_core.model import Architecture, Model
from bitclass3_core.problem import Allocation, Problem
from bitclass3_core.progress import Progress
from bitclass3_core.qtypes import QType
from bitclass3_core.results import Run
from bitclass3_core.sensitivity import Sensitivity
from bitclass3_core.stage_calls import Stages

# The version of the hooks here and of the types that they name. A plugin says which version it is written for: BITCLASS3_API = 1.
# It rises when a plugin must change: a hook, an argument or a field of a type is renamed or gone. A new one does not raise it.
API_VERSION = 1
OLDEST_API = 1  # plugins for versions since this one still load

Options = Any  # the pydantic class that the plugin's own annotation names


@hookspec(firstresult=True)
def bitclass3_architecture(model: Model, options: Options) -> Architecture:
    """Names, roles and permutations of a model family: which tensors may be quantized, floors, HF names, row and column orders."""
    raise NotImplementedError


@hookspec(firstresult=True)
def bitclass3_estimate(
    model: Model, architecture: Architecture, corpus: Corpus, options: Options, progress: Progress, stages: Stages
) -> Sensitivity:
    """Powers of every quantizable tensor: in_power [n_in] and, where the estimator knows it, out_power [n_out].

    ``corpus.calibration`` is the text to use, never ``corpus.evaluation``. ``stages`` calls other plugins, as the run would.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def bitclass3_measure(model: Model, sensitivity: Sensitivity, qtypes: tuple[QType, ...], options: Options) -> CostTable:
    """The error metric: the cost of every tensor of ``model`` at every type of ``qtypes`` that its rows accept.

    It is called with one tensor at a time, from several threads, so that a killed run keeps what was measured.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def bitclass3_budget(
    model: Model, architecture: Architecture, sensitivity: Sensitivity, level: str | None, options: Options
) -> Budget:
    """How many bytes the file's tensors may take.

    ``level`` is the level that the user asked for (``Q4_K_M``), or None. A plugin that does not take the sensitivity is called before
    anything is computed.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def bitclass3_solve(problem: Problem, model: Model, architecture: Architecture, options: Options) -> Allocation:
    """One choice for every group of ``problem``, within its budget."""
    raise NotImplementedError


@hookspec(firstresult=True)
def bitclass3_export(
    model: Model,
    architecture: Architecture,
    allocation: Allocation,
    sensitivity: Sensitivity,
    corpus: Corpus,
    out: Path,
    stem: str,
    options: Options,
    progress: Progress,
) -> list[Path]:
    """Write the allocation into the folder ``out`` under names that begin with ``stem``; the imatrix is the sensitivity's in_power.

    Returns the files that it wrote, a loadable GGUF first. A file appears under its final name only when complete.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def bitclass3_evaluate(
    reference: Model, candidates: list[Model], architecture: Architecture, corpus: Corpus, options: Options, progress: Progress
) -> list[Evaluation]:
    """KLD and PPL of each candidate against the reference on ``corpus.evaluation``, in the order of ``candidates``."""
    raise NotImplementedError


@hookspec(firstresult=True)
def bitclass3_report(run: Run, out: Path, options: Options) -> list[Path]:
    """Write a report of a finished run into ``out``; returns the files that it wrote."""
    raise NotImplementedError
