"""The exact solver: bounds and branches make the problem small, an exact walk or OR-Tools CP-SAT solves the rest.

1. The Lagrangian dual of the whole problem gives a bound; ``fill`` and ``swapped`` give an answer close to it.
2. The choices of the few groups that hold much of the bytes become branches, each bounded by its own dual.
3. In a branch, a choice whose reduced cost exceeds the gap between bound and answer cannot be in a better answer: it is dropped.
4. An exact walk with real-valued costs solves what is left; if the walk grows too large, CP-SAT solves it.

With a second budget (bytes on the GPU) the problem is first solved without it. If that answer fits, it is the best. Otherwise the dual
has two multipliers, its bound drops branches and choices, and the walk takes the groups on the GPU first. CP-SAT, with both budgets,
takes over if a group lies in both memories.
"""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field

from bitclass3_core import hookimpl
from bitclass3_core.gguf.recipe import types_in_file
from bitclass3_core.knapsack.dual import OPTIMAL_GAP, Dual, Ints, Tables, lagrangian_dual, proof_of, tables_of
from bitclass3_core.knapsack.improve import best_effort
from bitclass3_core.options import PluginOptions
from bitclass3_core.problem import Allocation, Problem, allocation_of
from bitclass3_core.qtypes import qtype
from bitclass3_ilp import cp_sat
from bitclass3_ilp.branches import Branch, branches_of, core_of
from bitclass3_ilp.frontier import UnfinishedError, walk

BITCLASS3_ANSWERS = "e3da5ee4b5d1"  # changes when the answers do

# states that the walk may try in one branch before CP-SAT takes over: half a second, 150 MB
MAX_WORK = 3_000_000
# answers whose costs differ by less than this share count as equal: the rounding of sums of doubles is smaller
EQUAL = 1e-12
# branches in which a better first answer is searched; it drops most of the others
N_POLISHED = 32


class Options(PluginOptions):
    """``time_limit_seconds`` ends the search with the best answer so far, ``gap`` is the relative gap that is good enough.

    ``start`` is a GGUF or a tensor-type file. If its types fit, they are the first answer, and the search looks for better ones.
    """

    time_limit_seconds: float = Field(default=30.0, gt=0)
    gap: float = Field(default=0.0, ge=0, lt=1)
    start: Path | None = None


@hookimpl
def bitclass3_solve(problem: Problem, options: Options) -> Allocation:
    """The cheapest allocation within the budget, with a proof; the same answer every time, unless the time limit ends the search."""
    started = time.monotonic()
    tables = tables_of(problem)
    deadline = started + options.time_limit_seconds
    first = None if options.start is None else start_picks(problem, options.start)
    search = Search(replace(tables, gpu_bytes=None), options, deadline, first)
    bound = search.run()
    if not tables.fits(search.picks):
        search = Search(tables, options, deadline, first)
        bound = max(bound, search.run())
    proof = proof_of(search.cost, bound, time.monotonic() - started, finished=search.finished)
    return allocation_of(problem, search.picks.tolist(), "ilp", proof)


def start_picks(problem: Problem, file: Path) -> Ints:
    """For each group the choice nearest below the file's type; the smallest choice if none is below, or the file names none."""
    types = types_in_file(file, [name for group in problem.groups for name in group.tensors])
    picks = []
    for group in problem.groups:
        most = max((qtype(types[name]).bpw for name in group.tensors if name in types), default=0.0)
        picks.append(max((k for k, choice in enumerate(group.choices) if qtype(choice.qtype).bpw <= most), default=0))
    return np.array(picks, np.int64)


class Search:
    """One search: the best picks so far, their cost, and whether every branch was searched to its end."""

    def __init__(self, tables: Tables, options: Options, deadline: float, first: Ints | None = None) -> None:
        self.tables, self.options, self.deadline = tables, options, deadline
        self.dual: Dual = lagrangian_dual(tables)
        self.picks: Ints = best_effort(tables, self.dual)
        self.cost = tables.cost_of(self.picks)
        self.finished = options.gap <= EQUAL
        if first is not None:
            self.offer(first)

    @property
    def limit(self) -> float:
        """Only answers below this cost are worth looking for."""
        return self.cost - max(self.options.gap, EQUAL) * abs(self.cost)

    def run(self) -> float:
        """Search every branch; returns a lower bound on the cost of every answer."""
        if self.dual.bound >= self.limit:
            return self.dual.bound
        branches = branches_of(self.tables, self.limit, self.dual.gpu_multiplier)
        for branch in branches[:N_POLISHED]:
            self.offer(branch.whole(best_effort(branch.rest, lagrangian_dual(branch.rest))))
        bounds = [self._search(branch) for branch in branches]
        proven = self.cost if self.finished else self.limit
        return max(self.dual.bound, min([proven, *bounds]))

    def offer(self, picks: Ints) -> None:
        """Make ``picks`` the best answer if they fit and cost less."""
        cost = self.tables.cost_of(picks)
        if cost < self.cost and self.tables.fits(picks):
            self.picks, self.cost = picks, cost

    def _search(self, branch: Branch) -> float:
        """Find the best answer of a branch; returns a lower bound on the answers left in it, infinite if it was searched to its end."""
        dual = lagrangian_dual(branch.rest)
        limit = self.limit - branch.fixed_cost
        if max(dual.bound, branch.bound - branch.fixed_cost) >= limit:
            return np.inf
        core = core_of(branch.rest, dual, limit - dual.bound)
        if not core.tables.fits(np.zeros_like(branch.rows)):
            return np.inf
        try:
            picks = walk(core.tables, limit, MAX_WORK, self.deadline, dual.gpu_multiplier)
        except UnfinishedError:
            solved = self._cp_sat(core.tables)
            self.finished &= solved.finished
            self.offer(branch.whole(core.original(solved.picks)))
            return max(branch.bound, branch.fixed_cost + max(solved.bound, dual.bound))
        if picks is not None:
            self.offer(branch.whole(core.original(picks)))
        return np.inf

    def _cp_sat(self, core: Tables) -> cp_sat.Solved:
        """CP-SAT's answer to the core within the time that is left."""
        hint = best_effort(core, lagrangian_dual(core))
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            return cp_sat.Solved(hint, -np.inf, False)
        return cp_sat.solve(core, hint, seconds, max(self.options.gap, OPTIMAL_GAP / 10))
