"""A solver with a worst case: the least total cost within the budget, while no group of tensors costs more than ``max_cost``."""

import time
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field

from bitclass3_core import hookimpl
from bitclass3_core.errors import InfeasibleError
from bitclass3_core.improving import best_effort
from bitclass3_core.multiple_choice import lagrangian_dual, proof_of, tables_of
from bitclass3_core.problem import Allocation, Group, Problem, allocation_of

BITCLASS3_API = 1


class Options(BaseModel):
    """The worst case."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_cost: float | None = Field(None, gt=0, description="no group of tensors may cost more; unset: only the total counts")


@hookimpl
def bitclass3_solve(problem: Problem, options: Options) -> Allocation:
    """The Lagrangian's answer among the choices that are good enough. Raises InfeasibleError where the cap and the budget exclude each other."""
    started = time.monotonic()
    capped = replace(problem, groups=tuple(_capped(group, options.max_cost) for group in problem.groups))
    if options.max_cost is not None and capped.smallest_bytes > problem.budget_bytes:
        raise InfeasibleError(
            f"within max_cost {options.max_cost:g} the smallest size is {capped.smallest_bytes:,} bytes, the budget is "
            f"{problem.budget_bytes:,}; raise max_cost or the target"
        )
    tables = tables_of(capped)
    dual = lagrangian_dual(tables)
    picks = best_effort(tables, dual)
    answer = allocation_of(capped, picks.tolist(), "capped")
    # the bound is that of the capped problem: of the whole one it says nothing
    proof = None if options.max_cost is not None else proof_of(tables.cost_of(picks), dual.bound, time.monotonic() - started)
    return replace(answer, proof=proof)


def _capped(group: Group, max_cost: float | None) -> Group:
    good = tuple(choice for choice in group.choices if max_cost is None or choice.cost <= max_cost)
    if not good:
        best = group.choices[-1]
        raise InfeasibleError(f"{group.name} costs {best.cost:g} at best ({best.qtype}), max_cost is {max_cost:g}; raise max_cost")
    return replace(group, choices=good)
