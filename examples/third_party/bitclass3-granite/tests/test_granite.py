"""Granite keeps the contract, and its orders are those of llama.cpp's converter."""

import bitclass3_granite
import numpy as np
import pytest

from bitclass3_core.gguf_model import GgufModel
from bitclass3_core.testing import ArchitectureConformance
from bitclass3_core.testing.samples import sample_weights, write_gguf

HEADS, HEADS_KV, WIDTH = 8, 2, 256
SHAPES = {
    "q_proj": ("attn_q", (WIDTH, WIDTH)),
    "k_proj": ("attn_k", (64, WIDTH)),
    "v_proj": ("attn_v", (64, WIDTH)),
    "o_proj": ("attn_output", (WIDTH, WIDTH)),
    "gate_proj": ("ffn_gate", (512, WIDTH)),
    "up_proj": ("ffn_up", (512, WIDTH)),
    "down_proj": ("ffn_down", (WIDTH, 512)),
}


def hf_name(block: int, module: str) -> str:
    return f"model.layers.{block}.{'self_attn' if module in ('q_proj', 'k_proj', 'v_proj', 'o_proj') else 'mlp'}.{module}"


HF = {
    hf_name(n, module): sample_weights(shape, 10 * n + i) for n in range(2) for i, (module, (_, shape)) in enumerate(SHAPES.items())
}


def converted(module: str, weights: np.ndarray) -> np.ndarray:
    """What llama.cpp's converter does to a Granite tensor (``LlamaModel.permute`` in conversion/llama.py)."""
    heads = {"q_proj": HEADS, "k_proj": HEADS_KV}.get(module)
    if heads is None:
        return weights
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)


class TestGranite(ArchitectureConformance):
    plugin = bitclass3_granite

    @pytest.fixture
    def hf_weights(self):
        return HF

    @pytest.fixture
    def model(self, tmp_path):
        tensors = {"token_embd.weight": sample_weights((320, WIDTH), 99), "output_norm.weight": np.ones(WIDTH, np.float32)}
        for n in range(2):
            tensors |= {f"blk.{n}.{role}.weight": converted(module, HF[hf_name(n, module)]) for module, (role, _) in SHAPES.items()}
        metadata = {"granite.block_count": 2, "granite.attention.head_count": HEADS, "granite.attention.head_count_kv": HEADS_KV}
        return GgufModel(write_gguf(tmp_path / "granite.gguf", "granite", tensors, metadata))

    def test_only_query_and_key_are_reordered(self, model):
        orders = self.architecture_of(model).row_order
        assert set(orders) == {f"blk.{n}.attn_{role}.weight" for n in range(2) for role in "qk"}
        assert orders["blk.0.attn_q.weight"][:4].tolist() == [0, 16, 1, 17]
