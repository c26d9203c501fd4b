"""Chunks, disk, text and minutes of an evaluation by llama-perplexity, before it runs."""

import pytest
from bitclass3_llama_perplexity.planning import (
    base_bytes,
    evaluation_text,
    guess_minutes,
    relative_error,
    scored_tokens,
    vocabulary,
    wanted_chunks,
)
from gguf_files import MemoryModel, heavy_tailed, memory_model

from bitclass3_core.corpus import Corpus, document
from bitclass3_core.errors import ModelFileError


@pytest.mark.parametrize(
    ("n_ctx", "n_vocab", "n_chunks", "n_bytes"),
    [(512, 4096, 10, 20_930_500), (100, 4096, 4, 1_608_820), (513, 4096, 4, 8_405_028), (24, 4096, 4, 361_204)],
)
def test_size_is_that_of_files_that_llama_perplexity_wrote(n_ctx: int, n_vocab: int, n_chunks: int, n_bytes: int) -> None:
    assert base_bytes(n_ctx, n_vocab, n_chunks) == n_bytes


def test_size_of_an_odd_vocabulary() -> None:
    assert base_bytes(512, 4097, 1) - base_bytes(512, 4096, 1) == 255 * 2 * 2


@pytest.mark.parametrize(("n_ctx", "n_scored"), [(512, 255), (513, 256), (24, 11)])
def test_scored_tokens(n_ctx: int, n_scored: int) -> None:
    assert scored_tokens(n_ctx) == n_scored


@pytest.mark.parametrize("error", [0.01, 0.03, 0.05])
@pytest.mark.parametrize("n_ctx", [512, 2048])
def test_as_many_chunks_as_the_wanted_error_takes(error: float, n_ctx: int) -> None:
    n_chunks = wanted_chunks(0, error, n_ctx)
    assert relative_error(n_chunks * scored_tokens(n_ctx)) <= error
    assert n_chunks == 8 or relative_error((n_chunks - 1) * scored_tokens(n_ctx)) > error


def test_chunks_by_hand() -> None:
    assert wanted_chunks(0, 0.03, 512) == 42
    assert wanted_chunks(7, 0.03, 512) == 7
    assert wanted_chunks(0, 0.9, 512) == 8, "fewer give no error between chunks"
    assert wanted_chunks(0, 0.9, 16) == 15, "llama-perplexity makes no statistics of fewer than 100 scored tokens"


def test_text_ends_where_there_is_surely_enough() -> None:
    corpus = Corpus((), tuple(document(f"{number}" * 1000 + "\n\n", "text") for number in range(5)))
    assert evaluation_text(corpus, 32) == "0" * 1000 + "\n\n" + "1" * 1000 + "\n"
    assert evaluation_text(corpus, 10**6).count("\n\n") == 4


def test_vocabulary_where_there_is_no_tokenizer() -> None:
    model = memory_model(token_embd=(48, 256))
    assert vocabulary(model) == 48
    model.metadata["llama.vocab_size"] = 40
    assert vocabulary(model) == 40
    with pytest.raises(ModelFileError, match="has no vocabulary"):
        vocabulary(memory_model(blk__0__attn_q=(4, 256)))


def test_minutes_grow_with_weights_tokens_and_fewer_threads() -> None:
    model = memory_model(blk__0__attn_q=(4096, 4096))
    minutes = guess_minutes([model], 10**6, 4)
    assert minutes == pytest.approx(2 * 4096**2 * 10**6 / 1.2e11 / 60, rel=0.01)
    assert guess_minutes([model, model], 10**6, 4) == pytest.approx(2 * minutes)
    assert guess_minutes([model], 10**6, 2) == pytest.approx(2 * minutes, rel=0.01)


def test_only_chosen_experts_take_time() -> None:
    values = {"blk.0.ffn_up_exps.weight": heavy_tailed((8, 256, 256))}
    plain = MemoryModel(values)
    sparse = MemoryModel(values, metadata={"llama.expert_count": 8, "llama.expert_used_count": 2})
    assert guess_minutes([sparse], 10**7, 1) == pytest.approx(guess_minutes([plain], 10**7, 1) / 4, rel=0.01)
