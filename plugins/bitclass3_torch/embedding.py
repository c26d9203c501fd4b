"""What reaches the rows of an embedding table."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.sensitivity import Powers

if TYPE_CHECKING:
    import torch


class Embedding:
    """What reaches the looked-up rows: how often each token occurs, and the squared gradient that it gets.

    Rows that are exactly zero (padding) stay zero in every type, so they count for nothing.
    """

    def __init__(self, table: "torch.Tensor") -> None:
        n_vocab, self.n_in = table.shape
        self.used = (table.detach() != 0).any(1).cpu().numpy()
        self.counts = np.zeros(n_vocab)
        self.row_power = np.zeros(n_vocab)
        self.column_power = np.zeros(self.n_in)
        self.has_gradients = False

    def add(self, ids: NDArray[np.int64], gradient: "torch.Tensor | None") -> None:
        """Add one chunk: ids [n], gradient [n, n_embd]."""
        mine = self.used[ids]
        np.add.at(self.counts, ids[mine], 1)
        if gradient is not None:
            squares = gradient.float().cpu().numpy()[mine].astype(np.float64) ** 2
            np.add.at(self.row_power, ids[mine], squares.sum(-1))
            self.column_power += squares.sum(0)
            self.has_gradients = True

    def powers(self, n_tokens: int) -> Powers:
        """Two vectors whose product is f_r E[g_rj^2 | token r], rows smoothed as if each token had been seen once more.

        ``out_power`` sums to 1 over the vocabulary; without gradients it is the smoothed frequency and columns count alike.
        """
        n_seen, n_used = self.counts.sum(), self.used.sum()
        if not self.has_gradients:
            return Powers(np.ones(self.n_in, np.float32), (self.used * (self.counts + 1) / (n_seen + n_used)).astype(np.float32))
        mean = max(self.row_power.sum() / max(n_seen, 1), np.finfo(np.float32).tiny)
        rows = self.used * (self.row_power + mean) / ((n_seen + n_used) * mean)
        return Powers((self.column_power / n_tokens).astype(np.float32), rows.astype(np.float32))
