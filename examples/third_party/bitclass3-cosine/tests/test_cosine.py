"""Both plugins keep their hooks' contracts, and do what they are for."""

import bitclass3_capped
import bitclass3_cosine
import numpy as np
import pytest

from bitclass3_core.errors import InfeasibleError
from bitclass3_core.kernels import dequantize, quantize
from bitclass3_core.measuring import OneTensor
from bitclass3_core.qtypes import qtype
from bitclass3_core.testing import MetricConformance, SolverConformance
from bitclass3_core.testing.solver import choices_of, sample_problem


class TestCosine(MetricConformance):
    plugin = bitclass3_cosine
    in_nats = False

    def test_is_the_cosine_of_real_outputs(self, model, sensitivity):
        """Against outputs computed for many random inputs of those powers."""
        name, q = "blk.0.attn_q.weight", qtype("Q2_K")
        cost = self.call(model=OneTensor(model, name), sensitivity=sensitivity, qtypes=(q,)).costs[name]["Q2_K"].cost
        powers, weights = sensitivity.tensors[name].imatrix, model.read(name)
        inputs = np.random.default_rng(0).normal(0, np.sqrt(powers), (20000, len(powers)))
        before, after = inputs @ weights.T, inputs @ dequantize(quantize(weights, q, powers), q).T
        cosines = (before * after).sum(axis=0) / np.sqrt(np.square(before).sum(axis=0) * np.square(after).sum(axis=0))
        assert cost == pytest.approx(1 - cosines.mean(), rel=0.02)


class TestCosineOfTheWorstRow(MetricConformance):
    plugin = bitclass3_cosine
    options = {"over": "worst"}
    in_nats = False


class TestCapped(SolverConformance):
    plugin = bitclass3_capped
    two_budgets = True


def solve(problem, max_cost=None):
    return bitclass3_capped.bitclass3_solve(problem, bitclass3_capped.Options(max_cost=max_cost))


def test_no_group_costs_more_than_the_cap():
    problem, _ = sample_problem(1, share=0.5)
    worst = max(choice.cost for choice in choices_of(problem, solve(problem)))
    capped = list(choices_of(problem, solve(problem, worst * 0.7)))
    assert max(choice.cost for choice in capped) <= worst * 0.7
    assert sum(choice.n_bytes for choice in capped) <= problem.budget_bytes


def test_cap_that_the_budget_excludes():
    problem, _ = sample_problem(1, share=0.02)
    largest = max(group.choices[-1].cost for group in problem.groups)
    with pytest.raises(
        InfeasibleError, match=r"the smallest size is [\d,]+ bytes, the budget is [\d,]+; raise max_cost or the target"
    ):
        solve(problem, largest)


def test_cap_that_no_type_keeps():
    problem, _ = sample_problem(1)
    with pytest.raises(InfeasibleError, match=r"costs .* at best \(\w+\), max_cost is 1e-30; raise max_cost"):
        solve(problem, 1e-30)
