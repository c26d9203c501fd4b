"""From costs to the problem that solvers get: the choices that the limits leave, with their bytes in the file."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from bitclass3_core.constraints.limits import Limits, binding, limits_of
from bitclass3_core.constraints.rules import Rule
from bitclass3_core.constraints.wanted import wanted_cells
from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.errors import ConfigError, InfeasibleError
from bitclass3_core.layout import Budget, data_bytes, fixed_bytes
from bitclass3_core.model import Architecture, Model, TensorInfo, padded
from bitclass3_core.problem import Choice, Group, Problem, undominated
from bitclass3_core.qtypes import QType, qtype


def _possible(info: TensorInfo, measured: Collection[str], floor: float, pin: str | None, failed: Collection[str]) -> list[str]:
    """The types that a tensor may get. A type that failed is left out, and so are smaller ones, which would fail too."""
    if pin is not None:
        if pin in failed:
            raise ConfigError(f"{info.name} is pinned to {pin}, which cannot hold its weights; pin a larger type")
        return [pin]
    above = max((qtype(q).bpw for q in failed), default=0.0)
    allowed = [q for q in measured if qtype(q).bpw >= floor and qtype(q).bpw > above]
    return [*(q for q in allowed if q != info.dtype), info.dtype]


def _shared(
    model: Model,
    architecture: Architecture,
    limits: Limits,
    names: tuple[str, ...],
    measured: Mapping[str, Collection[str]],
    failed: Mapping[str, Collection[str]],
) -> list[str]:
    """The types that all of ``names``, which share a type, may get. Raises InfeasibleError if there is none."""
    floors = [qtype(architecture.floors[name]).bpw for name in names if name in architecture.floors]
    floors += [limits.floors[name].bpw for name in names if name in limits.floors]
    possible = [
        _possible(model.tensors[name], measured[name], max(floors, default=0.0), limits.pins.get(name), failed.get(name, ()))
        for name in names
    ]
    shared = [q for q in possible[0] if all(q in others for others in possible)]
    if not shared:
        listed = ", ".join(names[:4]) + (" ..." if len(names) > 4 else "")
        raise InfeasibleError(
            f"{listed} share a type, and no type is possible for all of them; loosen the group, or add types to the menu"
        )
    return shared


def _choice(model: Model, limits: Limits, costs: CostTable, names: tuple[str, ...], q: str) -> Choice:
    n_bytes = {name: padded(model.tensors[name].n_bytes(qtype(q))) for name in names}
    on_gpu = limits.gpu.tensors if limits.gpu else frozenset()
    cost = sum(costs.costs[name].get(q, Cost(0.0, 0.0, 0)).cost for name in names)
    return Choice(q, sum(n_bytes.values()), cost, sum(n_bytes[name] for name in names if name in on_gpu))


def build_problem(
    model: Model,
    architecture: Architecture,
    costs: CostTable,
    limits: Limits,
    budget: Budget,
    unusable: Collection[tuple[str, str]] = (),
) -> Problem:
    """The problem that these costs, limits and budget make. ``unusable`` are pairs of tensor and type that failed.

    Raises InfeasibleError for a budget below the smallest possible file or above the source.
    """
    failed = {
        name: {q for tensor, q in unusable if tensor == name}
        | {q for q, cell in costs.costs[name].items() if math.isinf(cell.cost)}
        for name in architecture.quantizable
    }
    groups = []
    for names in limits.partition(architecture.quantizable):
        shared = _shared(model, architecture, limits, names, costs.costs, failed)
        choices = undominated([_choice(model, limits, costs, names, q) for q in shared])
        groups.append(Group(names[0], names, choices))
    fixed = fixed_bytes(model, architecture.quantizable)
    gpu_room = None
    if limits.gpu is not None:
        gpu_room = limits.gpu.budget_bytes - sum(
            padded(model.tensors[name].source_bytes) for name in limits.gpu.tensors - architecture.quantizable
        )
    problem = Problem(tuple(groups), budget.data_bytes - fixed, gpu_room)
    check_budget(budget, problem.smallest_bytes + fixed, max(problem.largest_bytes + fixed, data_bytes(model, {})))
    return problem


@dataclass(frozen=True, slots=True)
class Possible:
    """The least and the most bytes that all tensors can take with the types of a run, and the least bytes on the GPU."""

    smallest: int
    largest: int
    smallest_on_gpu: int = 0


def possible_bytes(model: Model, architecture: Architecture, qtypes: tuple[QType, ...], limits: Limits) -> Possible:
    """The bytes that the menu and the limits allow; needs no costs."""
    wanted = {
        name: [q.name for q in types] for name, types in wanted_cells(model, architecture.quantizable, qtypes, limits).items()
    }
    smallest: dict[str, str] = {}
    largest: dict[str, str] = {}
    for names in limits.partition(architecture.quantizable):
        shared = sorted(_shared(model, architecture, limits, names, wanted, {}), key=lambda q: qtype(q).bpw)
        smallest.update(dict.fromkeys(names, shared[0]))
        largest.update(dict.fromkeys(names, shared[-1]))
    on_gpu = limits.gpu.bytes_of(model, smallest) if limits.gpu else 0
    return Possible(data_bytes(model, smallest), data_bytes(model, largest), on_gpu)


def check_budget(budget: Budget, smallest: int, largest: int, what_binds: str = "") -> None:
    """Raise InfeasibleError unless the budget lies between the smallest and the largest possible bytes."""
    asked = budget.data_bytes
    if asked < smallest:
        raise InfeasibleError(
            f"budget is {asked:,} bytes, smallest possible is {smallest:,}{what_binds}; raise the target or add smaller types to [qtypes] menu"
        )
    if asked > largest:
        raise InfeasibleError(
            f"budget is {asked:,} bytes, the source's own tensors take {largest:,}; lower the target, a larger file would hold nothing more"
        )


def check_target(model: Model, architecture: Architecture, qtypes: tuple[QType, ...], limits: Limits, budget: Budget) -> None:
    """Raise InfeasibleError for a budget that no allocation keeps, and name the rules that cause it; needs no costs."""
    possible = possible_bytes(model, architecture, qtypes, limits)

    def without(rules: tuple[Rule, ...]) -> Possible:
        return possible_bytes(model, architecture, qtypes, limits_of(model, rules, limits.gpu))

    what_binds = ""
    if budget.data_bytes < possible.smallest:
        what_binds = binding(limits.rules, budget.data_bytes, possible.smallest, lambda rules: without(rules).smallest)
    check_budget(budget, possible.smallest, max(possible.largest, data_bytes(model, {})), what_binds)
    gpu = limits.gpu
    if gpu is not None and gpu.budget_bytes < possible.smallest_on_gpu:
        what_binds = binding(limits.rules, gpu.budget_bytes, possible.smallest_on_gpu, lambda rules: without(rules).smallest_on_gpu)
        raise InfeasibleError(
            f"budget of the GPU is {gpu.budget_bytes:,} bytes, its {len(gpu.tensors)} tensors take at least {possible.smallest_on_gpu:,}"
            f"{what_binds}; raise --gpu-budget, add smaller types to the menu or name fewer tensors with --gpu-tensors"
        )
