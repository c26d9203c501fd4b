"""The source's predictions in little memory, and the divergence of a model's predictions from them.

At each position only the likeliest tokens are kept, and the probability of all others as one. The divergence between two distributions that
are made coarse in this way is a lower bound of the whole divergence (data processing inequality). It is near to it, because all but the
tail is exact.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bitclass3_torch.model import TorchModel

N_LIKELIEST = 512  # of each position: 6 bytes each, 3 KiB a token whatever the vocabulary
_ALMOST_ONE = 1 - 1e-6


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions at n positions: the likeliest ``tokens`` [n, k], their ``log_p`` [n, k], and ``log_rest`` [n] of all others together."""

    tokens: torch.Tensor
    log_p: torch.Tensor
    log_rest: torch.Tensor


def predictions(loaded: TorchModel, chunk: NDArray[np.int64]) -> Predictions:
    """What the model predicts for one chunk [n_ctx] with its present weights."""
    with torch.no_grad():
        every = loaded.logits(chunk).float().log_softmax(-1)
        log_p, tokens = every.topk(min(N_LIKELIEST, every.shape[-1]), -1)
        return Predictions(tokens.int(), log_p.half(), _log_rest(log_p))


def _log_rest(log_p: torch.Tensor) -> torch.Tensor:
    return torch.log1p(-log_p.exp().sum(-1).clamp(max=_ALMOST_ONE))


def divergence(of: torch.Tensor, source: Predictions) -> torch.Tensor:
    """KL divergence, nats at each position [n], from the source's kept predictions to those of logits ``of`` [n, n_vocab]."""
    log_q = of.float().log_softmax(-1).gather(1, source.tokens.long())
    log_p = source.log_p.float()
    likely = (log_p.exp() * (log_p - log_q)).sum(-1)
    return likely + source.log_rest.exp() * (source.log_rest - _log_rest(log_q))
