"""ggml's own quantization kernels, by ctypes: what llama-quantize calls, block for block.

The library is ``libggml-base`` of the llama.cpp that the run or ``$LLAMA_CPP_DIR`` names, if there is one, else the one in the PyPI
package ``libggml-python``. The kernels release the GIL, so rows can be quantized in parallel by plain threads.
"""

import ctypes
import hashlib
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.errors import ModelFileError, ToolchainError, UnusableTypeError
from bitclass3_core.machine import llama_cpp_folder
from bitclass3_core.model import FloatArray
from bitclass3_core.qtypes import NEEDS_IMATRIX, QType

_LIBRARY_NAMES = {"linux": "libggml-base.so", "darwin": "libggml-base.dylib", "win32": "ggml-base.dll"}
# Million weights a second that one core quantizes (ggml 0.20.2, AVX2; benchmarks/kernel_speed.py). The first row of a type with a
# lattice takes longer, once in a process, as ggml then makes its tables: IQ1_S 8 s, IQ2_S 4 s, IQ2_XS 2 s, IQ2_XXS 1 s.
SPEED = {
    "Q8_0": 280,
    "Q4_0": 39,
    "Q5_0": 39,
    "Q6_K": 32,
    "Q3_K": 26,
    "Q4_1": 9,
    "Q5_1": 9,
    "Q4_K": 8.6,
    "Q5_K": 8.7,
    "Q2_K": 7.6,
    "IQ4_NL": 5,
    "IQ4_XS": 4.8,
    "IQ3_S": 3.5,
    "IQ3_XXS": 2.2,
    "IQ1_S": 5.6,
    "IQ2_S": 5,
    "IQ2_XXS": 3,
    "IQ1_M": 1.6,
    "IQ2_XS": 1.4,
}
_F16_OVERFLOW = 65520.0  # the smallest number that rounds to Inf
_FLOATS = ctypes.POINTER(ctypes.c_float)
_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, _FLOATS, ctypes.c_int64)


class _TypeTraits(ctypes.Structure):
    """ggml's ``struct ggml_type_traits``."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _TO_FLOAT),
        ("from_float_ref", ctypes.c_void_p),
    )


@dataclass(frozen=True, slots=True)
class Library:
    """The loaded ggml: its file, version and content hash."""

    handle: ctypes.CDLL
    path: Path
    version: str

    @property
    def fingerprint(self) -> str:
        """Version and hash of the library's file: kernels may change between builds of one version."""
        return f"{self.version}-{_hash_of(self.path)}"


@cache
def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def find_library() -> Path:
    """The file of libggml-base that will be used. Raises ToolchainError if there is none."""
    name = _LIBRARY_NAMES.get(sys.platform, "libggml-base.so")
    if (llama_cpp := llama_cpp_folder()) is not None and (found := sorted(llama_cpp.rglob(name))):
        return found[0].resolve()
    try:
        import libggml
    except ImportError:
        raise ToolchainError(
            "libggml-python is not installed; pip install libggml-python, or set LLAMA_CPP_DIR to a llama.cpp build"
        ) from None
    found = sorted(Path(str(libggml.__file__)).parent.rglob(name))
    if not found:
        raise ToolchainError(f"no {name} in the package libggml-python; reinstall it, or set LLAMA_CPP_DIR to a llama.cpp build")
    return found[0].resolve()


@cache
def library() -> Library:
    """Load ggml once. Raises ToolchainError if it cannot be loaded."""
    path = find_library()
    try:
        handle = ctypes.CDLL(str(path))
        handle.ggml_quantize_chunk.restype = ctypes.c_size_t
        handle.ggml_quantize_chunk.argtypes = [ctypes.c_int, _FLOATS, ctypes.c_void_p, *(ctypes.c_int64,) * 3, _FLOATS]
        handle.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
        handle.ggml_get_type_traits.argtypes = [ctypes.c_int]
        handle.ggml_validate_row_data.restype = ctypes.c_bool
        handle.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
        handle.ggml_version.restype = ctypes.c_char_p
        return Library(handle, path, handle.ggml_version().decode())
    except (OSError, AttributeError) as error:
        raise ToolchainError(f"{path} cannot be used as ggml ({error}); reinstall libggml-python or set LLAMA_CPP_DIR") from None


def _check_layout(q: QType) -> _TypeTraits:
    """What ggml says of the type; raises ToolchainError if gguf's tables say otherwise (ggml is too old or too new)."""
    traits = library().handle.ggml_get_type_traits(q.ggml_id).contents
    if (traits.blck_size, traits.type_size) != (q.block_size, q.type_size):
        message = f"ggml {library().version} stores {q.name} as {traits.blck_size} weights in {traits.type_size} bytes, gguf says {q.block_size} in {q.type_size}"
        raise ToolchainError(f"{message}; update libggml-python and gguf together")
    return traits  # type: ignore[no-any-return]


def _float_to_bytes(rows: FloatArray, q: QType) -> NDArray[np.uint8]:
    if q.name == "F32":
        return rows.view(np.uint8)
    if q.name == "F16":
        if rows.size and np.abs(rows).max() >= _F16_OVERFLOW:
            raise UnusableTypeError("", q.name, "weights too large for F16")
        return rows.astype(np.float16).view(np.uint8)
    bits = rows.view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)  # BF16: round half to even
    return rounded.view(np.uint8)


def quantize(rows: FloatArray, q: QType, imatrix: FloatArray | None = None) -> NDArray[np.uint8]:
    """Quantize [n, n_in] float32 rows to bytes [n, row bytes], guided by the importance of each column [n_in] if there is one.

    Raises UnusableTypeError if the type cannot hold these weights. Raises ModelFileError for NaN or Inf, and if the type needs an
    imatrix and there is none. Raises ValueError for rows or an imatrix of a size with which ggml would end the process.
    """
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if not np.isfinite(rows).all():
        raise ModelFileError("NaN or Inf among the weights; this tensor cannot be quantized, repair the source")
    if q.is_float:
        return _float_to_bytes(rows, q).reshape(len(rows), -1)
    if imatrix is None and q.name in NEEDS_IMATRIX:
        raise ModelFileError(f"{q.name} needs an imatrix; choose another type or an estimator that gives in_power")
    n_rows, n_in = rows.shape
    if n_in % q.block_size or (imatrix is not None and imatrix.shape != (n_in,)):
        given = "no imatrix" if imatrix is None else f"an imatrix of shape {imatrix.shape}"
        raise ValueError(f"{q.name} takes rows of a multiple of {q.block_size} and an imatrix of one row, got {n_in} and {given}")
    if imatrix is not None and not np.isfinite(imatrix).all():
        raise ModelFileError("NaN or Inf in the imatrix; make the imatrix again")
    _check_layout(q)
    out = np.empty((n_rows, n_in // q.block_size * q.type_size), dtype=np.uint8)
    weights = None if imatrix is None else np.ascontiguousarray(imatrix, dtype=np.float32).ctypes.data_as(_FLOATS)
    handle = library().handle
    handle.ggml_quantize_chunk(q.ggml_id, rows.ctypes.data_as(_FLOATS), out.ctypes.data, 0, n_rows, n_in, weights)
    if not is_valid(out, q):
        raise UnusableTypeError("", q.name, "quantizing gave invalid blocks (scales that are no numbers)")
    return out


def is_valid(data: NDArray[np.uint8], q: QType) -> bool:
    """Whether the bytes of rows [n, row bytes] pass ggml's own check: every scale is finite. llama.cpp refuses other bytes."""
    data = np.ascontiguousarray(data)
    return bool(library().handle.ggml_validate_row_data(q.ggml_id, data.ctypes.data, data.nbytes))


def dequantize(data: NDArray[np.uint8], q: QType) -> FloatArray:
    """Float32 rows [n, n_in] from bytes [n, row bytes], by ggml's own ``to_float``."""
    data = np.ascontiguousarray(data)
    if q.name == "F32":
        return data.view(np.float32)
    if q.name == "F16":
        return data.view(np.float16).astype(np.float32)
    if q.name == "BF16":
        return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    traits = _check_layout(q)
    out = np.empty((len(data), data.shape[1] // q.type_size * q.block_size), dtype=np.float32)
    traits.to_float(data.ctypes.data, out.ctypes.data_as(_FLOATS), out.size)
    return out
