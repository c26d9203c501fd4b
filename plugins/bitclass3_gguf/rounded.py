"""Tensors rounded with error feedback, one group of layers at a time, each kept on disk until the file is written."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bitclass3_core.corpus import Corpus
from bitclass3_core.errors import ModelFileError, UnusableTypeError
from bitclass3_core.files import atomic_path, digest_of
from bitclass3_core.gguf.kernels import dequantize, library
from bitclass3_core.gguf.rounding_gains import RoundingGain, load_gains, mean_left, save_gains
from bitclass3_core.machine import default_threads
from bitclass3_core.model import Architecture, FloatArray, Model
from bitclass3_core.plugin.at_work import at_work
from bitclass3_core.problem import Allocation
from bitclass3_core.progress import Progress
from bitclass3_core.qtypes import qtype
from bitclass3_core.runs.artefact import Artefact
from bitclass3_core.sensitivity import Sensitivity
from bitclass3_gguf.codes import Bytes, has_codes
from bitclass3_gguf.options import ANSWERS, Options
from bitclass3_gguf.workers import SLAB_ROWS, at_a_time, torch_threads, work_side_by_side, working_bytes

if TYPE_CHECKING:
    import torch
    from bitclass3_torch.moments import TensorMoments

_NOT_OF_ROUNDING = {"threads", "memory_gib", "device", "keep_rounded", "tuning_steps", "tuning_rate"}  # options


@dataclass(frozen=True, slots=True)
class Export:
    """What the exporter is called with, but the place of the file."""

    model: Model
    architecture: Architecture
    allocation: Allocation
    sensitivity: Sensitivity
    corpus: Corpus
    options: Options
    progress: Progress


@dataclass(frozen=True, slots=True)
class RoundedTensors:
    """Bytes of tensors that were rounded already, as files in a folder of the run."""

    folder: Path
    digest: str

    def _artefact(self, name: str) -> Artefact[Bytes]:
        """A tensor's bytes, under all that they depend on."""
        return Artefact(name, self.folder / f"{self.digest[:16]}-{name}.npy", {"digest": self.digest}, _save_bytes, _load_bytes)

    def has(self, name: str) -> bool:
        """Whether a tensor's bytes are there."""
        return self._artefact(name).why() is None

    def gain_path(self, name: str) -> Path:
        """Where it is kept what the rounding of a tensor gained."""
        return self.folder / f"{self.digest[:16]}-{name}.json"

    def load(self, name: str) -> Bytes | None:
        """The tensor's bytes [n_rows, row bytes], if they are there."""
        return self._artefact(name).kept()

    def save(self, name: str, data: Bytes, gain: RoundingGain | None = None) -> None:
        """Keep a tensor's bytes, and before them what was gained: where the bytes are, the tensor is done."""
        if gain is not None:
            save_gains(self.gain_path(name), {name: gain})
        self._artefact(name).put(data)

    def gains(self) -> dict[str, RoundingGain]:
        """What was gained with every tensor that is kept."""
        paths = sorted(self.folder.glob(f"{self.digest[:16]}-*.json"))
        return {name: gain for path in paths for name, gain in load_gains(path).items()}

    def clear(self) -> None:
        """Remove them, and the folder if nothing else is in it."""
        for path in self.folder.glob(f"{self.digest[:16]}-*"):
            path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def _save_bytes(data: Bytes, path: Path) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, data, allow_pickle=False)


def _load_bytes(path: Path) -> Bytes:
    data: Bytes = np.load(path, allow_pickle=False)
    return data


def kept_in(out: Path, export: Export) -> RoundedTensors:
    """Where the tensors of this allocation are kept: under all that they depend on, so that another run finds its own."""
    parts: dict[str, Any] = {
        "code": _code_version(),
        "source": export.model.fingerprint,
        "types": digest_of(dict(export.allocation.qtypes)),
        "imatrix": digest_of({name: float(tensor.imatrix.sum()) for name, tensor in export.sensitivity.tensors.items()}),
        "text": Corpus.fingerprint(export.corpus.calibration),
        "options": export.options.model_dump(mode="json", exclude=_NOT_OF_ROUNDING),
        "kernels": library().fingerprint,
    }
    return RoundedTensors(out / ".rounded", digest_of(parts))


def _code_version() -> str:
    """The version of this code's answers, also where another plugin calls it."""
    work = at_work()
    return work.version.rpartition("+")[2] if work and work.plugin == "gguf" else ANSWERS


def gains_line(gains: Mapping[str, RoundingGain]) -> str:
    """What the feedback gained, for the terminal."""
    return f"error feedback: {len(gains)} tensors; their part of the KL divergence is {mean_left(gains):.2f} of plain rounding's, in the mean"


def round_with_feedback(export: Export, kept: RoundedTensors) -> None:
    """Round every tensor that can be, the first layers first, each with the inputs that the rounded layers before it give.

    Raises UnusableTypeError for a tensor that cannot have its type, the torch loader's errors where there is no HF folder.
    """
    from bitclass3_torch.model import load_torch_model
    from bitclass3_torch.tokens import token_chunks

    model, options, progress = export.model, export.options, export.progress
    qtypes = export.allocation.qtypes
    wanted = [name for name in _by_depth(model, qtypes) if not qtype(qtypes[name]).is_float]
    if all(kept.has(name) for name in wanted):
        return
    loaded = load_torch_model(model, export.architecture, options.device, options.dtype)
    from bitclass3_torch.moments import has_plain_inputs, max_rows, moment_groups, tensor_moments

    wanted = [name for name in wanted if name in loaded.places and has_plain_inputs(loaded.places[name])]
    chunks, _ = token_chunks(loaded.tokenizer, export.corpus.calibration, options.n_tokens, options.n_ctx, "calibration")
    memory = int(options.memory_gib * 2**30)
    groups = moment_groups(loaded, wanted, memory, options.n_ctx)
    n_threads = default_threads(options.threads)
    progress.begin("error feedback", len(groups) * len(chunks) + len(wanted))

    def round_one(found: tuple[str, "TensorMoments"]) -> None:
        name, moments = found
        kept.save(name, *_rounded(export, name, moments))
        progress.advance()

    for group in groups:
        todo = [name for name in group if not kept.has(name)]
        if todo:
            sizes = {name: working_bytes(model.tensors[name], max_rows(memory)) for name in todo}
            side_by_side = at_a_time(sizes, memory, n_threads)
            moments = tensor_moments(loaded, list(side_by_side), export.architecture, chunks, memory, options.seed, progress)
            for n, alike in groupby(moments, key=lambda found: side_by_side[found[0]]):
                with torch_threads(max(1, n_threads // n)):
                    work_side_by_side(round_one, alike, n)
        for name in group:
            if (data := kept.load(name)) is not None:
                loaded.set_weight(name, dequantize(data, qtype(qtypes[name])), export.architecture)
    progress.end()
    if gains := kept.gains():
        progress.say(gains_line(gains))


def _by_depth(model: Model, qtypes: Mapping[str, str]) -> list[str]:
    """Names in the order in which the model computes: by block, the head last."""
    blocks = {name: model.tensors[name].block for name in qtypes}
    return sorted(blocks, key=lambda name: (blocks[name] is None, blocks[name], name))


def _rounded(export: Export, name: str, moments: "TensorMoments") -> tuple[Bytes, RoundingGain]:
    """The tensor's bytes: of plain rounding, rows alone and rows together whatever moves the outputs least where they matter."""
    from bitclass3_gguf.feedback import Moments, RoundedRows, round_rows, round_together

    model, rounds = export.model, export.options.rounds
    info, q = model.tensors[name], qtype(export.allocation.qtypes[name])
    known = export.sensitivity.tensors.get(name)
    imatrix = None if known is None else np.atleast_2d(known.imatrix)
    n_rows = info.n_rows // info.n_experts
    experts = moments.inputs.reshape(-1, info.n_in, info.n_in)  # one for all where the tensor is no stack

    def rounded_expert(expert: int, factors: Moments) -> RoundedRows:
        weights = None if imatrix is None else imatrix[min(expert, len(imatrix) - 1)]
        first, end = expert * n_rows, (expert + 1) * n_rows
        slabs = [slice(begin, min(begin + SLAB_ROWS, end)) for begin in range(first, end, SLAB_ROWS)]
        return RoundedRows.joined([round_rows(model.read(name, slab), q, weights, factors, rounds) for slab in slabs])

    try:
        factors = Moments.of(experts[0])
        parts = [rounded_expert(i, factors if i == 0 else Moments.of(experts[i])) for i in range(info.n_experts)]
        alone = RoundedRows.joined(parts)
        if moments.gradients is None or moments.judged_x is None or moments.judged_g is None:
            return alone.data, RoundingGain(q.name, alone.plain_error, alone.kept_error, "rows alone")
        rows = model.read(name)
        choices = [alone.plain, alone.data]
        if has_codes(q):
            choices.append(round_together(rows, q, factors, moments.gradients, rounds))
    except UnusableTypeError as error:
        raise UnusableTypeError(name, q.name, error.reason) from error
    except ValueError as error:
        raise ModelFileError(f'{name} cannot be rounded with feedback ({error}); use rounding = "plain"') from error
    costs = [_judged(dequantize(data, q) - rows, moments.judged_x, moments.judged_g) for data in choices]
    best = int(np.argmin(costs))
    return choices[best], RoundingGain(q.name, costs[0], costs[best], ("plain", "rows alone", "rows together")[best])


def _judged(difference: FloatArray, x: "torch.Tensor", g: "torch.Tensor") -> float:
    """E[(g^T D x)^2] over tokens that the rounding has not seen: twice the tensor's part of the KL divergence, to second order."""
    import torch

    outputs = x @ torch.from_numpy(difference).T
    return float((outputs * g).sum(1).double().square().mean())
