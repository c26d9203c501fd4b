"""Small GGUF files, whole and split, and a model that lives in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

from bitclass3_core.model import Architecture, TensorInfo

# name -> (shape, stored type): an embedding, two blocks, a stack of three experts, a norm
TENSORS: dict[str, tuple[tuple[int, ...], str]] = {
    "token_embd.weight": ((48, 256), "BF16"),
    "blk.0.attn_norm.weight": ((256,), "F32"),
    "blk.0.attn_q.weight": ((16, 256), "BF16"),
    "blk.0.ffn_down.weight": ((8, 512), "F16"),
    "blk.0.ffn_up_exps.weight": ((3, 8, 256), "BF16"),
    "blk.1.attn_q.weight": ((16, 256), "BF16"),
    "output_norm.weight": ((256,), "F32"),
}
METADATA: dict[str, Any] = {
    "general.name": "tiny",
    "llama.block_count": 2,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.tokens": ["<s>", "a", "bé", "日本"],
    "tokenizer.ggml.scores": [0.0, -1.0, -2.5, -3.0],
    "tokenizer.ggml.add_bos_token": True,
}


def heavy_tailed(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Weights as they occur: many small ones, a few outliers."""
    return (np.random.default_rng(seed).standard_t(3, shape) * 0.05).astype(np.float32)


def weights(tensors: Mapping[str, tuple[tuple[int, ...], str]] = TENSORS, seed: int = 0) -> dict[str, np.ndarray]:
    """Float32 values of each tensor."""
    return {name: heavy_tailed(shape, seed + i) for i, (name, (shape, _)) in enumerate(tensors.items())}


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    else:
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](key, value)


def write_gguf(
    path: Path,
    tensors: Mapping[str, tuple[tuple[int, ...], str]] = TENSORS,
    values: Mapping[str, np.ndarray] | None = None,
    metadata: Mapping[str, Any] = METADATA,
    arch: str = "llama",
) -> Path:
    """Write a GGUF with gguf's own writer; ``values`` replaces the weights of the tensors that it names."""
    writer = GGUFWriter(path, arch)
    for key, value in metadata.items():
        _add(writer, key, value)
    stored = {**weights(tensors), **(values or {})}
    for name, (_, kind) in tensors.items():
        ggml = GGMLQuantizationType[kind]
        data = stored[name].astype({"F32": np.float32, "F16": np.float16}.get(kind, np.float32))
        if kind in ("F32", "F16"):
            writer.add_tensor(name, data)
        else:
            writer.add_tensor(name, gguf.quants.quantize(data, ggml), raw_dtype=ggml)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_split(folder: Path, stem: str = "model") -> list[Path]:
    """The same model in two files, as ``gguf-split`` names them; metadata in the first."""
    names = list(TENSORS)
    paths = []
    for number, part in enumerate((names[:3], names[3:])):
        split = {"split.no": number, "split.count": 2, "split.tensors.count": len(names)}
        path = folder / f"{stem}-{number + 1:05d}-of-00002.gguf"
        values = {name: array for name, array in weights().items() if name in part}
        write_gguf(path, {name: TENSORS[name] for name in part}, values, {**(METADATA if number == 0 else {}), **split})
        paths.append(path)
    return paths


@dataclass
class MemoryModel:
    """A model whose float32 weights are given; stored as ``dtype``."""

    values: dict[str, np.ndarray]
    dtype: str = "BF16"
    arch: str = "llama"
    name: str = "memory"
    path: Path = Path("memory.gguf")
    hf: Path | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = "memory"
    reads: list[str] = field(default_factory=list)

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        return {name: TensorInfo(name, values.shape, self.dtype) for name, values in self.values.items()}

    def read(self, name: str, rows: Any = None) -> np.ndarray:
        self.reads.append(name)
        values = self.values[name].reshape(-1, self.values[name].shape[-1])
        return values if rows is None else values[rows]

    def read_raw(self, name: str) -> np.ndarray:
        return self.values[name].reshape(-1).view(np.uint8)


def memory_model(dtype: str = "BF16", **shapes: tuple[int, ...]) -> MemoryModel:
    """``memory_model(blk__0__attn_q=(16, 256))``: tensors by name, ``__`` for dots, ``.weight`` added."""
    values = {f"{key.replace('__', '.')}.weight": heavy_tailed(shape, i) for i, (key, shape) in enumerate(shapes.items())}
    return MemoryModel(values, dtype)


def matrices(model: Any) -> Architecture:
    """An architecture in which every matrix may be quantized."""
    return Architecture("test", frozenset(name for name, info in model.tensors.items() if len(info.shape) > 1))
