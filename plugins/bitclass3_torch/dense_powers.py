"""Powers of a matrix that every token meets: means over all tokens of the text."""

from typing import TYPE_CHECKING

import numpy as np

from bitclass3_core.sensitivity import Powers
from bitclass3_torch.places import AxisPowers, TorchPlace
from bitclass3_torch.sums import Array64, Sums, WeightGradients

if TYPE_CHECKING:
    import torch

    from bitclass3_torch.products import Product

_TINY = float(np.finfo(np.float32).tiny)


class DenseSums:
    """Sums over all tokens, for the parameters that every token meets."""

    def __init__(self, with_gradients: bool) -> None:
        self._with_gradients = with_gradients
        self._inputs = Sums[str]()
        self._gradients = WeightGradients[str]()
        self._inputs_last: dict[str, bool] = {}

    def add(self, product: "Product") -> None:
        """Add one product: its inputs now, its output's gradient when it is known."""
        key, of_output, inputs = product.key, product.of_output, product.inputs.detach()
        self._inputs.add(key, inputs)
        self._inputs_last[key] = product.inputs_last
        if self._with_gradients and product.output.requires_grad:

            def on_gradient(gradient: "torch.Tensor") -> None:
                self._gradients.add(key, of_output(gradient), inputs)

            product.output.register_hook(on_gradient)  # type: ignore[no-untyped-call]

    def powers(self, key: str, place: TorchPlace, n_tokens: int) -> Powers | None:
        """The powers over a text of ``n_tokens``, by the formulas of ``statistics.py``.

        None if the model did not multiply with that parameter.
        """
        if key not in self._inputs.values or (self._with_gradients and key not in self._gradients.rows):
            return None
        last, inputs = self._inputs_last[key], self._inputs.values[key]
        if not self._with_gradients:
            return place.powers(_axes(inputs / n_tokens, None, last))
        columns, energy = self._gradients.columns[key], max(inputs.sum(), _TINY)
        rows = self._gradients.rows[key] / energy
        in_power = place.powers(_axes(inputs / n_tokens, rows, last)).in_power
        factors = place.powers(_axes(columns * (energy / n_tokens / max(columns.sum(), _TINY)), rows, last))
        return Powers(in_power, factors.out_power, factors.in_power)


def _axes(inputs: Array64, outputs: Array64 | None, inputs_last: bool) -> AxisPowers:
    return AxisPowers(inputs.astype(np.float32)[None], None if outputs is None else outputs.astype(np.float32)[None], inputs_last)
