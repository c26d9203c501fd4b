"""Sums of squares over tokens, and how much each token of an expert counts in the mean of squared gradients."""

from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Array64 = NDArray[np.float64]
Key = TypeVar("Key")


class Sums(Generic[Key]):
    """Running sums of squares over tokens, float64 on the CPU, one vector a key."""

    def __init__(self) -> None:
        self.values: dict[Key, Array64] = {}

    def add(self, key: Key, tensor: "torch.Tensor", weights: "torch.Tensor | None" = None) -> None:
        """Add the squares of [..., n], summed over all but the last dimension, each token [...] with its weight."""
        squares = tensor.detach().float().reshape(-1, tensor.shape[-1]).square()
        if weights is not None:
            squares = squares * weights.reshape(-1, 1)
        summed = squares.sum(0).cpu().numpy().astype(np.float64)
        self.values[key] = self.values[key] + summed if key in self.values else summed


def energies(inputs: "torch.Tensor") -> "torch.Tensor":
    """|x|^2 of each token [...] of ``inputs`` [..., n_in]."""
    return inputs.detach().float().square().sum(-1)


def limited(energy: "torch.Tensor", median: "torch.Tensor") -> "torch.Tensor":
    """How much tokens of that energy count: as much as it is of the median, at most 1."""
    return (energy / median).clamp(max=1.0) if median > 0 else (energy > 0).float()
