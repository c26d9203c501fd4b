"""Qwen3-Next: HF keeps linear attention's query, key, value and gate in one matrix, key head by key head; GGUF has two matrices."""

import numpy as np

from bitclass3_core import hookimpl
from bitclass3_core.errors import ModelFileError
from bitclass3_core.gguf.names import blocks_of, fragile_floors, hf_stems, metadata_int, quantizable_tensors
from bitclass3_core.model import Architecture, IndexArray, Model, Place

BITCLASS3_ANSWERS = "9b89cae34afb"  # changes when the answers do


@hookimpl
def bitclass3_architecture(model: Model) -> Architecture:
    """Names, floors, and the places of attn_qkv and attn_gate in HF's ``in_proj_qkvz``."""
    quantizable = quantizable_tensors(model)
    floors = fragile_floors(model, quantizable)
    return Architecture("qwen3next", quantizable, floors, hf_stems(model, likely=".linear_attn."), places=_places(model))


def _places(model: Model) -> dict[str, Place]:
    linear_blocks = blocks_of(model, "ssm_out")
    if not linear_blocks:
        return {}
    qkv, gate = _rows(model)
    return {
        info.name: Place((f"model.layers.{block}.linear_attn.in_proj_qkvz",), rows=rows)
        for role, rows in (("attn_qkv", qkv), ("attn_gate", gate))
        for block, info in blocks_of(model, role).items()
        if block in linear_blocks
    }


def _rows(model: Model) -> tuple[IndexArray, IndexArray]:
    """(rows of attn_qkv, rows of attn_gate) in a matrix that holds, for each key head, its query, key, values and gates."""
    n_heads, n_inner = metadata_int(model, "ssm.group_count"), metadata_int(model, "ssm.inner_size")
    n_key = metadata_int(model, "ssm.state_size")
    if n_inner % n_heads:
        raise ModelFileError(f"model {model.name} has {n_inner} values for {n_heads} key heads, no multiple; convert it again")
    n_values = n_inner // n_heads
    by_head = np.arange(n_heads * (2 * n_key + 2 * n_values), dtype=np.int64).reshape(n_heads, -1)
    query, key, value, gate = np.split(by_head, np.cumsum([n_key, n_key, n_values]), axis=1)
    return np.concatenate([query.reshape(-1), key.reshape(-1), value.reshape(-1)]), gate.reshape(-1)
