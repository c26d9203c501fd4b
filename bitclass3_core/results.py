"""A finished run, as reports see it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitclass3_core.corpus import Corpus
from bitclass3_core.costs import CostTable
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.model import Architecture, Model
from bitclass3_core.problem import Allocation
from bitclass3_core.sensitivity import Sensitivity


@dataclass(frozen=True, slots=True)
class Candidate:
    """One file that a run made or compares: its allocation, sizes, predicted cost, and what was measured of it."""

    name: str
    kind: str  # "ours" or "stock"
    allocation: Allocation
    path: Path | None
    file_bytes: int
    bpw: float
    predicted_cost: float | None
    evaluation: Evaluation | None


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a run knows: ``candidates`` has this run's own file first, then the stock mix, then earlier targets in the folder."""

    model: Model
    architecture: Architecture
    corpus: Corpus
    sensitivity: Sensitivity
    costs: CostTable
    candidates: tuple[Candidate, ...]
    command: str
    versions: Mapping[str, str]
    timings: Mapping[str, float]
    config: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    differences: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # paired: ours minus that candidate, with its SE
    unusable: Mapping[tuple[str, str], str] = field(default_factory=dict)  # (tensor, qtype) that failed when written: the reason

    @property
    def ours(self) -> Candidate:
        """The candidate of this run's own target."""
        return self.candidates[0]
