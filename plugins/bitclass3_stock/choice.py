"""The types that a stock mix gives to a model, tensor by tensor, as llama-quantize would."""

from collections import Counter

from bitclass3_core.errors import ConfigError, did_you_mean
from bitclass3_core.gguf.names import allows_quantization, metadata_int
from bitclass3_core.model import Model, TensorInfo
from bitclass3_core.qtypes import qtype
from bitclass3_stock.mixes import MIXES, WHEN, Facts, Mix, Spot

# The first of these parts that a name contains decides.
_KINDS = {
    **dict.fromkeys(("attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight"), "attn_v"),
    **{f"{kind}.weight": kind for kind in ("attn_k", "attn_q", "attn_output")},
    **{kind: kind for kind in ("ffn_up", "ffn_gate", "ffn_down")},
}
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
# If rows are no multiple of 256, the tensor gets the next larger type with blocks of 32.
_BLOCKS_OF_32 = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_K", "Q3_K"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
_LAYERS_OF_70B = {"llama": 80, "deci": 80, "olmo": 80, "qwen2": 80, "jais2": 68}


def stock_qtypes(model: Model, quantizable: frozenset[str], ftype: str, has_imatrix: bool = True) -> dict[str, str]:
    """The qtype of each quantizable tensor in llama.cpp's own mix of that name. Raises ConfigError for an unknown mix."""
    if ftype.upper() not in MIXES:
        raise ConfigError(f"unknown ftype {ftype!r}{did_you_mean(ftype, MIXES)}")
    mix, facts = MIXES[ftype.upper()], _facts(model, has_imatrix)
    seen: Counter[str] = Counter()
    qtypes: dict[str, str] = {}
    for info in sorted(model.tensors.values(), key=lambda info: (-1 if info.block is None else info.block, info.name)):
        if not allows_quantization(info):
            continue
        kind = _kind(info.name)
        chosen = _choose(mix, kind, info, seen[kind], facts)
        seen[kind] += 1
        if info.name in quantizable:
            qtypes[info.name] = _fitting(info, chosen)
    return qtypes


def _facts(model: Model, has_imatrix: bool) -> Facts:
    n_layers = metadata_int(model, "block_count", 1 + max((info.block or 0 for info in model.tensors.values()), default=0))
    n_heads = metadata_int(model, "attention.head_count", 0)
    n_kv_heads = metadata_int(model, "attention.head_count_kv", n_heads)
    n_experts = metadata_int(model, "expert_count", 0)
    is_70b = n_layers == _LAYERS_OF_70B.get(model.arch)
    if model.arch == "llama":  # the 65B has as many layers too, but a value head for each query head
        is_70b = is_70b and n_heads != n_kv_heads and n_experts != 8
    return Facts(
        n_layers,
        sum(_kind(name) == "attn_v" for name in model.tensors),
        n_heads // n_kv_heads if n_kv_heads else 0,
        n_experts,
        "output.weight" not in model.tensors,
        is_70b,
        has_imatrix,
    )


def _kind(name: str) -> str:
    if name == "output.weight":
        return "head"
    if name in _EMBEDDINGS:
        return "embedding"
    return next((kind for part, kind in _KINDS.items() if part in name), "other")


def _choose(mix: Mix, kind: str, info: TensorInfo, n_seen: int, facts: Facts) -> str:
    if kind == "head" or (kind == "embedding" and facts.tied):
        return mix.head if info.accepts(qtype(mix.base)) else "Q8_0"
    if kind == "embedding":
        return mix.embedding or mix.base
    if facts.n_experts == 8 and kind in mix.eight_experts:
        return mix.eight_experts[kind]
    # Experts have no fixed order, so the layer comes from the name.
    by_name = kind.startswith("ffn_") and facts.n_experts > 1 and not mix.tiny
    i = info.block if by_name and info.block is not None else n_seen
    spot = Spot(i, facts.n_values if kind == "attn_v" else facts.n_layers, facts)
    chosen = next((q for kinds, q, when in mix.rules if kind in kinds.split() and WHEN[when](spot)), mix.base)
    if facts.is_70b and kind == "attn_v" and not mix.tiny and chosen in ("Q3_K", "Q4_K"):
        return "Q5_K"  # eight query heads share a value head there: better values take few bytes
    return chosen


def _fitting(info: TensorInfo, chosen: str) -> str:
    if info.accepts(qtype(chosen)):
        return chosen
    smaller = _BLOCKS_OF_32.get(chosen, chosen)
    return smaller if info.accepts(qtype(smaller)) else "F16"
