"""A ggml tensor's place in the HF model: reads and writes its rows, and cuts its powers out of the parameter's."""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch

from bitclass3_core.model import FloatArray, IndexArray, Place, Rows
from bitclass3_core.sensitivity import Powers


@dataclass(frozen=True, slots=True)
class AxisPowers:
    """Mean squares at a parameter's products: ``inputs`` [n_stack or 1, n_in], and gradients at its ``outputs`` [n_stack or 1, n_out].

    ``inputs_last`` is true where the parameter is stored [n_out, n_in], as nn.Linear does, false where it is [n_in, n_out].
    """

    inputs: FloatArray
    outputs: FloatArray | None
    inputs_last: bool = True


@dataclass(frozen=True, slots=True)
class TorchPlace:
    """The parameter ``key`` of the HF model, the module that owns it, and how the tensor is cut out of it."""

    key: str
    module: Any
    parameter: Any
    cut: Place

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is cut out, (n_out, n_in) or (n_stack, n_out, n_in)."""
        n_stack, n_rows, n_columns = self._stack().shape
        matrix = (len(_taken(self.cut.rows, n_rows)), len(_taken(self.cut.columns, n_columns)))
        stacked = self.parameter.ndim == 3 if self.cut.shape is None else len(self.cut.shape) == 3
        return (n_stack, *matrix) if stacked else matrix

    def _stack(self) -> torch.Tensor:
        """The parameter as a view [n_stack or 1, n_rows, n_columns], before rows and columns are taken."""
        values: torch.Tensor = self.parameter.detach()
        if self.cut.shape is not None:
            values = values.view(self.cut.shape)
        if values.ndim == 2:
            values = values[None]
        return values.transpose(-1, -2) if self.cut.transposed else values

    def read(self, rows: IndexArray) -> FloatArray:
        """Rows [n, n_in] of what is cut out, those of all experts counted one after the other, as the GGUF would hold them."""
        stack = self._stack()
        own_rows = _taken(self.cut.rows, stack.shape[1])
        which, row = np.divmod(rows, len(own_rows))
        values: FloatArray = stack[torch.from_numpy(which), torch.from_numpy(own_rows[row])].float().cpu().numpy()
        return values[:, _taken(self.cut.columns, stack.shape[2])] * self._row_scale(rows)

    def write(self, values: FloatArray | torch.Tensor, first_matrix: int = 0) -> None:
        """Put rows [n, n_in] into the parameter: whole matrices, from ``first_matrix`` of the stack on."""
        n_rows = self.shape[-2]
        for number in range(len(values) // n_rows):
            first_row = (first_matrix + number) * n_rows
            block = torch.as_tensor(values[number * n_rows : (number + 1) * n_rows])
            if not _is_one(self.cut.scale):
                block = block / torch.from_numpy(self._row_scale(np.arange(first_row, first_row + n_rows)).copy()).to(block)
            with torch.no_grad():
                self._put(self._stack()[first_matrix + number], block)

    def _put(self, matrix: torch.Tensor, block: torch.Tensor) -> None:
        rows, columns = self.cut.rows, self.cut.columns
        block = block.to(matrix.dtype).to(matrix.device)
        if not isinstance(rows, np.ndarray) and not isinstance(columns, np.ndarray):
            matrix[rows or slice(None), columns or slice(None)].copy_(block)
        else:
            matrix[_taken(rows, matrix.shape[0])[:, None], _taken(columns, matrix.shape[1])[None]] = block

    def _row_scale(self, rows: IndexArray) -> FloatArray:
        """The conversion's factor of each of the rows, [n, 1]."""
        n_rows = prod(self.shape[:-1])
        scale: FloatArray = np.broadcast_to(np.asarray(self.cut.scale, np.float32), (n_rows,))[rows][:, None]
        return scale

    def output_rows(self, gradients: torch.Tensor) -> torch.Tensor:
        """Gradients [n, n_rows] at the tensor's rows, out of ``gradients`` [n, n_out] at the parameter's outputs.

        They are those of the weights as the GGUF has them.
        """
        rows = _taken(self.cut.rows, gradients.shape[1])
        taken = gradients[:, torch.from_numpy(rows).to(gradients.device)]
        if _is_one(self.cut.scale):
            return taken
        return taken / torch.from_numpy(self._row_scale(np.arange(len(rows)))[:, 0].copy()).to(gradients)

    def powers(self, axes: AxisPowers) -> Powers:
        """The tensor's powers, cut out of its parameter's; columns and rows in HF's order."""
        columns, rows = (axes.inputs, axes.outputs) if axes.inputs_last else (axes.outputs, axes.inputs)
        if rows is not None and self.cut.shape is not None:  # for each matrix of what the parameter is reshaped to
            rows = rows.reshape(-1, self.cut.shape[-2])
        along_columns = axes.inputs_last
        if self.cut.transposed:
            rows, columns, along_columns = columns, rows, not along_columns
        rows, columns = _take(rows, self.cut.rows), _take(columns, self.cut.columns)
        if not along_columns:
            rows, columns = _with_inputs_scale(rows, columns, self.shape[-1])
        return self._as_powers(rows, columns)

    def _as_powers(self, rows: FloatArray | None, columns: FloatArray | None) -> Powers:
        if columns is None:
            raise ValueError("the inputs' mean squares are always known")
        in_power = columns[0] if len(columns) == 1 else columns
        if rows is None:
            return Powers(in_power)
        n_stack = 1 if len(self.shape) == 2 else self.shape[0]
        out_power = np.broadcast_to(rows, (n_stack, rows.shape[1])).reshape(-1)
        if _is_one(self.cut.scale):
            return Powers(in_power, out_power)
        # An error in the GGUF's weight is an error of 1/scale in the parameter.
        scale = self._row_scale(np.arange(out_power.size))[:, 0]
        return Powers(in_power, (out_power / np.square(scale)).astype(np.float32))


def _is_one(scale: float | FloatArray) -> bool:
    return isinstance(scale, (int, float)) and scale == 1


def _taken(which: Rows, n: int) -> IndexArray:
    """The indices that a slice or an index array takes of ``n``."""
    return np.arange(n)[slice(None) if which is None else which]


def _take(vectors: FloatArray | None, which: Rows) -> FloatArray | None:
    return vectors if vectors is None or which is None else vectors[:, which]


def _with_inputs_scale(inputs: FloatArray | None, gradients: FloatArray | None, n_in: int) -> tuple[FloatArray | None, FloatArray]:
    """(rows, columns) of a tensor that the GGUF multiplies from the other side: its columns are the linear's outputs.

    Only the product of the two vectors is a cost; the columns get the level of the inputs, because in_power is E[x^2] elsewhere.
    """
    if inputs is None:
        raise ValueError("the inputs' mean squares are always known")
    level = inputs.mean()
    if gradients is None:
        return None, np.full((1, n_in), level, np.float32)
    ratio = level / max(gradients.mean(), np.finfo(np.float32).tiny)
    return (inputs / ratio).astype(np.float32), (gradients * ratio).astype(np.float32)
