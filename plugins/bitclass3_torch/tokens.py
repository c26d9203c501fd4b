"""Documents as chunks of tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.corpus import Document
from bitclass3_core.errors import ModelFileError


def token_chunks(
    tokenizer: Any, documents: Sequence[Document], n_tokens: int, n_ctx: int, what: str, at_most: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Tokens and the domain of each token, both [n_chunks, n_ctx]: the documents one after the other, cut into whole chunks.

    There are ``n_tokens`` of them, rounded down to whole chunks, at least one. ``what`` names the text in errors. Raises ModelFileError if
    there is no text, or too little; with ``at_most`` a shorter text gives fewer chunks, and one is enough.
    """
    if not documents:
        raise ModelFileError(f"there is no {what} text; give files with --corpus and --eval-corpus, or in [corpus]")
    n_chunks = max(1, n_tokens // n_ctx)
    tokens: list[int] = []
    domains: list[str] = []
    for doc in documents:
        ids = list(tokenizer(doc.text, verbose=False).input_ids)
        if tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
        tokens += ids
        domains += [doc.domain] * len(ids)
        if len(tokens) >= n_chunks * n_ctx:
            break
    if at_most:
        n_chunks = max(1, min(n_chunks, len(tokens) // n_ctx))
    if len(tokens) < n_chunks * n_ctx:
        raise ModelFileError(
            f"the {what} text has {len(tokens):,} tokens, {n_chunks * n_ctx:,} are asked for; give more text or lower n_tokens"
        )
    shape = (n_chunks, n_ctx)
    return np.array(tokens[: n_chunks * n_ctx]).reshape(shape), np.array(domains[: n_chunks * n_ctx]).reshape(shape)
