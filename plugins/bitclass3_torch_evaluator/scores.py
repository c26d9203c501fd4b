"""Per-token scores: KLD from the reference's distribution, same top-1, negative log-likelihoods.

The second half of each chunk is scored, as llama-perplexity does: every scored token has at least half a chunk of context.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from bitclass3_torch.model import TorchModel
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of tokens, each [n_scored]: KLD, whether the likeliest token is the reference's, and both models' NLL of the text."""

    kld: NDArray[np.float32]
    same_top1: NDArray[np.bool_]
    nll: NDArray[np.float64]
    reference_nll: NDArray[np.float64]

    @classmethod
    def joined(cls, chunks: "Sequence[Scores]") -> "Scores":
        """The scores of chunks, one after the other."""
        return cls(*(np.concatenate([getattr(chunk, field.name) for chunk in chunks]) for field in fields(cls)))


def reference_logits(loaded: TorchModel, chunk: NDArray[np.int64]) -> torch.Tensor:
    """Float32 logits [n_scored, n_vocab] on the CPU for the positions that predict the chunk's second half."""
    return _logits(loaded, chunk).cpu()


def _logits(loaded: TorchModel, chunk: NDArray[np.int64]) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.logits(chunk)[len(chunk) // 2 : -1].float()


def score_chunk(loaded: TorchModel, chunk: NDArray[np.int64], reference: torch.Tensor) -> Scores:
    """Scores of the model's present weights against the reference's logits [n_scored, n_vocab]."""
    with torch.inference_mode():
        log_q = _logits(loaded, chunk).log_softmax(-1)
        log_p = reference.to(log_q.device).log_softmax(-1)
        kld = (log_p.exp() * (log_p - log_q)).sum(-1)
        targets = torch.from_numpy(chunk[len(chunk) // 2 + 1 :])[:, None].to(log_q.device)
        same = log_q.argmax(-1) == log_p.argmax(-1)
        return Scores(
            kld.cpu().numpy().astype(np.float32),
            same.cpu().numpy(),
            -log_q.gather(-1, targets)[:, 0].cpu().numpy().astype(np.float64),
            -log_p.gather(-1, targets)[:, 0].cpu().numpy().astype(np.float64),
        )
