"""Every product with a watched parameter, however the model writes it: nn.Linear, ``x @ w[expert]``, ``w @ x``, addmm, bmm of a stack.

A matrix is known by where its values lie in memory, so nothing must be known of the model's code. The model must multiply with views of
its parameters: transformers' eager experts do, its grouped and batched ones copy (``eager_experts``).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_LINEAR = frozenset({"linear"})
_PRODUCTS = frozenset({"matmul", "__matmul__", "mm", "bmm"})
_SUMS = frozenset({"addmm"})


@dataclass(frozen=True, slots=True)
class Product:
    """One product: ``inputs`` [..., n_in] times the ``weights`` [n_out, n_in] of a matrix.

    ``output`` has the shape that the model gives it; ``of_output`` turns it, or its gradient, into [..., n_out]. ``matrix`` is the
    matrix's number in a stack of experts, 0 for a plain parameter. ``inputs_last`` is that of AxisPowers.
    """

    key: str
    matrix: int
    inputs: torch.Tensor
    weights: torch.Tensor
    output: torch.Tensor
    inputs_last: bool
    of_output: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class _View:
    """A view of a watched parameter as a product gets it: one matrix, or the whole stack (``matrix`` is None); plain or transposed."""

    key: str
    matrix: int | None
    transposed: bool


class Products(TorchFunctionMode):
    """While open, calls ``seen`` with every product with one of the parameters, [n_rows, n_columns] or [n_stack, n_rows, n_columns]."""

    def __init__(self, parameters: Mapping[str, Any], seen: Callable[[Product], None]) -> None:
        super().__init__()
        self._seen = seen
        self._by_storage: dict[int, list[tuple[str, Any]]] = {}
        for key, parameter in parameters.items():
            self._by_storage.setdefault(_storage(parameter), []).append((key, parameter))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's own answer."""
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _LINEAR:
            left, right = args[0], args[1] if len(args) > 1 else kwargs["weight"]
            self._look(left, right, output, right_is_out_in=True)
        elif name in _PRODUCTS or name in _SUMS:
            operands = args[1:] if name in _SUMS else args
            if len(operands) > 1:
                self._look(operands[0], operands[1], output, right_is_out_in=False)
        return output

    def _look(self, left: Any, right: Any, output: Any, right_is_out_in: bool) -> None:
        if (view := self._view(right)) is not None:
            weights = right if right_is_out_in else _swapped(right)
            self._tell(view, left, weights, output, right_is_out_in != view.transposed, lambda values: values)
        elif not right_is_out_in and (view := self._view(left)) is not None:
            # weight @ x: tokens lie along the last axis of x and of the output
            self._tell(view, _swapped(right), left, output, not view.transposed, _swapped)

    def _tell(
        self, view: _View, inputs: Any, weights: Any, output: Any, inputs_last: bool, of_output: Callable[[Any], Any]
    ) -> None:
        if view.matrix is not None:
            self._seen(Product(view.key, view.matrix, inputs, weights, output, inputs_last, of_output))
            return
        for matrix in range(len(inputs)):  # a whole stack times [n_stack, n_tokens, n_in]
            own = _picker(matrix, of_output)
            self._seen(Product(view.key, matrix, inputs[matrix], weights[matrix], output, inputs_last, own))

    def _view(self, values: Any) -> _View | None:
        """Which watched matrix this is, if it is one."""
        for key, parameter in self._by_storage.get(_storage(values), ()):
            if values.ndim not in (2, 3) or values.ndim > parameter.ndim or values.dtype != parameter.dtype:
                continue
            rows, columns = parameter.shape[-2:]
            matrix, rest = divmod(values.storage_offset() - parameter.storage_offset(), rows * columns)
            n_stack = parameter.shape[0] if parameter.ndim == 3 else 1
            whole = values.ndim == 3
            if rest or not 0 <= matrix < n_stack or (whole and len(values) != n_stack):
                continue
            for transposed, shape, strides in ((False, (rows, columns), (columns, 1)), (True, (columns, rows), (1, columns))):
                if values.shape[-2:] == shape and values.stride()[-2:] == strides:
                    return _View(key, None if whole else matrix, transposed)
        return None


def _storage(values: Any) -> int:
    """Address of the memory that holds the values; 0 for what has none."""
    return int(values.untyped_storage().data_ptr()) if isinstance(values, torch.Tensor) else 0


def _swapped(values: torch.Tensor) -> torch.Tensor:
    return values.transpose(-1, -2)


def _picker(matrix: int, of_output: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda values: of_output(values[matrix])


@contextmanager
def eager_experts(net: Any) -> Iterator[None]:
    """While open, the model multiplies its experts one after the other, with views of their stack."""
    if not hasattr(net, "set_experts_implementation") or not hasattr(net, "get_experts_implementation"):
        yield
        return
    before = net.get_experts_implementation()
    net.set_experts_implementation("eager")
    try:
        yield
    finally:
        net.set_experts_implementation(before)


class ChangedInputs(Products):
    """While open, a product with one of the parameters gets its inputs from ``change(key, inputs [..., n_in])``."""

    def __init__(self, parameters: Mapping[str, Any], change: Callable[[str, Any], Any]) -> None:
        super().__init__(parameters, lambda _: None)
        self._change = change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's answer for the changed inputs."""
        name = getattr(func, "__name__", "")
        if name in _LINEAR and len(args) > 1 and (view := self._view(args[1])) is not None:
            args = (self._change(view.key, args[0]), *args[1:])
        elif name in _PRODUCTS or name in _SUMS:
            first = 1 if name in _SUMS else 0
            args = (*args[:first], *self._changed(args[first : first + 2]), *args[first + 2 :])
        return func(*args, **(kwargs or {}))

    def _changed(self, operands: Any) -> Any:
        """Both operands; the one that is not the parameter is changed."""
        if len(operands) < 2:
            return operands
        left, right = operands
        if (view := self._view(right)) is not None:
            return self._change(view.key, left), right
        if (view := self._view(left)) is not None:
            return left, _swapped(self._change(view.key, _swapped(right)))
        return operands
