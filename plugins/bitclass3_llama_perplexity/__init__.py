"""Evaluation by stock llama-perplexity: what llama.cpp's users will see, with its quantization of activations.

It stores the reference's log-probabilities in 16 bits: mean KLDs below about 2e-3 nats are near the floor of that (about 5e-4).
"""

import math
import re
from pathlib import Path

from pydantic import Field

from bitclass3_core import hookimpl
from bitclass3_core.corpus import Corpus
from bitclass3_core.errors import ModelFileError
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.files import human_bytes
from bitclass3_core.gguf.kinds import check_is_model
from bitclass3_core.machine import default_threads
from bitclass3_core.model import Model
from bitclass3_core.options import PluginOptions
from bitclass3_core.progress import Progress
from bitclass3_core.toolchain.running import ProgramFailed, Steps
from bitclass3_llama_perplexity.base import BaseFile, Header
from bitclass3_llama_perplexity.output import as_evaluation, is_cut_off, parse
from bitclass3_llama_perplexity.planning import (
    check_scored,
    evaluation_text,
    guess_minutes,
    plan_line,
    relative_error,
    scored_tokens,
    vocabulary,
    wanted_chunks,
)
from bitclass3_llama_perplexity.program import Perplexity, find

BITCLASS3_ANSWERS = "6e7fe731a652"  # changes when the answers do

NEAR_FLOOR = 2e-3  # nats; see the docstring above
_ATTEMPTS = 3
_ROW = r"(?m)^ *\d+ [^\n]+ %\r?\n"
_INCONSISTENT = re.compile(r"inconsistent vocabulary \((\d+) vs (\d+)\)")


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


def _other_vocabulary(reference: Model, candidate: Model, n_vocab: int, other: int) -> ModelFileError:
    return ModelFileError(
        f"{candidate.path} has a vocabulary of {other:,} tokens, {reference.path} one of {n_vocab:,}; compare files of one model"
    )


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
            raise _other_vocabulary(reference, candidate, n_vocab, vocabulary(candidate))
    return n_vocab


def _check_scored(header: Header, wanted: int, progress: Progress) -> None:
    """Warn if the text had fewer chunks than wanted; raise ModelFileError if they are too few for statistics."""
    n_scored = check_scored(header.n_chunks, header.n_ctx)
    if header.n_chunks < wanted:
        progress.warn(
            f"the evaluation text has {header.n_chunks} chunks of {header.n_ctx}, {wanted} were wanted: expect an error of "
            f"{relative_error(n_scored):.1%} of the mean KLD; give more with --eval-corpus"
        )


def _check_vocabulary(output: str, reference: Model, candidate: Model) -> None:
    """Raise if llama-perplexity found two vocabularies: it prints that, but goes on, and its figures mean nothing."""
    if found := _INCONSISTENT.search(output):
        raise _other_vocabulary(reference, candidate, int(found[1]), int(found[2]))


def _output(candidate: Model, reference: Model, base: tuple[Path, Header], program: Perplexity, progress: Progress) -> str:
    """All that llama-perplexity prints for a candidate; it is run again if the end of its output is missing.

    At its end it does not wait for its printing thread, so on a busy machine the last lines may be lost (llama.cpp's issue 22142).
    """
    path, header = base
    arguments = ["--kl-divergence-base", path.name, "--kl-divergence"]
    output = ""
    for _ in range(_ATTEMPTS):
        progress.begin(f"evaluate {candidate.path.name}", header.n_chunks)
        try:
            output = program.run(candidate, arguments, path.parent, Steps(_ROW, progress.advance))
        except ProgramFailed as error:
            _check_vocabulary(error.output, reference, candidate)
            raise
        progress.end()
        _check_vocabulary(output, reference, candidate)
        if not is_cut_off(output):
            break
        progress.say(f"evaluate: llama-perplexity lost the end of its output over {candidate.path.name}, running it again")
    return output


def _measure(candidate: Model, reference: Model, base: tuple[Path, Header], program: Perplexity, progress: Progress) -> Evaluation:
    """The candidate's figures. Raises ToolchainError if there are none, ModelFileError if they are NaN."""
    output = _output(candidate, reference, base, program, progress)
    n_chunks, n_scored = base[1].n_chunks, scored_tokens(base[1].n_ctx)
    evaluation = as_evaluation(parse(output, candidate.path.name), candidate.path.stem, n_chunks, n_scored, program.label)
    if not math.isfinite(evaluation.mean_kld):
        raise ModelFileError(f"{candidate.path} computes NaN in llama.cpp (mean KLD {evaluation.mean_kld}); quantize it otherwise")
    if evaluation.mean_kld < NEAR_FLOOR:
        progress.say(
            f"evaluate: mean KLD {evaluation.mean_kld:.6f} of {candidate.path.name} is near the floor of llama-perplexity's 16-bit "
            "log-probabilities (about 5e-4 with a large vocabulary); compare such files with --plugin torch"
        )
    return evaluation


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
    base = BaseFile.planned(reference, text, Header(options.n_ctx, n_vocab, n_chunks), program, folder)
    reused, threads = base.is_there, default_threads(options.threads)
    models = [*candidates] if reused else [reference, *candidates]
    minutes = guess_minutes(models, n_chunks * options.n_ctx, threads)
    made = f"{human_bytes(base.header.n_bytes)} of disk, {'kept' if options.keep_base else 'deleted at the end'}"
    disk = "the base logits kept there are used again" if reused else made
    progress.say(plan_line(n_chunks, options.n_ctx, f"{folder}: {disk}", minutes, threads))
    with base.opened(options.keep_base, progress) as (path, header):
        _check_scored(header, n_chunks, progress)
        return [_measure(candidate, reference, (path, header), program, progress) for candidate in candidates]
