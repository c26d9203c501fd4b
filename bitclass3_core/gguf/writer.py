"""Writing a GGUF from a source's metadata: gguf's own writer, tensor by tensor, under its final name only when complete."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from numpy.typing import NDArray

from bitclass3_core.files import atomic_path
from bitclass3_core.model import Model, TensorInfo, padded
from bitclass3_core.qtypes import QType, qtype

QUANTIZATION_VERSION = 2  # ggml's GGML_QNT_VERSION
IMATRIX_FILE, IMATRIX_DATASET = "imatrix.gguf", "bitclass3"
# Keys that the writer sets itself; the alignment is GGUF's default again.
_REPLACED = {"general.architecture", "general.file_type", "general.quantization_version", "general.alignment"}
GUESSED_FTYPE = 1024  # llama.cpp's flag for a file whose types are those of no mix
# general.file_type: llama.cpp's number of each mix
FTYPES = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q2_K": 10,
    "Q3_K_S": 11,
    "Q3_K_M": 12,
    "Q3_K_L": 13,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_K_S": 16,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "IQ2_XXS": 19,
    "IQ2_XS": 20,
    "Q2_K_S": 21,
    "IQ3_XS": 22,
    "IQ3_XXS": 23,
    "IQ1_S": 24,
    "IQ4_NL": 25,
    "IQ3_S": 26,
    "IQ3_M": 27,
    "IQ2_S": 28,
    "IQ2_M": 29,
    "IQ4_XS": 30,
    "IQ1_M": 31,
    "BF16": 32,
}


def tensor_order(model: Model) -> list[TensorInfo]:
    """The tensors in the order in which llama-quantize writes them: those outside of blocks first, then block by block, by name."""
    return sorted(model.tensors.values(), key=lambda info: (-1 if info.block is None else info.block, info.name))


def _copy_metadata(writer: GGUFWriter, model: Model) -> None:
    """Copy every key of the source that the writer does not set itself; keys of splits are not copied."""
    for key, value in model.fields.items():
        empty_array = value.types[0] == GGUFValueType.ARRAY and not len(value.data)
        if key in _REPLACED or key.startswith("quantize.") or empty_array:
            continue
        sub_type = value.types[-1] if value.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(key, value.contents(), value.types[0], sub_type)


def _open_writer(path: Path, model: Model, ftype: str, n_imatrix: int, n_chunks: int) -> GGUFWriter:
    writer = GGUFWriter(path, model.arch)
    _copy_metadata(writer, model)
    writer.add_quantization_version(QUANTIZATION_VERSION)
    writer.add_file_type(FTYPES.get(ftype, GUESSED_FTYPE))
    writer.add_string("quantize.imatrix.file", IMATRIX_FILE)
    writer.add_string("quantize.imatrix.dataset", IMATRIX_DATASET)
    writer.add_uint32("quantize.imatrix.entries_count", n_imatrix)
    writer.add_uint32("quantize.imatrix.chunks_count", n_chunks)
    return writer


def _add_infos(writer: GGUFWriter, model: Model, types: dict[str, QType]) -> None:
    for info in tensor_order(model):
        q = types[info.name]
        row_bytes = info.n_in // q.block_size * q.type_size
        shape = (*info.shape[:-1], row_bytes)
        writer.add_tensor_info(info.name, shape, np.dtype(np.uint8), info.n_bytes(q), GGMLQuantizationType(q.ggml_id))


class GgufSink:
    """An open file after its header: it takes the tensors' bytes in ``tensor_order``."""

    def __init__(self, writer: GGUFWriter) -> None:
        self._writer = writer

    def write(self, data: NDArray[np.uint8]) -> None:
        """The next tensor's bytes, any shape."""
        self._writer.write_tensor_data(np.ascontiguousarray(data).reshape(-1))


@contextmanager
def gguf_sink(
    path: Path, model: Model, qtypes: dict[str, str], ftype: str, n_imatrix: int = 0, n_chunks: int = 0
) -> Iterator[GgufSink]:
    """Open ``path`` and write the header for a model with these types; a tensor without a type keeps its source's."""
    types = {name: qtype(qtypes.get(name, info.dtype)) for name, info in model.tensors.items()}
    with atomic_path(path) as temporary:
        writer = _open_writer(temporary, model, ftype, n_imatrix, n_chunks)
        try:
            _add_infos(writer, model, types)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            yield GgufSink(writer)
        finally:
            writer.close()


def header_bytes(model: Model) -> int:
    """Bytes before the first tensor in a file that ``gguf_sink`` writes: the same for every allocation."""
    types = {name: qtype(info.dtype) for name, info in model.tensors.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "header.gguf"
        writer = _open_writer(path, model, "Q8_0", 0, 0)
        try:
            _add_infos(writer, model, types)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
        finally:
            writer.close()
        n_bytes = path.stat().st_size
    return padded(n_bytes)
