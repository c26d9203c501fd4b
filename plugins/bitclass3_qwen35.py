"""Qwen3.5: the conversion to GGUF reorders the value heads of linear attention if there are more of them than key heads.

In HF the value heads that share a key head are neighbours. In GGUF neighbours belong to different key heads, in turn, because ggml
repeats the key heads that way.
"""

import numpy as np

from bitclass3_core import hookimpl
from bitclass3_core.errors import ModelFileError
from bitclass3_core.gguf.names import blocks_of, fragile_floors, hf_stems, metadata_int, quantizable_tensors, swapped_groups
from bitclass3_core.model import Architecture, IndexArray, Model

BITCLASS3_ANSWERS = "99bec098b462"  # changes when the answers do


@hookimpl
def bitclass3_architecture(model: Model) -> Architecture:
    """Names, floors, and the orders of the value heads in linear attention."""
    quantizable = quantizable_tensors(model)
    rows, columns = _value_head_orders(model)
    return Architecture(
        "qwen35",
        quantizable,
        fragile_floors(model, quantizable),
        hf_stems(model, likely=".linear_attn."),
        row_order=rows,
        column_order=columns,
    )


def _value_head_orders(model: Model) -> tuple[dict[str, IndexArray], dict[str, IndexArray]]:
    linear_blocks = blocks_of(model, "ssm_out")
    if not linear_blocks:
        return {}, {}
    n_key_heads, n_value_heads = metadata_int(model, "ssm.group_count"), metadata_int(model, "ssm.time_step_rank")
    if n_value_heads == n_key_heads:
        return {}, {}
    if n_value_heads % n_key_heads:
        raise ModelFileError(
            f"model {model.name} has {n_value_heads} value heads, no multiple of its {n_key_heads} key heads; convert it again"
        )
    n_shared = n_value_heads // n_key_heads
    values = swapped_groups(metadata_int(model, "ssm.inner_size"), n_key_heads, n_shared)
    n_query_key = 2 * n_key_heads * metadata_int(model, "ssm.state_size")
    by_role = {
        "attn_qkv": np.concatenate([np.arange(n_query_key), n_query_key + values]),
        "attn_gate": values,
        "ssm_alpha": swapped_groups(n_value_heads, n_key_heads, n_shared),
        "ssm_beta": swapped_groups(n_value_heads, n_key_heads, n_shared),
    }
    rows = {
        info.name: order
        for role, order in by_role.items()
        for block, info in blocks_of(model, role).items()
        if block in linear_blocks
    }
    return rows, {info.name: values for info in linear_blocks.values()}
