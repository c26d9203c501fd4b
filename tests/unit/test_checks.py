"""What the core refuses of a plugin's answer."""

from dataclasses import replace

import numpy as np
import pytest
from gguf_files import memory_model

from bitclass3_core.constraints.limits import Limits
from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.errors import ContractError
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.model import Architecture
from bitclass3_core.plugin.checks import (
    check_architecture,
    check_costs,
    check_evaluations,
    check_kept,
    check_sensitivity,
    check_types,
)
from bitclass3_core.problem import Allocation
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity

Q, EXPERTS, NARROW = "blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight", "blk.0.attn_k.weight"
MODEL = memory_model(blk__0__attn_q=(4, 256), blk__0__ffn_up_exps=(3, 4, 32), blk__0__attn_k=(4, 32))
ALL = frozenset(MODEL.tensors)


def ones(*shape):
    return np.ones(shape, np.float32)


def architecture(**changes):
    return replace(Architecture("test", ALL), **changes)


def test_good_architecture():
    orders = {"row_order": {Q: np.array([3, 1, 0, 2])}, "column_order": {EXPERTS: np.arange(32)[::-1]}}
    check_architecture(architecture(floors={Q: "Q8_0"}, **orders), MODEL, "mine")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantizable": frozenset({"a", "b", "c", "d", "e"})}, "names tensors that the model does not have: a, b, c and 2 more$"),
        ({"floors": {"a": "Q8_0"}}, "names tensors that the model does not have: a$"),
        ({"row_order": {Q: np.array([0, 1, 2])}}, f"the order of {Q} is no permutation of its 4 n_rows"),
        ({"row_order": {Q: np.array([0, 1, 2, 2])}}, f"the order of {Q} is no permutation of its 4 n_rows"),
        ({"column_order": {Q: np.arange(1, 257)}}, f"the order of {Q} is no permutation of its 256 n_in"),
    ],
)
def test_bad_architecture(changes, message):
    with pytest.raises(ContractError, match=f"plugin 'mine'.*{message}"):
        check_architecture(architecture(**changes), MODEL, "mine")


GOOD = {
    Q: TensorSensitivity(Powers(ones(256), ones(4))),
    EXPERTS: TensorSensitivity(Powers(ones(3, 32), ones(12))),
    NARROW: TensorSensitivity(Powers(ones(32)), Powers(ones(32), ones(4))),
}


def check(changes, drop=()):
    tensors = {name: tensor for name, tensor in {**GOOD, **changes}.items() if name not in drop}
    check_sensitivity(Sensitivity(tensors, "mine", 1, 1, ""), MODEL, ALL, "mine")


def test_good_sensitivity():
    check({})
    check({EXPERTS: TensorSensitivity(Powers(ones(32)))})  # one vector for all experts


def bad(size, value):
    vector = ones(size)
    vector[1] = value
    return vector


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": GOOD[Q]}, "answered for tensors that the model does not have: a$"),
        ({Q: TensorSensitivity()}, f"no powers for {Q}$"),
        ({Q: TensorSensitivity(Powers(ones(4)))}, rf"in_power of {Q} has shape \(4,\), expected \(256,\)"),
        ({EXPERTS: TensorSensitivity(Powers(ones(2, 32)))}, rf"in_power of {EXPERTS} has shape \(2, 32\), expected \(32,\)"),
        ({EXPERTS: TensorSensitivity(Powers(ones(32), ones(4)))}, rf"out_power of {EXPERTS} has shape \(4,\), expected \(12,\)"),
        ({NARROW: TensorSensitivity(lookup=Powers(ones(32), ones(5)))}, rf"out_power of {NARROW} has shape \(5,\)"),
        ({Q: TensorSensitivity(Powers(ones(256), None, ones(4)))}, rf"in_fisher of {Q} has shape \(4,\), in_power has \(256,\)"),
        ({Q: TensorSensitivity(Powers(ones(256), None, bad(256, np.nan)))}, f"powers of {Q} are negative, NaN or Inf"),
        ({Q: TensorSensitivity(Powers(bad(256, -1)))}, f"powers of {Q} are negative, NaN or Inf"),
        ({Q: TensorSensitivity(Powers(bad(256, np.nan)))}, f"powers of {Q} are negative, NaN or Inf"),
        ({Q: TensorSensitivity(Powers(ones(256), bad(4, np.inf)))}, f"powers of {Q} are negative, NaN or Inf"),
    ],
)
def test_bad_sensitivity(changes, message):
    with pytest.raises(ContractError, match=f"plugin 'mine'.*{message}"):
        check(changes)


def test_sensitivity_that_leaves_tensors_out():
    with pytest.raises(ContractError, match=f"plugin 'mine' left out tensors: {NARROW}, {Q}$"):
        check({}, drop=(Q, NARROW))


def test_sensitivity_of_tensors_that_are_not_quantizable_is_let_through():
    check_sensitivity(Sensitivity(GOOD, "mine", 1, 1, ""), MODEL, frozenset({Q}), "mine")


def test_good_costs():
    check_costs(CostTable({Q: {"Q4_K": Cost(0.0, 0.0, 1), "Q6_K": Cost(1.0, 0.0, 1)}}), {Q: ["Q4_K"]}, "mine")


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({}, f"gave no cost for {Q} at Q4_K, Q6_K"),
        ({"Q4_K": 1.0}, f"gave no cost for {Q} at Q6_K"),
        ({"Q4_K": 1.0, "Q6_K": -1.0}, f"cost of {Q} at Q6_K is -1.0, expected a number of 0 or more"),
        ({"Q4_K": np.nan, "Q6_K": 1.0}, f"cost of {Q} at Q4_K is nan, expected a number of 0 or more"),
        ({"Q4_K": -np.inf, "Q6_K": 1.0}, f"cost of {Q} at Q4_K is -inf"),
    ],
)
def test_bad_costs(cells, message):
    table = CostTable({Q: {q: Cost(value, 0.0, 1) for q, value in cells.items()}})
    with pytest.raises(ContractError, match=f"plugin 'mine'.*{message}"):
        check_costs(table, {Q: ["Q4_K", "Q6_K"]}, "mine")


def test_costs_of_a_tensor_that_was_left_out():
    with pytest.raises(ContractError, match=f"gave no cost for {Q} at Q4_K"):
        check_costs(CostTable({}), {Q: ["Q4_K"]}, "mine")


TYPES = {Q: "Q4_K", EXPERTS: "Q4_0", NARROW: "Q8_0"}


def check_answer(types, n_bytes=100, budget=100, pins=None):
    check_types(Allocation(types), MODEL, ALL, "mine")
    check_kept(Allocation(types), MODEL, n_bytes, budget, Limits(pins=pins or {}), "mine")


def test_good_allocation():
    check_answer(TYPES, pins={Q: "Q4_K"})
    check_answer(TYPES, n_bytes=10**9, budget=None)


@pytest.mark.parametrize(
    ("types", "options", "message"),
    [
        ({Q: "Q4_K", NARROW: "Q8_0"}, {}, f"must answer each quantizable tensor and no other: {EXPERTS}$"),
        ({**TYPES, "a": "Q4_K"}, {}, "must answer each quantizable tensor and no other: a$"),
        ({**TYPES, NARROW: "Q4_K"}, {}, f"gave {NARROW} Q4_K, which its rows of 32 cannot hold"),
        (TYPES, {"pins": {Q: "Q6_K"}}, f"gave {Q} Q4_K, but it is pinned to Q6_K"),
        (TYPES, {"n_bytes": 1_234_567, "budget": 1_234_566}, "answered 1,234,567 bytes, the budget is 1,234,566"),
    ],
)
def test_bad_allocation(types, options, message):
    with pytest.raises(ContractError, match=f"plugin 'mine' {message}"):
        check_answer(types, **options)


def evaluation(candidate="a", mean_kld=0.1, n_tokens=10):
    return Evaluation(candidate, n_tokens, 1, mean_kld, *(0.0,) * 10)


def test_good_evaluations():
    check_evaluations([evaluation("a"), evaluation("b", 0.0), evaluation("c", -1e-9)], ["a", "b", "c"], "mine")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([], r"evaluated \[\], expected \['a'\]"),
        ([evaluation("b")], r"evaluated \['b'\], expected \['a'\]"),
        ([evaluation(mean_kld=np.nan)], "mean KLD of a is nan over 10 tokens"),
        ([evaluation(mean_kld=-0.1)], "mean KLD of a is -0.1 over 10 tokens"),
        ([evaluation(n_tokens=0)], "mean KLD of a is 0.1 over 0 tokens"),
    ],
)
def test_bad_evaluations(answer, message):
    with pytest.raises(ContractError, match=f"plugin 'mine'.*{message}"):
        check_evaluations(answer, ["a"], "mine")
