"""Predicted costs of single tensors held against what was measured of each alone."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

LEAST = 3  # pairs that a correlation needs


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of ``n`` tensors: Spearman's rank correlation of predicted and measured KLD, measured over predicted in the geometric mean, and by
    which factor that scatters (the exponential of the standard deviation of its logarithm)."""

    n: int
    rank_correlation: float
    ratio: float
    factor: float


def agreement(predicted: Mapping[str, float], measured: Mapping[str, float]) -> Agreement | None:
    """How well they agree, over the tensors that have both above zero; None if those are fewer than three."""
    names = sorted(name for name, kld in measured.items() if kld > 0 and 0 < predicted.get(name, 0.0) < np.inf)
    if len(names) < LEAST:
        return None
    a, b = (np.array([values[name] for name in names]) for values in (predicted, measured))
    apart = np.argsort(np.argsort(a)) - np.argsort(np.argsort(b))
    rank = 1 - 6 * float(np.square(apart).sum()) / (len(names) * (len(names) ** 2 - 1))
    ratios = np.log(b / a)
    return Agreement(len(names), rank, float(np.exp(ratios.mean())), float(np.exp(ratios.std())))
