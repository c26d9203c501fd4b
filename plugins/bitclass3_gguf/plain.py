"""Quantizes a tensor as llama-quantize does: by ggml's kernels, in slabs of rows, guided by the imatrix."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.errors import ModelFileError, UnusableTypeError
from bitclass3_core.gguf.kernels import quantize
from bitclass3_core.model import Model, TensorInfo
from bitclass3_core.qtypes import QType
from bitclass3_core.sensitivity import Sensitivity

_SLAB_WEIGHTS = 1 << 22  # weights that one call in one thread quantizes at most


def _slabs(info: TensorInfo) -> list[slice]:
    """Row ranges of at most ``_SLAB_WEIGHTS`` weights; none has rows of two experts."""
    per_expert = info.n_rows // info.n_experts
    step = max(1, min(per_expert, _SLAB_WEIGHTS // info.n_in))
    return [
        slice(begin, min(begin + step, (expert + 1) * per_expert))
        for expert in range(info.n_experts)
        for begin in range(expert * per_expert, (expert + 1) * per_expert, step)
    ]


def quantized_tensor(model: Model, name: str, q: QType, sensitivity: Sensitivity, pool: ThreadPoolExecutor) -> NDArray[np.uint8]:
    """The tensor's bytes at that type, [n_rows, row bytes]; its stored bytes if it keeps its type.

    Raises UnusableTypeError or ModelFileError with the tensor's name if it cannot be quantized.
    """
    info, known = model.tensors[name], sensitivity.tensors.get(name)
    imatrix = None if known is None else np.atleast_2d(known.imatrix)
    per_expert = info.n_rows // info.n_experts

    def one(rows: slice) -> NDArray[np.uint8]:
        weights = None if imatrix is None else imatrix[min(rows.start // per_expert, len(imatrix) - 1)]
        return quantize(model.read(name, rows), q, weights)

    try:
        if q.name == info.dtype:
            return model.read_raw(name)
        return np.concatenate(list(pool.map(one, _slabs(info))))
    except UnusableTypeError as error:
        raise UnusableTypeError(name, q.name, error.reason) from error
    except ModelFileError as error:
        raise ModelFileError(f"{name} at {q.name}: {error}") from error
