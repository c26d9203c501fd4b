"""Costs corrected by what was measured: multipliers of classes fitted on mixes, and the Hessian taken again at the quantized point."""

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
import torch
from bitclass3_torch.statistics import collect
from numpy.typing import NDArray

from benchmarks.refinements.lab import Lab, Mix, Table
from bitclass3_core.runs.fit_costs import drawn_multipliers, fitted_multipliers, parts_by_role
from bitclass3_core.sensitivity import TensorSensitivity


def class_of(lab: Lab, name: str) -> str:
    """The role of a tensor: attn_q, ffn_down, output."""
    return lab.model.tensors[name].role


def drawn_mixes(lab: Lab, n_mixes: int) -> list[Mix]:
    """Mixes of the same size in which some classes have more bits than the costs say, and others less; the base is the first."""
    classes = sorted({class_of(lab, name) for name in lab.table})
    _, *others = islice(drawn_multipliers(classes), n_mixes)
    return [lab.base, *(lab.solved(multiplied(lab, drawn)) for drawn in others)]


def multiplied(lab: Lab, multipliers: Mapping[str, float]) -> Table:
    """The two vectors' costs, each class times its multiplier."""
    return {
        name: {q: cost * float(multipliers[class_of(lab, name)]) for q, cost in cells.items()} for name, cells in lab.table.items()
    }


def fitted(lab: Lab, mixes: Sequence[Mix], measured: NDArray[np.float64]) -> dict[str, float]:
    """The multipliers, as the product fits them."""
    roles = {name: class_of(lab, name) for name in lab.table}
    parts = [parts_by_role(lab.pipeline.measured, roles, mix) for mix in mixes]
    found = fitted_multipliers(np.array([list(part.values()) for part in parts]), measured)
    return dict(zip(parts[0], found.tolist(), strict=True))


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
