"""Rounding of a product's inputs: the formats, what it costs, and its simulation in the evaluator."""

from types import SimpleNamespace

import bitclass3_weighted_error as weighted_error
import numpy as np
import pytest
import torch
from bitclass3_torch.activations import RoundingCosts, rounded_products, rounding_error
from bitclass3_torch.products import Products
from bitclass3_weighted_error import Options
from gguf_files import memory_model

from bitclass3_core.qtypes import WRITABLE_QTYPES, activation_format, qtype
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity, load_sensitivity, save_sensitivity

Q = "blk.0.attn_q.weight"
K_TYPES = {q for q in WRITABLE_QTYPES if qtype(q).block_size == 256}


def test_format_goes_with_the_block():
    assert {q for q in WRITABLE_QTYPES if activation_format(qtype(q)) == "Q8_K"} == K_TYPES
    assert {activation_format(qtype(q)) for q in ("Q4_0", "Q5_1", "Q8_0", "IQ4_NL")} == {"Q8_0"}
    assert activation_format(qtype("BF16")) is None


@pytest.mark.parametrize("block", [32, 256])
def test_error_is_that_of_one_8_bit_scale_a_block(block):
    x = torch.from_numpy(np.random.default_rng(0).standard_t(3, (5, 512)).astype(np.float32))
    rounded = (x + rounding_error(x, block)).numpy().reshape(5, -1, block)
    steps = np.abs(x.numpy().reshape(5, -1, block)).max(-1, keepdims=True) / 127
    np.testing.assert_allclose(rounded / steps, np.round(x.numpy().reshape(5, -1, block) / steps), atol=1e-3)


def test_massive_channel_coarsens_its_block_alone():
    x = torch.ones(1, 512) * 0.3
    x[0, 7] = 1000
    small, large = rounding_error(x, 32), rounding_error(x, 256)
    assert small[0, 32:].abs().max() < 1e-6
    assert large[0, 32:256].abs().min() > 0.29  # a step of 1000 / 127 rounds 0.3 to nothing
    assert large[0, 256:].abs().max() < 1e-6


def test_zeros_and_columns_that_make_no_blocks():
    assert rounding_error(torch.zeros(2, 64), 32).abs().max() == 0
    assert rounding_error(torch.zeros(2, 64), 256) is None


def test_costs_are_half_the_mean_square_of_the_change_of_the_loss():
    """Against the derivative of the loss along the rounding error, token by token."""
    torch.manual_seed(0)
    weights, x = torch.randn(16, 256), torch.randn(9, 256, requires_grad=True)
    costs = RoundingCosts()
    costs.begin_chunk(len(x))
    with Products({"w": weights}, costs.add):
        loss = torch.nn.functional.linear(x, weights).tanh().square().sum()
    loss.backward()
    for name, block in (("Q8_K", 256), ("Q8_0", 32)):
        along = (x.grad * rounding_error(x.detach(), block)).sum(1)
        assert costs.costs("w")[name] == pytest.approx(0.5 * float(along.square().mean()), rel=1e-4)
    assert costs.costs("another") == {}


ACTIVATION = {"Q8_K": 0.5, "Q8_0": 0.125}


@pytest.mark.parametrize(
    ("activations", "added"),
    [("cpu", {"Q4_K": 0.5, "Q8_0": 0.125}), ("gpu", {"Q4_K": 0.125, "Q8_0": 0.125}), ("none", {"Q4_K": 0.0, "Q8_0": 0.0})],
)
def test_cost_table_adds_them(activations, added):
    model = memory_model(blk__0__attn_q=(16, 256))
    qtypes = (qtype("Q4_K"), qtype("Q8_0"))

    def measured(known, choice):
        sensitivity = Sensitivity({Q: TensorSensitivity(Powers(np.ones(256, np.float32)), activation=known)}, "test", 1, 1, "")
        options = Options(activations=choice)
        return weighted_error.bitclass3_measure(model=model, sensitivity=sensitivity, qtypes=qtypes, options=options).costs[Q]

    plain, more = measured({}, activations), measured(ACTIVATION, activations)
    assert {q: round(more[q].cost - plain[q].cost, 6) for q in added} == added


def test_file_keeps_them(tmp_path):
    known = {Q: TensorSensitivity(Powers(np.ones(4, np.float32)), activation=ACTIVATION)}
    save_sensitivity(Sensitivity(known, "test", 1, 1, ""), tmp_path / "s.safetensors")
    assert load_sensitivity(tmp_path / "s.safetensors").tensors[Q].activation == ACTIVATION


def placed(weights: torch.Tensor) -> SimpleNamespace:
    """What the simulation asks of a loaded model."""
    return SimpleNamespace(places={Q: SimpleNamespace(key="w", parameter=weights)}, net=SimpleNamespace())


@pytest.mark.parametrize("write", [torch.nn.functional.linear, lambda x, w: x @ w.T, lambda x, w: (w @ x.T).T])
@pytest.mark.parametrize(("dtype", "activations", "block"), [("Q4_K", "cpu", 256), ("Q8_0", "cpu", 32), ("Q4_K", "gpu", 32)])
def test_simulated_products_have_rounded_inputs(write, dtype, activations, block):
    torch.manual_seed(0)
    weights, x = torch.randn(16, 512), torch.randn(5, 512) ** 3
    candidate = SimpleNamespace(tensors={Q: SimpleNamespace(dtype=dtype)})
    other = torch.randn(16, 512)
    with rounded_products(placed(weights), candidate, activations):
        got, untouched = write(x, weights), write(x, other)
    torch.testing.assert_close(got, write(x + rounding_error(x, block), weights))
    torch.testing.assert_close(untouched, write(x, other))
    assert not torch.allclose(got, write(x, weights), atol=1e-4)


@pytest.mark.parametrize(("dtype", "activations"), [("BF16", "cpu"), ("Q4_K", "none")])
def test_nothing_is_rounded(dtype, activations):
    weights, x = torch.randn(16, 256), torch.randn(5, 256)
    candidate = SimpleNamespace(tensors={Q: SimpleNamespace(dtype=dtype)})
    with rounded_products(placed(weights), candidate, activations):
        assert torch.equal(torch.nn.functional.linear(x, weights), x @ weights.T)
