"""Better answers to a multiple-choice knapsack from a first one: spend the bytes left over, then change two groups at once."""

import numpy as np

from bitclass3_core.knapsack.dual import Dual, Ints, Tables, reduced_costs

# moves that are tried in pairs under two budgets, those with the least reduced cost: a matrix of that many rows and columns
_SPLIT_MOVES = 600


def fill(tables: Tables, picks: Ints) -> Ints:
    """``picks`` after spending the bytes left over; the move that saves most per byte comes first."""
    picks = picks.copy()
    rows = np.arange(len(picks))
    while True:
        grown = tables.n_bytes - tables.n_bytes[rows, picks][:, None]
        room = tables.budget - tables.bytes_of(picks)
        saved = tables.costs[rows, picks][:, None] - tables.costs
        fits = (grown > 0) & (grown <= room) & (saved > 0)
        if tables.gpu_bytes is not None:
            gpu_grown = tables.gpu_bytes - tables.gpu_bytes[rows, picks][:, None]
            fits &= gpu_grown <= tables.gpu_budget - tables.gpu_bytes_of(picks)
        if not fits.any():
            return picks
        # -inf: a move that does not fit is never taken, even if the rates of all others underflow to 0
        rate = np.where(fits, np.where(fits, saved, 0.0) / np.where(fits, grown, 1), -np.inf)
        row, choice = np.unravel_index(int(rate.argmax()), rate.shape)
        picks[row] = choice


def swapped(tables: Tables, picks: Ints, dual: Dual) -> Ints:
    """``picks`` after changing two groups at once, the best pair each time, until no pair helps."""
    picks = picks.copy()
    reduced = reduced_costs(tables, dual)
    while True:
        gap = tables.cost_of(picks) - dual.bound
        rows, choices = np.nonzero(reduced < gap)
        if tables.gpu_bytes is None:
            pair = _best_pair(tables, picks, rows, choices)
        else:
            order = np.argsort(reduced[rows, choices], kind="stable")[:_SPLIT_MOVES]
            pair = _best_split_pair(tables, picks, tables.gpu_bytes, rows[order], choices[order])
        if pair is None:
            return picks
        for row, choice in pair:
            picks[row] = choice


def _best_pair(tables: Tables, picks: Ints, rows: Ints, choices: Ints) -> list[tuple[int, int]] | None:
    """The pair of moves among (``rows``, ``choices``) that saves most within the budget; None if no pair saves."""
    grown = tables.n_bytes[rows, choices] - tables.n_bytes[rows, picks[rows]]
    saved = tables.costs[rows, picks[rows]] - tables.costs[rows, choices]
    order = np.argsort(grown, kind="stable")
    rows, choices, grown, saved = rows[order], choices[order], grown[order], saved[order]
    if not len(rows):
        return None
    # for each move, the one that saves most among those that grow no more: one look-up then finds every move's best partner
    best = np.maximum.accumulate(np.where(saved == np.maximum.accumulate(saved), np.arange(len(rows)), 0))
    n_fit = np.searchsorted(grown, tables.budget - tables.bytes_of(picks) - grown, side="right")
    partner = best[np.maximum(n_fit - 1, 0)]
    gain = np.where((n_fit > 0) & (rows[partner] != rows), saved + saved[partner], -np.inf)
    first = int(gain.argmax())
    if gain[first] <= 1e-12 * tables.cost_of(picks):
        return None
    return [(int(rows[i]), int(choices[i])) for i in (first, int(partner[first]))]


def _best_split_pair(tables: Tables, picks: Ints, gpu_bytes: Ints, rows: Ints, choices: Ints) -> list[tuple[int, int]] | None:
    """``_best_pair`` under two budgets: every move is tried with every other."""
    if not len(rows):
        return None
    at = rows, picks[rows]
    to = rows, choices
    grown, gpu_grown = tables.n_bytes[to] - tables.n_bytes[at], gpu_bytes[to] - gpu_bytes[at]
    saved = tables.costs[at] - tables.costs[to]
    fits = (
        (rows[:, None] != rows)
        & (grown[:, None] + grown <= tables.budget - tables.bytes_of(picks))
        & (gpu_grown[:, None] + gpu_grown <= tables.gpu_budget - tables.gpu_bytes_of(picks))
    )
    gain = np.where(fits, saved[:, None] + saved, -np.inf)
    i, j = np.unravel_index(int(gain.argmax()), gain.shape)
    if gain[i, j] <= 1e-12 * tables.cost_of(picks):
        return None
    return [(int(rows[i]), int(choices[i])), (int(rows[j]), int(choices[j]))]


def best_effort(tables: Tables, dual: Dual) -> Ints:
    """A good answer in milliseconds: the dual's choices, then ``fill``, then ``swapped``."""
    return swapped(tables, fill(tables, dual.picks), dual)
