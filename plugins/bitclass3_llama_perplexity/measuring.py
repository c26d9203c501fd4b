"""Measures one candidate against the base logits."""

import math
import re
from pathlib import Path

from bitclass3_core.errors import ModelFileError
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.model import Model
from bitclass3_core.progress import Progress
from bitclass3_core.toolchain.running import ProgramFailed, Steps
from bitclass3_llama_perplexity.base import Header
from bitclass3_llama_perplexity.output import as_evaluation, is_cut_off, parse
from bitclass3_llama_perplexity.planning import scored_tokens
from bitclass3_llama_perplexity.program import Perplexity

NEAR_FLOOR = 2e-3  # nats; see the package's docstring
_ATTEMPTS = 3
_ROW = r"(?m)^ *\d+ [^\n]+ %\r?\n"
_INCONSISTENT = re.compile(r"inconsistent vocabulary \((\d+) vs (\d+)\)")


def other_vocabulary(reference: Model, candidate: Model, n_vocab: int, other: int) -> ModelFileError:
    """The error for two models with different vocabularies."""
    return ModelFileError(
        f"{candidate.path} has a vocabulary of {other:,} tokens, {reference.path} one of {n_vocab:,}; compare files of one model"
    )


def _check_vocabulary(output: str, reference: Model, candidate: Model) -> None:
    """Raise if llama-perplexity found two vocabularies: it prints that, but goes on, and its figures mean nothing."""
    if found := _INCONSISTENT.search(output):
        raise other_vocabulary(reference, candidate, int(found[1]), int(found[2]))


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


def measure(candidate: Model, reference: Model, base: tuple[Path, Header], program: Perplexity, progress: Progress) -> Evaluation:
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
