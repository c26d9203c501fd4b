"""Writing a GGUF from a source's metadata: gguf's own writer, tensor by tensor, under its final name only when complete."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, LlamaFileType
from numpy.typing import NDArray

from bitclass3_core.files import atomic_path
from bitclass3_core.model import Model, TensorInfo, padded
from bitclass3_core.qtypes import qtype

QUANTIZATION_VERSION = 2  # ggml's GGML_QNT_VERSION
IMATRIX_FILE, IMATRIX_DATASET = "imatrix.gguf", "bitclass3"
# Keys that the writer sets itself; the alignment is GGUF's default again.
_REPLACED = {"general.architecture", "general.file_type", "general.quantization_version", "general.alignment"}
GUESSED_FTYPE = 1024  # llama.cpp's flag for a file whose types are those of no mix
# general.file_type: llama.cpp's number of each mix, up to those of types that only models trained in them have
FTYPES = {kind.name.split("_", 1)[1]: int(kind) for kind in LlamaFileType if kind <= LlamaFileType.MOSTLY_BF16}


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


@contextmanager
def _after_header(
    path: Path, model: Model, qtypes: dict[str, str], ftype: str, n_imatrix: int, n_chunks: int
) -> Iterator[GGUFWriter]:
    """A writer of a model with these types, after its header is written."""
    writer = GGUFWriter(path, model.arch)
    try:
        _copy_metadata(writer, model)
        writer.add_quantization_version(QUANTIZATION_VERSION)
        writer.add_file_type(FTYPES.get(ftype, GUESSED_FTYPE))
        writer.add_string("quantize.imatrix.file", IMATRIX_FILE)
        writer.add_string("quantize.imatrix.dataset", IMATRIX_DATASET)
        writer.add_uint32("quantize.imatrix.entries_count", n_imatrix)
        writer.add_uint32("quantize.imatrix.chunks_count", n_chunks)
        _add_infos(writer, model, qtypes)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        yield writer
    finally:
        writer.close()


def _add_infos(writer: GGUFWriter, model: Model, qtypes: dict[str, str]) -> None:
    for info in tensor_order(model):
        q = qtype(qtypes.get(info.name, info.dtype))
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
    with (
        atomic_path(path) as temporary,
        _after_header(temporary, model, qtypes, ftype, n_imatrix, n_chunks) as writer,
    ):
        yield GgufSink(writer)


def header_bytes(model: Model) -> int:
    """Bytes before the first tensor in a file that ``gguf_sink`` writes: the same for every allocation."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "header.gguf"
        with _after_header(path, model, {}, "Q8_0", 0, 0):
            pass
        return padded(path.stat().st_size)
