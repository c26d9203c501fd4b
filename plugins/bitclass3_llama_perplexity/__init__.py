"""Evaluation by stock llama-perplexity: what llama.cpp's users will see, with its quantization of activations.

It stores the reference's log-probabilities in 16 bits: mean KLDs below about 2e-3 nats are near the floor of that (about 5e-4).
"""

from pathlib import Path

from pydantic import Field

from bitclass3_core import hookimpl
from bitclass3_core.corpus import Corpus
from bitclass3_core.errors import ModelFileError
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.gguf.kinds import check_is_model
from bitclass3_core.machine import default_threads
from bitclass3_core.model import Model
from bitclass3_core.options import PluginOptions
from bitclass3_core.progress import Progress
from bitclass3_llama_perplexity.base import BaseFile, Header
from bitclass3_llama_perplexity.measuring import measure, other_vocabulary
from bitclass3_llama_perplexity.planning import (
    Plan,
    base_bytes,
    check_scored,
    evaluation_text,
    guess_minutes,
    relative_error,
    vocabulary,
    wanted_chunks,
)
from bitclass3_llama_perplexity.program import Perplexity, find

BITCLASS3_ANSWERS = "6e7fe731a652"  # changes when the answers do


class Options(PluginOptions):
    """Which llama.cpp, how much held-out text, and what becomes of the base logits."""

    llama_cpp: Path | None = Field(None, description="folder of llama.cpp; else LLAMA_CPP_DIR, PATH, the managed one")
    n_ctx: int = Field(512, ge=16, description="tokens a chunk; the second half of each is scored")
    n_chunks: int = Field(0, ge=0, description="chunks of text; 0: as many as relative_error needs")
    relative_error: float = Field(0.03, gt=0, lt=1, description="wanted standard error of the mean KLD, as a share of it")
    folder: Path | None = Field(None, description="where evaluation/ with the base logits lies; unset: beside the first candidate")
    keep_base: bool = Field(False, description="keep the reference's log-probabilities (gigabytes) for the next evaluation")
    threads: int = Field(0, ge=0, description="0: llama-perplexity's default")
    gpu_layers: int = Field(-1, ge=-1, description="layers on the GPU; -1: llama.cpp's default")
    arguments: tuple[str, ...] = Field((), description="more arguments for llama-perplexity, such as --flash-attn, off")

    def placed_in(self, folder: Path) -> "Options":
        """The base logits in that folder, unless the user named another."""
        return self if self.folder is not None else self.model_copy(update={"folder": folder})

    def for_program(self) -> tuple[str, ...]:
        """The arguments of every run of llama-perplexity."""
        threads = ("-t", str(self.threads)) if self.threads else ()
        layers = ("-ngl", str(self.gpu_layers)) if self.gpu_layers >= 0 else ()
        return ("-c", str(self.n_ctx), *threads, *layers, *self.arguments)


def _check_models(reference: Model, candidates: list[Model]) -> int:
    """The size of the vocabulary of all models. Raises ModelFileError for models that llama-perplexity cannot compare."""
    for model in (reference, *candidates):
        check_is_model(model)
        if model.metadata.get("tokenizer.ggml.add_eos_token"):
            raise ModelFileError(
                f"{model.path} ends every text with an end token (tokenizer.ggml.add_eos_token), which llama-perplexity refuses; "
                "evaluate with --plugin torch"
            )
    n_vocab = vocabulary(reference)
    for candidate in candidates:
        if vocabulary(candidate) != n_vocab:
            raise other_vocabulary(reference, candidate, n_vocab, vocabulary(candidate))
    return n_vocab


def _check_scored(header: Header, wanted: int, progress: Progress) -> None:
    """Warn if the text had fewer chunks than wanted; raise ModelFileError if they are too few for statistics."""
    n_scored = check_scored(header.n_chunks, header.n_ctx)
    if header.n_chunks < wanted:
        progress.warn(
            f"the evaluation text has {header.n_chunks} chunks of {header.n_ctx}, {wanted} were wanted: expect an error of "
            f"{relative_error(n_scored):.1%} of the mean KLD; give more with --eval-corpus"
        )


@hookimpl
def bitclass3_evaluate(
    reference: Model, candidates: list[Model], corpus: Corpus, options: Options, progress: Progress
) -> list[Evaluation]:
    """Measure every candidate against one file of the reference's log-probabilities, in the folder of the first candidate."""
    n_vocab = _check_models(reference, candidates)
    program = Perplexity(find(options.llama_cpp), options.for_program())
    n_chunks = wanted_chunks(options.n_chunks, options.relative_error, options.n_ctx)
    text = evaluation_text(corpus, n_chunks * options.n_ctx)
    check_scored(n_chunks, options.n_ctx)
    folder = (options.folder or candidates[0].path.resolve().parent).resolve() / "evaluation"
    base = BaseFile.planned(reference, text, options.n_ctx, n_chunks, n_vocab, program, folder)
    reused, threads = base.is_there, default_threads(options.threads)
    models = [*candidates] if reused else [reference, *candidates]
    minutes = guess_minutes(models, n_chunks * options.n_ctx, threads)
    n_bytes = base_bytes(options.n_ctx, n_vocab, n_chunks)
    progress.say(Plan(n_chunks, options.n_ctx, n_bytes, minutes, threads).line(str(folder), options.keep_base, reused))
    with base.opened(options.keep_base, progress) as (path, header):
        _check_scored(header, n_chunks, progress)
        return [measure(candidate, reference, (path, header), program, progress) for candidate in candidates]
