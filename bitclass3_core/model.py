"""What a model is to every stage: named tensors that are read one at a time, and what an architecture knows of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.qtypes import QType, qtype

FloatArray = NDArray[np.float32]
IndexArray = NDArray[np.int64]
Rows = slice | IndexArray | None

GGUF_ALIGNMENT = 32
_BLOCK = re.compile(r"^blk\.(\d+)\.(.+)$")


def padded(n_bytes: int, alignment: int = GGUF_ALIGNMENT) -> int:
    """``n_bytes`` rounded up to the alignment at which GGUF stores the next tensor."""
    return -(-n_bytes // alignment) * alignment


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of the source: ggml name, shape in numpy order ((n_out, n_in), (n_expert, n_out, n_in) or (n,)) and stored qtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def n_in(self) -> int:
        """Number of weights in a row."""
        return self.shape[-1]

    @property
    def n_rows(self) -> int:
        """Number of rows; a stack counts the rows of all its experts."""
        return prod(self.shape[:-1])

    @property
    def n_params(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def n_experts(self) -> int:
        """Number of matrices in the stack; 1 for a single matrix."""
        return self.shape[0] if len(self.shape) == 3 else 1

    @property
    def block(self) -> int | None:
        """Number of the block (layer); None for a tensor outside of the blocks."""
        match = _BLOCK.match(self.name)
        return int(match[1]) if match else None

    @property
    def role(self) -> str:
        """The name without block number and ``.weight``: ``attn_q``, ``ffn_down``, ``token_embd``, ``output``."""
        match = _BLOCK.match(self.name)
        return (match[2] if match else self.name).removesuffix(".weight")

    def accepts(self, q: QType) -> bool:
        """Whether rows of this tensor can be cut into blocks of that type."""
        return self.n_in % q.block_size == 0

    def n_bytes(self, q: QType) -> int:
        """Exact bytes of this tensor at that type, without alignment. Raises ValueError where ``accepts`` says no."""
        if not self.accepts(q):
            raise ValueError(f"{self.name} has rows of {self.n_in}, no multiple of {q.name}'s block of {q.block_size}")
        return self.n_rows * (self.n_in // q.block_size) * q.type_size

    @property
    def source_bytes(self) -> int:
        """Exact bytes of this tensor as it is stored in the source."""
        return self.n_bytes(qtype(self.dtype))


class Model(Protocol):
    """A source model, or a candidate: tensors by ggml name, in file order."""

    @property
    def name(self) -> str:
        """Short name for files and tables."""

    @property
    def arch(self) -> str:
        """``general.architecture``: ``qwen35``, ``llama``."""

    @property
    def path(self) -> Path:
        """The GGUF file (the first of a split)."""

    @property
    def hf(self) -> Path | None:
        """The HF folder of the same model, if one was given: what torch loads."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """GGUF metadata, decoded."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """GGUF metadata as gguf's reader gives it (``ReaderField``): what a writer copies."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """All tensors, those that are never quantized included."""

    @property
    def fingerprint(self) -> str:
        """Changes when the model's content changes."""

    def read(self, name: str, rows: Rows = None) -> FloatArray:
        """Float32 rows [n, n_in] of one tensor, experts stacked; all rows if ``rows`` is None. Raises ModelFileError on NaN or Inf."""

    def read_raw(self, name: str) -> NDArray[np.uint8]:
        """The tensor's bytes as they are stored."""


class OneTensor:
    """A view of a model that has a single tensor; the measure hook is called with it."""

    def __init__(self, model: Model, name: str) -> None:
        self._model = model
        self.name, self.arch, self.path, self.hf = model.name, model.arch, model.path, model.hf
        self.metadata: Mapping[str, Any] = model.metadata
        self.fields: Mapping[str, Any] = model.fields
        self.fingerprint = model.fingerprint
        self.tensors: Mapping[str, TensorInfo] = {name: model.tensors[name]}

    def read(self, name: str, rows: Rows = None) -> FloatArray:
        """Rows of the tensor."""
        return self._model.read(name, rows)

    def read_raw(self, name: str) -> NDArray[np.uint8]:
        """Bytes of the tensor."""
        return self._model.read_raw(name)


@dataclass(frozen=True, slots=True)
class Place:
    """How a ggml tensor is cut out of one HF parameter that is fused, stacked or transposed.

    The parameter is the first of ``stems`` (with ``.weight`` or without) that the HF model has. It is reshaped to ``shape`` if that is
    given. Its last two axes change places if ``transposed``. Then ``rows`` selects from the last axis but one, and ``columns`` from
    the last; each is an index array or a slice. The conversion multiplies the tensor, or each of its rows, with ``scale``.
    """

    stems: tuple[str, ...]
    shape: tuple[int, ...] | None = None
    transposed: bool = False
    rows: Rows = None
    columns: Rows = None
    scale: float | FloatArray = 1.0


@dataclass(frozen=True, slots=True)
class Architecture:
    """What must be known of a model family to allocate types for it.

    ``hf_stems[ggml name]`` are the names (without ``.weight``) under which HF models keep that tensor, likeliest first.
    ``places[ggml name]`` says how the tensor is cut out of its HF parameter, where it is not the whole parameter.
    ``row_order`` and ``column_order`` are index arrays for tensors whose rows or columns the conversion to GGUF permutes:
    ``gguf[i, j] == hf[row_order[i], column_order[j]]``, where ``hf`` is the parameter, or the part of it that its place names.
    ``floors[ggml name]`` is the smallest qtype (by bpw) that an allocation may give.
    """

    name: str
    quantizable: frozenset[str]
    floors: Mapping[str, str] = field(default_factory=dict)
    hf_stems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    row_order: Mapping[str, IndexArray] = field(default_factory=dict)
    column_order: Mapping[str, IndexArray] = field(default_factory=dict)
    places: Mapping[str, Place] = field(default_factory=dict)


def total_params(model: Model) -> int:
    """Number of weights of the whole model: the denominator of bpw."""
    return sum(info.n_params for info in model.tensors.values())
