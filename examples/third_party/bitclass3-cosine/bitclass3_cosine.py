"""The cosine between a layer's outputs before and after quantization, as a cost.

    cost = 1 - mean_i cos_i        cos_i = sum_j a_j W_ij Q_ij / sqrt(sum_j a_j W_ij^2 . sum_j a_j Q_ij^2)

a_j = E[x_j^2] is in_power, Q = dequantize(quantize(W)): cos_i is the correlation of output i with itself over inputs x whose channels
do not correlate. With ``over = "worst"`` the worst row counts instead of the mean. It is in no nats: costs rank types and tensors.
"""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from bitclass3_core import hookimpl
from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.kernels import dequantize, quantize
from bitclass3_core.model import FloatArray, Model
from bitclass3_core.qtypes import QType
from bitclass3_core.sensitivity import Sensitivity

BITCLASS3_API = 1


class Options(BaseModel):
    """How the rows of a tensor become one number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    over: Literal["mean", "worst"] = Field("mean", description="the mean over a tensor's rows, or its worst row")


@hookimpl
def bitclass3_measure(model: Model, sensitivity: Sensitivity, qtypes: tuple[QType, ...], options: Options) -> CostTable:
    """One minus the cosine of every tensor's outputs, at every type."""
    costs = {}
    for name, info in model.tensors.items():
        in_power = np.broadcast_to(np.atleast_2d(sensitivity.tensors[name].imatrix), (info.n_experts, info.n_in))
        cells = {}
        for q in qtypes:
            cosines = _cosines(model, name, q, np.ascontiguousarray(in_power))
            cells[q.name] = Cost(float(1 - (cosines.mean() if options.over == "mean" else cosines.min())), 0.0, info.n_rows)
        costs[name] = cells
    return CostTable(costs, in_nats=False)


def _cosines(model: Model, name: str, q: QType, in_power: FloatArray) -> np.ndarray:
    """The cosine of every row [n_rows]; each expert of a stack with its own in_power."""
    per_expert = model.tensors[name].n_rows // len(in_power)
    parts = []
    for expert, powers in enumerate(in_power):
        weights = model.read(name, slice(expert * per_expert, (expert + 1) * per_expert))
        quantized = dequantize(quantize(weights, q, powers), q)
        both, before, after = (a * b @ powers for a, b in ((weights, quantized), (weights, weights), (quantized, quantized)))
        sizes = np.sqrt(before.astype(np.float64) * after)
        parts.append(np.divide(both, sizes, out=np.ones(len(sizes)), where=sizes > 0))
    return np.minimum(np.concatenate(parts), 1.0)
