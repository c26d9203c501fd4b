"""Groups of tensors that are probed together, and one scale for each: measured over predicted, noisy ones drawn towards their class.

A group is one role (``attn_q``, ``ffn_down_exps``) in one band of depth.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from bitclass3_core.model import Model

_SURE = 2.0  # standard errors above the noise that make a measurement


@dataclass(frozen=True, slots=True)
class ProbeGroup:
    """Tensors of one role in one band of depth; those outside of blocks are groups of their own, of no band."""

    role: str
    band: int | None
    tensors: tuple[str, ...]

    @property
    def name(self) -> str:
        """``ffn_down, band 2``."""
        return self.role if self.band is None else f"{self.role}, band {self.band + 1}"


def probe_groups(model: Model, quantizable: Collection[str], n_bands: int) -> list[ProbeGroup]:
    """The groups in file order: each role's tensors cut by depth into bands of like size; every quantizable tensor is in one."""
    by_role: dict[str, list[str]] = {}
    for name in sorted(quantizable, key=lambda name: (model.tensors[name].block or 0, name)):
        by_role.setdefault(model.tensors[name].role, []).append(name)
    groups = []
    for role, names in sorted(by_role.items()):
        if model.tensors[names[0]].block is None:
            groups.append(ProbeGroup(role, None, tuple(names)))
            continue
        n = min(n_bands, len(names))
        cuts = [round(i * len(names) / n) for i in range(n + 1)]
        groups += [ProbeGroup(role, band, tuple(names[cuts[band] : cuts[band + 1]])) for band in range(n)]
    return groups


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
