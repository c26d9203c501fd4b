"""The files that a run makes and compares: written once, evaluated once, remembered with what they were made from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bitclass3_core.corpus import Corpus
from bitclass3_core.costs import CostTable
from bitclass3_core.errors import ContractError
from bitclass3_core.evaluation import Evaluation, paired_difference
from bitclass3_core.files import atomic_path, digest_of
from bitclass3_core.gguf.kernels import library
from bitclass3_core.gguf.model import GgufModel, total_file_bytes
from bitclass3_core.layout import Budget, bpw, data_bytes
from bitclass3_core.model import Architecture, Model
from bitclass3_core.plugin.stages import StageRunner
from bitclass3_core.problem import Allocation
from bitclass3_core.progress import Progress
from bitclass3_core.results import Candidate
from bitclass3_core.runs.folder import RunFolder
from bitclass3_core.sensitivity import Sensitivity

TEST, SELECTION = "evaluation", "selection"  # the text on which a candidate is measured, and the folder of what came out


@dataclass(frozen=True, slots=True)
class MadeFile:
    """A file of this folder, planned or written: its name, kind (``ours``, ``stock``, ``variation``), allocation and path.

    ``path`` is None before it is written, and after it was deleted with its figures kept; ``n_file_bytes`` is then its size.
    """

    name: str
    kind: str
    allocation: Allocation
    path: Path | None
    n_data_bytes: int
    n_file_bytes: int = 0

    @classmethod
    def planned(cls, name: str, kind: str, allocation: Allocation, model: Model) -> "MadeFile":
        """A file that is still to be written."""
        return cls(name, kind, allocation, None, data_bytes(model, allocation.qtypes))

    @classmethod
    def of_mix(cls, mix: Allocation, model: Model) -> "MadeFile":
        """A stock mix's file, still to be written: ``MODEL-stock-Q4_K_M``."""
        return cls.planned(f"{model.name}-{(mix.note or mix.solver).replace(' ', '-')}", "stock", mix, model)

    def as_candidate(self, model: Model, predicted: float | None, evaluation: Evaluation | None) -> Candidate:
        """What reports see."""
        path = self.path if self.path and self.path.is_file() else None
        size = self.n_file_bytes or (total_file_bytes(path) if path else 0)
        return Candidate(
            self.name, self.kind, self.allocation, path, size, bpw(model, self.allocation.qtypes), predicted, evaluation
        )


def allocation_record(allocation: Allocation, costs: CostTable, budget: Budget) -> dict[str, Any]:
    """``allocation.json``: types, predicted cost, proof."""
    proof = allocation.proof
    return {
        "budget": {"data_bytes": budget.data_bytes, "label": budget.label},
        "cost": costs.total(allocation.qtypes),
        "cost_in_nats_per_token": costs.in_nats,
        "proof": {"bound": proof.bound, "gap": proof.gap, "optimal": proof.optimal} if proof else None,
        "qtypes": dict(sorted(allocation.qtypes.items())),
        "solver": allocation.solver,
    }


class CandidateStore:
    """Writes candidates, evaluates them, and keeps both in the run's folder."""

    def __init__(
        self, folder: RunFolder, model: GgufModel, source: str, architecture: Architecture, corpus: Corpus, stages: StageRunner
    ) -> None:
        self._folder, self._model, self._source, self._stages = folder, model, source, stages
        self._architecture, self._corpus = architecture, corpus

    def make(
        self, planned: MadeFile, sensitivity: Sensitivity, sensitivity_sha: str, progress: Progress, figures: str | None = None
    ) -> MadeFile:
        """Write the candidate's files unless they are still good.

        Where only its figures on a part of the text (``figures``) are wanted, a deleted file whose figures are good is not made again.
        """
        parts = self.parts_of(planned, sensitivity_sha)
        artefact = f"file {planned.name}"
        path = self._gguf_of(planned.name, self._folder.files_of(artefact))
        reason = self._folder.reason(artefact, path, parts)
        if figures and self._folder.is_dropped(artefact, parts) and not path.is_file() and self._is_evaluated(planned, figures):
            return replace(planned, n_file_bytes=int(self._folder.candidates.get(planned.name, {}).get("n_file_bytes", 0)))
        if reason is None and all(file.is_file() for file in self._folder.files_of(artefact)):
            progress.say(f"export: {path.name} is up to date")
        else:
            progress.say(f"export: {path.name} ({reason or 'files are missing'})")
            path = self._export(planned, sensitivity, parts, progress)
        made = replace(planned, path=path, n_file_bytes=total_file_bytes(path))
        self._remember(made, path)
        return made

    def parts_of(self, planned: MadeFile, sensitivity_sha: str) -> dict[str, Any]:
        """All that a candidate's file is made from."""
        return {
            "source": self._model.fingerprint,
            "sensitivity": sensitivity_sha,
            "types": digest_of(dict(planned.allocation.qtypes)),
            "kernels": library().fingerprint,
            **self._stages_of_export(),
            "calibration": Corpus.fingerprint(self._corpus.calibration),
        }

    def _export(self, planned: MadeFile, sensitivity: Sensitivity, parts: dict[str, Any], progress: Progress) -> Path:
        files = self._stages.export(
            self._model,
            self._architecture,
            planned.allocation,
            sensitivity,
            self._corpus,
            self._folder.path,
            planned.name,
            progress,
        )
        path = self._gguf_of(planned.name, files)
        self._check_file(path, files, planned)
        written = {file.name for file in files}  # by name: an exporter may answer the same path in another form
        for earlier in self._folder.files_of(f"file {planned.name}"):
            if earlier.name not in written:  # of another exporter, or of other options: it would speak of a file that is gone
                earlier.unlink(missing_ok=True)
        failed = {"failed": sorted(self._stages.failed)} if self._stages.failed else {}  # so that the next run tries them again
        self._folder.record(f"file {planned.name}", path, {**parts, **failed}, files)
        return path

    def size_of(self, made: MadeFile) -> int:
        """Bytes of its GGUF, all files of a split together."""
        return total_file_bytes(made.path) if made.path else made.n_file_bytes

    def drop(self, made: MadeFile) -> MadeFile:
        """Delete the candidate's GGUF, a variation's recipe too; what was measured of it stays."""
        self._folder.drop(f"file {made.name}", all_files=made.kind == "variation")
        return replace(made, path=None)

    def _gguf_of(self, name: str, files: list[Path]) -> Path:
        """The candidate's GGUF among an exporter's files (the first of a split), or where a whole one would be."""
        return next(
            (path for path in files if path.suffix == ".gguf" and path.name.startswith(name)), self._folder.path / f"{name}.gguf"
        )

    def _stages_of_export(self) -> dict[str, Any]:
        return {name: self._stages.identity("export", name) for name in self._stages.exporters}

    def _check_file(self, path: Path, files: list[Path], planned: MadeFile) -> None:
        """Read the file back: every tensor has the type that was asked for."""
        if path not in files:
            raise ContractError(
                f"no export plugin wrote {path.name}, which evaluation needs; add gguf or llama-quantize to [export] plugin"
            )
        written = GgufModel(path).tensors
        for name, info in self._model.tensors.items():
            asked = planned.allocation.qtypes.get(name, info.dtype)
            if name not in written or written[name].dtype != asked:
                got = written[name].dtype if name in written else "nothing"
                raise ContractError(f"{path.name}: {name} was written as {got}, asked {asked}")

    def _remember(self, made: MadeFile, path: Path) -> None:
        allocation = made.allocation
        entry = {
            "kind": made.kind,
            "file": path.name,
            "solver": allocation.solver,
            "note": allocation.note,
            "qtypes": dict(allocation.qtypes),
            "n_data_bytes": made.n_data_bytes,
            "n_file_bytes": made.n_file_bytes,
        }
        self._folder.put_candidate(made.name, entry)

    def earlier(self) -> list[MadeFile]:
        """Files of this folder that are still there, by name."""
        found = []
        for name, entry in sorted(self._folder.candidates.items()):
            path = self._folder.path / entry["file"]
            if path.is_file() and entry["kind"] in ("ours", "stock") and set(entry["qtypes"]) <= set(self._model.tensors):
                allocation = Allocation(entry["qtypes"], entry["solver"], note=entry["note"])
                found.append(MadeFile(name, entry["kind"], allocation, path, entry["n_data_bytes"]))
        return found

    def _evaluation_parts(self, made: MadeFile, part: str) -> dict[str, Any]:
        documents = self._corpus.evaluation if part == TEST else self._corpus.selection
        return {
            "source": self._source,
            "file": self._folder.fingerprint(f"file {made.name}"),
            "evaluation": Corpus.fingerprint(documents),
            **self._stages.identity("evaluate"),
        }

    def _evaluation_path(self, name: str, part: str) -> Path:
        return self._folder.path / part / f"{name}.npz"

    def _is_evaluated(self, made: MadeFile, part: str) -> bool:
        path = self._evaluation_path(made.name, part)
        return self._folder.reason(f"{part} {made.name}", path, self._evaluation_parts(made, part)) is None

    def evaluate(self, files: Sequence[MadeFile], progress: Progress, part: str = TEST) -> dict[str, Evaluation]:
        """Evaluations by candidate name: of ``files``, measured where needed, and of earlier files that can still be compared."""
        found: dict[str, Evaluation] = {}
        missing: list[MadeFile] = []
        earlier = self.earlier() if part == TEST else []
        for made in {made.name: made for made in (*earlier, *files)}.values():
            if self._is_evaluated(made, part):
                found[made.name] = load_evaluation(self._evaluation_path(made.name, part))
            elif made in files:
                missing.append(made)
        if missing:
            text = "" if part == TEST else ", selection text"
            progress.say(f"evaluate: {self._stages.name('evaluate')} on {', '.join(made.name for made in missing)}{text}")
            found.update(self._measure(missing, progress, part))
        else:
            progress.say("evaluate: everything is up to date")
        return found

    def _measure(self, files: Sequence[MadeFile], progress: Progress, part: str) -> dict[str, Evaluation]:
        corpus = self._corpus if part == TEST else self._corpus.for_selection()
        candidates: list[Model] = [GgufModel(made.path) for made in files if made.path]
        answers = self._stages.evaluate(self._model, candidates, self._architecture, corpus, progress)
        found = {}
        for made, evaluation in zip(files, answers, strict=True):
            path = self._evaluation_path(made.name, part)
            save_evaluation(evaluation, path)
            self._folder.record(f"{part} {made.name}", path, self._evaluation_parts(made, part))
            found[made.name] = evaluation
        return found

    def differences(self, ours: str, evaluations: Mapping[str, Evaluation]) -> dict[str, tuple[float, float]]:
        """Paired differences of mean KLD, ours minus each other candidate, with standard errors."""
        if ours not in evaluations:
            return {}
        pairs = {name: paired_difference(evaluations[ours], other) for name, other in evaluations.items() if name != ours}
        return {name: pair for name, pair in pairs.items() if pair is not None}


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
