"""Multipliers of roles from predictions and measurements of mixes."""

from itertools import islice

import numpy as np
import pytest

from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.runs.fit_costs import LEAST, drawn_multipliers, fitted_multipliers, parts_by_role

PARTS = np.random.default_rng(0).gamma(2.0, 1.0, (40, 3))


def test_known_multipliers_are_found() -> None:
    true = np.array([0.5, 1.0, 2.0])
    assert fitted_multipliers(PARTS, PARTS @ true) == pytest.approx(true, rel=0.05)


def test_one_mix_says_the_common_ratio_alone() -> None:
    parts = np.array([[2.0, 1.0, 1.0]])
    assert fitted_multipliers(parts, np.array([1.0])) == pytest.approx(np.full(3, 0.25))


def test_no_role_becomes_free() -> None:
    found = fitted_multipliers(PARTS, PARTS @ np.array([0.0, 1.0, 1.0]))
    assert found[0] >= LEAST * 0.3
    assert found[0] < 0.5 * found[1]


def test_scale_of_costs_does_not_matter() -> None:
    """Costs that only rank are brought to nats."""
    measured = PARTS @ np.array([0.5, 1.0, 2.0])
    assert fitted_multipliers(1000 * PARTS, measured) * 1000 == pytest.approx(fitted_multipliers(PARTS, measured))


def test_draws_begin_with_none_and_are_seeded() -> None:
    first, *others = islice(drawn_multipliers(["attn_q", "output"]), 5)
    assert first == {"attn_q": 1.0, "output": 1.0}
    assert len({tuple(each.values()) for each in others}) == 4
    assert [first, *others] == list(islice(drawn_multipliers(["attn_q", "output"]), 5))


def test_parts_and_products() -> None:
    table = CostTable({"a": {"Q4_K": Cost(1.0, 0.1, 3)}, "b": {"Q4_K": Cost(2.0, 0.2, 3)}, "c": {"Q8_0": Cost(4.0, 0.0, 0)}})
    roles = {"a": "attn_q", "b": "attn_q", "c": "output"}
    mix = {"a": "Q4_K", "b": "Q4_K", "c": "Q8_0"}
    assert parts_by_role(table, roles, mix) == {"attn_q": 3.0, "output": 4.0}
    multiplied = table.multiplied({"b": 0.5})
    assert multiplied.costs["b"]["Q4_K"] == Cost(1.0, 0.1, 3)
    assert multiplied.total(mix) == 6.0
    assert parts_by_role(multiplied, roles, mix) == {"attn_q": 2.0, "output": 4.0}
