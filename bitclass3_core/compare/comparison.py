"""What was found of files of one model side by side: figures, paired differences, types that differ; as JSON, and read from it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitclass3_core.corpus import Corpus
from bitclass3_core.errors import ModelFileError
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.files import write_json
from bitclass3_core.gguf.model import GgufModel, total_file_bytes
from bitclass3_core.layout import bpw
from bitclass3_core.problem import Allocation
from bitclass3_core.results import Candidate, Run

COMPARED = "compared"  # the kind of a candidate that no run made


def as_candidate(model: GgufModel, name: str, quantizable: frozenset[str], evaluation: Evaluation | None) -> Candidate:
    """A GGUF that no run made, as reports see candidates."""
    qtypes = {tensor: info.dtype for tensor, info in model.tensors.items() if tensor in quantizable}
    return Candidate(name, COMPARED, Allocation(qtypes), model.path, total_file_bytes(model.path), bpw(model, {}), None, evaluation)


def on_front(candidates: Sequence[Candidate]) -> list[bool]:
    """Whether each measured candidate is on the Pareto front: no other is both no larger and no worse in mean KLD."""
    points = [(c.file_bytes, c.evaluation.mean_kld) if c.evaluation else None for c in candidates]
    known = {point for point in points if point}
    return [point is not None and not any(o != point and o[0] <= point[0] and o[1] <= point[1] for o in known) for point in points]


def type_differences(candidates: Sequence[Candidate]) -> dict[str, tuple[str, ...]]:
    """Types by tensor, in the order of the candidates, of the tensors whose type is not the same in all."""
    names = sorted({name for candidate in candidates for name in candidate.allocation.qtypes})
    types = {name: tuple(candidate.allocation.qtypes.get(name, "-") for candidate in candidates) for name in names}
    return {name: found for name, found in types.items() if len(set(found)) > 1}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What ``bitclass3 compare`` found: ``paired`` is the mean KLD of each file minus that of the first, with its error."""

    reference: Mapping[str, Any]
    evaluation_sha256: str
    candidates: tuple[Candidate, ...]
    paired: Mapping[str, tuple[float, float]]
    command: str = ""

    def to_json(self) -> dict[str, Any]:
        """``compare.json``."""
        front = on_front(self.candidates)
        return {
            "reference": dict(self.reference),
            "evaluation_sha256": self.evaluation_sha256,
            "command": self.command,
            "files": [_record(candidate, best) for candidate, best in zip(self.candidates, front, strict=True)],
            "paired_differences": {name: {"mean": mean, "se": se} for name, (mean, se) in self.paired.items()},
            "type_differences": {name: list(types) for name, types in type_differences(self.candidates).items()},
        }

    def save(self, path: Path) -> None:
        """Write ``compare.json``."""
        write_json(path, self.to_json())


def _record(candidate: Candidate, front: bool) -> dict[str, Any]:
    return {
        "name": candidate.name,
        "file": candidate.path.name if candidate.path else None,
        "file_bytes": candidate.file_bytes,
        "bpw": candidate.bpw,
        "on_pareto_front": front,
        "evaluation": candidate.evaluation.to_json() if candidate.evaluation else None,
        "qtypes": dict(sorted(candidate.allocation.qtypes.items())),
    }


def load_comparison(path: Path) -> Comparison:
    """What ``Comparison.save`` wrote. Raises ModelFileError for anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        candidates = tuple(_candidate(entry) for entry in values["files"])
        paired = {name: (float(pair["mean"]), float(pair["se"])) for name, pair in values["paired_differences"].items()}
        return Comparison(values["reference"], values["evaluation_sha256"], candidates, paired, values["command"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{path} is no result of bitclass3 compare ({error}); give the compare.json that it wrote") from None


def _candidate(entry: Mapping[str, Any]) -> Candidate:
    figures = entry["evaluation"]
    return Candidate(
        name=str(entry["name"]),
        kind=COMPARED,
        allocation=Allocation({str(name): str(q) for name, q in entry["qtypes"].items()}),
        path=Path(entry["file"]) if entry["file"] else None,
        file_bytes=int(entry["file_bytes"]),
        bpw=float(entry["bpw"]),
        predicted_cost=None,
        evaluation=Evaluation(**figures) if figures else None,
    )


def compared_with(run: Run, paths: Sequence[Path]) -> list[Candidate]:
    """Files measured by ``bitclass3 compare``, to stand beside a run's own; a file that the run made itself is left out.

    Raises ModelFileError where they were measured against another source or on another text.
    """
    known = {candidate.path.name for candidate in run.candidates if candidate.path}
    text = Corpus.fingerprint(run.corpus.evaluation)
    found: list[Candidate] = []
    for path in paths:
        comparison = load_comparison(path)
        if comparison.reference.get("fingerprint") != run.model.fingerprint:
            raise ModelFileError(
                f"{path} was measured against {comparison.reference.get('file')}, this run's source is {run.model.path.name}; "
                f"run bitclass3 compare with --reference {run.model.path.name}"
            )
        if comparison.evaluation_sha256 != text:
            raise ModelFileError(f"{path} was measured on another text than this run's; give compare the same --eval-corpus")
        found += [c for c in comparison.candidates if not (c.path and c.path.name in known)]
    return found
