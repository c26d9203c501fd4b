"""A tensor quantized as llama-quantize does: by ggml's kernels, in slabs of rows, guided by the imatrix."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.kernels import quantize
from bitclass3_core.model import FloatArray, Model, TensorInfo
from bitclass3_core.qtypes import QType

_SLAB_WEIGHTS = 1 << 22  # rows quantized by one call of one thread


def _slabs(info: TensorInfo) -> list[slice]:
    """Row ranges of at most ``_SLAB_WEIGHTS`` weights, none across two experts."""
    per_expert = info.n_rows // info.n_experts
    step = max(1, min(per_expert, _SLAB_WEIGHTS // info.n_in))
    return [
        slice(begin, min(begin + step, (expert + 1) * per_expert))
        for expert in range(info.n_experts)
        for begin in range(expert * per_expert, (expert + 1) * per_expert, step)
    ]


def quantized_tensor(
    model: Model, info: TensorInfo, q: QType, imatrix: FloatArray | None, pool: ThreadPoolExecutor
) -> NDArray[np.uint8]:
    """The tensor's bytes at that type, [n_rows, row bytes]; raw bytes if it keeps its type."""
    if q.name == info.dtype:
        return model.read_raw(info.name)
    per_expert = info.n_rows // info.n_experts

    def one(rows: slice) -> NDArray[np.uint8]:
        weights = (
            None if imatrix is None else np.atleast_2d(imatrix)[min(rows.start // per_expert, len(np.atleast_2d(imatrix)) - 1)]
        )
        return quantize(model.read(info.name, rows), q, weights)

    return np.concatenate(list(pool.map(one, _slabs(info))))
