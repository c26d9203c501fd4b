"""From measured probes to one scale for each group: measured over predicted, noisy ones drawn towards their class."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitclass3_kld_probe.groups import ProbeGroup

_SURE = 2.0  # standard errors above the noise that make a measurement


@dataclass(frozen=True, slots=True)
class Measured:
    """One group's probe: KLD above the noise floor with its standard error, and the error of its tensors before scaling."""

    kld: float
    se: float
    error: float

    @property
    def is_noise(self) -> bool:
        """Whether the KLD cannot be told from none."""
        return self.kld <= _SURE * self.se

    @property
    def log_scale(self) -> float:
        """log(KLD / error); of noise, what its standard error allows."""
        return math.log(max(self.kld, self.se, 1e-12) / max(self.error, 1e-30))

    @property
    def variance(self) -> float:
        """Variance of the log scale: the relative standard error squared; a factor of e^2 either way for noise."""
        return 4.0 if self.is_noise else (self.se / self.kld) ** 2


@dataclass(frozen=True, slots=True)
class Fitted:
    """One scale for each group, in their order; ``spread`` is the relative spread between the bands of a class."""

    scales: tuple[float, ...]
    spread: float


def fit_scales(groups: Sequence[ProbeGroup], measured: Sequence[Measured]) -> Fitted:
    """Empirical Bayes within each role: the less sure a band's scale is, the closer it comes to its role's mean.

    The variance between bands is estimated over all roles together (method of moments, DerSimonian and Laird 1986): one has too few.
    """
    logs = np.array([one.log_scale for one in measured])
    variances = np.array([max(one.variance, 1e-6) for one in measured])
    roles = np.array([group.role for group in groups])
    means = np.empty(len(logs))
    q, n_free, c = 0.0, 0, 0.0
    for role in np.unique(roles):
        mine = roles == role
        weights = 1 / variances[mine]
        means[mine] = (weights * logs[mine]).sum() / weights.sum()
        q += float((weights * (logs[mine] - means[mine]) ** 2).sum())
        n_free += int(mine.sum()) - 1
        c += float(weights.sum() - (weights**2).sum() / weights.sum())
    between = max(0.0, (q - n_free) / c) if c > 0 else 0.0
    alone = np.array([(roles == role).sum() == 1 for role in roles])
    share = np.where(alone, 1.0, between / (between + variances))
    scales = np.exp(share * logs + (1 - share) * means)
    return Fitted(tuple(float(scale) for scale in scales), math.sqrt(between))
