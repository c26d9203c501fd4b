"""Powers of an embedding table, whose rows are looked up by token."""

import numpy as np
import torch
from numpy.typing import NDArray

from bitclass3_core.sensitivity import Powers


class Embedding:
    """Sums over the looked-up rows: how often each token occurs, and the square of the gradient that a chunk gives its row.

    Rows that are exactly zero (padding) are left out: they stay zero in every type.
    """

    def __init__(self, table: torch.Tensor) -> None:
        n_vocab, self.n_in = table.shape
        self.used = (table.detach() != 0).any(1).cpu().numpy()
        self.counts = np.zeros(n_vocab)
        self.row_power = np.zeros(n_vocab)
        self.column_power = np.zeros(self.n_in)
        self.has_gradients = False

    def add(self, ids: NDArray[np.int64], gradient: torch.Tensor | None) -> None:
        """Add one chunk: ids [n], gradient [n, n_embd]; a row that was looked up several times gets the sum."""
        mine = self.used[ids]
        tokens, places, counts = np.unique(ids[mine], return_inverse=True, return_counts=True)
        self.counts[tokens] += counts
        if gradient is not None:
            rows = np.zeros((len(tokens), self.n_in))
            np.add.at(rows, places, gradient.float().cpu().numpy()[mine])
            squares = np.square(rows)
            self.row_power[tokens] += squares.sum(1)
            self.column_power += squares.sum(0)
            self.has_gradients = True

    def powers(self, n_tokens: int) -> Powers:
        """``in_power`` [n_embd] and ``out_power`` [n_vocab]. Their product is f_r E[g_rj^2 | token r], f_r the frequency of token r.

        ``out_power`` sums to 1. Without gradients it is the frequency, and ``in_power`` is 1.

        A row that the text does not have gets 0. A share for such rows, as if each token had been seen once, would price the whole table too
        high: the kernels round a row whatever its weight, so the tokens that were seen are a fair sample of those to come, and the
        vocabulary is not. (With 49,152 rows and 16,384 tokens at least half of all shares would go to rows that the text does not have.)
        """
        n_seen = max(self.counts.sum(), 1)
        if not self.has_gradients:
            return Powers(np.ones(self.n_in, np.float32), (self.counts / n_seen).astype(np.float32))
        rows = self.row_power / max(self.row_power.sum(), np.finfo(np.float32).tiny)
        return Powers((self.column_power / n_tokens).astype(np.float32), rows.astype(np.float32))
