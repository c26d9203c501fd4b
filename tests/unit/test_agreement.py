"""Predicted against measured, tensor by tensor."""

import math

import pytest

from bitclass3_core.compare.predicted import agreement


def test_same_order_and_a_constant_ratio() -> None:
    found = agreement({"a": 1.0, "b": 2.0, "c": 4.0}, {"a": 3.0, "b": 6.0, "c": 12.0})
    assert found is not None
    assert (found.n, found.rank_correlation) == (3, 1.0)
    assert found.ratio == pytest.approx(3)
    assert found.factor == pytest.approx(1)


def test_opposite_order() -> None:
    found = agreement({"a": 1.0, "b": 2.0, "c": 4.0}, {"a": 4.0, "b": 2.0, "c": 1.0})
    assert found is not None
    assert found.rank_correlation == -1
    assert found.ratio == pytest.approx(1)
    assert found.factor == pytest.approx(math.exp(math.log(4) * math.sqrt(2 / 3)))


def test_tensors_without_both_numbers_are_left_out() -> None:
    predicted = {"a": 1.0, "b": 2.0, "c": 3.0, "zero": 0.0, "never": math.inf}
    measured = {"a": 1.0, "b": 2.0, "c": 3.0, "zero": 1.0, "never": 1.0, "unknown": 5.0}
    found = agreement(predicted, measured)
    assert found is not None
    assert found.n == 3
    assert agreement(predicted, {"a": 1.0, "b": 0.0, "c": 1.0}) is None
