"""The multiple-choice knapsack as arrays, and its dual bound. Shared by the built-in solvers.

One choice for every group, least total cost, total bytes at most the budget. Its Lagrangian dual for a multiplier m >= 0 is

    L(m) = sum over groups of min over choices (cost + m * n_bytes) - m * budget,

a lower bound on every answer (Kellerer, Pferschy, Pisinger: Knapsack Problems, 2004, chapter 11). L is concave and piecewise
linear; it bends only at slopes of the groups' lower convex hulls, so sorting those finds its maximum exactly.

With a second budget (bytes on the GPU) there is a second multiplier. Each choice then costs cost + gpu_multiplier * gpu_bytes. The
dual of that one-budget problem, less gpu_multiplier * gpu_budget, bounds every answer too, and it is concave in gpu_multiplier.
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
# halvings of the interval that holds the price of a byte on the GPU: enough for every digit of the bound that counts
_BISECTIONS = 40
_DOUBLINGS = 60


@dataclass(frozen=True, slots=True)
class Tables:
    """A problem as matrices [group, choice]; rows are padded with infinite costs and with the bytes of the last choice.

    ``gpu_bytes`` and ``gpu_budget`` are the second budget; None where there is none.
    """

    n_bytes: Ints
    costs: Floats
    budget: int
    gpu_bytes: Ints | None = None
    gpu_budget: int = 0

    def bytes_of(self, picks: Ints) -> int:
        """Total bytes of the choices ``picks``."""
        return int(self.n_bytes[np.arange(len(picks)), picks].sum())

    def cost_of(self, picks: Ints) -> float:
        """Total cost of the choices ``picks``."""
        return float(self.costs[np.arange(len(picks)), picks].sum())

    def gpu_bytes_of(self, picks: Ints) -> int:
        """Bytes on the GPU of the choices ``picks``; 0 without a second budget."""
        return 0 if self.gpu_bytes is None else int(self.gpu_bytes[np.arange(len(picks)), picks].sum())

    def fits(self, picks: Ints) -> bool:
        """Whether ``picks`` keep within every budget."""
        return self.bytes_of(picks) <= self.budget and (self.gpu_bytes is None or self.gpu_bytes_of(picks) <= self.gpu_budget)

    def rows(self, groups: Ints, budget: int, gpu_budget: int = 0) -> "Tables":
        """The problem of some of the groups alone."""
        gpu_bytes = None if self.gpu_bytes is None else self.gpu_bytes[groups]
        return Tables(self.n_bytes[groups], self.costs[groups], budget, gpu_bytes, gpu_budget)

    def priced(self, gpu_multiplier: float) -> "Tables":
        """The one-budget problem in which bytes on the GPU cost ``gpu_multiplier`` each."""
        costs = self.costs if self.gpu_bytes is None or not gpu_multiplier else self.costs + gpu_multiplier * self.gpu_bytes
        return Tables(self.n_bytes, costs, self.budget)


@dataclass(frozen=True, slots=True)
class Steps:
    """Moves along the groups' lower convex hulls from the smallest choices up, steepest first: ``slope`` is cost saved per byte."""

    group: Ints
    choice: Ints
    n_bytes: Ints
    slope: Floats


@dataclass(frozen=True, slots=True)
class Dual:
    """The largest dual bound, the multipliers that give it, and choices near it that keep within the budgets."""

    bound: float
    multiplier: float
    picks: Ints
    gpu_multiplier: float = 0.0


def require_feasible(problem: Problem) -> None:
    """Raise InfeasibleError if even the smallest choices exceed a budget."""
    gpu = problem.gpu_budget_bytes
    if problem.smallest_bytes > problem.budget_bytes:
        raise InfeasibleError(
            f"budget is {problem.budget_bytes:,} bytes, smallest possible is {problem.smallest_bytes:,}; "
            "raise the target or add smaller types to the menu"
        )
    if gpu is not None and problem.smallest_gpu_bytes > gpu:
        raise InfeasibleError(
            f"budget of the GPU is {gpu:,} bytes, smallest possible is {problem.smallest_gpu_bytes:,}; "
            "raise it, add smaller types to the menu or keep more tensors off the GPU"
        )


def tables_of(problem: Problem) -> Tables:
    """The matrices of a problem; raises InfeasibleError where no answer fits."""
    require_feasible(problem)
    width = max((len(group.choices) for group in problem.groups), default=1)
    n_bytes = np.zeros((len(problem.groups), width), np.int64)
    gpu_bytes = np.zeros_like(n_bytes)
    costs = np.full((len(problem.groups), width), np.inf)
    for row, group in enumerate(problem.groups):
        n_bytes[row], gpu_bytes[row] = group.choices[-1].n_bytes, group.choices[-1].gpu_bytes
        n_bytes[row, : len(group.choices)] = [choice.n_bytes for choice in group.choices]
        gpu_bytes[row, : len(group.choices)] = [choice.gpu_bytes for choice in group.choices]
        costs[row, : len(group.choices)] = [choice.cost for choice in group.choices]
    if problem.gpu_budget_bytes is None:
        return Tables(n_bytes, costs, problem.budget_bytes)
    return Tables(n_bytes, costs, problem.budget_bytes, gpu_bytes, problem.gpu_budget_bytes)


def hull_steps(tables: Tables) -> Steps:
    """The steps of all groups' lower convex hulls, steepest first; the steps of one group keep their order."""
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
    """The maximum of the dual; its choices are the hull steps, steepest first, up to the first that does not fit."""
    alone, relaxed_gpu_bytes = _one_budget_dual(tables, 0.0)
    if tables.gpu_bytes is None or relaxed_gpu_bytes <= tables.gpu_budget:
        return alone
    least, most = 0.0, _first_multiplier(tables, alone)
    best = alone
    fitting = np.zeros(len(tables.costs), np.int64)
    for _ in range(_BISECTIONS):
        middle = (least + most) / 2
        dual, relaxed_gpu_bytes = _one_budget_dual(tables, middle)
        best = dual if dual.bound > best.bound else best
        if relaxed_gpu_bytes <= tables.gpu_budget:
            most, fitting = middle, dual.picks
        else:
            least = middle
    return Dual(best.bound, best.multiplier, fitting, best.gpu_multiplier)


def _one_budget_dual(tables: Tables, gpu_multiplier: float) -> tuple[Dual, float]:
    """(the dual with bytes on the GPU at that price, the bytes on the GPU of its linear relaxation); the latter fall with the price."""
    priced = tables.priced(gpu_multiplier)
    steps = hull_steps(priced)
    picks = np.zeros(len(tables.costs), np.int64)
    room = tables.budget - tables.bytes_of(picks)
    ends = np.cumsum(steps.n_bytes)
    n_taken = int(np.searchsorted(ends, room, side="right"))
    np.maximum.at(picks, steps.group[:n_taken], steps.choice[:n_taken])
    gpu_bytes = float(tables.gpu_bytes_of(picks))
    fixed = gpu_multiplier * tables.gpu_budget
    if n_taken == len(steps.slope):
        return Dual(float(priced.costs.min(axis=1).sum()) - fixed, 0.0, picks, gpu_multiplier), gpu_bytes
    multiplier = float(steps.slope[n_taken])
    least = (priced.costs + multiplier * tables.n_bytes).min(axis=1).sum()
    if tables.gpu_bytes is not None:
        row, part = steps.group[n_taken], 1 - (ends[n_taken] - room) / steps.n_bytes[n_taken]
        gpu_bytes += float(part * (tables.gpu_bytes[row, steps.choice[n_taken]] - tables.gpu_bytes[row, picks[row]]))
    return Dual(float(least - multiplier * tables.budget) - fixed, multiplier, picks, gpu_multiplier), gpu_bytes


def _first_multiplier(tables: Tables, alone: Dual) -> float:
    """A price of a byte on the GPU that is high enough for the relaxation to keep within the GPU's budget."""
    smallest = tables.costs[:, 0].sum() - tables.costs.min(axis=1).sum()
    price = max(alone.multiplier, float(smallest) / max(1, tables.budget), np.finfo(float).tiny)
    for _ in range(_DOUBLINGS):
        if _one_budget_dual(tables, price)[1] <= tables.gpu_budget:
            break
        price *= 4
    return price


def reduced_costs(tables: Tables, dual: Dual) -> Floats:
    """How much each choice raises the dual bound: an answer with that choice costs at least the bound plus this."""
    costs = tables.priced(dual.gpu_multiplier).costs + dual.multiplier * tables.n_bytes
    reduced: Floats = costs - costs.min(axis=1, keepdims=True)
    return reduced


def proof_of(cost: float, bound: float, seconds: float, *, finished: bool = False) -> Proof:
    """The proof of an answer; ``finished`` says that a search proved it optimal, up to the rounding in ``bound``."""
    bound = min(bound, cost)
    gap = (cost - bound) / cost if cost else 0.0
    return Proof(bound, gap, finished or gap <= OPTIMAL_GAP, seconds)
