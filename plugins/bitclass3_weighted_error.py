"""The cost of a type for a tensor, from the real kernel's error weighted by the KL Hessian's two vectors.

    cost = 1/2 sum_i out_power_i sum_j in_fisher_j D_ij^2       D = dequantize(quantize(W, qtype, imatrix)) - W

With both vectors from the KL Hessian this is in nats per token: KL(p_W || p_{W+D}) = 1/2 vec(D)^T F vec(D) + O(|D|^3). F is the
Fisher matrix; its diagonal is taken as the product of the two vectors.

Large tensors are measured on a sample of rows. A fast type is measured on every row, and the ratio of the errors at the two types,
which differs little between rows, is estimated from the sample (Cochran: Sampling Techniques, chapter 6). Rows without out_power,
such as an embedding's rows of tokens that the text does not have, cost nothing and are not measured. If the estimator knows it, the
cost of rounding the inputs to the format that goes with the type is added.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from bitclass3_core import hookimpl
from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.errors import UnusableTypeError
from bitclass3_core.gguf.kernels import SPEED, dequantize, quantize
from bitclass3_core.gguf.rounding_gains import load_gains
from bitclass3_core.model import FloatArray, IndexArray, Model
from bitclass3_core.options import Demands, PluginOptions, Work
from bitclass3_core.qtypes import QType, activation_format, qtype
from bitclass3_core.sensitivity import Sensitivity, TensorSensitivity

BITCLASS3_ANSWERS = "3a8be746b3d4"  # changes when the answers do

_SLOW = 5  # million weights a second, of a type whose speed was not measured
_LARGE = 1 << 26  # weights above which Q8_0 takes Q6_K's place as the type that is measured on every row: six times as fast
_SLAB_WEIGHTS = 1 << 24  # rows are read in slabs of at most this many weights (64 MiB as float32)


class Options(PluginOptions):
    """How exactly large tensors are measured."""

    relative_error: float = Field(
        0.02, ge=0, le=1, description="stop sampling rows at this standard error, relative to the cost; 0: all rows"
    )
    min_rows: int = Field(
        128, ge=2, description="least number of rows to measure; tensors with at most twice as many are measured whole"
    )
    whole_weights: int = Field(1 << 19, ge=0, description="tensors of at most this many weights are measured whole")
    seed: int = 0
    activations: Literal["cpu", "gpu", "none"] = Field(
        "cpu",
        description="add the cost of rounding a product's inputs: cpu as ggml does there, gpu with blocks of 32 throughout, none",
    )
    rounding: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict,
        description="the *.rounding.json of an export with feedback: count only the share of each tensor's error that it left",
    )

    def demands(self, work: Work) -> Demands:
        """Seconds of one core: every tensor at a fast type, and a sample of its rows at each type that is wanted."""
        seconds = 0.0
        for name, types in work.wanted.items():
            info = work.tensors[name]
            n_sampled = min(info.n_params, max(self.whole_weights, self.min_rows * info.n_in))
            seconds += info.n_params / (SPEED["Q8_0"] * 1e6) + sum(n_sampled / (SPEED.get(q.name, _SLOW) * 1e6) for q in types)
        return Demands(core_seconds=seconds)

    @field_validator("rounding", mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        """Read the file: costs depend on the shares by tensor in it, not on its name."""
        return {name: gain.left for name, gain in load_gains(Path(given)).items()} if isinstance(given, (str, Path)) else given


@dataclass(frozen=True, slots=True)
class _Weights:
    """The weights of one tensor's squared errors, by role: out [n_rows] and in [n_expert or 1, n_in]."""

    roles: tuple[tuple[NDArray[np.float64], FloatArray], ...]
    imatrix: FloatArray
    rows_per_expert: int
    counting: IndexArray  # the rows whose errors have a cost

    def row_errors(self, squared: FloatArray, rows: IndexArray) -> NDArray[np.float64]:
        """1/2 sum over roles of out_i * sum_j in_j * squared_ij, for each row."""
        total = np.zeros(len(rows))
        for out_power, in_power in self.roles:
            columns = in_power[0] if len(in_power) == 1 else in_power[rows // self.rows_per_expert]
            total += 0.5 * out_power[rows] * (squared * columns).sum(axis=1)
        return total


def _weights(model: Model, name: str, sensitivity: TensorSensitivity) -> _Weights:
    info = model.tensors[name]
    roles = tuple(
        (
            np.ones(info.n_rows) if powers.out_power is None else powers.out_power.astype(np.float64),
            np.atleast_2d(powers.in_factor).astype(np.float32),
        )
        for powers in sensitivity.roles
    )
    counting = np.flatnonzero(sum(out_power for out_power, _ in roles))
    return _Weights(roles, np.atleast_2d(sensitivity.imatrix), info.n_rows // info.n_experts, counting)


def _errors_of_rows(model: Model, name: str, rows: IndexArray, q: QType, weights: _Weights) -> NDArray[np.float64]:
    """Weighted squared error of each of the (sorted) rows; experts are quantized with their own imatrix."""
    errors = np.empty(len(rows))
    per_slab = max(1, _SLAB_WEIGHTS // model.tensors[name].n_in)
    experts = rows // weights.rows_per_expert
    for begin in range(0, len(rows), per_slab):
        slab = slice(begin, min(begin + per_slab, len(rows)))
        values = model.read(name, rows[slab])
        quantized = np.empty_like(values)
        for expert in np.unique(experts[slab]):
            mine = experts[slab] == expert
            imatrix = weights.imatrix[min(int(expert), len(weights.imatrix) - 1)]
            quantized[mine] = dequantize(quantize(values[mine], q, imatrix), q)
        errors[slab] = weights.row_errors(np.square(quantized - values), rows[slab])
    return errors


def _energies(model: Model, name: str, weights: _Weights) -> NDArray[np.float64]:
    """The cost of each row that counts if it became zero: 1/2 out_power_i * (W_i^2 . in_power)."""
    per_slab = max(1, _SLAB_WEIGHTS // model.tensors[name].n_in)
    slabs = [weights.counting[begin : begin + per_slab] for begin in range(0, len(weights.counting), per_slab)]
    return np.concatenate([weights.row_errors(np.square(model.read(name, rows)), rows) for rows in slabs])


@dataclass(frozen=True, slots=True)
class _Known:
    """A number for every row that counts, to which its errors are about proportional, and the row's chance to be drawn.

    The chance is half in proportion to that number, half uniform: so no drawn row weighs more than twice its share of all rows.
    """

    sizes: NDArray[np.float64]
    chances: NDArray[np.float64]


def _known(model: Model, name: str, weights: _Weights) -> _Known:
    """The errors of the rows that count at a type with a fast kernel; their energies if the tensor cannot have that type."""
    info, rows = model.tensors[name], weights.counting
    fast = "Q5_0" if info.n_in % 256 else "Q6_K" if info.n_params <= _LARGE else "Q8_0"
    try:
        sizes = _errors_of_rows(model, name, rows, qtype(fast), weights)
    except UnusableTypeError:
        sizes = _energies(model, name, weights)
    total = sizes.sum()
    uniform = np.full(len(rows), 1 / len(rows))
    return _Known(sizes, uniform if total <= 0 else 0.5 * uniform + 0.5 * sizes / total)


def _sampled(model: Model, name: str, q: QType, weights: _Weights, known: _Known, options: Options) -> Cost:
    """The ratio estimate from rows drawn with replacement; the sample is doubled until the standard error is small enough.

    Its bias is of the order of 1 / rows. Its standard error is that of the residuals from the ratio (Cochran, equations 6.9 and 6.13).
    """
    n_rows = len(weights.counting)
    seed = int.from_bytes(hashlib.sha256(f"{options.seed} {name}".encode()).digest()[:8], "little")
    rng = np.random.default_rng(seed)  # the same rows for every type: costs of a tensor are compared with each other
    errors, sizes = np.empty(0), np.empty(0)
    n_drawn, n_more = 0, options.min_rows
    while n_drawn + n_more < n_rows:
        drawn, counts = np.unique(rng.choice(n_rows, size=n_more, p=known.chances), return_counts=True)
        found = _errors_of_rows(model, name, weights.counting[drawn], q, weights)
        errors = np.concatenate([errors, np.repeat(found / known.chances[drawn], counts)])
        sizes = np.concatenate([sizes, np.repeat(known.sizes[drawn] / known.chances[drawn], counts)])
        n_drawn, n_more = len(errors), len(errors)
        cost, se = _ratio_estimate(errors, sizes, float(known.sizes.sum()))
        if se <= options.relative_error * cost:
            return Cost(cost, se, n_drawn)
    return _whole(model, name, q, weights)


def _ratio_estimate(errors: NDArray[np.float64], sizes: NDArray[np.float64], total: float) -> tuple[float, float]:
    """(estimate of the sum of all errors, its standard error) from drawn errors and sizes over their chances; ``total`` sums all sizes."""
    mean = float(sizes.mean())
    if mean <= 0 or total <= 0:
        return float(errors.mean()), float(errors.std(ddof=1) / np.sqrt(len(errors)))
    ratio = float(errors.mean()) / mean
    left = float((errors - ratio * sizes).std(ddof=1) / np.sqrt(len(errors)))
    return ratio * total, left * total / mean


def _whole(model: Model, name: str, q: QType, weights: _Weights) -> Cost:
    """The cost from every row that counts, without sampling error."""
    rows = weights.counting
    return Cost(float(_errors_of_rows(model, name, rows, q, weights).sum()), 0.0, len(rows))


def _priced(cell: Cost, name: str, q: QType, activation: Mapping[str, float], options: Options) -> Cost:
    """The cell times the share of the error that the exporter's rounding leaves (one for all types), plus the rounding of inputs.

    The latter is in nats/token, and 0 if the estimator does not know it.
    """
    left = 1.0 if q.is_float else options.rounding.get(name, 1.0)
    form = {"cpu": activation_format(q), "gpu": "Q8_0", "none": None}[options.activations]
    return replace(cell, cost=left * cell.cost + (activation.get(form, 0.0) if form else 0.0), se=left * cell.se)


def _measured(model: Model, name: str, q: QType, weights: _Weights, known: _Known | None, options: Options) -> Cost:
    """The cost from a sample where ``known`` helps to draw it, else from all rows; infinite if the tensor cannot have the type."""
    try:
        return _sampled(model, name, q, weights, known, options) if known else _whole(model, name, q, weights)
    except UnusableTypeError:
        return Cost(math.inf, 0.0, 0)


@hookimpl
def bitclass3_measure(model: Model, sensitivity: Sensitivity, qtypes: tuple[QType, ...], options: Options) -> CostTable:
    """Cost of every tensor at every type; in nats per token if the sensitivity has out_power."""
    costs: dict[str, dict[str, Cost]] = {}
    for name, info in model.tensors.items():
        weights = _weights(model, name, sensitivity.tensors[name])
        n_rows = len(weights.counting)
        whole = n_rows <= 2 * options.min_rows or n_rows * info.n_in <= options.whole_weights or options.relative_error == 0
        known = None if whole else _known(model, name, weights)
        cells = {q: _measured(model, name, q, weights, known, options) for q in qtypes}
        activation = sensitivity.tensors[name].activation
        costs[name] = {q.name: _priced(cell, name, q, activation, options) for q, cell in cells.items()}
    return CostTable(costs, sensitivity.in_nats)
