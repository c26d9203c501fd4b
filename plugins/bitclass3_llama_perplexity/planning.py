"""Plans an evaluation: which text, how many chunks, how much disk, how many minutes."""

import math
from itertools import accumulate

from bitclass3_core.corpus import Corpus
from bitclass3_core.errors import ModelFileError
from bitclass3_core.evaluation import MIN_CHUNKS
from bitclass3_core.model import Model

RELATIVE_SPREAD = 3.1  # of a token's KLD: the mean of n scored tokens has a relative standard error of about 3.1 / sqrt(n)
MIN_SCORED = 100  # llama-perplexity makes no statistics of fewer scored tokens
_MAX_CHARS_A_TOKEN = 32  # more text is never needed, and tokenizing it would take time
_HEADER_BYTES = 20
_FLOPS_A_THREAD = 3e10  # a guess: llama.cpp's prompt processing on one core with AVX2
_LOAD_BYTES_A_SECOND = 5e8


def scored_tokens(n_ctx: int) -> int:
    """How many tokens of a chunk llama-perplexity scores: the second half without its first token."""
    return n_ctx - 1 - n_ctx // 2


def relative_error(n_scored: int) -> float:
    """The relative standard error of the mean KLD that is expected with that many scored tokens."""
    return RELATIVE_SPREAD / math.sqrt(n_scored)


def wanted_chunks(n_chunks: int, error: float, n_ctx: int) -> int:
    """``n_chunks`` if it is not 0, else enough for the wanted relative error of the mean KLD and for errors between chunks."""
    n_scored = max((RELATIVE_SPREAD / error) ** 2, MIN_SCORED)
    return n_chunks or max(MIN_CHUNKS, math.ceil(n_scored / scored_tokens(n_ctx)))


def check_scored(n_chunks: int, n_ctx: int) -> int:
    """Number of scored tokens in that many chunks. Raises ModelFileError if they are too few for llama-perplexity's statistics."""
    n_scored = n_chunks * scored_tokens(n_ctx)
    if n_scored < MIN_SCORED:
        raise ModelFileError(
            f"{n_chunks} chunks of {n_ctx} have {n_scored} scored tokens, llama-perplexity makes no statistics of fewer than "
            f"{MIN_SCORED}; give more text, or raise evaluate.options.n_chunks or n_ctx"
        )
    return n_scored


def vocabulary(model: Model) -> int:
    """Number of tokens in the model's vocabulary, as llama.cpp counts them."""
    if "tokenizer.ggml.tokens" in model.fields:
        return len(model.fields["tokenizer.ggml.tokens"].data)
    named = model.metadata.get(f"{model.arch}.vocab_size")
    if named is None and "token_embd.weight" not in model.tensors:
        raise ModelFileError(f"{model.path} has no vocabulary (tokenizer.ggml.tokens); convert the model again with its tokenizer")
    return int(named) if named is not None else model.tensors["token_embd.weight"].n_rows


def chunk_bytes(n_ctx: int, n_vocab: int) -> int:
    """Bytes of one chunk's log-probabilities: 16 bits each, padded to even, and two float32 for every scored token."""
    return scored_tokens(n_ctx) * (2 * ((n_vocab + 1) // 2) + 4) * 2


def base_bytes(n_ctx: int, n_vocab: int, n_chunks: int) -> int:
    """Exact size of the file that ``--kl-divergence-base`` writes: header, tokens, log-probabilities."""
    return _HEADER_BYTES + n_chunks * (4 * n_ctx + chunk_bytes(n_ctx, n_vocab))


def evaluation_text(corpus: Corpus, n_tokens: int) -> str:
    """As many evaluation documents as ``n_tokens`` surely need, joined by blank lines. Raises ModelFileError if there are none."""
    if not corpus.evaluation:
        raise ModelFileError("there is no evaluation text; give files with --eval-corpus, or in [corpus] evaluation")
    texts = [document.text for document in corpus.evaluation]
    before = accumulate(map(len, texts), initial=0)
    enough = n_tokens * _MAX_CHARS_A_TOKEN
    used = (text.strip("\n") for text, n_chars in zip(texts, before, strict=False) if n_chars < enough)
    return "\n\n".join(used) + "\n"  # llama.cpp removes one newline at the end


def _used_params(model: Model) -> float:
    """Number of weights that one token uses; of stacked experts only the chosen ones count."""
    n_experts = int(model.metadata.get(f"{model.arch}.expert_count", 0))
    share = int(model.metadata.get(f"{model.arch}.expert_used_count", n_experts)) / n_experts if n_experts else 1.0
    return sum(info.n_params * (share if info.n_experts > 1 else 1.0) for info in model.tensors.values())


def guess_minutes(models: list[Model], n_tokens: int, threads: int) -> float:
    """A guess of the minutes that all models' passes over ``n_tokens`` take together on a CPU, from weights, tokens and threads."""
    flops = sum(2 * _used_params(model) * n_tokens for model in models)
    n_bytes = sum(info.source_bytes for model in models for info in model.tensors.values())
    return (flops / (_FLOPS_A_THREAD * threads) + n_bytes / _LOAD_BYTES_A_SECOND) / 60


def plan_line(n_chunks: int, n_ctx: int, place: str, minutes: float, threads: int) -> str:
    """A line for the user before the evaluation starts: what it will need."""
    n_scored = n_chunks * scored_tokens(n_ctx)
    return (
        f"evaluate: {n_chunks} chunks of {n_ctx} ({n_scored:,} scored tokens: expect {relative_error(n_scored):.1%} error of the "
        f"mean KLD); base logits in {place}; about {minutes:.1f} minutes on {threads} threads, a guess"
    )
