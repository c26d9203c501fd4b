"""Compiled loops of ``feedback.py``: they choose codes column by column in a block of columns, which no matrix product can do.

Arrays are float32 and C-contiguous: weights of rows [n, w], ``step`` and ``offset`` of each weight [n, w], and a square block [w, w] of
a matrix that all rows share. The loops release the GIL, as each thread rounds a tensor of its own.
"""

import numpy as np
from numba import njit

from bitclass3_core.model import FloatArray


@njit(inline="always")  # type: ignore[untyped-decorator]
def _nearest(scaled: np.float32, largest: np.float32, table: FloatArray) -> tuple[np.float32, np.float32]:
    """(code, its value) nearest to ``scaled``. ``table`` has the ascending values of the codes; it is empty if a code is its own value."""
    if len(table) == 0:
        code = np.rint(min(max(scaled, np.float32(0)), largest))
        return code, code
    low, high = 0, len(table) - 1
    while low < high:
        middle = (low + high) // 2
        if scaled > (table[middle] + table[middle + 1]) / 2:
            low = middle + 1
        else:
            high = middle
    return np.float32(low), table[low]


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def set_codes(
    left: FloatArray,
    u: FloatArray,
    step: FloatArray,
    offset: FloatArray,
    largest: np.float32,
    table: FloatArray,
    codes: FloatArray,
    rounded: FloatArray,
    errors: FloatArray,
) -> None:
    """Set ``codes`` and ``rounded`` to the values nearest to ``left``, and pass each column's error on to later columns by ``u``.

    ``errors`` gets each column's error over the diagonal of ``u``. ``left`` is overwritten.
    """
    n, w = left.shape
    for i in range(n):
        for j in range(w):
            scaled = np.float32(0) if step[i, j] == 0 else (left[i, j] - offset[i, j]) / step[i, j]
            code, value = _nearest(scaled, largest, table)
            codes[i, j] = code
            rounded[i, j] = step[i, j] * value + offset[i, j]
            error = (left[i, j] - rounded[i, j]) / u[j, j]
            errors[i, j] = error
            for k in range(j + 1, w):
                left[i, k] -= error * u[j, k]


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def improve_codes(
    rounded: FloatArray,
    slope: FloatArray,
    a: FloatArray,
    step: FloatArray,
    offset: FloatArray,
    largest: np.float32,
    table: FloatArray,
    codes: FloatArray,
) -> None:
    """Set each code to the best one given all others, column after column; the cost of an error d is d a d^T.

    ``slope`` is half the gradient of that cost at ``rounded``. All three are changed in place.
    """
    n, w = rounded.shape
    for i in range(n):
        for j in range(w):
            best = rounded[i, j] - slope[i, j] / max(a[j, j], np.float32(1e-30))
            scaled = np.float32(0) if step[i, j] == 0 else (best - offset[i, j]) / step[i, j]
            code, value = _nearest(scaled, largest, table)
            if code == codes[i, j]:
                continue
            change = step[i, j] * value + offset[i, j] - rounded[i, j]
            codes[i, j] = code
            rounded[i, j] += change
            for k in range(w):
                slope[i, k] += change * a[j, k]
