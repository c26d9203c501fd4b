"""in_power from an imatrix: a file that somebody else made (.gguf or legacy .dat), or made here by llama-imatrix.

It is for models that torch cannot load. An expert's in_power counts with the share of tokens that reach it.
"""

from pathlib import Path

import numpy as np
from pydantic import Field

from bitclass3_core import hookimpl
from bitclass3_core.corpus import Corpus
from bitclass3_core.errors import ModelFileError
from bitclass3_core.files import sha256_file
from bitclass3_core.gguf.imatrix import Imatrix, read_imatrix
from bitclass3_core.model import Architecture, FloatArray, Model, TensorInfo
from bitclass3_core.progress import Progress
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity, fill_missing
from bitclass3_imatrix.making import MakingOptions, make_imatrix

BITCLASS3_ANSWERS = "c408ec8f8f92"  # changes when the answers do


class Options(MakingOptions):
    """The imatrix file, or how llama-imatrix makes one."""

    path: Path | None = Field(None, description="imatrix file, .gguf or legacy .dat; unset: llama-imatrix makes one of the corpus")


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


def _check_coverage(found: Imatrix, model: Model, architecture: Architecture) -> None:
    unknown = sorted(set(found.in_power) - set(model.tensors))
    n_tensors, name = len(found.in_power), model.path.name
    if not set(found.in_power) & architecture.quantizable:
        raise ModelFileError(
            f"the imatrix is of another model: none of its {n_tensors} tensors ({min(found.in_power)}) is to be quantized in {name}"
        )
    if len(unknown) > n_tensors // 2:
        raise ModelFileError(
            f"the imatrix is of another model: {len(unknown)} of its {n_tensors} tensors ({unknown[0]}) are not in {name}"
        )


def known_powers(found: Imatrix, model: Model, architecture: Architecture) -> dict[str, TensorSensitivity]:
    """The powers of every quantizable tensor in the imatrix: its in_power, and experts' rows by their share of tokens.

    Raises ModelFileError for an imatrix of another model.
    """
    _check_coverage(found, model, architecture)
    return {
        name: TensorSensitivity(Powers(_fitted(found.in_power[name], model.tensors[name]), _row_shares(found, model.tensors[name])))
        for name in sorted(architecture.quantizable & set(found.in_power))
    }


def imatrix_of(model: Model, corpus: Corpus, options: Options, progress: Progress) -> tuple[Imatrix, str]:
    """(the imatrix, from the file or made of the calibration text; what it was made of)."""
    if options.path is None:
        return make_imatrix(model, corpus, options, progress), Corpus.fingerprint(corpus.calibration)
    found = read_imatrix(options.path)
    return found, f"{sha256_file(options.path)} {' '.join(found.datasets)}".strip()


@hookimpl
def bitclass3_estimate(
    model: Model, architecture: Architecture, corpus: Corpus, options: Options, progress: Progress
) -> Sensitivity:
    """in_power from the file or by llama-imatrix; notes name missing tensors, which get the mean of their neighbours."""
    found, made_of = imatrix_of(model, corpus, options, progress)
    filled, notes = fill_missing(model, architecture.quantizable, known_powers(found, model, architecture))
    return Sensitivity(filled, "imatrix", found.n_tokens, options.n_ctx, made_of, notes, only_ranks=True)
