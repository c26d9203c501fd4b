"""The greedy solver, a baseline: from the smallest choices it takes the hull steps that save most cost per byte first."""

import time

import numpy as np

from bitclass3_core import hookimpl
from bitclass3_core.knapsack.dual import Ints, Tables, hull_steps, lagrangian_dual, proof_of, tables_of
from bitclass3_core.problem import Allocation, Problem, allocation_of

BITCLASS3_ANSWERS = "23a55ca92fc1"  # changes when the answers do


@hookimpl
def bitclass3_solve(problem: Problem) -> Allocation:
    """The allocation after the steepest steps that fit; its proof is the dual bound."""
    started = time.monotonic()
    tables = tables_of(problem)
    picks = climb(tables)
    proof = proof_of(tables.cost_of(picks), lagrangian_dual(tables).bound, time.monotonic() - started)
    return allocation_of(problem, picks.tolist(), "greedy", proof)


def climb(tables: Tables) -> Ints:
    """Take every step that fits; after a step that does not fit, its group takes no more."""
    picks = np.zeros(len(tables.costs), np.int64)
    room, gpu_room = tables.budget - tables.bytes_of(picks), tables.gpu_budget - tables.gpu_bytes_of(picks)
    gpu_bytes = np.zeros_like(tables.n_bytes) if tables.gpu_bytes is None else tables.gpu_bytes
    stopped: set[int] = set()
    steps = hull_steps(tables)
    for group, choice, n_bytes in zip(steps.group.tolist(), steps.choice.tolist(), steps.n_bytes.tolist(), strict=True):
        n_gpu_bytes = int(gpu_bytes[group, choice] - gpu_bytes[group, picks[group]])
        if n_bytes > room or (n_gpu_bytes and n_gpu_bytes > gpu_room):
            stopped.add(group)
        if group not in stopped:
            picks[group] = choice
            room, gpu_room = room - n_bytes, gpu_room - n_gpu_bytes
    return picks
