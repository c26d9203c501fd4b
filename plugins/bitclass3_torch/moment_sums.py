"""Sums that a tensor's moments are made of, while chunks go through the model forward and backward. See ``moments.py``."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from bitclass3_torch.model import EMBEDDING, TorchModel
from bitclass3_torch.places import TorchPlace
from bitclass3_torch.products import Product
from bitclass3_torch.sums import Gram, energies, limited


@dataclass(slots=True)
class MatrixSums:
    """The sums of one matrix: sum w x x^T of its inputs, sum u g g^T of its outputs' gradients, and pairs (x, g) that are in neither."""

    inputs: Gram = field(default_factory=Gram)
    gradients: Gram = field(default_factory=Gram)
    n_tokens: int = 0
    judged: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)


class MomentSums:
    """The sums of the named tensors' parameters, by parameter and matrix, and those of looked-up rows.

    While ``judging`` is true nothing is added: inputs and gradients are kept as they are, to judge by.
    """

    def __init__(self, loaded: TorchModel, names: Sequence[str], n_rows_max: int) -> None:
        places = [loaded.places[name] for name in names if name != EMBEDDING or loaded.head is not None]
        self.sums = {(place.key, matrix): MatrixSums() for place in places for matrix in range(n_matrices(place))}
        self.parameters = {loaded.places[name].key: loaded.places[name].parameter for name in names}
        self.lookups = MatrixSums()
        self.judging = False
        self._n_rows_max = n_rows_max

    def product(self, product: Product) -> None:
        """Take one product; it is added when its output's gradient is known."""
        sums = self.sums.get((product.key, product.matrix))
        if sums is None or not product.output.requires_grad:
            return
        x, of_output, is_stacked = product.inputs.detach(), product.of_output, self.parameters[product.key].ndim == 3
        product.output.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: self._add(sums, _flat(x), _flat(of_output(gradient)), is_stacked)
        )

    def _add(self, sums: MatrixSums, x: torch.Tensor, g: torch.Tensor, is_stacked: bool) -> None:
        few_rows = g.shape[1] <= self._n_rows_max and not is_stacked
        if self.judging:
            if few_rows:
                sums.judged.append((x, g))
            return
        if not len(x):
            return  # an expert that no token reached
        x_energy, g_energy = energies(x), energies(g)
        sums.inputs.add(x, _token_weights(x_energy, g_energy))
        if few_rows:
            sums.gradients.add(g, _token_weights(g_energy, x_energy))
        sums.n_tokens += len(x)

    def lookup(self, rows: torch.Tensor, gradient: torch.Tensor) -> None:
        """Add one chunk's looked-up rows [1, n_ctx, n_embd] by their gradients; rows of zeros are zero in every type and say nothing."""
        if not self.judging:
            g = _flat(gradient)[(_flat(rows) != 0).any(1)]
            self.lookups.inputs.add(g)
            self.lookups.n_tokens += rows.shape[0] * rows.shape[1]


def _flat(values: torch.Tensor) -> torch.Tensor:
    return values.detach().float().reshape(-1, values.shape[-1])


def _token_weights(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Weights [n_tokens]: one half is the other side's energy, the other half is the same for all but massive tokens.

    Each half is scaled so that its mean, weighted by the own energy, is 1.
    """
    even = limited(own, own.median()) / own.clamp(min=1e-30)
    halves = (weights * (own.sum() / (weights * own).sum().clamp(min=1e-30)) for weights in (other, even))
    return sum(halves) / 2  # type: ignore[return-value]


def n_matrices(place: TorchPlace) -> int:
    """Matrices of the place's parameter: experts of a stack, else 1."""
    return len(place.parameter) if place.parameter.ndim == 3 else 1
