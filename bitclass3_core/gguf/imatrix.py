"""imatrix files as llama.cpp reads and writes them: GGUF (in_sum2 and counts), and the legacy binary .dat."""

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from bitclass3_core.errors import ModelFileError
from bitclass3_core.files import atomic_path
from bitclass3_core.gguf.model import open_reader
from bitclass3_core.model import FloatArray
from bitclass3_core.sensitivity import Sensitivity

_SUMS, _COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True, slots=True)
class Imatrix:
    """E[x^2] of every tensor, [n_in] or [n_expert, n_in]; NaN for an expert that no token reached. ``n_tokens`` is 0 if unknown.

    ``counts`` has the number of tokens that reached each tensor [1] or expert [n_expert]; empty if the file does not say.
    """

    in_power: dict[str, FloatArray]
    n_tokens: int
    datasets: tuple[str, ...]
    counts: dict[str, FloatArray] = field(default_factory=dict)


def write_imatrix(path: Path, sensitivity: Sensitivity, dataset: str) -> None:
    """Write an imatrix.gguf from a sensitivity's in_power."""
    n_tokens = max(1, sensitivity.n_tokens)
    with atomic_path(path) as temporary:
        writer = GGUFWriter(temporary, "imatrix")
        del writer.kv_data[0]["general.architecture"]  # an imatrix has a type, no architecture
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", [dataset])
        writer.add_uint32("imatrix.chunk_count", max(1, n_tokens // max(1, sensitivity.n_ctx)))
        writer.add_uint32("imatrix.chunk_size", max(1, sensitivity.n_ctx))
        for name, tensor in sorted(sensitivity.tensors.items()):
            power = np.atleast_2d(tensor.imatrix).astype(np.float32)
            sums = power * np.float32(n_tokens)
            writer.add_tensor(name + _SUMS, sums if len(sums) > 1 else sums[0])
            writer.add_tensor(name + _COUNTS, np.full((len(sums), 1) if len(sums) > 1 else (1,), n_tokens, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def read_imatrix(path: Path) -> Imatrix:
    """The imatrix in a file of either format. Raises ModelFileError if it is neither, or damaged."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelFileError(f"imatrix {path} cannot be read: {error.strerror}; check [estimate] options.path") from None
    found = _read_gguf(path) if magic == b"GGUF" else _read_legacy(path)
    if not found.in_power:
        raise ModelFileError(f"imatrix {path} has no entries; make it again with llama-imatrix")
    for name, values in found.in_power.items():
        reached = values.reshape(-1, values.shape[-1])
        reached = reached[~np.isnan(reached).all(axis=1)]
        if not np.isfinite(reached).all() or (reached < 0).any():
            raise ModelFileError(f"imatrix {path} has NaN, Inf or negative values for {name}; make it again with llama-imatrix")
    return found


def _mean(sums: FloatArray, counts: FloatArray) -> FloatArray:
    """Sums divided by counts, for each expert; NaN if the count is 0."""
    counts = counts.reshape(-1, 1)
    rows = sums.reshape(len(counts), -1)
    mean = np.where(counts > 0, rows / np.maximum(counts, 1), np.nan).astype(np.float32)
    return mean[0] if len(mean) == 1 else mean


def _read_gguf(path: Path) -> Imatrix:
    reader = open_reader(path)
    kind = reader.get_field("general.type")
    if kind is None or kind.contents() != "imatrix":
        raise ModelFileError(f"{path} is a GGUF but no imatrix (general.type is {kind.contents() if kind else 'missing'!r})")
    tensors = {t.name: np.array(t.data, dtype=np.float32).reshape(-1) for t in reader.tensors}
    in_power: dict[str, FloatArray] = {}
    by_name: dict[str, FloatArray] = {}
    for key, sums in tensors.items():
        name = key.removesuffix(_SUMS)
        counts = tensors.get(name + _COUNTS)
        if key == name:
            continue
        if counts is None or not len(counts) or len(sums) % len(counts):
            raise ModelFileError(f"imatrix {path} has no usable counts for {name}; make it again with llama-imatrix")
        in_power[name], by_name[name] = _mean(sums, counts), counts
    n_tokens = max((int(counts.max()) for key, counts in tensors.items() if key.endswith(_COUNTS)), default=0)
    datasets = reader.get_field("imatrix.datasets")
    return Imatrix(in_power, n_tokens, tuple(datasets.contents()) if datasets else (), by_name)


class _Bytes:
    """Reads little-endian values from a file; raises ModelFileError past its end."""

    def __init__(self, path: Path) -> None:
        self._path, self._data, self.offset = path, path.read_bytes(), 0

    def take(self, n_bytes: int) -> bytes:
        if n_bytes < 0 or self.offset + n_bytes > len(self._data):
            raise ModelFileError(
                f"imatrix {self._path} is damaged, truncated or no imatrix (byte {self.offset} of {len(self._data)})"
            )
        self.offset += n_bytes
        return self._data[self.offset - n_bytes : self.offset]

    def int32(self) -> int:
        return int(struct.unpack("<i", self.take(4))[0])

    @property
    def at_end(self) -> bool:
        return self.offset >= len(self._data)


def _read_legacy(path: Path) -> Imatrix:
    """The file holds n_entries, (name length, name, n_calls, n_values, values = n_calls * mean) each, maybe last chunk and dataset."""
    data = _Bytes(path)
    in_power: dict[str, FloatArray] = {}
    for _ in range(data.int32()):
        name = data.take(data.int32()).decode("utf-8", "replace")
        n_calls, n_values = data.int32(), data.int32()
        values = np.frombuffer(data.take(4 * n_values), dtype="<f4").astype(np.float32)
        in_power[name] = values / np.float32(max(1, n_calls))
    datasets: tuple[str, ...] = ()
    if not data.at_end:
        data.int32()  # last chunk
        if not data.at_end:
            datasets = (data.take(data.int32()).decode("utf-8", "replace"),)
    return Imatrix(in_power, 0, datasets)
