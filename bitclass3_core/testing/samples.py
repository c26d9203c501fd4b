"""What the suites work on: small models, texts, statistics, problems and finished runs, all made from seeds."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from bitclass3_core.corpus import Corpus, document
from bitclass3_core.gguf.kernels import quantize
from bitclass3_core.gguf.writer import gguf_sink, tensor_order
from bitclass3_core.model import FloatArray, Model, Rows, TensorInfo
from bitclass3_core.qtypes import qtype
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity

N_VOCAB, WIDTH = 256, 256  # a token for every byte
_SHAPES: dict[str, tuple[int, ...]] = {
    "token_embd.weight": (N_VOCAB, WIDTH),
    "output_norm.weight": (WIDTH,),
    "output.weight": (N_VOCAB, WIDTH),
    **{
        f"blk.{block}.{role}.weight": shape
        for block in range(2)
        for role, shape in {
            "attn_norm": (WIDTH,),
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (WIDTH // 2, WIDTH),
            "attn_v": (WIDTH // 2, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_norm": (WIDTH,),
            "ffn_up": (512, WIDTH),
            "ffn_down": (WIDTH, 512),
        }.items()
    },
    "blk.1.ffn_up_exps.weight": (3, 16, WIDTH),  # a stack of experts
    "blk.1.ffn_gate_shexp.weight": (16, 96),  # rows that hold no block of 256
}
_METADATA: dict[str, Any] = {
    "general.name": "sample",
    "llama.block_count": 2,
    "llama.context_length": 128,
    "llama.embedding_length": WIDTH,
    "llama.feed_forward_length": 512,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "none",
    "tokenizer.ggml.tokens": [f"<0x{byte:02X}>" for byte in range(N_VOCAB)],
}


def sample_weights(shape: tuple[int, ...], seed: int) -> FloatArray:
    """Weights as they occur: many small ones, a few outliers, some columns louder than others."""
    rng = np.random.default_rng(seed)
    return (rng.standard_t(4, shape) * 0.05 * rng.lognormal(0, 0.5, shape[-1])).astype(np.float32)


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


def write_gguf(
    path: Path, arch: str, tensors: Mapping[str, FloatArray], metadata: Mapping[str, Any] | None = None, dtype: str = "BF16"
) -> Path:
    """Write a GGUF: vectors as F32, matrices [n_out, n_in] and stacks [n_expert, n_out, n_in] as ``dtype`` (BF16, F16 or F32)."""
    writer = gguf.GGUFWriter(path, arch)
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
    for key, value in (metadata or {}).items():
        add[type(value)](key, value)
    for name, values in tensors.items():
        kind = gguf.GGMLQuantizationType["F32" if values.ndim == 1 else dtype]
        if kind.name == "BF16":
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values.astype(np.float16 if kind.name == "F16" else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_sample(path: Path) -> Path:
    """Write the sample model: architecture ``llama``, two blocks, 1.1 M random weights in BF16."""
    path.write_bytes(_sample_bytes())
    return path


@cache
def _sample_bytes() -> bytes:
    """The sample model's file, drawn once for the tests of a process."""
    weights = {name: sample_weights(shape, _seed(name)) for name, shape in _SHAPES.items()}
    with TemporaryDirectory() as folder:
        return write_gguf(Path(folder) / "sample.gguf", "llama", weights, _METADATA).read_bytes()


def write_quantized(model: Model, qtypes: Mapping[str, str], path: Path) -> Path:
    """Write a quantization of a model by ggml's kernels, with an even imatrix."""
    with gguf_sink(path, model, dict(qtypes), "Q4_K_M", 0, 0) as sink:
        for info in tensor_order(model):
            q = qtype(qtypes.get(info.name, info.dtype))
            even = np.ones(info.n_in, np.float32)
            sink.write(model.read_raw(info.name) if q.name == info.dtype else quantize(model.read(info.name), q, even))
    return path


def _frozen(array: NDArray[Any]) -> FloatArray:
    array = np.ascontiguousarray(array, np.float32)
    array.flags.writeable = False  # an answer that is made in place in its inputs is an error
    return array


def sample_sensitivity(model: Model, quantizable: Collection[str], *, out_powers: bool = True) -> Sensitivity:
    """Random powers of these tensors; without ``out_powers`` costs only rank. The arrays cannot be written to."""
    tensors = {}
    for name in sorted(quantizable):
        info, rng = model.tensors[name], np.random.default_rng(_seed(name))
        shape = (info.n_experts, info.n_in) if len(info.shape) == 3 else (info.n_in,)
        out = _frozen(rng.lognormal(-12, 1, info.n_rows)) if out_powers else None
        powers = Powers(_frozen(rng.lognormal(0, 1, shape)), out)
        tensors[name] = TensorSensitivity(lookup=powers) if info.role == "token_embd" else TensorSensitivity(powers)
    return Sensitivity(tensors, "sample", n_tokens=4096, n_ctx=512, corpus="sample")


_WORDS = (
    *("the", "of", "a", "measure", "weight", "tensor", "river", "stone", "if", "return"),
    *("print", "light", "north", "window", "paper", "while", "green", "seven", "many", "under"),
)


def sample_corpus(calibration_seed: int = 1, evaluation_seed: int = 2) -> Corpus:
    """Four documents of calibration and four of evaluation, two domains, none in both."""

    def documents(seed: int) -> tuple[Any, ...]:
        rng = np.random.default_rng(seed)
        texts = [" ".join(rng.choice(_WORDS, 800)) for _ in range(4)]
        return tuple(document(f"{seed} {text}", ("prose", "code")[i % 2]) for i, text in enumerate(texts))

    return Corpus(documents(calibration_seed), documents(evaluation_seed))


@dataclass
class Shapes:
    """A model of names and shapes without weights: to be solved for, or reported on; reading it is an error."""

    shapes: Mapping[str, tuple[int, ...]]
    dtype: str = "BF16"
    arch: str = "llama"
    name: str = "Sample-1B"
    path: Path = Path("Sample-1B-BF16.gguf")
    hf: Path | None = None
    metadata: Mapping[str, Any] = field(default_factory=lambda: {"general.name": "Sample 1B", "general.license": "apache-2.0"})
    fields: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = "5a" * 32

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """All tensors."""
        return {name: TensorInfo(name, shape, "F32" if len(shape) == 1 else self.dtype) for name, shape in self.shapes.items()}

    def read(self, name: str, rows: Rows = None) -> FloatArray:  # noqa: ARG002 (as the protocol has it)
        """Refuse."""
        raise AssertionError(f"the plugin reads the weights of {name}, which its hook has no use for and which may take minutes")

    def read_raw(self, name: str) -> NDArray[np.uint8]:
        """Refuse."""
        raise AssertionError(f"the plugin reads the bytes of {name}, which its hook has no use for and which may take minutes")


def sample_shapes(n_blocks: int = 6) -> dict[str, tuple[int, ...]]:
    """Shapes of a small model of llama's kind."""
    block: dict[str, tuple[int, ...]] = {
        "attn_q": (512, 512),
        "attn_k": (256, 512),
        "attn_v": (256, 512),
        "attn_output": (512, 512),
    }
    block |= {"ffn_gate": (1536, 512), "ffn_up": (1536, 512), "ffn_down": (512, 1536), "attn_norm": (512,)}
    blocks = {f"blk.{n}.{role}.weight": shape for n in range(n_blocks) for role, shape in block.items()}
    return {"token_embd.weight": (8192, 512), **blocks, "output_norm.weight": (512,), "output.weight": (8192, 512)}
