"""in_power from an imatrix: a file that somebody else made (.gguf or legacy .dat), or made here by llama-imatrix.

It is for models that torch cannot load. An expert's in_power counts with the share of tokens that reach it.
"""

import tempfile
from itertools import accumulate
from pathlib import Path

import numpy as np
from pydantic import Field

from bitclass3_core import hookimpl
from bitclass3_core.corpus import Corpus
from bitclass3_core.errors import ConfigError, ModelFileError, ToolchainError
from bitclass3_core.files import sha256_file
from bitclass3_core.gguf.imatrix import Imatrix, read_imatrix
from bitclass3_core.model import Architecture, FloatArray, Model, TensorInfo
from bitclass3_core.options import PluginOptions
from bitclass3_core.progress import Progress
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity, fill_missing
from bitclass3_core.toolchain.finding import find_program
from bitclass3_core.toolchain.running import ProgramFailed, Steps, last_lines, run_program

BITCLASS3_ANSWERS = "c408ec8f8f92"  # changes when the answers do

PROGRAM = "llama-imatrix"
_CHARS_PER_TOKEN = 12  # more than with any usual tokenizer: the program itself stops after the chunks that were asked for
_CHUNK = r"\[\d+\][\d.a-z-]+,"


class Options(PluginOptions):
    """The imatrix file, or how llama-imatrix makes one."""

    llama_cpp: Path | None = Field(None, description="folder of llama.cpp; else LLAMA_CPP_DIR, PATH, the managed one")
    n_tokens: int = Field(65536, gt=0, description="calibration tokens at the most")
    n_ctx: int = Field(512, gt=1, description="tokens a chunk")
    threads: int = Field(0, ge=0, description="0: llama-imatrix's default")
    gpu_layers: int = Field(-1, ge=-1, description="layers on the GPU; -1: llama-imatrix's default")
    path: Path | None = Field(None, description="imatrix file, .gguf or legacy .dat; unset: llama-imatrix makes one of the corpus")


def calibration_text(corpus: Corpus, n_tokens: int) -> str:
    """As many calibration documents as ``n_tokens`` tokens need, joined to one text. Raises ConfigError if there are none."""
    if not corpus.calibration:
        raise ConfigError("no calibration text; give --corpus FILE, or an imatrix with --set estimate.options.path=FILE")
    texts = [doc.text for doc in corpus.calibration]
    before = accumulate(map(len, texts), initial=0)
    return "\n\n".join(text for text, n_chars in zip(texts, before, strict=False) if n_chars <= n_tokens * _CHARS_PER_TOKEN)


def make_imatrix(model: Model, corpus: Corpus, options: Options, progress: Progress) -> Imatrix:
    """Run llama-imatrix on the model and the calibration text.

    Raises ModelFileError for too little text, ToolchainError if the program is missing or fails.
    """
    given = calibration_text(corpus, options.n_tokens)
    program = find_program(PROGRAM, options.llama_cpp)
    n_chunks = max(1, options.n_tokens // options.n_ctx)
    progress.say(f"estimate: {program.path} on at most {n_chunks} chunks of {options.n_ctx} tokens")
    with tempfile.TemporaryDirectory(prefix="bitclass3-imatrix-") as folder:
        text, out = Path(folder) / "calibration.txt", Path(folder) / "imatrix.gguf"
        text.write_text(given, encoding="utf-8")
        command = [str(program.path), "-m", str(model.path), "-f", str(text), "-o", str(out), "--process-output"]
        command += ["-c", str(options.n_ctx), "--chunks", str(n_chunks)]
        command += ["-t", str(options.threads)] if options.threads else []
        command += ["-ngl", str(options.gpu_layers)] if options.gpu_layers >= 0 else []
        progress.begin(f"{PROGRAM} {model.name}", n_chunks)
        try:
            output = run_program(command, listener=Steps(_CHUNK, progress.advance))
        except ProgramFailed as error:
            raise _as_error(error, model) from None
        finally:
            progress.end()
        if "you need at least" in output:
            raise ModelFileError(
                f"the calibration text is too short for llama-imatrix ({last_lines(output, 2)}); give more text or a smaller n_ctx"
            )
        if not out.is_file():
            raise ToolchainError(f"{PROGRAM} wrote no imatrix; its last lines: {last_lines(output)}")
        return read_imatrix(out)


def _as_error(error: ProgramFailed, model: Model) -> ToolchainError | ModelFileError:
    if "unknown model architecture" in error.output:
        return ModelFileError(f"this llama.cpp does not know the architecture {model.arch!r} of {model.path.name}; use a newer one")
    return ToolchainError(str(error))


def _fitted(values: FloatArray, info: TensorInfo) -> FloatArray:
    """The vector(s) in the tensor's shape; an expert that no token reached gets the mean of the others."""
    flat = values.reshape(-1)
    if flat.size not in (info.n_in, info.n_in * info.n_experts):
        raise ModelFileError(
            f"the imatrix is of another model: {info.name} has {flat.size} values there, {info.n_in} columns here; make one of this model"
        )
    experts = flat.reshape(-1, info.n_in)
    if np.isnan(experts).all():
        return np.ones(info.n_in, np.float32)
    experts = np.where(np.isnan(experts), np.nanmean(experts, axis=0), experts).astype(np.float32)
    return experts[0] if len(experts) == 1 else experts


def _row_shares(found: Imatrix, info: TensorInfo) -> FloatArray | None:
    """The share of tokens [n_rows] that reach each row's expert, with one token more for each expert; None for a plain matrix."""
    counts = found.counts.get(info.name)
    if info.n_experts == 1 or counts is None or len(counts) != info.n_experts or not found.n_tokens:
        return None
    return np.repeat((counts + 1) / (found.n_tokens + info.n_experts), info.n_rows // info.n_experts).astype(np.float32)


def known_powers(found: Imatrix, model: Model, architecture: Architecture) -> dict[str, TensorSensitivity]:
    """The powers of every quantizable tensor in the imatrix: its in_power, and experts' rows by their share of tokens.

    Raises ModelFileError for an imatrix of another model.
    """
    known, unknown = architecture.quantizable & set(found.in_power), sorted(set(found.in_power) - set(model.tensors))
    n_tensors, name = len(found.in_power), model.path.name
    if not known:
        raise ModelFileError(
            f"the imatrix is of another model: none of its {n_tensors} tensors ({min(found.in_power)}) is to be quantized in {name}"
        )
    if len(unknown) > n_tensors // 2:
        raise ModelFileError(
            f"the imatrix is of another model: {len(unknown)} of its {n_tensors} tensors ({unknown[0]}) are not in {name}"
        )
    return {
        name: TensorSensitivity(Powers(_fitted(found.in_power[name], model.tensors[name]), _row_shares(found, model.tensors[name])))
        for name in sorted(known)
    }


@hookimpl
def bitclass3_estimate(
    model: Model, architecture: Architecture, corpus: Corpus, options: Options, progress: Progress
) -> Sensitivity:
    """in_power from the file or by llama-imatrix; notes name missing tensors, which get the mean of their neighbours."""
    if options.path is None:
        found, made_of = make_imatrix(model, corpus, options, progress), Corpus.fingerprint(corpus.calibration)
    else:
        found = read_imatrix(options.path)
        made_of = f"{sha256_file(options.path)} {' '.join(found.datasets)}".strip()
    filled, notes = fill_missing(model, architecture.quantizable, known_powers(found, model, architecture))
    return Sensitivity(filled, "imatrix", found.n_tokens, options.n_ctx, made_of, notes, only_ranks=True)
