"""Branches on the few groups that hold much of the bytes, and the small problem that a branch leaves once it is fixed."""

from dataclasses import dataclass

import numpy as np

from bitclass3_core.multiple_choice import Ints, Tables, hull_steps, reduced_costs
from bitclass3_ilp.frontier import grow, start

# one tensor with a tenth or more of the bytes makes the dual of the whole problem weak: the gap is about one of its steps
BIG_SHARE = 0.05
MAX_BRANCHES = 256


@dataclass(frozen=True, slots=True)
class Branch:
    """The problem with some groups fixed: ``rest`` is what remains, ``rows`` its groups; no answer in it beats ``bound``."""

    fixed: Ints
    fixed_cost: float
    rest: Tables
    rows: Ints
    bound: float

    def whole(self, picks: Ints) -> Ints:
        """The answer to the whole problem that goes with ``picks`` for the rest."""
        answer: Ints = self.fixed.copy()
        answer[self.rows] = picks
        return answer


@dataclass(frozen=True, slots=True)
class Core:
    """A problem with choices taken out: its tables, and the original choice behind each of theirs."""

    tables: Tables
    choices: Ints

    def original(self, picks: Ints) -> Ints:
        """``picks`` of the core as choices of the problem it came from."""
        answer: Ints = self.choices[np.arange(len(picks)), picks]
        return answer


def branches_of(tables: Tables, limit: float) -> list[Branch]:
    """The branches that may hold an answer below ``limit``, the most promising first."""
    largest = tables.n_bytes[:, -1]
    big = [int(row) for row in np.argsort(-largest, kind="stable") if largest[row] > BIG_SHARE * largest.sum()]
    steps = hull_steps(tables)
    is_open = np.ones(len(largest), bool)
    frontier = start(0, 0.0)
    for row in big:
        is_open[row] = False
        grown = grow(frontier, tables, steps, is_open, row, limit)
        if len(grown.costs) > MAX_BRANCHES:
            is_open[row] = True
            break
        frontier = grown
    rows = np.nonzero(is_open)[0]
    branches = []
    for state in np.argsort(frontier.bounds, kind="stable"):
        fixed = np.zeros(len(largest), np.int64)
        fixed[big[: len(frontier.trail)]] = frontier.choices(int(state))
        rest = tables.rows(rows, tables.budget - int(frontier.n_bytes[state]))
        branches.append(Branch(fixed, float(frontier.costs[state]), rest, rows, float(frontier.bounds[state])))
    return branches


def core_of(tables: Tables, multiplier: float, most: float) -> Core:
    """``tables`` without the choices whose reduced cost exceeds ``most``, the gap between the dual bound and the answer to beat."""
    kept = reduced_costs(tables, multiplier) <= most
    # kept choices move to the front of each row, in order
    choices = np.argsort(~kept, axis=1, kind="stable")[:, : max(1, int(kept.sum(axis=1).max(initial=1)))]
    rows = np.arange(len(kept))[:, None]
    is_pad = ~kept[rows, choices]
    last = choices[rows[:, 0], kept.sum(axis=1) - 1]
    choices = np.where(is_pad, last[:, None], choices)
    costs = np.where(is_pad, np.inf, tables.costs[rows, choices])
    return Core(Tables(tables.n_bytes[rows, choices], costs, tables.budget), choices)
