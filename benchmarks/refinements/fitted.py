"""Costs corrected by what was measured: multipliers of classes fitted on mixes, and the Hessian taken again at the quantized point."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from bitclass3_torch.statistics import collect
from numpy.typing import NDArray

from benchmarks.refinements.lab import Lab, Mix, Table
from bitclass3_core.sensitivity import TensorSensitivity

SPREAD = 0.7  # of the logarithms of the multipliers by which the mixes are drawn
RIDGE = 0.05  # what a multiplier's deviation from the common ratio costs beside the relative errors of the fit


def class_of(lab: Lab, name: str) -> str:
    """The role of a tensor: attn_q, ffn_down, output."""
    return lab.model.tensors[name].role


def drawn_mixes(lab: Lab, n_mixes: int, seed: int = 0) -> list[Mix]:
    """Mixes of the same size in which some classes have more bits than the costs say, and others less; the base is the first."""
    rng = np.random.default_rng(seed)
    classes = sorted({class_of(lab, name) for name in lab.table})
    mixes = [lab.base]
    for _ in range(n_mixes - 1):
        factor = dict(zip(classes, np.exp(SPREAD * rng.standard_normal(len(classes))), strict=True))
        mixes.append(lab.solved(multiplied(lab, factor)))
    return mixes


def multiplied(lab: Lab, multipliers: Mapping[str, float]) -> Table:
    """The two vectors' costs, each class times its multiplier."""
    return {
        name: {q: cost * float(multipliers[class_of(lab, name)]) for q, cost in cells.items()} for name, cells in lab.table.items()
    }


def fitted_multipliers(lab: Lab, mixes: Sequence[Mix], measured: NDArray[np.float64]) -> dict[str, float]:
    """Least squares of the relative errors of predicted against measured, held near the common ratio, none below a tenth of it."""
    classes = sorted({class_of(lab, name) for name in lab.table})
    parts = np.array([[_part(lab, mix, wanted) for wanted in classes] for mix in mixes]) / measured[:, None]
    ratio = 1 / parts.sum(1).mean()
    left = np.vstack([parts, np.eye(len(classes)) * RIDGE / ratio])
    right = np.concatenate([np.ones(len(mixes)), np.full(len(classes), RIDGE)])
    found = np.linalg.lstsq(left, right, rcond=None)[0]
    return {name: float(max(value, 0.1 * ratio)) for name, value in zip(classes, found, strict=True)}


def _part(lab: Lab, mix: Mix, wanted: str) -> float:
    return sum(lab.table[name][q] for name, q in mix.items() if class_of(lab, name) == wanted)


def relinearised_table(lab: Lab, mix: Mix, seed: int = 0) -> Table:
    """The two vectors' costs with the Hessian of the mix in place of the source's."""
    lab.put(mix)
    sensitivities = collect(lab.loaded, lab.model, lab.architecture, lab.calibration, True, seed, lab.progress)
    table = {name: dict(cells) for name, cells in lab.table.items()}
    for name, own in sensitivities.items():
        table[name] = lab.errors(name, lambda d, own=own: _two_vectors(d, own))  # type: ignore[misc]
    return table


def _two_vectors(difference: torch.Tensor, own: TensorSensitivity) -> float:
    squared, total = difference.square(), 0.0
    for powers in own.roles:
        columns = torch.from_numpy(powers.in_factor.reshape(-1).copy())
        rows = torch.ones(len(squared)) if powers.out_power is None else torch.from_numpy(powers.out_power.copy())
        total += 0.5 * float(rows @ (squared @ columns))
    return total
