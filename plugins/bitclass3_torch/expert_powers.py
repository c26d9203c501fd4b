"""Powers of stacked experts: means over the tokens that were routed to each expert, in nats per token of the text.

The diagonal of the Fisher matrix is a mean over all tokens of the text (``statistics.py``): E[G_ij^2] / n. For an expert G is the sum over
its own tokens in a chunk of n tokens. If it gets the share f of the tokens,

    sum_j E[G_ij^2] / n = out_power_i sum_j in_power_j,    out_power_i = f sum_j E[G_ij^2] / sum_routed |x|^2,    in_power_j = E_routed[x_j^2]

f is a factor of out_power, because in_power is the imatrix too. g is the gradient at the expert's own output; autograd has multiplied it
with the routing weight already.

Little is known of an expert with few tokens. With k < 64 tokens its own mean counts k / 64, the mean of its layer the rest. For f each
expert counts as if one token more had reached it.

What no Hessian says: where an error sends a token to another expert, the output jumps, and the KLD is of first order in the error.
Where experts lie in the HF model is in ``parameters.py``.
"""

from collections.abc import Mapping

import numpy as np

from bitclass3_core.model import FloatArray
from bitclass3_torch.dense_powers import TINY, MatrixKey, ProductSums
from bitclass3_torch.places import AxisPowers
from bitclass3_torch.products import Product
from bitclass3_torch.sums import Array64, energies

ENOUGH_TOKENS = 64


class RoutedSums(ProductSums):
    """Sums over the routed tokens, one vector for each expert of each stack."""

    def __init__(self, with_gradients: bool) -> None:
        super().__init__(with_gradients)
        self._n_tokens: dict[MatrixKey, int] = {}

    def add(self, product: Product) -> None:
        """Add one expert's product: its inputs now, its output's gradient when it is known."""
        super().add(product)
        key = product.key, product.matrix
        self._n_tokens[key] = self._n_tokens.get(key, 0) + int((energies(product.inputs) > 0).sum())

    def counts(self, key: str, n_experts: int) -> Array64:
        """Tokens that reached each expert [n_experts]."""
        return np.array([self._n_tokens.get((key, expert), 0) for expert in range(n_experts)], np.float64)

    def n_few(self, key: str, n_experts: int) -> int:
        """How many experts got fewer than ``ENOUGH_TOKENS`` tokens."""
        return int((self.counts(key, n_experts) < ENOUGH_TOKENS).sum())

    def powers(self, key: str, n_experts: int, n_tokens: int) -> AxisPowers | None:
        """The powers [n_experts, n] over a text of ``n_tokens``; None if no token reached any expert."""
        counts = self.counts(key, n_experts)
        if counts.sum() == 0 or (self._with_gradients and not any(found == key for found, _ in self._gradients.rows)):
            return None
        inputs = shrunk(_stacked(self._inputs.values, key, n_experts), counts, counts)
        outputs = self._output_powers(key, counts, n_tokens) if self._with_gradients else None
        return AxisPowers(inputs.astype(np.float32), outputs, self._inputs_last[key])

    def _output_powers(self, key: str, counts: Array64, n_tokens: int) -> FloatArray:
        energy = _stacked(self._inputs.values, key, len(counts)).sum(1)
        means = shrunk(_stacked(self._gradients.rows, key, len(counts)), energy, counts)
        return (frequencies(counts, n_tokens)[:, None] * means).astype(np.float32)


def _stacked(sums: Mapping[MatrixKey, Array64], key: str, n_experts: int) -> Array64:
    """[n_experts, n], zero where no token went."""
    n = next(len(values) for (found, _), values in sums.items() if found == key)
    return np.stack([sums.get((key, expert), np.zeros(n)) for expert in range(n_experts)])


def shrunk(sums: Array64, weights: Array64, counts: Array64) -> Array64:
    """Each expert's mean [n_experts, n], sums / weights.

    Where an expert has fewer than ``ENOUGH_TOKENS`` tokens, its mean is blended with that of its layer.
    """
    mean = sums.sum(0) / max(weights.sum(), TINY)
    own = np.where(weights[:, None] > 0, sums / np.maximum(weights, TINY)[:, None], mean)
    trust = np.minimum(counts / ENOUGH_TOKENS, 1)[:, None]
    blended: Array64 = trust * own + (1 - trust) * mean
    return blended


def frequencies(counts: Array64, n_tokens: int) -> Array64:
    """Share of the text's tokens that reach each expert [n_experts], as if one more had reached each; their sum is the true one."""
    smoothed: Array64 = (counts + 1) / (counts.sum() + len(counts)) * counts.sum() / n_tokens
    return smoothed
