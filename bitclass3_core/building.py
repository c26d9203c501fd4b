"""From costs to the problem that solvers get: choices within floors and pins, in file bytes, dominated ones dropped."""

import math
import re
from collections.abc import Collection, Mapping

from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.errors import ConfigError, InfeasibleError
from bitclass3_core.layout import Budget, fixed_bytes
from bitclass3_core.measuring import Cells
from bitclass3_core.model import Architecture, Model, TensorInfo, padded
from bitclass3_core.problem import Choice, Group, Problem, undominated
from bitclass3_core.qtypes import menu, qtype


def resolve_pins(model: Model, architecture: Architecture, pins: Mapping[str, str]) -> dict[str, str]:
    """The type that each pinned tensor must have; the first pattern (a regular expression, searched) that matches counts.

    Raises ConfigError for a bad pattern, an unknown type, a pattern that matches no quantizable tensor, and a type that does not fit.
    """
    pinned: dict[str, str] = {}
    for pattern, name in pins.items():
        try:
            matcher = re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"pin {pattern!r} is no regular expression ({error}); escape dots as \\\\.") from None
        (q,) = menu([name])
        matched = [tensor for tensor in sorted(architecture.quantizable) if matcher.search(tensor)]
        if not matched:
            raise ConfigError(
                f"pin {pattern!r} matches none of the {len(architecture.quantizable)} quantizable tensors; look at them with bitclass3 plan"
            )
        for tensor in matched:
            if not model.tensors[tensor].accepts(q):
                raise ConfigError(
                    f"pin {pattern!r}: {q.name} does not fit the rows of {tensor} ({model.tensors[tensor].n_in} is no multiple of {q.block_size})"
                )
            pinned.setdefault(tensor, q.name)
    return pinned


def _choices(
    info: TensorInfo, cells: Mapping[str, Cost], floor: str | None, pin: str | None, unusable: frozenset[str]
) -> tuple[Choice, ...]:
    """The types that a tensor may get: what failed is out, and so is all that is no larger, which would fail too."""
    failed = unusable | {q for q, cell in cells.items() if math.isinf(cell.cost)}
    if pin is not None:
        if pin in failed:
            raise ConfigError(f"{info.name} is pinned to {pin}, which cannot hold its weights; pin a larger type")
        cell = cells.get(pin, Cost(0.0, 0.0, 0))
        return (Choice(pin, padded(info.n_bytes(qtype(pin))), cell.cost),)
    least = qtype(floor).bpw if floor else 0.0
    above = max((qtype(q).bpw for q in failed), default=0.0)
    allowed = {q: cell for q, cell in cells.items() if (qtype(q).bpw >= least and qtype(q).bpw > above) or q == info.dtype}
    return undominated([Choice(q, padded(info.n_bytes(qtype(q))), cell.cost) for q, cell in allowed.items()])


def larger_type(info: TensorInfo, failed: str) -> str:
    """The next larger type that a tensor's rows accept; its source type if there is none."""
    larger = [q for q in menu("all") if q.bpw > qtype(failed).bpw and info.accepts(q) and q.bpw < qtype(info.dtype).bpw]
    return min(larger, key=lambda q: q.bpw).name if larger else info.dtype


def build_problem(
    model: Model,
    architecture: Architecture,
    costs: CostTable,
    pins: Mapping[str, str],
    budget: Budget,
    unusable: Collection[tuple[str, str]] = (),
) -> Problem:
    """The problem of this model and budget: one group a tensor. ``unusable`` are pairs of tensor and type that failed.

    Raises InfeasibleError for a budget below the smallest possible file or above the source.
    """
    failed = {name: frozenset(q for tensor, q in unusable if tensor == name) for name in architecture.quantizable}
    groups = tuple(
        Group(
            name,
            (name,),
            _choices(model.tensors[name], costs.costs[name], architecture.floors.get(name), pins.get(name), failed[name]),
        )
        for name in sorted(architecture.quantizable)
    )
    fixed = fixed_bytes(model, architecture.quantizable)
    problem = Problem(groups, budget.data_bytes - fixed)
    check_budget(budget, problem.smallest_bytes + fixed, problem.largest_bytes + fixed)
    return problem


def possible_bytes(model: Model, architecture: Architecture, wanted: Cells, pins: Mapping[str, str]) -> tuple[int, int]:
    """(smallest, largest) bytes that all tensors can take with these types; needs no costs."""
    smallest = largest = fixed_bytes(model, architecture.quantizable)
    for name in architecture.quantizable:
        info = model.tensors[name]
        least = qtype(architecture.floors[name]).bpw if name in architecture.floors else 0.0
        sizes = [padded(info.n_bytes(q)) for q in wanted[name] if q.bpw >= least]
        if name in pins:
            sizes = [padded(info.n_bytes(qtype(pins[name])))]
        else:
            sizes.append(padded(info.source_bytes))
        smallest, largest = smallest + min(sizes), largest + max(sizes)
    return smallest, largest


def check_budget(budget: Budget, smallest: int, largest: int) -> None:
    """Raise InfeasibleError unless the budget lies between the smallest and the largest possible bytes."""
    asked = budget.data_bytes
    if asked < smallest:
        raise InfeasibleError(
            f"budget is {asked:,} bytes, smallest possible is {smallest:,}; raise the target or add smaller types to [qtypes] menu"
        )
    if asked > largest:
        raise InfeasibleError(
            f"budget is {asked:,} bytes, the source's own tensors take {largest:,}; lower the target, a larger file would hold nothing more"
        )
