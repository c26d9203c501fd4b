"""in_power from an imatrix file that somebody else made (llama-imatrix, .gguf or legacy .dat): for models that torch cannot load."""

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from bitclass3_core import hookimpl
from bitclass3_core.errors import ConfigError, ModelFileError
from bitclass3_core.files import sha256_file
from bitclass3_core.imatrix_file import Imatrix, read_imatrix
from bitclass3_core.model import Architecture, FloatArray, Model, TensorInfo
from bitclass3_core.progress import Progress
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity, fill_missing


class Options(BaseModel):
    """Which file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path | None = Field(None, description="imatrix file, .gguf or legacy .dat")


def _fitted(values: FloatArray, info: TensorInfo, path: Path) -> FloatArray:
    """The vector(s) in the tensor's shape; experts that no token reached get the mean of the others."""
    flat = values.reshape(-1)
    if flat.size not in (info.n_in, info.n_in * info.n_experts):
        raise ModelFileError(
            f"imatrix {path} is of another model: {info.name} has {flat.size} values there, {info.n_in} columns here"
        )
    experts = flat.reshape(-1, info.n_in)
    if np.isnan(experts).all():
        return np.ones(info.n_in, np.float32)
    experts = np.where(np.isnan(experts), np.nanmean(experts, axis=0), experts).astype(np.float32)
    return experts[0] if len(experts) == 1 else experts


def _check_coverage(found: Imatrix, model: Model, architecture: Architecture, path: Path) -> None:
    unknown = sorted(set(found.in_power) - set(model.tensors))
    if not set(found.in_power) & architecture.quantizable:
        raise ModelFileError(
            f"imatrix {path} is of another model: none of its {len(found.in_power)} tensors ({min(found.in_power)}) is to be quantized in {model.path.name}"
        )
    if len(unknown) > len(found.in_power) // 2:
        raise ModelFileError(
            f"imatrix {path} is of another model: {len(unknown)} of its {len(found.in_power)} tensors ({unknown[0]}) are not in {model.path.name}"
        )


@hookimpl
def bitclass3_estimate(model: Model, architecture: Architecture, options: Options, progress: Progress) -> Sensitivity:
    """in_power as in the file; what the file lacks is named and filled from its neighbours."""
    if options.path is None:
        raise ConfigError("no imatrix file; give --set estimate.options.path=FILE")
    found = read_imatrix(options.path)
    _check_coverage(found, model, architecture, options.path)
    known = {
        name: TensorSensitivity(Powers(_fitted(found.in_power[name], model.tensors[name], options.path)))
        for name in architecture.quantizable & set(found.in_power)
    }
    filled, notes = fill_missing(model, architecture.quantizable, known)
    for note in notes:
        progress.say(note)
    corpus = f"{sha256_file(options.path)} {' '.join(found.datasets)}".strip()
    return Sensitivity(filled, "imatrix", found.n_tokens, n_ctx=512, corpus=corpus, notes=notes)
