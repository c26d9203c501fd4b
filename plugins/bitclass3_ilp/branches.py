"""Branches: the few groups that hold much of the bytes are fixed, and a small problem is left."""

from dataclasses import dataclass

import numpy as np

from bitclass3_core.knapsack.dual import Dual, Ints, Tables, hull_steps, reduced_costs
from bitclass3_ilp.frontier import Relaxation, grow, start

# a tensor with a tenth or more of the bytes makes the dual of the whole problem weak: the gap is about one step of that tensor
BIG_SHARE = 0.05
MAX_BRANCHES = 256


@dataclass(frozen=True, slots=True)
class Branch:
    """The problem with some groups fixed: ``rest`` is what remains, ``rows`` its groups; no answer in it costs less than ``bound``."""

    fixed: Ints
    fixed_cost: float
    rest: Tables
    rows: Ints
    bound: float

    def whole(self, picks: Ints) -> Ints:
        """The answer to the whole problem, with ``picks`` for the rest."""
        answer: Ints = self.fixed.copy()
        answer[self.rows] = picks
        return answer


@dataclass(frozen=True, slots=True)
class Core:
    """A problem without some of its choices: its tables, and for each choice left its number in the original problem."""

    tables: Tables
    choices: Ints

    def original(self, picks: Ints) -> Ints:
        """``picks`` of the core as choices of the original problem."""
        answer: Ints = self.choices[np.arange(len(picks)), picks]
        return answer


def branches_of(tables: Tables, limit: float, gpu_multiplier: float = 0.0) -> list[Branch]:
    """The branches that may hold an answer below ``limit``, the most promising first.

    Under two budgets they are bounded with bytes on the GPU priced at ``gpu_multiplier``.
    """
    largest = tables.n_bytes[:, -1]
    big = [int(row) for row in np.argsort(-largest, kind="stable") if largest[row] > BIG_SHARE * largest.sum()]
    priced, credit = tables.priced(gpu_multiplier), gpu_multiplier * tables.gpu_budget
    relaxation = Relaxation(priced, hull_steps(priced))
    is_open = np.ones(len(largest), bool)
    frontier = start(0, 0.0)
    for row in big:
        is_open[row] = False
        # a partial answer with more bytes and cost than another may be the one that fits on the GPU
        grown = grow(frontier, priced, relaxation, is_open, row, limit + credit, undominated=tables.gpu_bytes is None)
        if len(grown.costs) > MAX_BRANCHES:
            is_open[row] = True
            break
        frontier = grown
    rows = np.nonzero(is_open)[0]
    chosen = np.array(big[: len(frontier.trail)], np.int64)
    part = tables.rows(chosen, 0)
    branches = []
    for state in np.argsort(frontier.bounds, kind="stable"):
        fixed, picks = np.zeros(len(largest), np.int64), np.array(frontier.choices(int(state)), np.int64)
        fixed[chosen] = picks
        rest = tables.rows(rows, tables.budget - int(frontier.n_bytes[state]), tables.gpu_budget - part.gpu_bytes_of(picks))
        if rest.fits(np.zeros(len(rows), np.int64)):
            branches.append(Branch(fixed, part.cost_of(picks), rest, rows, float(frontier.bounds[state]) - credit))
    return branches


def core_of(tables: Tables, dual: Dual, most: float) -> Core:
    """``tables`` without the choices whose reduced cost exceeds ``most``, the gap between the dual bound and the answer to beat."""
    kept = reduced_costs(tables, dual) <= most
    # kept choices move to the front of each row, in order
    choices = np.argsort(~kept, axis=1, kind="stable")[:, : max(1, int(kept.sum(axis=1).max(initial=1)))]
    rows = np.arange(len(kept))[:, None]
    is_pad = ~kept[rows, choices]
    last = choices[rows[:, 0], kept.sum(axis=1) - 1]
    choices = np.where(is_pad, last[:, None], choices)
    costs = np.where(is_pad, np.inf, tables.costs[rows, choices])
    gpu_bytes = None if tables.gpu_bytes is None else tables.gpu_bytes[rows, choices]
    return Core(Tables(tables.n_bytes[rows, choices], costs, tables.budget, gpu_bytes, tables.gpu_budget), choices)
