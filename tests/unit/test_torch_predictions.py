"""The divergence from kept predictions: the KL divergence of distributions in which all but the likeliest tokens are one."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bitclass3_torch import predictions
from bitclass3_torch.predictions import Predictions, divergence


def kept(log_p: torch.Tensor, k: int) -> Predictions:
    likeliest, tokens = log_p.topk(k, -1)
    return Predictions(tokens, likeliest, predictions._log_rest(likeliest))


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(16, 50, generator=rng), torch.randn(16, 50, generator=rng)


def exact(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1)


def test_all_but_one_token_is_the_whole_divergence(pair):
    p, q = pair
    torch.testing.assert_close(divergence(q, kept(p.log_softmax(-1), 49)), exact(p, q), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_fewer_tokens_are_a_lower_bound_that_grows_with_them(pair, k):
    p, q = pair
    fewer, more = (divergence(q, kept(p.log_softmax(-1), n)) for n in (k, k + 5))
    assert (fewer >= -1e-5).all()
    assert (fewer <= more + 1e-5).all()
    assert (more <= exact(p, q) + 1e-5).all()


def test_it_is_zero_at_the_source_and_its_gradient_too(pair):
    p, _ = pair
    logits = p.clone().requires_grad_(True)
    own = divergence(logits, kept(p.log_softmax(-1), 10)).sum()
    own.backward()
    assert abs(float(own.detach())) < 1e-4
    assert float(logits.grad.abs().max()) < 1e-3


def test_a_certain_source_gives_no_infinity(pair):
    _, q = pair
    certain = torch.full((16, 50), -200.0)
    certain[:, 3] = 0.0
    values = divergence(q, kept(certain.log_softmax(-1), 5))
    assert torch.isfinite(values).all()
    torch.testing.assert_close(values, -q.log_softmax(-1)[:, 3], rtol=1e-2, atol=1e-2)


def test_predictions_of_a_small_vocabulary():
    loaded = SimpleNamespace(logits=lambda chunk: torch.arange(7.0).expand(len(chunk), 7))
    found = predictions.predictions(loaded, np.zeros(4, np.int64))
    assert found.tokens.shape == (4, 7)
    assert found.tokens[0].tolist() == [6, 5, 4, 3, 2, 1, 0]
    assert torch.isfinite(found.log_rest).all()
