"""No calibration: every weight of the model counts the same. A baseline for estimators."""

import numpy as np

from bitclass3_core import hookimpl
from bitclass3_core.model import Architecture, Model, TensorInfo
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity

BITCLASS3_ANSWERS = "387e0494e357"  # changes when the answers do


@hookimpl
def bitclass3_estimate(model: Model, architecture: Architecture) -> Sensitivity:
    """Ones for every tensor: the cost becomes half the squared error."""
    tensors = {
        name: TensorSensitivity(linear=Powers(np.ones(_columns(model.tensors[name]), dtype=np.float32)))
        for name in sorted(architecture.quantizable)
    }
    return Sensitivity(tensors, "uniform", n_tokens=0, n_ctx=0, corpus="none")


def _columns(info: TensorInfo) -> tuple[int, ...]:
    """Shape of in_power: llama-quantize needs one row for each expert of a stack."""
    return (info.n_experts, info.n_in) if len(info.shape) == 3 else (info.n_in,)
