"""OR-Tools CP-SAT for a problem that is left of a branch: an integer program; the bound that it reports includes its rounding."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bitclass3_core.knapsack.dual import Ints, Tables

# CP-SAT takes integers. An answer is off by up to half a step for each group: at 1e6 steps "optimal" can be several percent
# worse than greedy, at 1e11 a thousand groups round by less than 1e-8 of the cost
STEPS = 10**11
SEED = 1


@dataclass(frozen=True, slots=True)
class Solved:
    """CP-SAT's answer, a lower bound on every answer after allowing for the rounding, and whether the answer is proved."""

    picks: Ints
    bound: float
    finished: bool


def solve(tables: Tables, hint: Ints, seconds: float, gap: float = 0.0, steps: int = STEPS) -> Solved:
    """The best answer of ``tables`` with costs rounded to ``steps`` of the value of ``hint``, an answer that fits."""
    from ortools.sat.python import cp_model

    base = tables.costs.min(axis=1)
    extra = tables.costs - base[:, None]
    # a sum of differences: a difference of sums can fall below the largest part of the hint, which then is left out
    worth = float(extra[np.arange(len(hint)), hint].sum())
    if worth < np.finfo(float).tiny * steps:  # the gain is too small for a float, and the scale would not be finite
        return Solved(hint, float(base.sum()), True)
    scale = steps / worth
    model, variables = _model(replace(tables, costs=extra), worth, scale, hint)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1  # one worker with a fixed seed gives the same answer every time
    solver.parameters.random_seed = SEED
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.relative_gap_limit = gap
    # its handler would stay after the first solve: Ctrl-C would end the process at once, without a message or a cleanup
    solver.parameters.catch_sigint_signal = False
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Solved(hint, -np.inf, False)
    picks = np.array([next(k for k, variable in row if solver.boolean_value(variable)) for row in variables], np.int64)
    # the true cost of any answer is at least its rounded cost less half a step for each group
    bound = float(base.sum()) + (solver.best_objective_bound - len(variables) / 2) / scale
    return Solved(picks, bound, status == cp_model.OPTIMAL)


def _model(tables: Tables, worth: float, scale: float, hint: Ints) -> tuple[Any, list[list[tuple[int, Any]]]]:
    """The integer program, and each group's (choice, variable) pairs; choices that alone cost more than ``worth`` are left out."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    rows: list[list[tuple[int, Any]]] = []
    for row in range(len(hint)):
        pairs = [(int(k), model.new_bool_var("")) for k in np.nonzero(tables.costs[row] <= worth)[0]]
        model.add_exactly_one([variable for _, variable in pairs])
        for k, variable in pairs:
            model.add_hint(variable, k == hint[row])
        rows.append(pairs)
    flat = [variable for pairs in rows for _, variable in pairs]
    at = np.repeat(np.arange(len(rows)), list(map(len, rows))), np.array([k for pairs in rows for k, _ in pairs], np.int64)
    model.add(cp_model.LinearExpr.weighted_sum(flat, tables.n_bytes[at].tolist()) <= tables.budget)
    if tables.gpu_bytes is not None:
        model.add(cp_model.LinearExpr.weighted_sum(flat, tables.gpu_bytes[at].tolist()) <= tables.gpu_budget)
    model.minimize(cp_model.LinearExpr.weighted_sum(flat, [round(cost * scale) for cost in tables.costs[at].tolist()]))
    return model, rows
