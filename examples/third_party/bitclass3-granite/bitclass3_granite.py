"""Granite: the conversion to GGUF permutes the rows of attn_q and attn_k within each head, as with Llama; the rest stays in place."""

import numpy as np

from bitclass3_core import hookimpl
from bitclass3_core.model import Architecture, IndexArray, Model
from bitclass3_core.naming import blocks_of, hf_stems, metadata_int, quantizable_tensors

BITCLASS3_API = 1

_HEAD_COUNTS = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}


@hookimpl
def bitclass3_architecture(model: Model) -> Architecture:
    """Names by gguf's own tables, and the row orders of attn_q and attn_k."""
    orders: dict[str, IndexArray] = {}
    for role, key in _HEAD_COUNTS.items():
        for block, info in blocks_of(model, role).items():
            orders[info.name] = _halves_interleaved(info.n_rows, metadata_int(model, key, block=block))
    return Architecture("granite", quantizable_tensors(model), hf_stems=hf_stems(model), row_order=orders)


def _halves_interleaved(n_rows: int, n_heads: int) -> IndexArray:
    """HF rotates row j of a head with row j + half, ggml rotates neighbours: row 2j of the GGUF is j, row 2j + 1 is j + half."""
    half = n_rows // n_heads // 2
    heads = np.arange(n_rows, dtype=np.int64).reshape(n_heads, 2, half)
    return heads.transpose(0, 2, 1).reshape(-1)
