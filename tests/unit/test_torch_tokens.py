"""Documents as chunks of tokens: whole ones, in order, as many as asked for or as there are."""

from types import SimpleNamespace

import numpy as np
import pytest
from bitclass3_torch.tokens import token_chunks

from bitclass3_core.corpus import document
from bitclass3_core.errors import ModelFileError


class Letters:
    """A tokenizer whose tokens are characters, with 0 for the end of a text."""

    eos_token_id = 0

    def __call__(self, text, verbose=False):
        return SimpleNamespace(input_ids=[ord(letter) for letter in text])


DOCUMENTS = (document("abcde", "one"), document("fghij", "two"))  # 12 tokens with their ends


def test_documents_follow_each_other_and_tokens_know_their_domain():
    tokens, domains = token_chunks(Letters(), DOCUMENTS, 8, 4, "evaluation")
    assert tokens.tolist() == [[97, 98, 99, 100], [101, 0, 102, 103]]
    assert domains.tolist() == [["one"] * 4, ["one", "one", "two", "two"]]


def test_too_little_text_is_an_error_unless_it_is_at_most():
    with pytest.raises(
        ModelFileError, match="the calibration text has 12 tokens, 20 are asked for; give more text or lower n_tokens"
    ):
        token_chunks(Letters(), DOCUMENTS, 20, 5, "calibration")
    tokens, domains = token_chunks(Letters(), DOCUMENTS, 20, 5, "evaluation", at_most=True)
    assert tokens.shape == domains.shape == (2, 5)
    assert np.array_equal(tokens, token_chunks(Letters(), DOCUMENTS, 10, 5, "evaluation")[0])


def test_less_than_a_chunk_and_no_text():
    with pytest.raises(ModelFileError, match="the evaluation text has 12 tokens, 16 are asked for"):
        token_chunks(Letters(), DOCUMENTS, 64, 16, "evaluation", at_most=True)
    with pytest.raises(ModelFileError, match="there is no evaluation text; give files with --corpus and --eval-corpus"):
        token_chunks(Letters(), (), 64, 16, "evaluation", at_most=True)
