"""Codes chosen column by column inside a block of columns: the loops of ``feedback.py`` that no matrix product can do, compiled.

Arrays are float32, C-contiguous: weights of rows [n, w], ``step`` and ``offset`` of each [n, w], a square block [w, w] of what the rows share.
The loops release the interpreter's lock: each thread rounds a tensor of its own.
"""

import numpy as np
from numba import njit

from bitclass3_core.model import FloatArray


@njit(inline="always")  # type: ignore[untyped-decorator]
def _nearest(scaled: np.float32, largest: np.float32, table: FloatArray) -> tuple[np.float32, np.float32]:
    """(code, its value) nearest to ``scaled``; ``table`` ascends, and is empty where codes are their own values."""
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
    """Set ``codes`` and ``rounded`` to what is nearest to ``left``; the columns after each one take up its error, as ``u`` says.

    ``errors`` receives each column's error divided by ``u``'s diagonal. ``left`` is changed.
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
    """Set each code to the best one given all others, column after column, where an error d costs d a d^T.

    ``slope`` is half that cost's gradient at ``rounded``; both are changed along with ``codes``.
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
