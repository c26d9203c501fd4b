"""The factors of ggml's blocks: found for every type, changed without touching anything else."""

import numpy as np
import pytest
from bitclass3_gguf.scales import has_scales, n_factors, parts, scaled

from bitclass3_core.gguf.kernels import dequantize, quantize
from bitclass3_core.qtypes import WRITABLE_QTYPES, QType, qtype

ALL = [qtype(name) for name in WRITABLE_QTYPES]
WITH = [q for q in ALL if has_scales(q)]
SHAPE = (6, 512)


def rows(q: QType) -> np.ndarray:
    weights = np.random.default_rng(3).normal(0.1, 1, SHAPE).astype(np.float32)
    return quantize(weights, q, np.ones(SHAPE[1], np.float32))


def test_every_type_but_the_one_that_spreads_its_factor_over_the_scales():
    assert {q.name for q in ALL} - {q.name for q in WITH} == {"IQ1_M"}


@pytest.mark.parametrize("q", WITH, ids=lambda q: q.name)
def test_parts_add_up_to_the_weights(q):
    data = rows(q)
    found = parts(data, q)
    assert len(found) == n_factors(q)
    assert all(np.abs(part).max() > 0 for part in found)
    np.testing.assert_allclose(sum(found), dequantize(data, q), atol=1e-6)


@pytest.mark.parametrize("q", WITH, ids=lambda q: q.name)
def test_scaled_weights_are_the_parts_times_their_ratios(q):
    """To what half precision leaves: 2^-11 of each part."""
    data, rng = rows(q), np.random.default_rng(4)
    ratios = [rng.uniform(0.9, 1.1, (SHAPE[0], SHAPE[1] // q.block_size)).astype(np.float32) for _ in range(n_factors(q))]
    found = parts(data, q)
    wanted = sum(part * np.repeat(ratio, q.block_size, 1) for part, ratio in zip(found, ratios, strict=True))
    most = sum(np.abs(part) for part in found) * 1.2 * 2**-11 + 1e-6
    assert (np.abs(dequantize(scaled(data, q, ratios), q) - wanted) <= most).all()


@pytest.mark.parametrize("q", WITH, ids=lambda q: q.name)
def test_ratios_of_one_change_no_bit_and_the_rows_given_stay(q):
    data = rows(q)
    before = data.copy()
    ones = [np.ones((SHAPE[0], SHAPE[1] // q.block_size), np.float32) for _ in range(n_factors(q))]
    assert (scaled(data, q, ones) == data).all()
    scaled(data, q, [2 * one for one in ones])
    assert (data == before).all()


def test_factors_stay_finite():
    q = qtype("Q8_0")
    data = quantize(np.full((1, 32), 1e6, np.float32), q, None)
    assert np.isfinite(dequantize(scaled(data, q, [np.full((1, 1), 100, np.float32)]), q)).all()
