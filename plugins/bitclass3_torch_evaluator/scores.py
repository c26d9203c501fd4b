"""Per-token scores of one chunk: KLD from the reference's distribution, same top-1, negative log-likelihoods.

The second half of each chunk is scored, as llama-perplexity does: every scored token has at least half a chunk of context.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from bitclass3_torch.model import TorchModel
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class ChunkScores:
    """Scores of one chunk, each [n_scored]."""

    kld: NDArray[np.float32]
    same_top1: NDArray[np.bool_]
    nll: NDArray[np.float64]
    reference_nll: NDArray[np.float64]


@dataclass(slots=True)
class Scores:
    """All chunks' scores of one candidate."""

    chunks: list[ChunkScores] = field(default_factory=list)

    def add(self, chunk: ChunkScores) -> None:
        """Append one chunk."""
        self.chunks.append(chunk)

    @property
    def kld(self) -> NDArray[np.float32]:
        """KLD of every scored token."""
        return np.concatenate([chunk.kld for chunk in self.chunks])

    @property
    def same_top1(self) -> NDArray[np.bool_]:
        """Whether the likeliest token is the reference's."""
        return np.concatenate([chunk.same_top1 for chunk in self.chunks])

    @property
    def nll(self) -> NDArray[np.float64]:
        """Candidate's negative log-likelihood of the text."""
        return np.concatenate([chunk.nll for chunk in self.chunks])

    @property
    def reference_nll(self) -> NDArray[np.float64]:
        """Reference's negative log-likelihood of the text."""
        return np.concatenate([chunk.reference_nll for chunk in self.chunks])


def reference_logits(loaded: TorchModel, chunk: NDArray[np.int64]) -> "torch.Tensor":
    """Float32 logits [n_scored, n_vocab] on the CPU for the positions that predict the chunk's second half."""
    return _logits(loaded, chunk).cpu()


def _logits(loaded: TorchModel, chunk: NDArray[np.int64]) -> "torch.Tensor":
    import torch

    with torch.inference_mode():
        tokens = torch.from_numpy(chunk)[None].to(loaded.device)
        logits: torch.Tensor = loaded.net(input_ids=tokens, use_cache=False).logits[0]
        return logits[len(chunk) // 2 : -1].float()


def score_chunk(loaded: TorchModel, chunk: NDArray[np.int64], reference: "torch.Tensor") -> ChunkScores:
    """Scores of the model's present weights against the reference's logits [n_scored, n_vocab]."""
    import torch

    with torch.inference_mode():
        log_q = _logits(loaded, chunk).log_softmax(-1)
        log_p = reference.to(log_q.device).log_softmax(-1)
        kld = (log_p.exp() * (log_p - log_q)).sum(-1)
        targets = torch.from_numpy(chunk[len(chunk) // 2 + 1 :])[:, None].to(log_q.device)
        same = log_q.argmax(-1) == log_p.argmax(-1)
        return ChunkScores(
            kld.cpu().numpy().astype(np.float32),
            same.cpu().numpy(),
            -log_q.gather(-1, targets)[:, 0].cpu().numpy().astype(np.float64),
            -log_p.gather(-1, targets)[:, 0].cpu().numpy().astype(np.float64),
        )
