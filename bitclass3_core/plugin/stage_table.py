"""The table of stages: all that the core knows of each, stated once. The hooks' own words are in ``hookspecs.py``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitclass3_core.costs import CostTable
from bitclass3_core.errors import ContractError
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.layout import Budget
from bitclass3_core.model import Architecture
from bitclass3_core.plugin import checks
from bitclass3_core.problem import Allocation
from bitclass3_core.sensitivity import Sensitivity

Asked = Mapping[str, Any]  # the hook's arguments


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage: its name, the type of its answer and what checks it, its conformance suite, what its plugins are called.

    ``check`` gets the answer, the hook's arguments and the plugin's name, and raises ContractError. ``is_list`` says that several
    plugins do the stage in turn.
    """

    name: str
    answer: type
    check: Callable[[Any, Asked, str], None]
    suite: str
    title: str
    is_list: bool = False


def _architecture(answer: Architecture, asked: Asked, plugin: str) -> None:
    checks.check_architecture(answer, asked["model"], plugin)


def _sensitivity(answer: Sensitivity, asked: Asked, plugin: str) -> None:
    checks.check_sensitivity(answer, asked["model"], asked["architecture"].quantizable, plugin)


def _costs(answer: CostTable, asked: Asked, plugin: str) -> None:
    """The hook is asked for every type of ``qtypes``, for each tensor of the model that has one."""
    checks.check_costs(answer, {name: [q.name for q in asked["qtypes"]] for name in asked["model"].tensors}, plugin)


def _budget(answer: Budget, _: Asked, plugin: str) -> None:
    checks.check_budget_answer(answer, plugin)


def _allocation(answer: Allocation, asked: Asked, plugin: str) -> None:
    checks.check_types(answer, asked["model"], asked["architecture"].quantizable, plugin)


def _files(answer: list[Path], _: Asked, plugin: str) -> None:
    for path in answer:
        if not (isinstance(path, Path) and path.is_file()):
            raise ContractError(f"plugin {plugin!r} says that it wrote {path}, which is no file")


def _evaluations(answer: list[Evaluation], asked: Asked, plugin: str) -> None:
    checks.check_evaluations(answer, [candidate.path.stem for candidate in asked["candidates"]], plugin)


STAGE_TABLE = {
    stage.name: stage
    for stage in (
        Stage("architecture", Architecture, _architecture, "ArchitectureConformance", "An architecture"),
        Stage("estimate", Sensitivity, _sensitivity, "EstimatorConformance", "A sensitivity estimator"),
        Stage("measure", CostTable, _costs, "MetricConformance", "An error metric"),
        Stage("budget", Budget, _budget, "BudgetConformance", "A budget"),
        Stage("solve", Allocation, _allocation, "SolverConformance", "A solver"),
        Stage("export", list, _files, "ExporterConformance", "An exporter", is_list=True),
        Stage("evaluate", list, _evaluations, "EvaluatorConformance", "An evaluator"),
        Stage("report", list, _files, "ReportConformance", "A report", is_list=True),
    )
}
STAGES = tuple(STAGE_TABLE)
