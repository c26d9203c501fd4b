"""No calibration: every weight of the model counts the same. A baseline for estimators."""

import numpy as np

from bitclass3_core import hookimpl
from bitclass3_core.model import Architecture, Model
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity

BITCLASS3_ANSWERS = "387e0494e357"  # changes when the answers do


@hookimpl
def bitclass3_estimate(model: Model, architecture: Architecture) -> Sensitivity:
    """Ones for every tensor: the cost becomes half the squared error."""
    tensors = {}
    for name in sorted(architecture.quantizable):
        info = model.tensors[name]
        # llama-quantize needs one row for each expert of a stack
        shape = (info.n_experts, info.n_in) if len(info.shape) == 3 else (info.n_in,)
        tensors[name] = TensorSensitivity(linear=Powers(np.ones(shape, dtype=np.float32)))
    return Sensitivity(tensors, "uniform", n_tokens=0, n_ctx=0, corpus="none")
