"""Models without weights for the tests of the stock mixes: shapes and metadata only."""

from dataclasses import dataclass, field
from typing import Any

from bitclass3_core.model import TensorInfo


@dataclass
class FakeModel:
    """Shapes and metadata, no weights."""

    arch: str
    tensors: dict[str, TensorInfo]
    metadata: dict[str, Any] = field(default_factory=dict)
    name: str = "fake"

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.tensors)


def fake(arch: str, shapes: dict[str, Any], metadata: dict[str, Any]) -> Any:
    infos = {name: TensorInfo(name, tuple(shape), "BF16") for name, shape in shapes.items()}
    return FakeModel(arch, infos, {f"{arch}.{key}": value for key, value in metadata.items()})


def llama(
    n_layers: int, width: int = 768, ffn: int = 1536, heads: tuple[int, int] = (12, 4), tied: bool = False, experts: int = 0
) -> Any:
    """A llama model in the order of a file: head and embedding first, then blocks whose names are not sorted."""
    values = width * heads[1] // heads[0]
    stack, suffix = ((experts,), "_exps") if experts else ((), "")
    roles = {
        "ffn_down" + suffix: (*stack, width, ffn),
        "ffn_gate" + suffix: (*stack, ffn, width),
        "ffn_up" + suffix: (*stack, ffn, width),
        "attn_k": (values, width),
        "attn_output": (width, width),
        "attn_q": (width, width),
        "attn_v": (values, width),
    }
    shapes = {} if tied else {"output.weight": (49152, width)}
    shapes["token_embd.weight"] = (49152, width)
    for block in reversed(range(n_layers)):
        shapes |= {f"blk.{block}.{role}.weight": shape for role, shape in roles.items()}
    metadata = {
        "block_count": n_layers,
        "attention.head_count": heads[0],
        "attention.head_count_kv": heads[1],
        "expert_count": experts,
    }
    return fake("llama", shapes, metadata)


def qwen35(n_layers: int = 8) -> Any:
    """Three layers of linear attention, then one of full attention, as in Qwen3.5."""
    linear = {"attn_qkv": (512, 256), "attn_gate": (256, 256), "ssm_alpha": (4, 256), "ssm_beta": (4, 256), "ssm_out": (256, 256)}
    full = {"attn_q": (512, 256), "attn_k": (128, 256), "attn_v": (128, 256), "attn_output": (256, 256)}
    both = {"ffn_gate": (512, 256), "ffn_up": (512, 256), "ffn_down": (256, 512)}
    shapes: dict[str, tuple[int, ...]] = {"output.weight": (4096, 256), "token_embd.weight": (4096, 256)}
    for block in range(n_layers):
        roles = {**(full if block % 4 == 3 else linear), **both}
        shapes |= {f"blk.{block}.{role}.weight": shape for role, shape in roles.items()}
        shapes[f"blk.{block}.ssm_conv1d.weight"] = (512, 4)
    return fake("qwen35", shapes, {"block_count": n_layers, "attention.head_count": 4, "attention.head_count_kv": 2})
