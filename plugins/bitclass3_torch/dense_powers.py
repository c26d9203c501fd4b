"""Powers of a matrix that every token meets: means over all tokens of the text."""

import numpy as np

from bitclass3_core.sensitivity import Powers
from bitclass3_torch.places import AxisPowers, TorchPlace
from bitclass3_torch.products import Product
from bitclass3_torch.sums import Array64, Sums, WeightGradients

TINY = float(np.finfo(np.float32).tiny)
MatrixKey = tuple[str, int]  # parameter, and matrix of its stack


class ProductSums:
    """Sums over the products with each matrix: of its inputs' squares, and of the squares of its gradients."""

    def __init__(self, with_gradients: bool) -> None:
        self._with_gradients = with_gradients
        self._inputs = Sums[MatrixKey]()
        self._gradients = WeightGradients[MatrixKey]()
        self._inputs_last: dict[str, bool] = {}

    def add(self, product: Product) -> None:
        """Add one product: its inputs now, its output's gradient when it is known."""
        key, inputs, of_output = (product.key, product.matrix), product.inputs.detach(), product.of_output
        self._inputs.add(key, inputs)
        self._inputs_last[product.key] = product.inputs_last
        if self._with_gradients and product.output.requires_grad:
            add = self._gradients.add
            product.output.register_hook(lambda gradient: add(key, of_output(gradient), inputs))  # type: ignore[no-untyped-call]


class DenseSums(ProductSums):
    """Sums over all tokens, for the parameters that every token meets."""

    def powers(self, name: str, place: TorchPlace, n_tokens: int) -> Powers | None:
        """The powers over a text of ``n_tokens``, by the formulas of ``statistics.py``.

        None if the model did not multiply with that parameter.
        """
        key = name, 0
        if key not in self._inputs.values or (self._with_gradients and key not in self._gradients.rows):
            return None
        last, inputs = self._inputs_last[name], self._inputs.values[key]
        if not self._with_gradients:
            return place.powers(_axes(inputs / n_tokens, None, last))
        columns, energy = self._gradients.columns[key], max(inputs.sum(), TINY)
        rows = self._gradients.rows[key] / energy
        in_power = place.powers(_axes(inputs / n_tokens, rows, last)).in_power
        factors = place.powers(_axes(columns * (energy / n_tokens / max(columns.sum(), TINY)), rows, last))
        return Powers(in_power, factors.out_power, factors.in_power)


def _axes(inputs: Array64, outputs: Array64 | None, inputs_last: bool) -> AxisPowers:
    return AxisPowers(inputs.astype(np.float32)[None], None if outputs is None else outputs.astype(np.float32)[None], inputs_last)
