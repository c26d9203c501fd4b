"""The built-in solvers: never over budget, never worse than they claim, and the exact one exact on models of real size."""

import os
import signal
import subprocess
import sys
import time
from itertools import product

import bitclass3_greedy
import bitclass3_ilp
import bitclass3_lagrangian
import numpy as np
import pytest
from bitclass3_ilp import Options, Search, branches, cp_sat
from pydantic import ValidationError

from bitclass3_core.errors import InfeasibleError
from bitclass3_core.knapsack.dual import Tables, hull_steps, lagrangian_dual, reduced_costs, tables_of
from bitclass3_core.knapsack.improve import best_effort, fill
from bitclass3_core.problem import Allocation, Choice, Group, Problem, undominated

BPW = (1.5625, 1.75, 2.0625, 2.3125, 2.5625, 3.0625, 3.4375, 3.9, 4.25, 4.5, 5.0, 5.5, 6.5625, 8.5, 16.0)


def heavy_tailed(seed, n_params, n_choices=(15, 16), bpw=4.5, sigma=1.5):
    """Groups of given sizes whose costs fall about fourfold per bit and differ by orders of magnitude between groups."""
    rng = np.random.default_rng(seed)
    groups = []
    for i, n in enumerate(n_params):
        bits = rng.choice(BPW, int(rng.integers(*n_choices)), replace=False)
        scale = n / 1e9 * np.exp(rng.normal(0, sigma))
        choices = [Choice(f"Q{b}", int(n * b / 256) * 32, float(scale * 4.0**-b * np.exp(rng.normal(0, 0.3)))) for b in bits]
        groups.append(Group(f"g{i}", (f"t{i}", f"u{i}"), undominated(choices)))
    smallest = Problem(tuple(groups), 0).smallest_bytes
    return Problem(tuple(groups), max(smallest, int(sum(n_params) * bpw / 8)))


def small(seed, least_groups=1):
    """Up to 6 groups of up to 5 choices with costs from 0 to 10, some of them with one big group, at any budget that fits."""
    rng = np.random.default_rng(seed)
    groups = []
    for i in range(int(rng.integers(least_groups, 7))):
        weight = 40 if i == 0 and seed % 3 == 0 else 1
        n = int(rng.integers(1, 6))
        choices = [
            Choice(f"Q{k}", weight * int(rng.integers(1, 100)), float(rng.choice([0.0, rng.uniform(0, 10), 1e-8])))
            for k in range(n)
        ]
        groups.append(Group(f"g{i}", (f"t{i}", f"u{i}"), undominated(choices)))
    sized = Problem(tuple(groups), 0)
    return Problem(tuple(groups), int(rng.integers(sized.smallest_bytes, sized.largest_bytes + 2)))


def large(case, seed=0):
    """Models of the sizes that occur: a thousand tensors, alike or with a big one, and a small model that is mostly its embedding."""
    rng = np.random.default_rng(seed)
    like = [int(n) * 256 for n in rng.integers(40_000, 90_000, 1000)]
    if case == "like sizes":
        return heavy_tailed(seed, like)
    if case == "one shape":
        return heavy_tailed(seed, [4096 * 4096] * 1000)
    if case == "one group of 15 %":
        return heavy_tailed(seed, [*like[1:], int(sum(like[1:]) * 0.15 / 0.85)])
    layers = [640 * 2048, 640 * 2048, 640 * 2048, 640 * 1024, 640 * 256, 640 * 256, 640 * 1024] * 18
    return heavy_tailed(seed, [*layers, int(sum(layers) * 0.63 / 0.37)], n_choices=(6, 14), bpw=5.2)


CASES = ("like sizes", "one shape", "one group of 15 %", "embedding of 63 %")


def ilp(problem, **options):
    return bitclass3_ilp.bitclass3_solve(problem, Options(**options))


SOLVERS = {"ilp": ilp, "lagrangian": bitclass3_lagrangian.bitclass3_solve, "greedy": bitclass3_greedy.bitclass3_solve}
each_solver = pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS.keys())


def picked(problem: Problem, allocation: Allocation) -> list[Choice]:
    """The choices of an allocation, which must answer every tensor and give one type to a whole group."""
    assert set(allocation.qtypes) == {tensor for group in problem.groups for tensor in group.tensors}
    found = []
    for group in problem.groups:
        (qtype,) = {allocation.qtypes[tensor] for tensor in group.tensors}
        found.append(next(choice for choice in group.choices if choice.qtype == qtype))
    return found


def cost(problem, allocation):
    return sum(choice.cost for choice in picked(problem, allocation))


def brute_force(problem):
    answers = product(*(group.choices for group in problem.groups))
    return min(sum(c.cost for c in answer) for answer in answers if sum(c.n_bytes for c in answer) <= problem.budget_bytes)


@each_solver
def test_answers_fit_and_proofs_hold(solve):
    for seed in range(60):
        problem = small(seed)
        allocation = solve(problem)
        best, proof = brute_force(problem), allocation.proof
        assert sum(choice.n_bytes for choice in picked(problem, allocation)) <= problem.budget_bytes
        assert proof.bound <= best * (1 + 1e-9) + 1e-15
        assert proof.bound <= cost(problem, allocation) * (1 + 1e-12)
        assert proof.gap == pytest.approx(
            1 - proof.bound / cost(problem, allocation) if cost(problem, allocation) else 0.0, abs=1e-9
        )
        assert not proof.optimal or cost(problem, allocation) == pytest.approx(best, rel=1e-9, abs=1e-15)


@each_solver
def test_the_same_problem_gets_the_same_answer(solve):
    problem = heavy_tailed(3, [256 * n for n in range(100, 400)])
    assert solve(problem).qtypes == solve(problem).qtypes


@each_solver
def test_a_budget_below_the_smallest_choices_is_refused(solve):
    problem = Problem((Group("g", ("t",), (Choice("Q4_K", 4_194_304, 0.1),)),), 3_100_000)
    message = "budget is 3,100,000 bytes, smallest possible is 4,194,304; raise the target or add smaller types to the menu"
    with pytest.raises(InfeasibleError, match=message):
        solve(problem)


@each_solver
def test_the_tightest_and_the_widest_budget(solve):
    groups = heavy_tailed(1, [2560 * n for n in range(10, 40)]).groups
    sized = Problem(groups, 0)
    tight = Problem(groups, sized.smallest_bytes)
    assert picked(tight, solve(tight)) == [group.choices[0] for group in groups]
    wide = Problem(groups, sized.largest_bytes)
    assert picked(wide, solve(wide)) == [group.choices[-1] for group in groups]
    assert solve(wide).proof.optimal


@each_solver
def test_problems_without_a_decision(solve):
    assert solve(Problem((), 0)).qtypes == {}
    only = Problem((Group("g", ("t",), (Choice("F32", 10, 0.0),)),), 10)
    assert solve(only).qtypes == {"t": "F32"}
    assert solve(only).proof.gap == 0.0
    assert solve(only).proof.optimal


def test_ilp_equals_brute_force():
    for seed in range(120):
        problem = small(seed)
        allocation = ilp(problem)
        assert allocation.proof.optimal
        assert cost(problem, allocation) == pytest.approx(brute_force(problem), rel=1e-9, abs=1e-15), seed


def test_ilp_equals_brute_force_where_cp_sat_has_to_prove(monkeypatch):
    # without branches and without any work allowed to the walk, every core goes to CP-SAT
    monkeypatch.setattr(bitclass3_ilp, "MAX_WORK", 0)
    monkeypatch.setattr(branches, "BIG_SHARE", 1.0)
    calls = []
    solve = cp_sat.solve
    monkeypatch.setattr(cp_sat, "solve", lambda *arguments: calls.append(solve(*arguments)) or calls[-1])
    for seed in range(40):
        problem = small(seed, least_groups=6)
        allocation = ilp(problem)
        assert allocation.proof.optimal
        assert cost(problem, allocation) == pytest.approx(brute_force(problem), rel=1e-9, abs=1e-15), seed
        assert allocation.proof.bound <= cost(problem, allocation) * (1 + 1e-12)
    assert len(calls) > 5


def test_walk_and_cp_sat_agree_on_a_large_problem(monkeypatch):
    problem = large("embedding of 63 %")
    walked = ilp(problem)
    monkeypatch.setattr(bitclass3_ilp, "MAX_WORK", 0)
    proven = ilp(problem)
    assert proven.proof.optimal
    assert cost(problem, proven) == pytest.approx(cost(problem, walked), rel=1e-8)
    assert proven.proof.bound <= cost(problem, walked) * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_ilp_is_never_worse_than_the_others(seed):
    problem = heavy_tailed(seed, [256 * n for n in np.random.default_rng(seed).integers(1000, 90_000, 300)], sigma=3)
    best = cost(problem, ilp(problem))
    assert best <= cost(problem, SOLVERS["lagrangian"](problem)) * (1 + 1e-12)
    assert best <= cost(problem, SOLVERS["greedy"](problem)) * (1 + 1e-12)


@pytest.mark.parametrize("case", CASES)
def test_ilp_proves_large_problems(case):
    problem = large(case)
    allocation = ilp(problem, time_limit_seconds=10)
    assert allocation.proof.optimal is True
    assert cost(problem, allocation) <= cost(problem, SOLVERS["lagrangian"](problem)) * (1 + 1e-12)


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)


def test_cp_sat_leaves_ctrl_c_as_it_was():
    tables = Tables(np.array([[1, 2], [1, 2]]), np.array([[2.0, 0.0], [3.0, 0.0]]), 3)
    before = signal.getsignal(signal.SIGINT)
    assert cp_sat.solve(tables, np.array([1, 0]), seconds=10.0).picks.tolist() == [0, 1]
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):  # the system's handler, which Python does not know of, would end the tests here
        press_ctrl_c()


@pytest.mark.parametrize("cost", [5e-324, 2.3e-313, 1e-300, 1e-200])
def test_cp_sat_takes_costs_that_no_scale_makes_integers(cost):
    tables = Tables(np.array([[1, 32], [1, 32]]), np.array([[cost, 0.0], [2 * cost, 0.0]]), 33)
    solved = cp_sat.solve(tables, np.array([1, 0]), seconds=10.0)
    assert solved.finished
    assert solved.bound <= tables.costs[[0, 1], solved.picks].sum() <= 2 * cost


def test_cp_sat_keeps_the_hint_where_its_worth_is_tiny_beside_the_total():
    # 1e-8 on top of 2.55: as a difference of sums it comes out smaller than the choice that it consists of
    groups = [[(7, 1e-8)], [(16, 1e-8), (93, 0.0)], [(80, 2.5545426320767706)], [(7, 1e-8), (62, 0.0)], [(99, 1e-8)]]
    problem = Problem(
        tuple(Group(f"g{i}", (f"t{i}",), tuple(Choice(f"Q{n}", n, c) for n, c in group)) for i, group in enumerate(groups)), 268
    )
    tables = tables_of(problem)
    solved = cp_sat.solve(tables, best_effort(tables, lagrangian_dual(tables)), seconds=10.0)
    assert solved.finished
    assert tables.cost_of(solved.picks) == pytest.approx(brute_force(problem), rel=1e-12)


def rounded(seed, steps, n_groups=300, seconds=2.0):
    """CP-SAT's own answer with costs rounded to ``steps``, against greedy: above 1 it is worse, whatever its status says."""
    problem = heavy_tailed(seed, [256 * n for n in np.random.default_rng(seed).integers(1000, 90_000, n_groups)], sigma=3)
    tables = tables_of(problem)
    picks = bitclass3_greedy.climb(tables)
    solved = cp_sat.solve(tables, picks, seconds, gap=1e-5, steps=steps)
    assert tables.bytes_of(solved.picks) <= tables.budget
    return tables.cost_of(solved.picks) / tables.cost_of(picks), solved.bound / tables.cost_of(solved.picks)


def test_the_integer_costs_are_fine_enough():
    assert all(rounded(seed, cp_sat.STEPS)[0] <= 1 for seed in range(10))


def test_coarse_integer_costs_would_be_worse_than_greedy():
    found = [rounded(seed, 100, n_groups=40, seconds=60.0) for seed in range(5)]
    assert max(ratio for ratio, _ in found) > 1
    # the bound still holds: it takes the rounding off
    assert all(bound <= 1 for _, bound in found)


def test_a_gap_that_is_good_enough_ends_the_search_early():
    problem = large("embedding of 63 %")
    allocation = ilp(problem, gap=0.05)
    best = ilp(problem)
    assert 0 <= allocation.proof.gap <= 0.05 + 1e-12
    assert allocation.proof.bound <= cost(problem, best) * (1 + 1e-12)
    assert cost(problem, allocation) <= cost(problem, best) / 0.95


def test_without_time_the_answer_fits_and_claims_nothing():
    problem = large("embedding of 63 %")
    search = Search(tables_of(problem), Options(), deadline=time.monotonic() - 1)
    bound = search.run()
    assert search.tables.bytes_of(search.picks) <= problem.budget_bytes
    assert not search.finished
    assert bound <= cost(problem, ilp(problem)) * (1 + 1e-12)
    assert bound >= search.dual.bound


@pytest.mark.parametrize("options", [{"time_limit_seconds": 0}, {"gap": -0.1}, {"gap": 1.0}, {"threads": 2}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValidationError):
        Options(**options)


def test_hull_steps_flatten_and_reach_the_cheapest_choice():
    tables = tables_of(large("embedding of 63 %"))
    steps = hull_steps(tables)
    assert (np.diff(steps.slope) <= 0).all()
    for group in range(0, len(tables.costs), 10):
        choices = steps.choice[steps.group == group]
        assert (np.diff(choices) > 0).all()
        assert tables.costs[group, choices[-1]] == tables.costs[group].min()


def test_the_dual_bound_is_the_maximum_over_multipliers():
    tables = tables_of(large("embedding of 63 %"))
    dual = lagrangian_dual(tables)
    for factor in (0.0, 0.5, 0.99, 1.01, 2.0):
        multiplier = dual.multiplier * factor
        at = (tables.costs + multiplier * tables.n_bytes).min(axis=1).sum() - multiplier * tables.budget
        assert at <= dual.bound * (1 + 1e-9)


def test_fill_and_swaps_only_improve():
    tables = tables_of(heavy_tailed(5, [256 * n for n in range(100, 300)]))
    dual = lagrangian_dual(tables)
    filled, best = fill(tables, dual.picks), best_effort(tables, dual)
    assert tables.cost_of(best) <= tables.cost_of(filled) <= tables.cost_of(dual.picks)
    assert max(tables.bytes_of(filled), tables.bytes_of(best)) <= tables.budget
    assert dual.bound <= tables.cost_of(best)


def test_fill_ends_where_what_is_saved_underflows():
    tables = Tables(np.array([[1, 32], [1, 99]]), np.array([[5e-324, 0.0], [1e-323, 0.0]]), 100)
    assert fill(tables, np.array([0, 0])).tolist() == [1, 0]


def test_reduced_costs_bound_every_answer_with_the_choice():
    problem = small(4)
    tables = tables_of(problem)
    dual = lagrangian_dual(tables)
    reduced = reduced_costs(tables, dual)
    for answer in product(*(range(len(group.choices)) for group in problem.groups)):
        picks = np.array(answer)
        if tables.bytes_of(picks) <= tables.budget:
            highest = max(reduced[row, choice] for row, choice in enumerate(answer))
            assert tables.cost_of(picks) >= dual.bound + highest - 1e-9


def test_the_solvers_load_without_ortools():
    code = "import sys, bitclass3_ilp, bitclass3_lagrangian, bitclass3_greedy; sys.exit('ortools' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=False).returncode == 0
