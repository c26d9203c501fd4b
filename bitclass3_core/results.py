"""A finished run, as reports see it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitclass3_core.corpus import Corpus
from bitclass3_core.costs import CostTable
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.model import Architecture, Model
from bitclass3_core.problem import Allocation, Problem
from bitclass3_core.sensitivity import Sensitivity


@dataclass(frozen=True, slots=True)
class Candidate:
    """One file that a run made or compares: its allocation, sizes, predicted cost, and what was measured of it."""

    name: str
    kind: str  # "ours", "stock", "variation" (what only stood for selection), or "compared" (a file that no run made)
    allocation: Allocation
    path: Path | None
    file_bytes: int
    bpw: float
    predicted_cost: float | None
    evaluation: Evaluation | None


@dataclass(frozen=True, slots=True)
class Contender:
    """A candidate for shipping as the selection text saw it; ``difference`` is its mean KLD minus the winner's, paired, with its SE."""

    name: str
    how: str  # "ours", "fitted", the name of a variation, "stock Q4_K_S"
    file_bytes: int
    mean_kld: float
    se_kld: float
    difference: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """What was measured to choose the file that ships: all candidates, the winner first.

    ``multipliers`` are those of each role's costs that measured mixes gave, where any were measured: ``fitted`` was solved with them.
    """

    contenders: tuple[Contender, ...]
    n_tokens: int
    multipliers: Mapping[str, float] = field(default_factory=dict)

    @property
    def winner(self) -> Contender:
        """The one that ships."""
        return self.contenders[0]

    @property
    def stock_won(self) -> bool:
        """Whether a stock mix ships under our name."""
        return self.winner.how.startswith("stock")


@dataclass(frozen=True, slots=True)
class Level:
    """A level of a ladder: what was asked, the candidate that came of it, or why none did.

    ``asked_bytes`` are those of all tensors; ``baseline`` names the stock mix that it was measured beside, ``difference`` is its mean
    KLD minus that mix's, paired, with its SE.
    """

    name: str
    candidate: Candidate | None = None
    asked_bytes: int = 0
    baseline: str = ""
    difference: tuple[float, float] | None = None
    error: str = ""
    exit_code: int = 0
    seconds: float = 0.0


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
    problem: Problem | None = None  # what the solver was given
    unusable: Mapping[tuple[str, str], str] = field(default_factory=dict)  # (tensor, qtype) that failed when written: the reason
    selections: Mapping[str, Selection] = field(default_factory=dict)  # by the name of the candidate that was chosen
    levels: tuple[Level, ...] = ()  # of a ladder, in the order that was asked for; ``ours`` is then the recommended one
    constraints: tuple[str, ...] = ()  # pins, floors, menus, groups and the GPU's budget, in words

    @property
    def ours(self) -> Candidate:
        """The candidate of this run's own target."""
        return self.candidates[0]
