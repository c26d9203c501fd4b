"""A GGUF file, whole or split, as a model: memory-mapped, tensors are read one at a time."""

import hashlib
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType
from gguf.gguf_reader import ReaderField, ReaderTensor
from numpy.typing import NDArray

from bitclass3_core.errors import ModelFileError
from bitclass3_core.gguf.guard import check_gguf
from bitclass3_core.gguf.kernels import dequantize
from bitclass3_core.model import FloatArray, Model, Rows, TensorInfo
from bitclass3_core.qtypes import FLOAT_QTYPES, WRITABLE_QTYPES, qtype

_SPLIT = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.gguf$")
_SAMPLE_BYTES = 4096
_READABLE = {*FLOAT_QTYPES, *WRITABLE_QTYPES, "TQ1_0", "TQ2_0", "MXFP4"}


def split_name(stem: str, number: int, count: int) -> str:
    """llama.cpp's name of one file of a split: ``stem-00001-of-00003.gguf``."""
    return f"{stem}-{number:05d}-of-{count:05d}.gguf"


def split_files(path: Path) -> list[Path]:
    """All files of the split GGUF that ``path`` is one of; ``path`` itself if it is whole. Raises ModelFileError if one is missing."""
    match = _SPLIT.match(path.name)
    if not match:
        return [path]
    count = int(match[3])
    files = [path.with_name(split_name(match[1], number, count)) for number in range(1, count + 1)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelFileError(
            f"split GGUF {path.name} lacks {len(missing)} of its {count} files ({missing[0]}); put them all in {path.parent}"
        )
    return files


def total_file_bytes(path: Path) -> int:
    """Size of a GGUF, all files of a split together."""
    return sum(file.stat().st_size for file in split_files(path))


def open_reader(path: Path) -> GGUFReader:
    """gguf's reader of a file that passed ``check_gguf``. Raises ModelFileError if the file cannot be used."""
    check_gguf(path)
    try:
        return GGUFReader(path)
    except (ValueError, IndexError, KeyError, OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path} is no readable GGUF ({error}); download or convert it again") from None


class GgufModel:
    """A model in a GGUF file; implements the ``Model`` protocol. ``hf`` is the HF folder of the same model, if there is one.

    ``name`` is the name that the user gave, if it differs from the name of the folder or file.
    """

    def __init__(self, path: Path, hf: Path | None = None, name: str | None = None) -> None:
        self.path = path
        self.hf = hf
        self._name = name
        self.files = split_files(path)
        self._readers = [open_reader(file) for file in self.files]
        self._sources: dict[str, ReaderTensor] = {t.name: t for reader in self._readers for t in reader.tensors}
        self.fields: dict[str, ReaderField] = {
            key: value for key, value in self._readers[0].fields.items() if not key.startswith(("GGUF.", "split."))
        }
        if not self._sources:
            raise ModelFileError(f"{path} has no tensors (a vocabulary-only GGUF?); give the GGUF with the weights")

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """Decoded metadata without the long token lists, which ``fields`` has."""
        return {key: value.contents() for key, value in self.fields.items() if not _is_long_array(value)}

    @property
    def arch(self) -> str:
        """``general.architecture``; empty if the file does not say."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def name(self) -> str:
        """The HF folder's name if there is one, else the file's name without type and split number."""
        if self._name:
            return self._name
        if self.hf is not None:
            return self.hf.resolve().name
        match = _SPLIT.match(self.path.name)
        stem = match[1] if match else self.path.name.removesuffix(".gguf")
        return re.sub(r"[-._](bf16|f16|f32)$", "", stem, flags=re.IGNORECASE)

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor, in file order."""
        return {
            name: TensorInfo(name, tuple(int(n) for n in reversed(t.shape)), t.tensor_type.name)
            for name, t in self._sources.items()
        }

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the metadata, of every tensor's name, shape and type, and of bytes from its two ends and its middle."""
        digest = hashlib.sha256()
        for key, value in sorted(self.fields.items()):
            digest.update(key.encode())
            for part in value.parts:
                digest.update(part.tobytes())
        for name, info in self.tensors.items():
            data = self.read_raw(name)
            middle = len(data) // 2
            digest.update(f"{name}{info.shape}{info.dtype}".encode())
            for begin in (0, middle, max(0, len(data) - _SAMPLE_BYTES)):
                digest.update(data[begin : begin + _SAMPLE_BYTES].tobytes())
        return digest.hexdigest()

    def read_raw(self, name: str) -> NDArray[np.uint8]:
        """The tensor's bytes as stored (a view of the memory map)."""
        return np.asarray(self._sources[name].data).reshape(-1).view(np.uint8)

    def read(self, name: str, rows: Rows = None) -> FloatArray:
        """Float32 rows [n, n_in]; all rows if ``rows`` is None. Raises ModelFileError on NaN, Inf, or a type that cannot be read."""
        info = self.tensors[name]
        if info.dtype not in _READABLE:
            raise ModelFileError(
                f"tensor {name} of {self.path.name} is {info.dtype}, which cannot be read as numbers; give a BF16 or F16 GGUF"
            )
        data = self.read_raw(name).reshape(info.n_rows, -1)
        picked = data if rows is None else data[rows]
        values = dequantize(picked, qtype(info.dtype)).reshape(len(picked), info.n_in)
        if not np.isfinite(values).all():
            bad = int(np.argmax(~np.isfinite(values).all(axis=1)))
            raise ModelFileError(
                f"tensor {name} of {self.path.name} has NaN or Inf (row {bad} of those read); repair the source and convert it again"
            )
        return values


def _is_long_array(value: ReaderField) -> bool:
    return bool(value.types) and value.types[0] == GGUFValueType.ARRAY and len(value.data) > 4096


def quantized_share(model: Model) -> float:
    """The share of the weights that are stored in a quantized type; if it is above 0, measurements against this file mean little."""
    infos = model.tensors.values()
    return sum(i.n_params for i in infos if not qtype(i.dtype).is_float) / sum(i.n_params for i in infos)
