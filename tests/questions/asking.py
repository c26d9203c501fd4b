"""What the questions share: models that lie in the repository, texts and numbers that no generator draws, and digests."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.corpus import Corpus, document
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.names import quantizable_tensors
from bitclass3_core.model import Model
from bitclass3_core.plugin.call import StagePlugin
from bitclass3_core.plugin.manager import load_plugin
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity
from bitclass3_core.testing.samples import write_gguf

Answer = dict[str, Any]
ROOT = Path(__file__).parents[2]
QWEN35, LLAMA, QWEN3 = (
    ROOT / "examples" / "tiny-qwen35",
    ROOT / "tests" / "data" / "llama-tiny",
    ROOT / "tests" / "data" / "qwen3-tiny",
)
ON_CPU = {"device": "cpu", "dtype": "float32"}
# Of the sampled labels: seeds whose draws lie far from where one label ends and the next begins, on any machine.
SEED_LLAMA, SEED_QWEN35 = 21, 6


@cache
def model_of(folder: Path) -> GgufModel:
    """The model of a folder, with its HF files."""
    return GgufModel(folder / "model-bf16.gguf", folder)


@cache
def corpus() -> Corpus:
    """A document of calibration and one of evaluation, of the example's."""

    def first(name: str) -> Any:
        with (QWEN35 / "held-out" / f"{name}.jsonl").open(encoding="utf-8") as lines:
            return document(json.loads(next(lines))["text"], "docs")

    return Corpus((first("calibration"),), (first("evaluation"),))


def spread(n: int, step: int = 37) -> NDArray[np.float32]:
    """``n`` numbers between 0.1 and 2.1 that no generator draws."""
    return (0.1 + (np.arange(n) * step % 101) / 50).astype(np.float32)


def with_experts(folder: Path) -> GgufModel:
    """A small model with a stack of experts, written into the folder."""
    shapes = {"token_embd.weight": (32, 256), "blk.0.attn_q.weight": (16, 256), "blk.0.ffn_up_exps.weight": (3, 16, 256)}
    weights = {
        name: ((np.arange(prod(shape)) * 7919 % 2003 - 1001) / 5000).astype(np.float32).reshape(shape)
        for name, shape in shapes.items()
    }
    return GgufModel(write_gguf(folder / "experts.gguf", "qwen3moe", weights, {"qwen3moe.block_count": 1}))


def made_up(model: Model, out_powers: bool = True) -> Sensitivity:
    """Powers of every quantizable tensor."""

    def powers(name: str, step: int) -> TensorSensitivity:
        info = model.tensors[name]
        out = 1e-5 * spread(info.n_rows, step + 2) if out_powers else None
        inputs = spread(info.n_experts * info.n_in, step).reshape(info.n_experts, info.n_in)
        return TensorSensitivity(Powers(inputs if info.n_experts > 1 else inputs[0], out), activation={"Q8_K": 1e-6, "Q8_0": 2e-6})

    tensors = {name: powers(name, 11 + 2 * i) for i, name in enumerate(sorted(quantizable_tensors(model)))}
    return Sensitivity(tensors, "made up", 4096, 512, "made up")


def ask(plugin: str, stage: str, values: Mapping[str, Any] | None = None, **arguments: Any) -> Any:
    """The plugin's answer, as a run gets it."""
    return StagePlugin.of(stage, load_plugin(plugin), values or {})(**arguments)


@contextmanager
def environment(name: str, value: Path) -> Iterator[None]:
    """A variable of the environment, until the end of the block."""
    before = os.environ.get(name)
    os.environ[name] = str(value)
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


def digest(value: Any) -> str:
    """A digest of nested mappings, sequences, arrays and texts; the order of a set or mapping does not count."""
    if isinstance(value, Mapping):
        return digest([f"{key}:{digest(value[key])}" for key in sorted(value)])
    if isinstance(value, np.ndarray):
        return digest(value.tolist())
    if isinstance(value, (set, frozenset)):
        return digest(sorted(value))
    if isinstance(value, (list, tuple)):
        return hashlib.sha256("|".join(digest(part) for part in value).encode()).hexdigest()[:16]
    if hasattr(value, "__dataclass_fields__"):
        return digest([f"{field.name}:{digest(getattr(value, field.name))}" for field in fields(value)])
    return hashlib.sha256(str(value).encode()).hexdigest()[:16]


def sums(vector: NDArray[Any] | None) -> list[float] | None:
    """The sum, and a sum that tells the order."""
    if vector is None:
        return None
    flat = np.asarray(vector, np.float64).reshape(-1)
    return [float(flat.sum()), float(flat @ spread(flat.size, 29))]
