"""Sums of squares and of products over tokens and over chunks, and the energy |x|^2 of tokens."""

from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Array64 = NDArray[np.float64]
Key = TypeVar("Key")
_STRIPE = 256  # rows of a symmetric product that are computed at once, from the diagonal on
_BLOCK_WEIGHTS = 1 << 25  # of a weight matrix's gradient that are in memory at once: 128 MiB


class Sums(Generic[Key]):
    """Running sums of squares over tokens: one float64 vector on the CPU for each key."""

    def __init__(self) -> None:
        self.values: dict[Key, Array64] = {}

    def add(self, key: Key, tensor: torch.Tensor) -> None:
        """Add the squares of [..., n], summed over all but the last dimension."""
        squares = tensor.detach().float().reshape(-1, tensor.shape[-1]).square()
        summed = squares.sum(0).cpu().numpy().astype(np.float64)
        self.values[key] = self.values[key] + summed if key in self.values else summed


class WeightGradients(Generic[Key]):
    """Row and column sums of the squares of weight matrices' gradients, one gradient a chunk: the margins of the Fisher diagonal."""

    def __init__(self) -> None:
        self.rows: dict[Key, Array64] = {}
        self.columns: dict[Key, Array64] = {}

    def add(self, key: Key, gradients: torch.Tensor, inputs: torch.Tensor) -> None:
        """Add the square of one chunk's gradient, the sum of g x^T over its tokens: ``gradients`` [..., n_out], ``inputs`` [..., n_in].

        In float32 whatever the model's type is: the sum is over terms of either sign.
        """
        g, x = (values.detach().reshape(-1, values.shape[-1]).float() for values in (gradients, inputs))
        step = max(1, _BLOCK_WEIGHTS // x.shape[1])
        rows, columns = [], x.new_zeros(x.shape[1])
        for begin in range(0, g.shape[1], step):
            squares = (g[:, begin : begin + step].T @ x).square_()
            rows.append(squares.sum(1))
            columns += squares.sum(0)
        for known, found in ((self.rows, torch.cat(rows)), (self.columns, columns)):
            summed = found.cpu().numpy().astype(np.float64)
            known[key] = known[key] + summed if key in known else summed


class Gram:
    """A sum of w x x^T over tokens. Only the upper triangle is computed; ``mean`` mirrors it."""

    def __init__(self) -> None:
        self._upper: torch.Tensor | None = None

    def add(self, x: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Add tokens x [n_tokens, n], each times its weight; without ``weights`` [n_tokens] the weight is 1."""
        n = x.shape[1]
        if self._upper is None:
            self._upper = x.new_zeros(n, n)
        weighted = (x if weights is None else x * weights[:, None]).T
        for begin in range(0, n, _STRIPE):
            self._upper[begin : begin + _STRIPE, begin:].addmm_(weighted[begin : begin + _STRIPE], x[:, begin:])

    def mean(self, n_tokens: int) -> torch.Tensor | None:
        """The sum [n, n] divided by ``n_tokens``; None if nothing was added."""
        return None if self._upper is None else (self._upper.triu() + self._upper.triu(1).T) / n_tokens


def energies(inputs: torch.Tensor) -> torch.Tensor:
    """|x|^2 of each token [...] of ``inputs`` [..., n_in]."""
    return inputs.detach().float().square().sum(-1)


def limited(energy: torch.Tensor, median: torch.Tensor) -> torch.Tensor:
    """energy / median, at most 1; if the median is 0, 1 for every token that has energy."""
    return (energy / median).clamp(max=1.0) if median > 0 else (energy > 0).float()
