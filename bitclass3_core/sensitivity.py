"""Sensitivity: the two vectors of every tensor, and their file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bitclass3_core.errors import ModelFileError
from bitclass3_core.files import atomic_path
from bitclass3_core.model import FloatArray, Model


@dataclass(frozen=True, slots=True)
class Powers:
    """The two factors of the Hessian's diagonal: F_ij ~= out_power_i * in_fisher_j (docs/explanation/kl-hessian.md).

    ``in_power`` is E[x^2], the imatrix: [n_in], or [n_expert, n_in] for a stack. ``out_power`` is [n_rows], over all experts. It is None if
    the estimator cannot know it: then every row counts the same, and costs are not in nats. ``in_fisher`` has the shape of
    ``in_power`` and the column sums of F, up to a factor. It is None if the estimator knows only ``in_power``.
    """

    in_power: FloatArray
    out_power: FloatArray | None = None
    in_fisher: FloatArray | None = None

    @property
    def in_factor(self) -> FloatArray:
        """The factor of F by column: in_fisher, or in_power if that is all that is known."""
        return self.in_power if self.in_fisher is None else self.in_fisher

    def score(self) -> float:
        """The mean of in_power over the columns."""
        return float(self.in_power.mean())


@dataclass(frozen=True, slots=True)
class TensorSensitivity:
    """Powers of a tensor as a matrix product (``linear``), as a table that tokens look up (``lookup``), or both if the head is tied.

    ``activation`` is what the rounding of the tensor's inputs costs, in nats/token by format (``Q8_K``, ``Q8_0``); empty if the
    estimator does not know. ``columns`` are the quantization kernel's weights, if they come from another text than the powers.
    """

    linear: Powers | None = None
    lookup: Powers | None = None
    activation: Mapping[str, float] = field(default_factory=dict)
    columns: FloatArray | None = None

    @property
    def roles(self) -> tuple[Powers, ...]:
        """The powers that add up to the tensor's cost."""
        return tuple(powers for powers in (self.linear, self.lookup) if powers is not None)

    @property
    def imatrix(self) -> FloatArray:
        """The weight of each column for the quantization kernel: [n_in] or [n_expert, n_in]."""
        return self.roles[0].in_power if self.columns is None else self.columns


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What an estimator found: powers by ggml tensor name, and where they come from."""

    tensors: Mapping[str, TensorSensitivity]
    estimator: str
    n_tokens: int
    n_ctx: int
    corpus: str
    notes: tuple[str, ...] = ()
    only_ranks: bool = False  # out_power tells which rows matter more, but is not E[g^2]

    @property
    def in_nats(self) -> bool:
        """True if every tensor has an out_power that is E[g^2], so that costs are in nats per token."""
        return not self.only_ranks and all(
            powers.out_power is not None for tensor in self.tensors.values() for powers in tensor.roles
        )

    def scores(self) -> dict[str, float]:
        """The score of every matrix product: mean(in_power), the largest is 1.0."""
        raw = {name: tensor.linear.score() for name, tensor in self.tensors.items() if tensor.linear is not None}
        largest = max(raw.values(), default=0.0)
        return {name: value / largest for name, value in raw.items()} if largest > 0 else raw


def with_columns(sensitivity: Sensitivity, imatrix: Sensitivity) -> Sensitivity:
    """``sensitivity`` with the kernels' column weights of ``imatrix``; a tensor that is only looked up keeps its own."""
    tensors = {
        name: replace(tensor, columns=imatrix.tensors[name].imatrix) if tensor.linear and name in imatrix.tensors else tensor
        for name, tensor in sensitivity.tensors.items()
    }
    return replace(sensitivity, tensors=tensors)


_ROLES = ("linear", "lookup")
_VECTORS = ("in_power", "out_power", "in_fisher")
_COLUMNS = "columns"
_ABOUT = ("estimator", "n_tokens", "n_ctx", "corpus")


def save_sensitivity(sensitivity: Sensitivity, path: Path) -> None:
    """Write a safetensors file: tensors ``<name>|<role>|in_power``, ``...|out_power``, ``...|in_fisher``, metadata as JSON."""
    from safetensors.numpy import save_file

    arrays: dict[str, FloatArray] = {}
    for name, tensor in sensitivity.tensors.items():
        for role in _ROLES:
            for which in _VECTORS:
                if (vector := getattr(getattr(tensor, role), which, None)) is not None:
                    arrays[f"{name}|{role}|{which}"] = np.ascontiguousarray(vector, dtype=np.float32)
        if tensor.columns is not None:
            arrays[f"{name}|{_COLUMNS}|in_power"] = np.ascontiguousarray(tensor.columns, dtype=np.float32)
    about = {key: getattr(sensitivity, key) for key in (*_ABOUT, "notes", "only_ranks")}
    about["activation"] = {name: dict(tensor.activation) for name, tensor in sensitivity.tensors.items() if tensor.activation}
    with atomic_path(path) as temporary:
        save_file(arrays, temporary, metadata={"bitclass3": json.dumps(about)})


def load_sensitivity(path: Path) -> Sensitivity:
    """Read what ``save_sensitivity`` wrote. Raises ModelFileError if the file is damaged or something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["bitclass3"])
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        return _sensitivity_of(about, arrays)
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise ModelFileError(f"{path} is no sensitivity file of bitclass3 ({error}); delete it and run again") from None


def _sensitivity_of(about: Mapping[str, Any], arrays: Mapping[str, FloatArray]) -> Sensitivity:
    found: dict[str, dict[str, dict[str, FloatArray]]] = {}
    for key, array in arrays.items():
        name, role, which = key.rsplit("|", 2)
        found.setdefault(name, {}).setdefault(role, {})[which] = array
    if not isinstance(about, Mapping):
        raise TypeError("no description of the estimate")
    activation = about.get("activation", {})
    tensors = {
        name: TensorSensitivity(
            **{
                role: Powers(parts["in_power"], parts.get("out_power"), parts.get("in_fisher"))
                for role, parts in roles.items()
                if role != _COLUMNS
            },
            activation=activation.get(name, {}),
            columns=roles[_COLUMNS]["in_power"] if _COLUMNS in roles else None,
        )
        for name, roles in found.items()
    }
    known = {key: about[key] for key in _ABOUT}
    return Sensitivity(tensors, **known, notes=tuple(about["notes"]), only_ranks=bool(about.get("only_ranks")))


def _neighbours(model: Model, name: str, known: Mapping[str, TensorSensitivity]) -> list[Powers]:
    """Powers of the two tensors of the same role and shape in the nearest blocks."""
    info = model.tensors[name]
    alike = [
        (abs((model.tensors[other].block or 0) - (info.block or 0)), other)
        for other, tensor in known.items()
        if tensor.linear is not None and model.tensors[other].role == info.role and model.tensors[other].shape == info.shape
    ]
    return [linear for _, other in sorted(alike)[:2] if (linear := known[other].linear) is not None]


def _mean(vectors: Sequence[FloatArray]) -> FloatArray:
    mean: FloatArray = np.stack(np.broadcast_arrays(*vectors)).mean(axis=0)
    return mean


def fill_missing(
    model: Model, quantizable: frozenset[str], known: Mapping[str, TensorSensitivity]
) -> tuple[dict[str, TensorSensitivity], tuple[str, ...]]:
    """(powers of every quantizable tensor, notes that name the tensors whose powers are guessed).

    A tensor without statistics gets the mean over the two nearest tensors of its role and shape. If there are none, it gets the mean
    level of the whole model. In an embedding table all rows then count the same.
    """
    filled = {name: known[name] for name in sorted(quantizable) if name in known}
    missing = sorted(quantizable - set(known))
    levels = [powers for tensor in filled.values() if (powers := tensor.linear) is not None]
    has_out = bool(levels) and all(powers.out_power is not None for powers in levels)
    in_level = float(np.mean([powers.in_power.mean() for powers in levels])) if levels else 1.0
    out_level = float(np.mean([powers.out_power.mean() for powers in levels if powers.out_power is not None])) if has_out else None
    for name in missing:
        info = model.tensors[name]
        near = _neighbours(model, name, known)
        if near:
            outs = [powers.out_power for powers in near if powers.out_power is not None]
            in_power, in_fisher = (_mean([getattr(powers, which) for powers in near]) for which in ("in_power", "in_factor"))
            filled[name] = TensorSensitivity(Powers(in_power, _mean(outs) if outs else None, in_fisher))
        elif info.role == "token_embd":
            rows = np.full(info.n_rows, 1 / info.n_rows, np.float32)
            columns = np.full(info.n_in, 1.0 if out_level is None else out_level, np.float32)
            filled[name] = TensorSensitivity(lookup=Powers(columns, rows))
        else:
            rows_ = None if out_level is None else np.full(info.n_rows, out_level, np.float32)
            filled[name] = TensorSensitivity(Powers(np.full(info.n_in, in_level, np.float32), rows_))
    listed = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
    notes = (f"{len(missing)} tensors have no statistics of their own and got their neighbours' mean: {listed}",) if missing else ()
    return {name: filled[name] for name in sorted(filled)}, notes
