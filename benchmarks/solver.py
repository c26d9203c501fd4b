"""Prints how fast and how well the solvers answer three problems, as a Markdown table: python benchmarks/solver.py [--plain].

The problems: a thousand tensors of like sizes, the same with one of 15 % of the bytes, and a small model whose tied embedding
holds 63 % of them. Costs fall about fourfold for a bit and differ by orders of magnitude between tensors. Seconds are CPU time.
"""

import argparse
import time
from collections.abc import Callable

import bitclass3_greedy
import bitclass3_ilp
import bitclass3_lagrangian
import numpy as np
from bitclass3_ilp import cp_sat

from bitclass3_core.knapsack.dual import lagrangian_dual, proof_of, tables_of
from bitclass3_core.problem import Allocation, Choice, Group, Problem, allocation_of, undominated

BPW = (1.5625, 1.75, 2.0625, 2.3125, 2.5625, 3.0625, 3.4375, 3.9, 4.25, 4.5, 5.0, 5.5, 6.5625, 8.5, 16.0)
PLAIN_SECONDS = 30.0

Solver = Callable[[Problem], Allocation]


def problem_of(n_params: list[int], n_choices: tuple[int, int], bpw: float, seed: int = 0) -> Problem:
    """Tensors of the given sizes with random types and costs, and ``bpw`` bits a weight to spend."""
    rng = np.random.default_rng(seed)
    groups = []
    for i, n in enumerate(n_params):
        bits = rng.choice(BPW, int(rng.integers(*n_choices)), replace=False)
        scale = n / 1e9 * np.exp(rng.normal(0, 1.5))
        choices = [Choice(f"Q{b}", int(n * b / 256) * 32, float(scale * 4.0**-b * np.exp(rng.normal(0, 0.3)))) for b in bits]
        groups.append(Group(f"g{i}", (f"t{i}",), undominated(choices)))
    return Problem(tuple(groups), int(sum(n_params) * bpw / 8))


def problems() -> dict[str, Problem]:
    """The three problems by name."""
    like = [int(n) * 256 for n in np.random.default_rng(0).integers(40_000, 90_000, 1000)]
    one_big = [*like[1:], int(sum(like[1:]) * 0.15 / 0.85)]
    layers = [640 * 2048, 640 * 2048, 640 * 2048, 640 * 1024, 640 * 256, 640 * 256, 640 * 1024] * 18
    tied = [*layers, int(sum(layers) * 0.63 / 0.37)]
    return {
        "1000 x 15, like sizes": problem_of(like, (15, 16), 4.5),
        "1000 x 15, one of 15 %": problem_of(one_big, (15, 16), 4.5),
        "127 x 6-13, one of 63 %": problem_of(tied, (6, 14), 5.2),
    }


def plain(problem: Problem) -> Allocation:
    """CP-SAT on the whole problem, as it comes."""
    started = time.monotonic()
    tables = tables_of(problem)
    solved = cp_sat.solve(tables, lagrangian_dual(tables).picks, PLAIN_SECONDS)
    proof = proof_of(tables.cost_of(solved.picks), solved.bound, time.monotonic() - started, finished=solved.finished)
    return allocation_of(problem, solved.picks.tolist(), "plain CP-SAT", proof)


def row(name: str, problem: Problem, solve: Solver) -> str:
    """One line of the table."""
    started = time.process_time()
    allocation = solve(problem)
    seconds = time.process_time() - started
    cost = sum(c.cost for group in problem.groups for c in group.choices if c.qtype == allocation.qtypes[group.tensors[0]])
    proof = allocation.proof
    if proof is None:
        return f"| {name} | {allocation.solver} | {seconds:.3f} | {cost:.9g} | | | |"
    proven = "yes" if proof.optimal else "no"
    return f"| {name} | {allocation.solver} | {seconds:.3f} | {cost:.9g} | {proof.bound:.9g} | {proof.gap:.1e} | {proven} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain", action="store_true", help="also CP-SAT on the whole problem, half a minute each at most")
    solvers: list[Solver] = [
        lambda problem: bitclass3_ilp.bitclass3_solve(problem, bitclass3_ilp.Options()),
        bitclass3_lagrangian.bitclass3_solve,
        bitclass3_greedy.bitclass3_solve,
    ]
    if parser.parse_args().plain:
        solvers.append(plain)
    print("| problem | solver | CPU seconds | cost, nats/token | bound | gap | proven |")
    print("|---|---|---|---|---|---|---|")
    for name, problem in problems().items():
        for solve in solvers:
            print(row(name, problem, solve), flush=True)


if __name__ == "__main__":
    main()
