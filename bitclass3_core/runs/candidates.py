"""The files that a run makes and compares: written once, evaluated once, remembered with what they were made from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bitclass3_core.corpus import Corpus
from bitclass3_core.errors import ContractError
from bitclass3_core.evaluation import Evaluation, paired_difference
from bitclass3_core.files import atomic_path, digest_of
from bitclass3_core.gguf.kernels import library
from bitclass3_core.gguf.model import GgufModel, total_file_bytes
from bitclass3_core.layout import bpw, data_bytes
from bitclass3_core.model import Model
from bitclass3_core.problem import Allocation
from bitclass3_core.progress import Progress
from bitclass3_core.results import Candidate
from bitclass3_core.runs.artefact import Artefact
from bitclass3_core.runs.estimate import Estimate
from bitclass3_core.runs.file_names import stock_name
from bitclass3_core.runs.folder import RunFolder
from bitclass3_core.runs.inputs import Inputs

TEST, SELECTION = "evaluation", "selection"  # the text on which a candidate is measured, and the folder of what came out


@dataclass(frozen=True, slots=True)
class CandidateFile:
    """A candidate's file in the folder, planned or written: its name, kind (``ours``, ``stock``, ``variation``), allocation and path.

    ``path`` is None before it is written, and after it was deleted with its figures kept; ``n_file_bytes`` is then its size.
    """

    name: str
    kind: str
    allocation: Allocation
    path: Path | None
    n_data_bytes: int
    n_file_bytes: int = 0

    @classmethod
    def planned(cls, name: str, kind: str, allocation: Allocation, model: Model) -> "CandidateFile":
        """A file that is still to be written."""
        return cls(name, kind, allocation, None, data_bytes(model, allocation.qtypes))

    @classmethod
    def of_mix(cls, mix: Allocation, model: Model) -> "CandidateFile":
        """A stock mix's file, still to be written."""
        return cls.planned(stock_name(model, mix), "stock", mix, model)

    @property
    def n_bytes(self) -> int:
        """Bytes of its GGUF, all files of a split together; 0 before it is written."""
        return total_file_bytes(self.path) if self.path else self.n_file_bytes

    def as_candidate(self, model: Model, predicted: float | None, evaluation: Evaluation | None) -> Candidate:
        """What reports see."""
        path = self.path if self.path and self.path.is_file() else None
        size = self.n_file_bytes or (total_file_bytes(path) if path else 0)
        return Candidate(
            self.name, self.kind, self.allocation, path, size, bpw(model, self.allocation.qtypes), predicted, evaluation
        )


class CandidateStore:
    """Writes candidates' files with one sensitivity, evaluates them, and keeps both in the run's folder."""

    def __init__(self, inputs: Inputs, estimate: Estimate) -> None:
        self._inputs, self._estimate = inputs, estimate
        self._folder, self._stages = inputs.context.folder, inputs.stages

    def parts_of(self, planned: CandidateFile) -> dict[str, Any]:
        """All that a candidate's file is made from."""
        return {
            "source": self._inputs.model.fingerprint,
            "sensitivity": self._estimate.sha256,
            "types": digest_of(dict(planned.allocation.qtypes)),
            "kernels": library().fingerprint,
            **self._stages.export_identities(),
            "calibration": Corpus.fingerprint(self._inputs.corpus.calibration),
        }

    def make(self, planned: CandidateFile, progress: Progress, figures: str | None = None) -> CandidateFile:
        """Write the candidate's files unless they are still good.

        Where only its figures on a part of the text (``figures``) are wanted, a deleted file whose figures are good is not made again.
        """
        artefact, parts = _artefact(planned), self.parts_of(planned)
        path = self._gguf_of(planned.name, self._folder.files_of(artefact))
        why = self._folder.reason(artefact, path, parts)
        if (
            figures
            and self._folder.is_dropped(artefact, parts)
            and not path.is_file()
            and not self._evaluation(planned, figures).why()
        ):
            return replace(planned, n_file_bytes=int(self._folder.candidates.get(planned.name, {}).get("n_file_bytes", 0)))
        if why is None and all(file.is_file() for file in self._folder.files_of(artefact)):
            progress.say(f"export: {path.name} is up to date")
        else:
            progress.say(f"export: {path.name} ({why or 'files are missing'})")
            path = self._export(planned, parts, progress)
        made = replace(planned, path=path, n_file_bytes=total_file_bytes(path))
        self._remember(made, path)
        return made

    def _export(self, planned: CandidateFile, parts: dict[str, Any], progress: Progress) -> Path:
        inputs, folder = self._inputs, self._folder
        files = self._stages.export(
            inputs.model,
            inputs.architecture,
            planned.allocation,
            self._estimate.sensitivity,
            inputs.corpus,
            folder.path,
            planned.name,
            progress,
        )
        path = self._gguf_of(planned.name, files)
        self._check_file(path, files, planned)
        written = {file.name for file in files}  # by name: an exporter may answer the same path in another form
        for earlier in folder.files_of(_artefact(planned)):
            if earlier.name not in written:  # of another exporter, or of other options: it would speak of a file that is gone
                earlier.unlink(missing_ok=True)
        failed = {"failed": sorted(self._stages.failed)} if self._stages.failed else {}  # so that the next run tries them again
        folder.record(_artefact(planned), path, {**parts, **failed}, files)
        return path

    def drop(self, made: CandidateFile) -> None:
        """Delete the candidate's GGUF, a variation's recipe too; what was measured of it stays."""
        self._folder.drop(_artefact(made), all_files=made.kind == "variation")

    def _gguf_of(self, name: str, files: list[Path]) -> Path:
        """The candidate's GGUF among an exporter's files (the first of a split), or where a whole one would be."""
        return next(
            (path for path in files if path.suffix == ".gguf" and path.name.startswith(name)), self._folder.path / f"{name}.gguf"
        )

    def _check_file(self, path: Path, files: list[Path], planned: CandidateFile) -> None:
        """Read the file back: every tensor has the type that was asked for."""
        if path not in files:
            raise ContractError(f"no export plugin wrote {path.name}, which evaluation needs; add one that does to [export] plugin")
        written = GgufModel(path).tensors
        for name, info in self._inputs.model.tensors.items():
            asked = planned.allocation.qtypes.get(name, info.dtype)
            if name not in written or written[name].dtype != asked:
                got = written[name].dtype if name in written else "nothing"
                raise ContractError(f"{path.name}: {name} was written as {got}, asked {asked}")

    def _remember(self, made: CandidateFile, path: Path) -> None:
        allocation = made.allocation
        of_file = {"kind": made.kind, "file": path.name, "n_data_bytes": made.n_data_bytes, "n_file_bytes": made.n_file_bytes}
        of_types = {"solver": allocation.solver, "note": allocation.note, "qtypes": dict(allocation.qtypes)}
        self._folder.put_candidate(made.name, {**of_file, **of_types})

    def earlier(self) -> list[CandidateFile]:
        """Files of this folder that are still there, by name."""
        found = []
        for name, entry in sorted(self._folder.candidates.items()):
            path = self._folder.path / entry["file"]
            if path.is_file() and entry["kind"] in ("ours", "stock") and set(entry["qtypes"]) <= set(self._inputs.model.tensors):
                allocation = Allocation(entry["qtypes"], entry["solver"], note=entry["note"])
                found.append(CandidateFile(name, entry["kind"], allocation, path, entry["n_data_bytes"]))
        return found

    def _evaluation(self, made: CandidateFile, part: str) -> Artefact[Evaluation]:
        """The figures of a candidate on a part of the text, with all that they depend on."""
        corpus = self._inputs.corpus
        parts = {
            "source": self._inputs.source,
            "file": self._folder.fingerprint(_artefact(made)),
            "evaluation": Corpus.fingerprint(corpus.evaluation if part == TEST else corpus.selection),
            **self._stages.identity("evaluate"),
        }
        return evaluation_artefact(made.name, self._folder.path / part / f"{made.name}.npz", parts, self._folder, part)

    def evaluate(self, files: Sequence[CandidateFile], progress: Progress, part: str = TEST) -> dict[str, Evaluation]:
        """Evaluations by candidate name: of ``files``, measured where needed, and of earlier files that can still be compared."""
        earlier = self.earlier() if part == TEST else []
        named = {made.name: made for made in (*earlier, *files)}
        found = {name: kept for name, made in named.items() if (kept := self._evaluation(made, part).kept()) is not None}
        missing = [made for name, made in named.items() if name not in found and made in files]
        if missing:
            text = "" if part == TEST else ", selection text"
            progress.say(f"evaluate: {self._stages.plugin('evaluate').name} on {', '.join(made.name for made in missing)}{text}")
            found.update(self._measure(missing, progress, part))
        else:
            progress.say("evaluate: everything is up to date")
        return found

    def _measure(self, files: Sequence[CandidateFile], progress: Progress, part: str) -> dict[str, Evaluation]:
        inputs = self._inputs
        corpus = inputs.corpus if part == TEST else inputs.corpus.for_selection()
        candidates: list[Model] = [GgufModel(made.path) for made in files if made.path]
        answers = self._stages.evaluate(inputs.model, candidates, inputs.architecture, corpus, progress)
        return {made.name: self._evaluation(made, part).put(answer) for made, answer in zip(files, answers, strict=True)}


def _artefact(made: CandidateFile) -> str:
    """What a candidate's file is called in ``run.json``."""
    return f"file {made.name}"


def differences(ours: str, evaluations: Mapping[str, Evaluation]) -> dict[str, tuple[float, float]]:
    """Paired differences of mean KLD, ours minus each other candidate, with standard errors."""
    if ours not in evaluations:
        return {}
    pairs = {name: paired_difference(evaluations[ours], other) for name, other in evaluations.items() if name != ours}
    return {name: pair for name, pair in pairs.items() if pair is not None}


def evaluation_artefact(
    name: str, path: Path, parts: Mapping[str, Any], folder: RunFolder, part: str = TEST
) -> Artefact[Evaluation]:
    """The figures of a file in a folder that notes what they were made from."""
    return Artefact(f"{part} {name}", path, parts, save_evaluation, load_evaluation, folder)


def save_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Write figures and every token's KLD as one ``.npz`` (arrays and strings only, no pickle)."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        tokens = np.empty(0, np.float32) if evaluation.token_kld is None else evaluation.token_kld
        np.savez_compressed(file, figures=np.array(json.dumps(evaluation.to_json())), token_kld=tokens)


def load_evaluation(path: Path) -> Evaluation:
    """Read what ``save_evaluation`` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        figures, tokens = json.loads(str(arrays["figures"])), arrays["token_kld"]
    return Evaluation(**figures, token_kld=tokens if len(tokens) else None)
