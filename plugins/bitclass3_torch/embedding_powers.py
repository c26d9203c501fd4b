"""What reaches the rows of an embedding table."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.sensitivity import Powers

if TYPE_CHECKING:
    import torch


class Embedding:
    """What reaches the looked-up rows: how often each token occurs, and the square of the gradient that a chunk gives its row.

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
        """Two vectors whose product is f_r E[g_rj^2 | token r]; ``out_power`` [n_vocab] sums to 1, without gradients it is the frequency.

        Rows that the text does not have count for nothing. To give them a share, as if each had been seen once, would not price them
        better but the whole table too high: the kernels round a row whatever its weight, so that the tokens which were seen are a fair
        sample of those to come, while the vocabulary is not (of 49,152 rows and 16,384 tokens at least half of all shares would go to rows that
        the text does not have).
        """
        n_seen = max(self.counts.sum(), 1)
        if not self.has_gradients:
            return Powers(np.ones(self.n_in, np.float32), (self.counts / n_seen).astype(np.float32))
        rows = self.row_power / max(self.row_power.sum(), np.finfo(np.float32).tiny)
        return Powers((self.column_power / n_tokens).astype(np.float32), rows.astype(np.float32))
