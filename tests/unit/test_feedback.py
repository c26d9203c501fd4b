"""Rounding with error feedback: what it may change, and that the layer's output is nearer for it."""

import numpy as np
import pytest
import torch
from bitclass3_gguf.codes import has_codes
from bitclass3_gguf.feedback import Moments, output_errors, round_rows, round_together
from gguf_files import heavy_tailed

from bitclass3_core.gguf.kernels import dequantize, is_valid, quantize
from bitclass3_core.qtypes import WRITABLE_QTYPES, qtype

GRIDS = [q for q in WRITABLE_QTYPES if not has_codes(qtype(q))]
N_IN = 512


def inputs(n_tokens: int = 4096, seed: int = 0) -> torch.Tensor:
    """Correlated inputs with a few large channels, as layers have them."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).standard_normal((48, N_IN)) / 7
    x = rng.standard_normal((n_tokens, 48)) @ mixing + 0.3 * rng.standard_normal((n_tokens, N_IN))
    x[:, 5] *= 20
    return torch.from_numpy(x.astype(np.float32))


X = inputs()
A = X.T @ X / len(X)
ROWS = heavy_tailed((32, N_IN))


def error_on(data, name: str, x: torch.Tensor) -> float:
    """Mean square error of the layer's output on these inputs."""
    difference = torch.from_numpy(dequantize(data, qtype(name)) - ROWS)
    return float((x @ difference.T).square().sum(1).mean())


@pytest.mark.parametrize("name", WRITABLE_QTYPES)
def test_output_is_nearer_also_on_other_inputs(name):
    imatrix = A.diagonal().numpy().copy()
    done = round_rows(ROWS, qtype(name), imatrix, Moments.of(A), 2)
    data, plain_error, error = done.data, done.plain_error, done.kept_error
    plain = quantize(ROWS, qtype(name), imatrix)
    np.testing.assert_array_equal(done.plain, plain)
    assert is_valid(data, qtype(name)), "llama.cpp's own check"
    assert data.shape == plain.shape
    assert error < (0.95 if name in GRIDS else 0.75) * plain_error  # a grid's codes are chosen eight or four columns at a time
    assert error == pytest.approx(error_on(data, name, X), rel=1e-3)
    assert plain_error == pytest.approx(error_on(plain, name, X), rel=1e-3)
    other = inputs(seed=1)
    assert error_on(data, name, other) < (0.97 if name in GRIDS else 0.8) * error_on(plain, name, other)


def test_more_rounds_are_never_worse():
    errors = [round_rows(ROWS, qtype("Q3_K"), None, Moments.of(A), rounds).kept_error for rounds in (0, 1, 2, 4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 0.95 * errors[0]


def test_independent_inputs_leave_nothing_to_feed_back():
    """Without correlation the best codes are the nearest ones: the gain is what ggml's own search leaves."""
    done = round_rows(ROWS, qtype("Q8_0"), None, Moments.of(torch.eye(N_IN)), 2)
    assert 0.95 * done.plain_error < done.kept_error <= done.plain_error


def test_no_row_gets_worse():
    data = round_rows(ROWS, qtype("Q2_K"), None, Moments.of(A), 0).data
    plain = quantize(ROWS, qtype("Q2_K"), None)
    errors = [output_errors(torch.from_numpy(dequantize(rows, qtype("Q2_K")) - ROWS), A) for rows in (data, plain)]
    assert (errors[0] <= errors[1] * (1 + 1e-5)).all()


def test_row_that_gains_nothing_stays_plain():
    rows = np.zeros((3, N_IN), np.float32)
    done = round_rows(rows, qtype("Q4_K"), None, Moments.of(A), 2)
    np.testing.assert_array_equal(done.data, quantize(rows, qtype("Q4_K"), None))
    assert (done.plain_error, done.kept_error) == (0.0, 0.0)


def test_few_tokens_do_not_break_it():
    few = inputs(8)
    done = round_rows(ROWS, qtype("Q4_K"), None, Moments.of(few.T @ few / 8), 2)
    assert np.isfinite(dequantize(done.data, qtype("Q4_K"))).all()
    assert done.kept_error < done.plain_error


def test_moments_that_are_no_numbers():
    with pytest.raises(ValueError, match="second moments are not finite"):
        Moments.of(torch.full((4, 4), float("nan")))


MANY_ROWS = heavy_tailed((192, N_IN), seed=5)


def correlated_gradients() -> torch.Tensor:
    """G [192, 192] of outputs that mostly act together, in eight ways."""
    rng = np.random.default_rng(3)
    gradients = rng.standard_normal((4096, 8)) @ rng.standard_normal((8, 192)) + 0.5 * rng.standard_normal((4096, 192))
    g = torch.from_numpy(gradients.astype(np.float32))
    return g.T @ g / len(g)


def loss(data, name: str, g: torch.Tensor) -> float:
    """tr(G D A D^T)."""
    difference = torch.from_numpy(dequantize(data, qtype(name)) - MANY_ROWS)
    return float((g @ difference @ A * difference).sum())


@pytest.mark.parametrize("name", ["Q2_K", "Q4_K", "IQ4_XS", "Q5_0"])
def test_rows_together_serve_correlated_outputs_better(name):
    g, moments = correlated_gradients(), Moments.of(A)
    alone = round_rows(MANY_ROWS, qtype(name), None, moments, 2).data
    together = round_together(MANY_ROWS, qtype(name), moments, g, 2)
    assert together.shape == alone.shape
    assert loss(together, name, g) < 0.9 * loss(alone, name, g)


def test_independent_outputs_need_no_other_rows():
    moments, g = Moments.of(A), torch.eye(len(MANY_ROWS))
    together = round_together(MANY_ROWS, qtype("Q4_K"), moments, g, 2)
    alone = round_rows(MANY_ROWS, qtype("Q4_K"), None, moments, 3).data
    assert loss(together, "Q4_K", g) <= 1.01 * loss(alone, "Q4_K", g)
