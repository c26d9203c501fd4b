"""Powers of stacked experts: means over the tokens that were routed to each expert, in nats per token of the text.

The Fisher matrix's diagonal is a mean over all tokens of the text. An expert that sees the share f of them has

    E[g_i^2 x_j^2] = f E_routed[g_i^2 x_j^2] ~= (f E_routed[g_i^2]) (E_routed[x_j^2])

and f goes to out_power, because in_power is the imatrix too. g is the gradient at the expert's own output, which autograd has
multiplied with the routing weight already. Of an expert with few tokens little is known: it leans on the mean of its layer, by
so much as it lacks of 64 tokens, and each expert counts as if one token more had reached it.

What no Hessian says: where an error sends a token to another expert, the output jumps, and the KLD is of first order in the error.
"""

from typing import TYPE_CHECKING

import numpy as np

from bitclass3_core.model import FloatArray
from bitclass3_torch.places import AxisPowers
from bitclass3_torch.sums import Array64, Sums, energies, limited

if TYPE_CHECKING:
    import torch

    from bitclass3_torch.watching import Product

ENOUGH_TOKENS = 64
_TINY = float(np.finfo(np.float32).tiny)
_Key = tuple[str, int]  # parameter and expert


class RoutedSums:
    """Sums over routed tokens, one vector for each expert of each stack."""

    def __init__(self, with_gradients: bool) -> None:
        self._with_gradients = with_gradients
        self._inputs, self._outputs = Sums[_Key](), Sums[_Key]()
        self._n_tokens: dict[_Key, int] = {}
        self._weights: dict[_Key, float] = {}
        self._inputs_last: dict[str, bool] = {}
        self._energies: dict[str, list[torch.Tensor]] = {}
        self._medians: dict[str, torch.Tensor] = {}

    def begin_chunk(self) -> None:
        """Forget the last chunk's energies: the limit on massive tokens is a chunk's own median."""
        self._energies.clear()
        self._medians.clear()

    def add(self, product: "Product") -> None:
        """One expert's product; its output's gradient is added when it is known, and with it all of the layer's energies."""
        stack, of_output = product.key, product.of_output  # the hook below must not keep the inputs and outputs alive
        key = (stack, product.matrix)
        energy = energies(product.inputs).reshape(-1)
        self._inputs.add(key, product.inputs)
        self._n_tokens[key] = self._n_tokens.get(key, 0) + int((energy > 0).sum())
        self._inputs_last[stack] = product.inputs_last
        if self._with_gradients and product.output.requires_grad:
            self._energies.setdefault(stack, []).append(energy)

            def on_gradient(gradient: "torch.Tensor") -> None:
                weights = limited(energy, self._median(stack))
                self._weights[key] = self._weights.get(key, 0.0) + float(weights.sum())
                self._outputs.add(key, of_output(gradient), weights)

            product.output.register_hook(on_gradient)  # type: ignore[no-untyped-call]

    def _median(self, key: str) -> "torch.Tensor":
        """Median energy of the chunk's tokens at that parameter, each as often as it is routed."""
        import torch

        if key not in self._medians:
            together = torch.cat(self._energies[key])
            routed = together[together > 0]
            self._medians[key] = routed.median() if len(routed) else together.new_zeros(())
        return self._medians[key]

    def counts(self, key: str, n_experts: int) -> Array64:
        """Tokens that reached each expert [n_experts]."""
        return np.array([self._n_tokens.get((key, expert), 0) for expert in range(n_experts)], np.float64)

    def n_few(self, key: str, n_experts: int) -> int:
        """How many experts got fewer than ``ENOUGH_TOKENS`` tokens."""
        return int((self.counts(key, n_experts) < ENOUGH_TOKENS).sum())

    def powers(self, key: str, n_experts: int, n_tokens: int) -> AxisPowers | None:
        """The powers [n_experts, n] over a text of ``n_tokens``; None if no token reached any expert."""
        counts = self.counts(key, n_experts)
        if counts.sum() == 0 or (self._with_gradients and not any(found == key for found, _ in self._outputs.values)):
            return None
        inputs = shrunk(self._stacked(self._inputs, key, n_experts), counts, counts)
        outputs = self._output_powers(key, counts, n_tokens) if self._with_gradients else None
        return AxisPowers(inputs.astype(np.float32), outputs, self._inputs_last[key])

    def _output_powers(self, key: str, counts: Array64, n_tokens: int) -> FloatArray:
        weights = np.array([self._weights.get((key, expert), 0.0) for expert in range(len(counts))])
        means = shrunk(self._stacked(self._outputs, key, len(counts)), weights, counts)
        return (frequencies(counts, n_tokens)[:, None] * means).astype(np.float32)

    @staticmethod
    def _stacked(sums: Sums[_Key], key: str, n_experts: int) -> Array64:
        """[n_experts, n], zero where no token went."""
        n = next(len(values) for (found, _), values in sums.values.items() if found == key)
        return np.stack([sums.values.get((key, expert), np.zeros(n)) for expert in range(n_experts)])


def shrunk(sums: Array64, weights: Array64, counts: Array64) -> Array64:
    """Each expert's mean [n_experts, n] out of its sums, leaning on the layer's by what it lacks of ``ENOUGH_TOKENS`` tokens."""
    mean = sums.sum(0) / max(weights.sum(), _TINY)
    own = np.where(weights[:, None] > 0, sums / np.maximum(weights, _TINY)[:, None], mean)
    trust = np.minimum(counts / ENOUGH_TOKENS, 1)[:, None]
    blended: Array64 = trust * own + (1 - trust) * mean
    return blended


def frequencies(counts: Array64, n_tokens: int) -> Array64:
    """Share of the text's tokens that reach each expert, as if one more had reached each; together as often as in truth."""
    smoothed: Array64 = (counts + 1) / (counts.sum() + len(counts)) * counts.sum() / n_tokens
    return smoothed
