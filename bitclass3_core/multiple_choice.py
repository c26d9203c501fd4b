"""The multiple-choice knapsack as arrays: the dual bound, a first answer, fill and swaps. Shared by the built-in solvers.

One choice for every group, least total cost, total bytes at most the budget. Its Lagrangian dual for a multiplier m >= 0 is

    L(m) = sum over groups of min over choices (cost + m * n_bytes) - m * budget,

a lower bound on every answer (Kellerer, Pferschy, Pisinger: Knapsack Problems, 2004, chapter 11). L is concave and piecewise
linear; it bends only at slopes of the groups' lower convex hulls, so sorting those finds its maximum exactly.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.errors import InfeasibleError
from bitclass3_core.problem import Problem, Proof

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# a relative gap that counts as proof: sums of doubles round by less
OPTIMAL_GAP = 1e-9


@dataclass(frozen=True, slots=True)
class Tables:
    """A problem as matrices [group, choice]; rows are padded with infinite costs and with the bytes of the last choice."""

    n_bytes: Ints
    costs: Floats
    budget: int

    def bytes_of(self, picks: Ints) -> int:
        """Total bytes of the choices ``picks``."""
        return int(self.n_bytes[np.arange(len(picks)), picks].sum())

    def cost_of(self, picks: Ints) -> float:
        """Total cost of the choices ``picks``."""
        return float(self.costs[np.arange(len(picks)), picks].sum())

    def rows(self, groups: Ints, budget: int) -> "Tables":
        """The problem of some of the groups alone."""
        return Tables(self.n_bytes[groups], self.costs[groups], budget)


@dataclass(frozen=True, slots=True)
class Steps:
    """Moves along the groups' lower convex hulls from the smallest choices up, steepest first: ``slope`` is cost saved per byte."""

    group: Ints
    choice: Ints
    n_bytes: Ints
    slope: Floats


@dataclass(frozen=True, slots=True)
class Dual:
    """The largest dual bound, the multiplier that gives it, and the choices on its side of the budget that fits."""

    bound: float
    multiplier: float
    picks: Ints


def require_feasible(problem: Problem) -> None:
    """Refuse a problem that even the smallest choices do not fit."""
    if problem.smallest_bytes > problem.budget_bytes:
        raise InfeasibleError(
            f"budget is {problem.budget_bytes:,} bytes, smallest possible is {problem.smallest_bytes:,}; "
            "raise the target or add smaller types to the menu"
        )


def tables_of(problem: Problem) -> Tables:
    """The matrices of a problem; raises InfeasibleError where no answer fits."""
    require_feasible(problem)
    width = max((len(group.choices) for group in problem.groups), default=1)
    n_bytes = np.zeros((len(problem.groups), width), np.int64)
    costs = np.full((len(problem.groups), width), np.inf)
    for row, group in enumerate(problem.groups):
        n_bytes[row] = group.choices[-1].n_bytes
        n_bytes[row, : len(group.choices)] = [choice.n_bytes for choice in group.choices]
        costs[row, : len(group.choices)] = [choice.cost for choice in group.choices]
    return Tables(n_bytes, costs, problem.budget_bytes)


def hull_steps(tables: Tables) -> Steps:
    """The steps of all groups' lower convex hulls; a group's own steps keep their order."""
    rows = np.arange(len(tables.costs))
    at = np.zeros(len(rows), np.int64)
    flattest = np.full(len(rows), np.inf)
    found: list[tuple[Ints, Ints, Ints, Floats]] = []
    for _ in range(tables.costs.shape[1] - 1):
        grown = tables.n_bytes - tables.n_bytes[rows, at][:, None]
        slopes = np.full(grown.shape, -np.inf)
        np.divide(tables.costs[rows, at][:, None] - tables.costs, grown, out=slopes, where=grown > 0)
        best = slopes.argmax(axis=1)
        # rounding must not make a later step of a group steeper than an earlier one: the sort would swap them
        flattest = np.minimum(flattest, slopes[rows, best])
        open_rows = rows[flattest > 0]
        if not len(open_rows):
            break
        to = best[open_rows]
        found.append((open_rows, to, grown[open_rows, to], flattest[open_rows]))
        at[open_rows] = to
    return _steepest_first(found)


def _steepest_first(found: list[tuple[Ints, Ints, Ints, Floats]]) -> Steps:
    """The steps in falling order of slope, ties in the order given."""
    if not found:
        none = np.zeros(0, np.int64)
        return Steps(none, none, none, np.zeros(0))
    group, choice, n_bytes, slope = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(-slope, kind="stable")
    return Steps(group[order], choice[order], n_bytes[order], slope[order])


def lagrangian_dual(tables: Tables) -> Dual:
    """The maximum of the dual, and the steps that fit before the first that does not."""
    steps = hull_steps(tables)
    picks = np.zeros(len(tables.costs), np.int64)
    room = tables.budget - tables.bytes_of(picks)
    n_taken = int(np.searchsorted(np.cumsum(steps.n_bytes), room, side="right"))
    np.maximum.at(picks, steps.group[:n_taken], steps.choice[:n_taken])
    if n_taken == len(steps.slope):
        return Dual(float(tables.costs.min(axis=1).sum()), 0.0, picks)
    multiplier = float(steps.slope[n_taken])
    least = (tables.costs + multiplier * tables.n_bytes).min(axis=1).sum()
    return Dual(float(least - multiplier * tables.budget), multiplier, picks)


def reduced_costs(tables: Tables, multiplier: float) -> Floats:
    """By how much each choice alone lifts the dual bound: every answer with it costs at least the bound plus this."""
    priced = tables.costs + multiplier * tables.n_bytes
    reduced: Floats = priced - priced.min(axis=1, keepdims=True)
    return reduced


def fill(tables: Tables, picks: Ints) -> Ints:
    """``picks`` with the bytes left over spent, the move that saves most per byte first."""
    picks = picks.copy()
    rows = np.arange(len(picks))
    while True:
        grown = tables.n_bytes - tables.n_bytes[rows, picks][:, None]
        room = tables.budget - tables.bytes_of(picks)
        saved = tables.costs[rows, picks][:, None] - tables.costs
        fits = (grown > 0) & (grown <= room) & (saved > 0)
        if not fits.any():
            return picks
        rate = np.where(fits, saved, 0.0) / np.where(fits, grown, 1)
        row, choice = np.unravel_index(int(rate.argmax()), rate.shape)
        picks[row] = choice


def swapped(tables: Tables, picks: Ints, dual: Dual) -> Ints:
    """``picks`` improved by changing two groups at once, the best such pair each time, until none helps."""
    picks = picks.copy()
    reduced = reduced_costs(tables, dual.multiplier)
    while True:
        gap = tables.cost_of(picks) - dual.bound
        pair = _best_pair(tables, picks, *np.nonzero(reduced < gap))
        if pair is None:
            return picks
        for row, choice in pair:
            picks[row] = choice


def _best_pair(tables: Tables, picks: Ints, rows: Ints, choices: Ints) -> list[tuple[int, int]] | None:
    """The pair of moves among (``rows``, ``choices``) that saves most within the budget, or None where none saves."""
    grown = tables.n_bytes[rows, choices] - tables.n_bytes[rows, picks[rows]]
    saved = tables.costs[rows, picks[rows]] - tables.costs[rows, choices]
    order = np.argsort(grown, kind="stable")
    rows, choices, grown, saved = rows[order], choices[order], grown[order], saved[order]
    if not len(rows):
        return None
    # the move that saves most among those that grow no more than each: one look-up finds every move's best partner
    best = np.maximum.accumulate(np.where(saved == np.maximum.accumulate(saved), np.arange(len(rows)), 0))
    n_fit = np.searchsorted(grown, tables.budget - tables.bytes_of(picks) - grown, side="right")
    partner = best[np.maximum(n_fit - 1, 0)]
    gain = np.where((n_fit > 0) & (rows[partner] != rows), saved + saved[partner], -np.inf)
    first = int(gain.argmax())
    if gain[first] <= 1e-12 * tables.cost_of(picks):
        return None
    return [(int(rows[i]), int(choices[i])) for i in (first, int(partner[first]))]


def best_effort(tables: Tables, dual: Dual) -> Ints:
    """A good answer in milliseconds: the dual's choices, the bytes left over spent, then swaps."""
    return swapped(tables, fill(tables, dual.picks), dual)


def proof_of(cost: float, bound: float, seconds: float, *, finished: bool = False) -> Proof:
    """The proof of an answer; ``finished`` says that a search proved it optimal, up to the rounding in ``bound``."""
    bound = min(bound, cost)
    gap = (cost - bound) / cost if cost else 0.0
    return Proof(bound, gap, finished or gap <= OPTIMAL_GAP, seconds)
