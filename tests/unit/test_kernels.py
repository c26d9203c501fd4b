"""ggml's kernels through ctypes, against gguf's own dequantization."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf_files import heavy_tailed
from hypothesis import given, settings
from hypothesis import strategies as st

from bitclass3_core.errors import ModelFileError, ToolchainError, UnusableTypeError
from bitclass3_core.gguf import kernels
from bitclass3_core.gguf.kernels import dequantize, quantize
from bitclass3_core.qtypes import NEEDS_IMATRIX, WRITABLE_QTYPES, QType, qtype

# ggml builds the tables of these types at their first use, which takes seconds
SLOW = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S"}
WRITABLE = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in WRITABLE_QTYPES]
SHAPES = [(1, 256), (7, 512), (3, 1024)]


def in_power(n_in: int, seed: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).gamma(0.5, size=n_in).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", [*WRITABLE, "F16", "BF16", "F32"])
def test_dequantized_as_gguf_does(name, shape):
    q = qtype(name)
    data = quantize(heavy_tailed(shape, 3), q, in_power(shape[1]))
    assert data.shape == (shape[0], shape[1] // q.block_size * q.type_size)
    assert data.dtype == np.uint8
    found = dequantize(data, q)
    assert found.dtype == np.float32
    assert np.array_equal(found, gguf.quants.dequantize(data, GGMLQuantizationType[name]))


@pytest.mark.parametrize("name", WRITABLE)
def test_quantized_is_near_the_source(name):
    rows = heavy_tailed((4, 512), 5)
    error = np.mean((dequantize(quantize(rows, qtype(name), np.ones(512, np.float32)), qtype(name)) - rows) ** 2)
    assert 0 < error < 4 ** (2 - qtype(name).bpw) * 4 * np.mean(rows**2)


@pytest.mark.parametrize("name", WRITABLE)
def test_rows_of_zeros_stay_zeros(name):
    zeros = np.zeros((2, 256), np.float32)
    assert not dequantize(quantize(zeros, qtype(name), in_power(256)), qtype(name)).any()


def test_rows_do_not_depend_on_each_other():
    rows, q = heavy_tailed((5, 512), 1), qtype("Q4_K")
    whole = quantize(rows, q, in_power(512))
    assert np.array_equal(whole[3:], quantize(rows[3:], q, in_power(512)))


def test_rows_need_not_be_contiguous():
    rows, q = heavy_tailed((8, 512), 1), qtype("Q6_K")
    assert np.array_equal(quantize(rows[::2], q), quantize(np.ascontiguousarray(rows[::2]), q))


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=64))
@settings(max_examples=50, deadline=None)
def test_bf16_rounds_as_gguf_does(bits):
    rows = np.array([bits], np.uint32).view(np.float32)
    rows = np.where(np.isfinite(rows), rows, np.float32(1.0))
    assert np.array_equal(quantize(rows, qtype("BF16")), gguf.quants.quantize(rows, GGMLQuantizationType.BF16))


def test_bf16_rounds_half_to_even():
    halfway = np.array([[0x3F808000, 0x3F818000, 0x3F808001, 0xBF807FFF]], np.uint32).view(np.float32)
    found = quantize(halfway, qtype("BF16")).view(np.uint16)
    assert [hex(value) for value in found[0]] == ["0x3f80", "0x3f82", "0x3f81", "0xbf80"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "F16", "BF16"])
def test_nan_and_inf_are_refused(name, value):
    rows = heavy_tailed((2, 256))
    rows[1, 17] = value
    with pytest.raises(ModelFileError, match="NaN or Inf among the weights; this tensor cannot be quantized, repair the source"):
        quantize(rows, qtype(name))


def test_f16_overflow_is_refused():
    largest = np.full((1, 32), 65519.0, np.float32)
    assert np.isfinite(dequantize(quantize(largest, qtype("F16")), qtype("F16"))).all()
    with pytest.raises(UnusableTypeError, match="a tensor cannot be F16: weights too large for F16"):
        quantize(np.full((1, 32), -65520.0, np.float32), qtype("F16"))


def test_invalid_blocks_are_refused():
    """Weights whose scale overflows F16: ggml writes an infinite scale, which llama.cpp would refuse to load."""
    with pytest.raises(UnusableTypeError, match="a tensor cannot be Q8_0: quantizing gave invalid blocks"):
        quantize(np.full((1, 32), 1e9, np.float32), qtype("Q8_0"))


@pytest.mark.parametrize("name", sorted(NEEDS_IMATRIX))
def test_type_that_needs_an_imatrix(name):
    with pytest.raises(ModelFileError, match=f"{name} needs an imatrix; choose another type"):
        quantize(heavy_tailed((1, 256)), qtype(name))


@pytest.mark.parametrize("name", [name for name in WRITABLE_QTYPES if name not in NEEDS_IMATRIX])
def test_other_types_go_without_an_imatrix(name):
    rows, q = heavy_tailed((2, 256)), qtype(name)
    assert np.isfinite(dequantize(quantize(rows, q), q)).all()


@pytest.mark.parametrize(("name", "n_in", "n_weights"), [("Q4_K", 256, 255), ("Q4_K", 256, 512), ("Q4_K", 160, 160)])
def test_sizes_that_would_end_the_process_are_refused(name, n_in, n_weights):
    with pytest.raises(
        ValueError, match=f"takes rows of a multiple of 256 and an imatrix of one row, got {n_in} and an imatrix of"
    ):
        quantize(heavy_tailed((2, n_in)), qtype(name), np.ones(n_weights, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_imatrix_that_would_end_the_process_is_refused(value):
    with pytest.raises(ModelFileError, match="NaN or Inf in the imatrix; make the imatrix again"):
        quantize(heavy_tailed((2, 256)), qtype("IQ3_S"), np.full(256, value, np.float32))


@pytest.mark.parametrize("name", ["Q3_K", "IQ4_XS"])
def test_imatrix_lowers_the_weighted_error(name):
    rows, weights, q = heavy_tailed((64, 512), 2), in_power(512), qtype(name)
    guided, plain = ((dequantize(quantize(rows, q, imatrix), q) - rows) ** 2 * weights for imatrix in (weights, None))
    assert guided.sum() < 0.95 * plain.sum()


def test_dequantize_reads_read_only_views():
    data = quantize(heavy_tailed((2, 256)), qtype("Q5_K"))
    data.flags.writeable = False
    assert dequantize(data[1:], qtype("Q5_K")).shape == (1, 256)


def test_library_says_what_it_is():
    found = kernels.library()
    assert found.path.is_file()
    assert found.fingerprint.startswith(f"{found.version}-")


def test_library_of_llama_cpp_dir_is_taken_first(tmp_path, monkeypatch):
    ours = tmp_path / "build" / "bin" / kernels.find_library().name
    ours.parent.mkdir(parents=True)
    ours.touch()
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path))
    assert kernels.find_library() == ours.resolve()


def test_library_that_cannot_be_loaded(tmp_path, monkeypatch):
    (tmp_path / kernels.find_library().name).write_bytes(b"no library")
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path))
    with pytest.raises(ToolchainError, match="cannot be used as ggml"):
        kernels.library.__wrapped__()


def test_layout_that_differs_from_ggml_s():
    wrong = QType("Q4_K", 256, 143, qtype("Q4_K").ggml_id)
    with pytest.raises(ToolchainError, match="stores Q4_K as 256 weights in 144 bytes, gguf says 256 in 143; update"):
        dequantize(np.zeros((1, 143), np.uint8), wrong)
