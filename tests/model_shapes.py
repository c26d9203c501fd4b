"""Published models as names and shapes alone, with scores and costs that are made up: what planning needs, no weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.model import FloatArray, Rows, TensorInfo
from bitclass3_core.qtypes import menu
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity


@dataclass(frozen=True)
class ShapeModel:
    """A model whose weights nobody may read."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    name: str = "Shapes"
    arch: str = "qwen35"
    path: Path = Path("Shapes-BF16.gguf")
    hf: Path | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = "f" * 64

    def read(self, name: str, rows: Rows = None) -> FloatArray:
        raise AssertionError("weights are not to be read")

    def read_raw(self, name: str) -> Any:
        raise AssertionError("weights are not to be read")


def _infos(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, TensorInfo]:
    kept = ("conv1d", "ssm_a", "ssm_dt")
    return {
        name: TensorInfo(name, shape, "F32" if len(shape) == 1 or any(part in name for part in kept) else "BF16")
        for name, shape in shapes.items()
    }


def qwen35_9b() -> ShapeModel:
    """427 tensors: 24 blocks of linear attention, 8 of attention (every fourth), 32 feed-forward networks."""
    width, inner = 4096, 12288
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (248320, width),
        "output.weight": (248320, width),
        "output_norm.weight": (width,),
    }
    for block in range(32):
        attention = {"attn_q": (8192, width), "attn_k": (1024, width), "attn_v": (1024, width), "attn_output": (width, width)}
        attention |= {"attn_q_norm": (256,), "attn_k_norm": (256,)}
        linear = {"attn_qkv": (8192, width), "attn_gate": (4096, width), "ssm_out": (width, 4096)}
        linear |= {"ssm_alpha": (32, width), "ssm_beta": (32, width), "ssm_conv1d": (8192, 4), "ssm_norm": (128,)}
        roles = attention if block % 4 == 3 else linear
        roles |= {"ffn_gate": (inner, width), "ffn_up": (inner, width), "ffn_down": (width, inner)}
        roles |= {"attn_norm": (width,), "post_attention_norm": (width,)}
        shapes |= {f"blk.{block}.{role}.weight": shape for role, shape in roles.items()}
        if block % 4 != 3:
            shapes |= {f"blk.{block}.ssm_a": (32,), f"blk.{block}.ssm_dt.bias": (32,)}
    metadata = {
        "qwen35.block_count": 32,
        "qwen35.embedding_length": width,
        "qwen35.attention.head_count": 16,
        "qwen35.attention.head_count_kv": 4,
        "qwen35.attention.key_length": 256,
        "qwen35.attention.value_length": 256,
        "qwen35.ssm.conv_kernel": 4,
        "qwen35.ssm.state_size": 128,
        "qwen35.ssm.group_count": 16,
        "qwen35.ssm.inner_size": 4096,
    }
    return ShapeModel(_infos(shapes), metadata, "Qwen3.5-9B")


def qwen3_30b_a3b() -> ShapeModel:
    """579 tensors: 48 blocks, three stacks of 128 experts in each."""
    width = 2048
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (151936, width),
        "output.weight": (151936, width),
        "output_norm.weight": (width,),
    }
    for block in range(48):
        roles: dict[str, tuple[int, ...]] = {
            "attn_norm": (width,),
            "attn_q": (4096, width),
            "attn_k": (512, width),
            "attn_v": (512, width),
            "attn_output": (width, 4096),
            "attn_q_norm": (128,),
            "attn_k_norm": (128,),
            "ffn_norm": (width,),
            "ffn_gate_inp": (128, width),
            "ffn_gate_exps": (128, 768, width),
            "ffn_up_exps": (128, 768, width),
            "ffn_down_exps": (128, width, 768),
        }
        shapes |= {f"blk.{block}.{role}.weight": shape for role, shape in roles.items()}
    metadata = {
        "qwen3moe.block_count": 48,
        "qwen3moe.embedding_length": width,
        "qwen3moe.attention.head_count": 32,
        "qwen3moe.attention.head_count_kv": 4,
        "qwen3moe.attention.key_length": 128,
        "qwen3moe.attention.value_length": 128,
        "qwen3moe.expert_count": 128,
        "qwen3moe.expert_used_count": 8,
    }
    return ShapeModel(_infos(shapes), metadata, "Qwen3-30B-A3B", "qwen3moe")


# Score of the block's attention, which query, key and value share: they read the same input. The first five are published findings
# on a Qwen3.5-9B (blk.3 the most sensitive, peaks at both ends and in the middle), the other three lie below them.
_ATTENTION = {3: 1.0, 7: 0.78, 23: 0.78, 27: 0.86, 31: 0.87, 11: 0.6, 15: 0.55, 19: 0.6}


def findings_scores(model: ShapeModel) -> dict[str, float]:
    """Scores of the 9B as its findings have them; ffn_down is near zero in blocks 4 and 5."""
    by_role = {"attn_qkv": 0.3, "attn_gate": 0.3, "ssm_alpha": 0.3, "ssm_beta": 0.3, "ffn_gate": 0.1, "ffn_up": 0.1, "output": 0.4}
    by_role |= {"ffn_down": 0.004, "ssm_out": 0.01, "attn_output": 0.01}
    scores = {}
    for name, info in model.tensors.items():
        if len(info.shape) < 2 or info.role in ("token_embd", "ssm_conv1d"):
            continue
        block = info.block if info.block is not None else -1
        scores[name] = _ATTENTION[block] if info.role in ("attn_q", "attn_k", "attn_v") else by_role[info.role]
        if info.role == "ffn_down" and block in (4, 5):
            scores[name] = 0.0003
    return scores


def sensitivity_of(scores: Mapping[str, float], tables: tuple[str, ...] = ("token_embd.weight",)) -> Sensitivity:
    """Powers with these scores; tables are looked up."""
    tensors = {name: TensorSensitivity(linear=Powers(np.full(1, score, np.float32))) for name, score in scores.items()}
    tensors |= {name: TensorSensitivity(lookup=Powers(np.ones(1, np.float32))) for name in tables}
    return Sensitivity(tensors, "hessian-diag", 16384, 512, "c" * 64)


def synthetic_costs(model: ShapeModel, quantizable: frozenset[str], seed: int = 0) -> CostTable:
    """Costs that fall by four with every bit, lognormal over tensors, a little off the curve for every type."""
    rng = np.random.default_rng(seed)
    costs = {}
    for name in sorted(quantizable):
        info = model.tensors[name]
        scale = info.n_params**0.5 * rng.lognormal(-12, 1)
        cells = {
            q.name: Cost(float(scale * 4.0**-q.bpw * rng.lognormal(0, 0.1)), 0.0, 8) for q in menu("default") if info.accepts(q)
        }
        costs[name] = {**cells, info.dtype: Cost(0.0, 0.0, 0)}
    return CostTable(costs)


def bpw_of(n_bytes: int, model: ShapeModel) -> float:
    """Bits per weight over all tensors."""
    return 8 * n_bytes / sum(info.n_params for info in model.tensors.values())


__all__ = ["ShapeModel", "bpw_of", "findings_scores", "qwen3_30b_a3b", "qwen35_9b", "sensitivity_of", "synthetic_costs"]
