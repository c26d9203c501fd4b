"""An exact walk through a small problem: partial answers that can still lead to a better one grow group by group.

It is dynamic programming over undominated states, each tested against an upper bound (Pisinger: A minimal algorithm for the
multiple-choice knapsack problem, EJOR 83, 1995). Costs are real-valued: nothing is rounded. Every state is bounded by the linear
relaxation of the groups that are still open, as a branch is bounded by its own dual.
"""

import time
from dataclasses import dataclass, replace

import numpy as np

from bitclass3_core.knapsack.dual import Bools, Floats, Ints, Steps, Tables, hull_steps


class UnfinishedError(Exception):
    """The walk needed more work or time than it was given."""


@dataclass(frozen=True, slots=True)
class Frontier:
    """Partial answers: bytes and cost so far, a bound on every completion, the last choice, and the partial answer before it."""

    n_bytes: Ints
    costs: Floats
    bounds: Floats
    trail: tuple[tuple[Ints, Ints], ...]

    def choices(self, state: int) -> list[int]:
        """The choices of one state, in the order in which groups were added."""
        found = []
        for parents, choices in reversed(self.trail):
            found.append(int(choices[state]))
            state = int(parents[state])
        return found[::-1]


def start(n_bytes: int, cost: float) -> Frontier:
    """The partial answer without any group, with the bytes and cost of the fixed groups."""
    return Frontier(np.full(1, n_bytes), np.full(1, cost), np.full(1, -np.inf), ())


def relaxed(tables: Tables, steps: Steps, is_open: Bools, room: Ints) -> Floats:
    """The least cost of the open groups' linear relaxation within each ``room`` (bytes); infinite if they do not fit."""
    taken = is_open[steps.group]
    smallest = int(tables.n_bytes[is_open, 0].sum())
    at = smallest + np.concatenate([[0], np.cumsum(steps.n_bytes[taken])])
    saved = (steps.n_bytes * steps.slope)[taken]
    # summed from the cheap end: nothing cancels, so small costs stay exact
    cost = tables.costs[is_open].min(axis=1).sum() + np.concatenate([np.cumsum(saved[::-1])[::-1], [0.0]])
    least: Floats = np.where(room < smallest, np.inf, np.interp(room, at, cost))
    return least


@dataclass(frozen=True, slots=True)
class Relaxation:
    """The bound on partial answers: the linear relaxation of ``tables``, plus ``price`` for each of their own bytes, less ``credit``.

    No partial answer may have more than ``most`` bytes.
    """

    tables: Tables
    steps: Steps
    price: float = 0.0
    credit: float = 0.0
    most: float = np.inf

    def bounds(self, n_bytes: Ints, costs: Floats, is_open: Bools) -> Floats:
        """A lower bound on every completion of partial answers with these bytes and costs."""
        least = costs + self.price * n_bytes - self.credit
        least = least + relaxed(self.tables, self.steps, is_open, self.tables.budget - n_bytes)
        kept: Floats = np.where(n_bytes <= self.most, least, np.inf)
        return kept


def grow(
    frontier: Frontier, tables: Tables, relaxation: Relaxation, is_open: Bools, row: int, limit: float, undominated: bool = True
) -> Frontier:
    """``frontier`` with the group ``row`` added, without states that cannot end below ``limit`` and, if asked, dominated ones."""
    n_choices = int(np.isfinite(tables.costs[row]).sum())
    n_bytes = (frontier.n_bytes[:, None] + tables.n_bytes[row, :n_choices]).ravel()
    costs = (frontier.costs[:, None] + tables.costs[row, :n_choices]).ravel()
    bounds = relaxation.bounds(n_bytes, costs, is_open)
    kept = np.nonzero(bounds < limit)[0]
    kept = kept[np.lexsort((costs[kept], n_bytes[kept]))]
    if undominated and len(kept):
        least = np.minimum.accumulate(costs[kept])
        kept = kept[np.concatenate([[True], costs[kept][1:] < least[:-1]])]
    return Frontier(n_bytes[kept], costs[kept], bounds[kept], (*frontier.trail, (kept // n_choices, kept % n_choices)))


def walk(tables: Tables, limit: float, max_work: int, deadline: float, gpu_multiplier: float = 0.0) -> Ints | None:
    """The best answer that costs less than ``limit``; None if there is none.

    Under two budgets the groups on the GPU come first. For them, fewer bytes are fewer bytes on the GPU; after them one budget is left.
    Raises UnfinishedError past the limits of work and time, and if a group lies in both memories.
    """
    n_choices = np.isfinite(tables.costs).sum(axis=1)
    is_open = n_choices > 1
    smallest = np.zeros(len(n_choices), np.int64)
    if not tables.fits(smallest):
        return None
    frontier = start(int(tables.n_bytes[~is_open, 0].sum()), float(tables.costs[~is_open, 0].sum()))
    if frontier.costs[0] >= limit:
        return None
    alone = replace(tables, gpu_bytes=None)
    relaxations = [Relaxation(alone, hull_steps(alone))]
    on_gpu = np.zeros(len(n_choices), bool)
    if tables.gpu_bytes is not None:
        on_gpu = _on_gpu(tables, tables.gpu_bytes, is_open)
        priced = tables.priced(gpu_multiplier)
        most = tables.gpu_budget + int(frontier.n_bytes[0] - tables.gpu_bytes[~is_open, 0].sum())
        relaxations.append(Relaxation(priced, hull_steps(priced), gpu_multiplier, gpu_multiplier * most, most))
    # groups with large steps first: the groups left then have small ones, so their relaxation is close to the truth
    order = np.lexsort((tables.n_bytes[:, 0] - tables.n_bytes[:, -1], ~on_gpu))
    order = order[is_open[order]]
    work = 0
    for row in order:
        work += len(frontier.costs) * int(n_choices[row])
        if work > max_work or time.monotonic() > deadline:
            raise UnfinishedError
        is_open[row] = False
        frontier = grow(frontier, tables, relaxations[int(on_gpu[row])], is_open, int(row), limit)
        if not len(frontier.costs):
            return None
    picks = np.zeros(len(n_choices), np.int64)
    picks[order] = frontier.choices(int(frontier.costs.argmin()))
    return picks


def _on_gpu(tables: Tables, gpu_bytes: Ints, is_open: Bools) -> Bools:
    """Which open groups lie on the GPU. Raises UnfinishedError if a group lies there in part."""
    whole: Bools = (gpu_bytes == tables.n_bytes).all(axis=1) & is_open
    if (gpu_bytes[is_open & ~whole] != 0).any():
        raise UnfinishedError
    return whole
