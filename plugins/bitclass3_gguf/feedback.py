"""Rounding with error feedback: each column's error is made up for in later columns, then every code is chosen again.

For rows W [n, n_in] and A = E[x x^T] of the layer's inputs, the error of the layer's output is tr(D A D^T), D = Q - W. ggml's kernel sets
the scales of a block of columns, after earlier columns have changed its weights. Then the codes are chosen one column at a time
(Frantar et al. 2022, "GPTQ"): with U the upper Cholesky factor of A^-1, column j's error over U_jj, times row j of U, is taken off the
columns that follow. At last each code is set to the best one given all others, several times (cyclic coordinate descent; Behdin et al.
2023, "QuantEase"). Types without a code for each weight (the grids of IQ1, IQ2, IQ3) are rounded block by block, and the columns after a
block make up for its error. A row keeps its plain rounding if that has the smaller error.

All of this runs on the CPU, even if the model runs on a GPU: it is thousands of small steps between ggml's kernels, and a GPU would
mostly wait.

Rows depend on each other too: with G = E[g g^T] of the gradients at the outputs the loss is tr(G D A D^T) (Tseng et al. 2025,
"Model-Preserving Adaptive Rounding"). Given all other rows, a group of rows R is best near W_R - G_RR^-1 G_R,rest D_rest. Groups are
made of rows that lie far apart, and are set again one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bitclass3_core.gguf.kernels import dequantize, quantize
from bitclass3_core.model import FloatArray, IndexArray
from bitclass3_core.qtypes import QType
from bitclass3_gguf.codes import IQ4_VALUES, Bytes, Codes, has_codes, repack, unpack
from bitclass3_gguf.columns import improve_codes, set_codes

DAMPING = 0.02  # share of the mean of A's diagonal that is added to it: few tokens say nothing about some directions
SCALE_BLOCK = 256  # columns whose scales are set together; a multiple of every type's block
INNER_BLOCK = 64  # columns between two matrix products; inside, errors pass from column to column
GROUP_ROWS = 48  # rows that are set again at the same time
GRADIENT_DAMPING = 0.1  # share of the mean of G's diagonal that is added to it


@dataclass(frozen=True, slots=True)
class Moments:
    """The matrices that all rows of a layer share: A [n_in, n_in], and U with A^-1 = U^T U for the damped A."""

    a: torch.Tensor
    u: torch.Tensor

    @classmethod
    def of(cls, a: torch.Tensor) -> "Moments":
        """The moments of A. Raises ValueError if A is not finite."""
        if not bool(torch.isfinite(a).all()):
            raise ValueError("the inputs' second moments are not finite")
        lower = torch.linalg.cholesky(_damped(a, DAMPING, torch.float64))
        inverse = torch.cholesky_inverse(lower)
        del lower  # with 12,288 columns each matrix takes 1.1 GiB
        return cls(a.float(), torch.linalg.cholesky(inverse, upper=True).float())


def _damped(moment: torch.Tensor, share: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A copy with ``share`` of the diagonal's mean added to the diagonal."""
    damped = moment.to(dtype, copy=True)
    level = damped.diagonal().mean().clamp(min=torch.finfo(dtype).tiny)
    damped.diagonal().add_(share * level)
    return damped


def output_errors(difference: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """d A d^T of each row d [n, n_in]: [n]."""
    return ((difference @ a) * difference).sum(1)


@dataclass(frozen=True, slots=True)
class _Grid:
    """The values that codes of some columns can have: steps and offsets [n, columns]."""

    step: FloatArray
    offset: FloatArray
    largest: int
    table: FloatArray

    @classmethod
    def of(cls, found: Codes) -> "_Grid":
        return cls(found.step, found.offset, found.largest, IQ4_VALUES if found.is_table else IQ4_VALUES[:0])

    def rows(self, rows: Any) -> "_Grid":
        """The grid of some of the rows."""
        return _Grid(self.step[rows], self.offset[rows], self.largest, self.table)

    def columns(self, begin: int, end: int) -> tuple[FloatArray, FloatArray, np.float32, FloatArray]:
        """The grid of some of the columns, as ``columns.py`` takes it."""
        return (*_arrays(self.step[:, begin:end], self.offset[:, begin:end]), np.float32(self.largest), self.table)


def _arrays(*values: torch.Tensor | FloatArray) -> list[FloatArray]:
    """Copies, C-contiguous."""
    return [np.array(v if isinstance(v, np.ndarray) else v.numpy(), np.float32, order="C") for v in values]


class _Rows:
    """A slab of rows while it is rounded: weights, the codes so far, and the bytes with the scales, block after block."""

    def __init__(self, weights: torch.Tensor, moments: Moments, q: QType) -> None:
        self.weights, self.moments, self.q = weights, moments, q
        self.codes, self.rounded = np.empty(weights.shape, np.float32), torch.empty_like(weights)
        self.data: list[Bytes] = []
        self.grids: list[_Grid] = []

    def forward(self) -> None:
        """Set scales and codes from the first column to the last."""
        left = self.weights.clone()
        n_in = left.shape[1]
        for begin in range(0, n_in, SCALE_BLOCK):
            end = min(begin + SCALE_BLOCK, n_in)
            if not has_codes(self.q):
                self._round_block(left, begin, end)
                continue
            # cost of a column's error, if later columns make up for it
            data = self._quantized(left[:, begin:end], 1 / self.moments.u.diagonal()[begin:end].square())
            self.grids.append(_Grid.of(unpack(data, self.q)))
            for inner in range(begin, end, INNER_BLOCK):
                self._set_codes(left, inner, min(inner + INNER_BLOCK, end), begin)

    def _quantized(self, columns: torch.Tensor, importance: torch.Tensor) -> Bytes:
        self.data.append(quantize(columns.contiguous().numpy(), self.q, importance.numpy()))
        return self.data[-1]

    def _round_block(self, left: torch.Tensor, begin: int, end: int) -> None:
        u = self.moments.u[begin:end, begin:end]
        # cost of a column's error, if the columns after the block make up for it: the diagonal of (U^T U)^-1
        importance = torch.linalg.solve_triangular(u, torch.eye(end - begin), upper=True).square().sum(1)
        rounded = torch.from_numpy(dequantize(self._quantized(left[:, begin:end], importance), self.q))
        self.rounded[:, begin:end] = rounded
        errors = torch.linalg.solve_triangular(u, left[:, begin:end] - rounded, upper=True, left=False)
        left[:, end:] -= errors @ self.moments.u[begin:end, end:]

    def _set_codes(self, left: torch.Tensor, begin: int, end: int, block: int) -> None:
        u = self.moments.u
        here, factor = _arrays(left[:, begin:end], u[begin:end, begin:end])
        codes, rounded, errors = (np.empty_like(here) for _ in range(3))
        set_codes(here, factor, *self.grids[-1].columns(begin - block, end - block), codes, rounded, errors)
        self._put(begin, end, codes, rounded)
        left[:, end:] -= torch.from_numpy(errors) @ u[begin:end, end:]

    def _put(self, begin: int, end: int, codes: FloatArray, rounded: FloatArray) -> None:
        self.codes[:, begin:end] = codes
        self.rounded[:, begin:end] = torch.from_numpy(rounded)

    def again(self) -> None:
        """Set each code once to the best one given all others; nothing happens if the type has no codes."""
        if not self.grids:
            return
        a = self.moments.a
        slope = (self.rounded - self.weights) @ a
        for begin in range(0, len(a), INNER_BLOCK):
            end = min(begin + INNER_BLOCK, len(a))
            block = begin // SCALE_BLOCK
            columns = self.grids[block].columns(begin - block * SCALE_BLOCK, end - block * SCALE_BLOCK)
            rounded, inner, shared = _arrays(self.rounded[:, begin:end], slope[:, begin:end], a[begin:end, begin:end])
            codes = _arrays(self.codes[:, begin:end])[0]
            improve_codes(rounded, inner, shared, *columns, codes)
            before = self.rounded[:, begin:end].clone()
            self._put(begin, end, codes, rounded)
            slope += (self.rounded[:, begin:end] - before) @ a[begin:end]

    def part(self, rows: IndexArray, wanted: torch.Tensor) -> "_Rows":
        """Some of the rows as they are now, with other weights as their target."""
        part = _Rows(wanted, self.moments, self.q)
        part.codes, part.rounded = self.codes[rows], self.rounded[rows]
        part.grids = [grid.rows(rows) for grid in self.grids]
        return part

    def again_together(self, g: torch.Tensor) -> None:
        """Set the codes of each group of rows once to the best ones given all other rows; ``g`` weights the outputs."""
        n_groups = max(1, len(self.weights) // GROUP_ROWS)
        difference = self.rounded - self.weights
        for first in range(n_groups):
            rows = np.arange(first, len(self.weights), n_groups)
            own = g[rows][:, rows]
            others = g[rows] @ difference - own @ difference[rows]
            part = self.part(rows, self.weights[rows] - torch.linalg.solve(own, others))
            part.again()
            self.codes[rows], self.rounded[rows] = part.codes, part.rounded
            difference[rows] = part.rounded - self.weights[rows]

    def bytes(self) -> Bytes:
        """The rows as ggml stores them."""
        if not self.grids:
            return np.concatenate(self.data, 1)
        codes = self.codes.astype(np.uint8)
        parts, begin = [], 0
        for data in self.data:
            end = begin + data.shape[1] // self.q.type_size * self.q.block_size
            parts.append(repack(data, self.q, codes[:, begin:end]))
            begin = end
        return np.concatenate(parts, 1)


@dataclass(frozen=True, slots=True)
class RoundedRows:
    """Rows rounded one by one, and the same rows rounded plainly: bytes [n, row bytes], and errors as sums of d A d^T over rows."""

    data: Bytes
    plain: Bytes
    kept_error: float
    plain_error: float

    @classmethod
    def joined(cls, parts: "Sequence[RoundedRows]") -> "RoundedRows":
        """Slabs of rows, put together one below the other."""
        data, plain = (np.concatenate([getattr(part, which) for part in parts]) for which in ("data", "plain"))
        return cls(data, plain, sum(part.kept_error for part in parts), sum(part.plain_error for part in parts))


def round_rows(rows: FloatArray, q: QType, imatrix: FloatArray | None, moments: Moments, rounds: int) -> RoundedRows:
    """Rows [n, n_in], each rounded with feedback or plainly, whichever has the smaller error."""
    weights = torch.from_numpy(np.ascontiguousarray(rows))
    plain = quantize(rows, q, imatrix)
    plain_errors = output_errors(torch.from_numpy(dequantize(plain, q)) - weights, moments.a)
    slab = _Rows(weights, moments, q)
    slab.forward()
    for _ in range(rounds):
        slab.again()
    errors = output_errors(slab.rounded - weights, moments.a)
    better = errors < plain_errors
    data = np.where(better.numpy()[:, None], slab.bytes(), plain)
    return RoundedRows(data, plain, float(torch.where(better, errors, plain_errors).sum()), float(plain_errors.sum()))


def round_together(rows: FloatArray, q: QType, moments: Moments, g: torch.Tensor, rounds: int) -> Bytes:
    """Bytes [n, row bytes] of all rows [n, n_in] of a tensor, rounded for tr(G D A D^T); ``g`` is G [n, n]. The type must have codes."""
    slab = _Rows(torch.from_numpy(np.ascontiguousarray(rows)), moments, q)
    slab.forward()
    slab.again()
    damped = _damped(g, GRADIENT_DAMPING)
    for _ in range(rounds):
        slab.again_together(damped)
    return slab.bytes()
