"""Two budgets at once: the file's bytes and those of them that lie on the GPU."""

from dataclasses import replace
from itertools import product

import bitclass3_greedy
import bitclass3_ilp
import bitclass3_lagrangian
import numpy as np
import pytest
from bitclass3_ilp import Options, branches
from hypothesis import given, settings
from hypothesis import strategies as st

from bitclass3_core.errors import InfeasibleError
from bitclass3_core.knapsack.dual import lagrangian_dual, reduced_costs, tables_of
from bitclass3_core.knapsack.improve import best_effort, fill
from bitclass3_core.problem import Choice, Group, Problem, undominated

BPW = (2.0625, 2.5625, 3.4375, 4.25, 4.5, 5.5, 6.5625, 8.5)
# of a group's bytes: it lies on the GPU, in the CPU's memory, or (tensors that share a type) partly here and there
SHARES = (1.0, 0.0, 0.5)


def ilp(problem, **options):
    return bitclass3_ilp.bitclass3_solve(problem, Options(**options))


SOLVERS = {"ilp": ilp, "lagrangian": bitclass3_lagrangian.bitclass3_solve, "greedy": bitclass3_greedy.bitclass3_solve}
each_solver = pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS.keys())


def chosen(problem, allocation):
    found = [next(c for c in g.choices if c.qtype == allocation.qtypes[g.tensors[0]]) for g in problem.groups]
    return sum(c.n_bytes for c in found), sum(c.gpu_bytes for c in found), sum(c.cost for c in found)


def brute_force(problem):
    answers = product(*(group.choices for group in problem.groups))
    return min(
        sum(c.cost for c in answer)
        for answer in answers
        if sum(c.n_bytes for c in answer) <= problem.budget_bytes and sum(c.gpu_bytes for c in answer) <= problem.gpu_budget_bytes
    )


@st.composite
def small_problems(draw):
    """Up to 6 groups of up to 5 choices, at any two budgets that fit; now and then one group holds most of the bytes."""
    groups = []
    for i in range(draw(st.integers(1, 6))):
        weight = draw(st.sampled_from((1, 1, 1, 40)))
        share = draw(st.sampled_from(SHARES))
        sizes = draw(st.lists(st.integers(1, 99), min_size=1, max_size=5, unique=True))
        costs = draw(st.lists(st.sampled_from((0.0, 1e-8)) | st.floats(0, 10), min_size=len(sizes), max_size=len(sizes)))
        choices = [Choice(f"Q{n}", weight * n, c, int(share * weight * n)) for n, c in zip(sizes, costs, strict=True)]
        groups.append(Group(f"g{i}", (f"t{i}",), undominated(choices)))
    sized = Problem(tuple(groups), 0)
    largest = sum(group.choices[-1].gpu_bytes for group in groups)
    budget = draw(st.integers(sized.smallest_bytes, sized.largest_bytes + 1))
    return Problem(tuple(groups), budget, draw(st.integers(sized.smallest_gpu_bytes, largest + 1)))


@settings(max_examples=300, deadline=None)
@given(small_problems())
def test_ilp_equals_brute_force(problem):
    allocation = ilp(problem)
    n_bytes, gpu_bytes, cost = chosen(problem, allocation)
    best = brute_force(problem)
    assert n_bytes <= problem.budget_bytes
    assert gpu_bytes <= problem.gpu_budget_bytes
    assert cost == pytest.approx(best, rel=1e-8, abs=1e-14)
    assert allocation.proof.optimal
    assert allocation.proof.bound <= best * (1 + 1e-9) + 1e-15


@settings(max_examples=100, deadline=None)
@given(small_problems())
def test_ilp_equals_brute_force_where_cp_sat_has_to_prove(problem):
    with pytest.MonkeyPatch.context() as patch:  # no branches, no work allowed to the walk
        patch.setattr(bitclass3_ilp, "MAX_WORK", 0)
        patch.setattr(branches, "BIG_SHARE", 1.0)
        allocation = ilp(problem)
    assert chosen(problem, allocation)[1] <= problem.gpu_budget_bytes
    assert chosen(problem, allocation)[2] == pytest.approx(brute_force(problem), rel=1e-8, abs=1e-14)
    assert allocation.proof.optimal


@settings(max_examples=150, deadline=None)
@given(small_problems())
def test_the_others_fit_and_their_bounds_hold(problem):
    best = brute_force(problem)
    for name in ("lagrangian", "greedy"):
        allocation = SOLVERS[name](problem)
        n_bytes, gpu_bytes, cost = chosen(problem, allocation)
        assert n_bytes <= problem.budget_bytes
        assert gpu_bytes <= problem.gpu_budget_bytes
        assert allocation.proof.bound <= best * (1 + 1e-9) + 1e-15
        assert cost >= best * (1 - 1e-9)


@settings(max_examples=150, deadline=None)
@given(small_problems(), st.floats(0, 1), st.floats(0, 10))
def test_every_pair_of_multipliers_bounds_every_answer(problem, gpu_multiplier, multiplier):
    tables, best = tables_of(problem), brute_force(problem)
    dual = replace(lagrangian_dual(tables), multiplier=multiplier, gpu_multiplier=gpu_multiplier)
    priced = tables.costs + multiplier * tables.n_bytes + gpu_multiplier * tables.gpu_bytes
    bound = priced.min(axis=1).sum() - multiplier * tables.budget - gpu_multiplier * tables.gpu_budget
    assert bound <= best + 1e-9 * (1 + abs(bound))
    assert bound <= lagrangian_dual(tables).bound + 1e-6 * (1 + abs(bound))
    reduced = reduced_costs(tables, dual)
    for answer in product(*(range(len(group.choices)) for group in problem.groups)):
        picks = np.array(answer)
        if tables.fits(picks):
            assert tables.cost_of(picks) >= bound + reduced[np.arange(len(picks)), picks].max() - 1e-9 * (1 + abs(bound))


def model(case, seed=0, gpu_bpw=4.0, bpw=4.5):
    """A model of real size: its experts (or every second tensor) lie in the CPU's memory, the rest on the GPU."""
    rng = np.random.default_rng(seed)
    if case == "embedding of 63 %":
        layers = [640 * 2048, 640 * 2048, 640 * 2048, 640 * 1024, 640 * 256, 640 * 256, 640 * 1024] * 18
        n_params = [*layers, int(sum(layers) * 0.63 / 0.37)]
        on_gpu = [i % 2 == 0 for i in range(len(layers))] + [True]
    else:
        attention, experts = [2048 * 4096, 2048 * 512, 2048 * 512, 4096 * 2048], [128 * 2048 * 768] * 3
        n_params = (attention + experts) * 48
        on_gpu = [size < 50_000_000 for size in n_params]
    groups = []
    for i, (n, is_on_gpu) in enumerate(zip(n_params, on_gpu, strict=True)):
        scale = n / 1e9 * np.exp(rng.normal(0, 1.5))
        sizes = [int(n * b / 256) * 32 for b in BPW]
        costs = [float(scale * 4.0**-b * np.exp(rng.normal(0, 0.3))) for b in BPW]
        choices = [Choice(f"Q{b}", n, c, n * is_on_gpu) for b, n, c in zip(BPW, sizes, costs, strict=True)]
        groups.append(Group(f"g{i}", (f"t{i}",), undominated(choices)))
    gpu_params = sum(n for n, is_on_gpu in zip(n_params, on_gpu, strict=True) if is_on_gpu)
    return Problem(tuple(groups), int(sum(n_params) * bpw / 8), int(gpu_params * gpu_bpw / 8))


@pytest.mark.parametrize("case", ["embedding of 63 %", "30B-A3B"])
@pytest.mark.parametrize("seed", range(2))
def test_ilp_proves_models_of_real_size(case, seed):
    problem = model(case, seed)
    allocation = ilp(problem, time_limit_seconds=60)
    n_bytes, gpu_bytes, cost = chosen(problem, allocation)
    assert n_bytes <= problem.budget_bytes
    assert gpu_bytes <= problem.gpu_budget_bytes
    assert allocation.proof.optimal
    # the second budget binds: without it the answer would not fit on the GPU
    loose = ilp(replace(problem, gpu_budget_bytes=None))
    assert chosen(problem, loose)[1] > problem.gpu_budget_bytes
    assert chosen(problem, loose)[2] < cost
    for name in ("lagrangian", "greedy"):
        other = SOLVERS[name](problem)
        assert chosen(problem, other)[1] <= problem.gpu_budget_bytes
        assert cost <= chosen(problem, other)[2] * (1 + 1e-12)
        assert other.proof.bound <= cost * (1 + 1e-12)


def test_a_gpu_budget_that_does_not_bind_changes_nothing():
    problem = model("30B-A3B", gpu_bpw=9.0)
    assert ilp(problem).qtypes == ilp(replace(problem, gpu_budget_bytes=None)).qtypes


def test_when_only_the_gpu_binds_the_rest_is_as_good_as_can_be():
    problem = model("30B-A3B", bpw=16.0)
    allocation = ilp(problem)
    for group in problem.groups:
        if not group.choices[0].gpu_bytes:
            assert allocation.qtypes[group.tensors[0]] == group.choices[-1].qtype
    assert allocation.proof.optimal
    assert chosen(problem, allocation)[1] <= problem.gpu_budget_bytes


def test_fill_and_swaps_keep_both_budgets_and_only_improve():
    tables = tables_of(model("30B-A3B"))
    dual = lagrangian_dual(tables)
    filled, best = fill(tables, dual.picks), best_effort(tables, dual)
    assert tables.cost_of(best) <= tables.cost_of(filled) <= tables.cost_of(dual.picks)
    assert tables.fits(best)
    assert dual.bound <= tables.cost_of(best) <= dual.bound * 1.01


@each_solver
def test_the_tightest_gpu_budget_and_one_below(solve):
    problem = model("30B-A3B")
    tight = replace(problem, gpu_budget_bytes=problem.smallest_gpu_bytes)
    assert chosen(tight, solve(tight))[1] == tight.gpu_budget_bytes
    below = replace(problem, gpu_budget_bytes=problem.smallest_gpu_bytes - 1)
    with pytest.raises(InfeasibleError, match=r"budget of the GPU is [\d,]+ bytes, smallest possible is [\d,]+; raise it"):
        solve(below)


@each_solver
def test_the_same_problem_gets_the_same_answer(solve):
    problem = model("embedding of 63 %", 3)
    assert solve(problem).qtypes == solve(problem).qtypes
