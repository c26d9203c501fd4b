"""What architectures share: which tensors llama.cpp quantizes, what HF calls them, and numbers from the metadata."""

import re
from collections.abc import Collection, Mapping

import gguf
import numpy as np

from bitclass3_core.errors import ModelFileError
from bitclass3_core.model import IndexArray, Model, TensorInfo

# The rule of llama-quantize: a tensor whose name has one of these parts keeps its type.
_KEPT_PARTS = {
    "norms": (r"_norm\.weight",),
    "routers": (r"ffn_gate_inp\.weight", r"ffn_gate_tid2eid\.weight", r"indexer\.[kq]_proj\.weight"),
    "small convolutions": (r"ssm_conv1d", r"shortconv\.conv\.weight"),
    "small mixing matrices": (r"altup", r"laurel", r"per_layer_model_proj", r"attn_rel_b\.weight"),
    "rwkv's low-rank matrices": (r"time_mix_(?:first|[wva][012]|g[12]|decay_w[12]|lerp_fused)\.weight",),
    "positions and token types": (r"^position_embd\.weight$", r"^token_types\.weight$", r"\.position_embd", r"\.rel_pos"),
    "vision": (r"sam\.(?:pos_embd|neck\.|net_)", r"\.patch_(?:embd|merger)"),
    "audio": (r"a\.rvq\.codebook", r"mm\.a\.code_embd"),
}
_KEPT = re.compile("|".join(part for parts in _KEPT_PARTS.values() for part in parts))
_SMALLEST_BLOCK = 32
_FRAGILE_ROLES = frozenset({"ssm_alpha", "ssm_beta", "ssm_ba"})
_LIKELY_STEMS = (re.compile(r"^lm_head$"), re.compile(r"^model\..*\.(?:self_attn|mlp)\."), re.compile(r"^model\."))


def allows_quantization(info: TensorInfo) -> bool:
    """Whether llama-quantize chooses a type for this tensor: it is a matrix or a stack of them, and not on the list of kept ones."""
    is_matrix = len(info.shape) in (2, 3) and info.n_rows > 1  # ggml drops leading dimensions of 1
    return is_matrix and info.name.endswith("weight") and not _KEPT.search(info.name)


def quantizable_tensors(model: Model) -> frozenset[str]:
    """The tensors that may be quantized: llama-quantize allows it, and blocks of 32 weights fit their rows."""
    return frozenset(name for name, info in model.tensors.items() if allows_quantization(info) and info.n_in % _SMALLEST_BLOCK == 0)


def fragile_floors(model: Model, quantizable: Collection[str]) -> dict[str, str]:
    """The floor Q8_0 for decay and update gates of linear attention: they have few rows, and their errors stay in the state."""
    return {name: "Q8_0" for name, info in model.tensors.items() if name in quantizable and info.role in _FRAGILE_ROLES}


def hf_stems(model: Model, likely: str = "") -> dict[str, tuple[str, ...]]:
    """The HF names (without ``.weight``) of every tensor by gguf's own tables, likeliest first; empty for an unknown architecture.

    Stems that contain ``likely`` come first. After each name that begins with ``model.`` comes its name inside a vision model.
    """
    arch = next((arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == model.arch), None)
    if arch is None:
        return {}
    n_blocks = 1 + max((info.block for info in model.tensors.values() if info.block is not None), default=-1)
    stems: dict[str, list[str]] = {}
    for stem, (_, ggml_name) in gguf.get_tensor_name_map(arch, n_blocks).mapping.items():
        if stem != ggml_name:
            stems.setdefault(f"{ggml_name}.weight", []).append(stem)
    return {name: _ranked(stems[name], likely) for name in model.tensors if name in stems}


def _ranked(stems: list[str], likely: str) -> tuple[str, ...]:
    def rank(stem: str) -> tuple[bool, int]:
        place = next((place for place, pattern in enumerate(_LIKELY_STEMS) if pattern.search(stem)), len(_LIKELY_STEMS))
        return not (likely and likely in stem), place

    ranked: list[str] = []
    for stem in sorted(stems, key=rank):
        ranked.append(stem)
        if stem.startswith("model."):
            ranked.append(stem.replace("model.", "model.language_model.", 1))
    return tuple(ranked)


def metadata_int(model: Model, key: str, default: int | None = None, block: int = 0) -> int:
    """The number under ``<arch>.<key>`` in the metadata; if that is a list by block, the number of ``block``.

    Raises ModelFileError if it is missing and there is no default.
    """
    value = model.metadata.get(f"{model.arch}.{key}")
    if isinstance(value, (list, tuple, np.ndarray)):
        value = value[block] if block < len(value) else None
    if value is None:
        value = default
    if value is None:
        raise ModelFileError(
            f"model {model.name} has no metadata {model.arch}.{key} for block {block}; convert it again, or name another architecture plugin"
        )
    return int(value)


def blocks_of(model: Model, role: str) -> Mapping[int, TensorInfo]:
    """The weights of a role by block number, for all blocks that have one."""
    return {
        info.block: info
        for info in model.tensors.values()
        if info.block is not None and info.role == role and info.name.endswith(".weight")
    }


def swapped_groups(n: int, outer: int, inner: int) -> IndexArray:
    """Indices of ``n`` = outer * inner * rest items after the dimensions outer and inner have changed places."""
    order: IndexArray = np.arange(n, dtype=np.int64).reshape(outer, inner, -1).swapaxes(0, 1).reshape(-1)
    return order
