"""The half-precision factors of ggml's blocks: what each factor multiplies, and blocks with changed factors.

    weights of a block = first factor * what it multiplies + second factor * what it multiplies

The second factor is that of the block's minimum; some types have none. Places of the factors are those of llama.cpp's ggml-common.h.
"""

from collections.abc import Sequence

import numpy as np

from bitclass3_core.gguf.kernels import dequantize
from bitclass3_core.model import FloatArray
from bitclass3_core.qtypes import QType
from bitclass3_gguf.codes import Bytes

_FIRST = ("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "IQ4_XS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S")
_PLACES = {  # bytes from the block's beginning to its factors
    **dict.fromkeys(_FIRST, (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
}
_LARGEST = float(np.finfo(np.float16).max)


def has_scales(q: QType) -> bool:
    """Whether blocks of that type have factors that can be changed."""
    return q.name in _PLACES


def n_factors(q: QType) -> int:
    """Number of factors of a block: two if it has a minimum, else one."""
    return len(_PLACES[q.name])


def parts(data: Bytes, q: QType) -> list[FloatArray]:
    """What each factor adds to the weights [n_rows, n_in] of rows [n_rows, row bytes]; the sum over factors is the weights."""
    places = _PLACES[q.name]
    if len(places) == 1:
        return [dequantize(data, q)]
    found = []
    for kept in places:
        alone = np.ascontiguousarray(data).copy()
        blocks = alone.reshape(-1, q.type_size)
        for place in places:
            if place != kept:
                blocks[:, place : place + 2] = 0
        found.append(dequantize(alone, q))
    return found


def scaled(data: Bytes, q: QType, ratios: Sequence[FloatArray]) -> Bytes:
    """The rows with every factor times its ratio [n_rows, n_blocks], rounded to the nearest half-precision number."""
    out: Bytes = np.ascontiguousarray(data).copy()
    blocks = out.reshape(-1, q.type_size)
    for place, ratio in zip(_PLACES[q.name], ratios, strict=True):
        factor = np.ascontiguousarray(blocks[:, place : place + 2]).view(np.float16).astype(np.float32)
        changed = np.clip(factor * ratio.reshape(-1, 1), -_LARGEST, _LARGEST).astype(np.float16)
        blocks[:, place : place + 2] = changed.view(np.uint8)
    return out
