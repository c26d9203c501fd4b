"""Bounds of an untrusted GGUF, checked before a reader follows its counts and offsets.

gguf's own reader trusts every length that it meets: a hostile count makes it loop for ever, a truncated file ends in a numpy error.
``check_gguf`` reads the header once and compares every step with the file's size.
"""

import math
import mmap
import struct
from pathlib import Path

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from bitclass3_core.errors import ModelFileError

_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_MAX_DIMS = 4


class _Cursor:
    """A position in the file; it raises ModelFileError rather than leave the file."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data, self.path, self.offset = data, path, 0

    def fail(self, what: str) -> ModelFileError:
        return ModelFileError(
            f"{self.path} is damaged or truncated: {what} at byte {self.offset} of {len(self._data)}; download or convert it again"
        )

    def skip(self, n_bytes: int, what: str) -> None:
        if n_bytes > len(self._data) - self.offset:
            raise self.fail(f"{what} of {n_bytes} bytes does not fit")
        self.offset += n_bytes

    def number(self, layout: str, what: str) -> int:
        begin = self.offset
        self.skip(struct.calcsize(layout), what)
        return int(struct.unpack_from(layout, self._data, begin)[0])

    def string(self, what: str) -> str:
        length = self.number("<Q", what)
        begin = self.offset
        self.skip(length, what)
        try:
            return self._data[begin : begin + length].decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} that is no UTF-8") from None

    def value(self, kind: int) -> None:
        if kind in _SCALAR_BYTES:
            self.skip(_SCALAR_BYTES[kind], "metadata value")
        elif kind == _STRING:
            self.string("metadata string")
        elif kind == _ARRAY:
            self.array()
        else:
            raise self.fail(f"metadata of unknown kind {kind}")

    def array(self) -> None:
        kind, count = self.number("<I", "array"), self.number("<Q", "array")
        if kind in _SCALAR_BYTES:
            self.skip(count * _SCALAR_BYTES[kind], "metadata array")
            return
        if kind == _ARRAY:
            raise self.fail("metadata array of arrays")
        for _ in range(count):  # ends at the file's end: every string takes 8 bytes or more
            self.value(kind)


def _check_tensor(cursor: _Cursor) -> tuple[str, int, int]:
    """(name, offset, bytes) of the next tensor entry."""
    name = cursor.string("tensor name")
    n_dims = cursor.number("<I", "tensor dimensions")
    if not 0 < n_dims <= _MAX_DIMS:
        raise cursor.fail(f"tensor {name!r} with {n_dims} dimensions")
    shape = [cursor.number("<Q", "tensor shape") for _ in range(n_dims)]
    kind, offset = cursor.number("<I", "tensor type"), cursor.number("<Q", "tensor offset")
    try:
        block_size, type_size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except ValueError:
        raise cursor.fail(f"tensor {name!r} of unknown type {kind} (a newer llama.cpp's?)") from None
    n_params = math.prod(shape)
    if shape[0] % block_size or n_params == 0:
        raise cursor.fail(f"tensor {name!r} with a shape {shape} that its type cannot hold")
    return name, offset, n_params // block_size * type_size


def check_gguf(path: Path) -> None:
    """Raise ModelFileError unless ``path`` is a GGUF (version 2 or 3, little endian) whose counts, strings and tensors lie inside it."""
    try:
        n_bytes = path.stat().st_size
        if n_bytes < 24:
            raise ModelFileError(f"{path} is no GGUF: it has only {n_bytes} bytes; download or convert it again")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _check_content(_Cursor(data, path), n_bytes)
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist; check the path of the GGUF") from None
    except OSError as error:  # a folder, no permission, a name that is too long
        raise ModelFileError(f"{path} cannot be read as a GGUF: {error.strerror}") from None


def _check_content(cursor: _Cursor, n_bytes: int) -> None:
    if cursor.number("<I", "magic") != 0x46554747:
        raise cursor.fail("no GGUF magic")
    version = cursor.number("<I", "version")
    if version not in (2, 3):
        raise cursor.fail(f"GGUF version {version}, only 2 and 3 are known (big endian files are not supported)")
    n_tensors, n_values = cursor.number("<Q", "tensor count"), cursor.number("<Q", "metadata count")
    alignment, names = 32, set()
    for _ in range(n_values):
        key, kind, begin = cursor.string("metadata key"), cursor.number("<I", "metadata kind"), cursor.offset
        cursor.value(kind)
        if key == "general.alignment" and kind == 4:
            end, cursor.offset = cursor.offset, begin
            alignment = cursor.number("<I", "alignment") or 32
            cursor.offset = end
    entries = [_check_tensor(cursor) for _ in range(n_tensors)]
    data_begin = -(-cursor.offset // alignment) * alignment
    for name, offset, size in entries:
        if name in names:
            raise cursor.fail(f"tensor {name!r} twice")
        names.add(name)
        if offset % alignment or data_begin + offset + size > n_bytes:
            raise ModelFileError(
                f"{cursor.path} is damaged or truncated: tensor {name!r} needs bytes up to {data_begin + offset + size}, the file has {n_bytes}; download or convert it again"
            )
