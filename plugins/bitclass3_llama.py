"""Llama: the conversion to GGUF permutes the rows of attn_q and attn_k within each head, for ggml's kind of RoPE."""

import numpy as np

from bitclass3_core import hookimpl
from bitclass3_core.gguf.names import blocks_of, hf_stems, metadata_int, quantizable_tensors
from bitclass3_core.model import Architecture, IndexArray, Model

BITCLASS3_ANSWERS = "afec0fd53136"  # changes when the answers do

_HEAD_COUNTS = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}


@hookimpl
def bitclass3_architecture(model: Model) -> Architecture:
    """Names, and the row orders of attn_q and attn_k."""
    return Architecture("llama", quantizable_tensors(model), hf_stems=hf_stems(model), row_order=_row_orders(model))


def _row_orders(model: Model) -> dict[str, IndexArray]:
    return {
        info.name: _interleaved_halves(info.n_rows, metadata_int(model, key, block=block))
        for role, key in _HEAD_COUNTS.items()
        for block, info in blocks_of(model, role).items()
    }


def _interleaved_halves(n_rows: int, n_heads: int) -> IndexArray:
    """Row indices that interleave the halves of each head: HF rotates row j with row j + half, ggml rotates neighbours."""
    order: IndexArray = np.arange(n_rows, dtype=np.int64).reshape(n_heads, 2, -1).swapaxes(1, 2).reshape(-1)
    return order
