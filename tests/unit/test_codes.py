"""Codes of single weights: what is read is what ggml dequantizes, and what is written is what was meant."""

import numpy as np
import pytest
from bitclass3_gguf.codes import IQ4_VALUES, has_codes, repack, unpack
from gguf_files import heavy_tailed

from bitclass3_core.gguf.kernels import dequantize, quantize
from bitclass3_core.qtypes import WRITABLE_QTYPES, qtype

WITH_CODES = [q for q in WRITABLE_QTYPES if has_codes(qtype(q))]
ROWS = heavy_tailed((7, 1024))


def values(found, codes):
    return found.step * (IQ4_VALUES[codes] if found.is_table else codes) + found.offset


def test_every_type_but_the_grids_has_codes():
    assert set(WRITABLE_QTYPES) - set(WITH_CODES) == {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"}


@pytest.mark.parametrize("name", WITH_CODES)
def test_reading_is_ggmls_dequantization(name):
    data = quantize(ROWS, qtype(name), np.ones(1024, np.float32))
    found = unpack(data, qtype(name))
    np.testing.assert_array_equal(values(found, found.codes), dequantize(data, qtype(name)))
    assert found.codes.max() <= found.largest
    np.testing.assert_array_equal(repack(data, qtype(name), found.codes), data)


@pytest.mark.parametrize("name", WITH_CODES)
def test_any_codes_can_be_written(name):
    data = quantize(ROWS, qtype(name), np.ones(1024, np.float32))
    before = data.copy()
    found = unpack(data, qtype(name))
    codes = np.random.default_rng(3).integers(0, found.largest + 1, found.codes.shape).astype(np.uint8)
    written = repack(data, qtype(name), codes)
    np.testing.assert_array_equal(dequantize(written, qtype(name)), values(found, codes))
    np.testing.assert_array_equal(data, before)
