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
    kind: str  # "ours", "stock", "variation" (a candidate of a selection), or "compared" (a file that no run made)
    allocation: Allocation
    path: Path | None
    file_bytes: int
    bpw: float
    predicted_cost: float | None
    evaluation: Evaluation | None


@dataclass(frozen=True, slots=True)
class Contender:
    """One candidate of a selection; ``difference`` is its mean KLD on the selection text minus the winner's, paired, with its SE."""

    name: str
    how: str  # "ours", "fitted", the name of a variation, "stock Q4_K_S"
    file_bytes: int
    mean_kld: float
    se_kld: float
    difference: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """What was measured to choose the file that ships: all candidates, the winner first.

    ``multipliers`` are the cost multipliers by role, fitted on measured mixes; the candidate ``fitted`` was solved with them. Empty if
    no mixes were measured.
    """

    contenders: tuple[Contender, ...]
    n_tokens: int
    multipliers: Mapping[str, float] = field(default_factory=dict)

    @property
    def winner(self) -> Contender:
        """The candidate that ships."""
        return self.contenders[0]

    @property
    def stock_won(self) -> bool:
        """Whether a stock mix ships under our name."""
        return self.winner.how.startswith("stock")


@dataclass(frozen=True, slots=True)
class Level:
    """A level of a ladder: what was asked, and the candidate that was made, or the error if none was.

    ``asked_bytes`` is the budget for all tensors. ``baseline`` names the stock mix to compare with. ``difference`` is the candidate's
    mean KLD minus the stock mix's, paired, with its SE.
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
    """Everything that a run knows; ``candidates`` has this run's own file first, then the stock mix, then files of earlier targets."""

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
    # mean KLD of ours minus that candidate's, paired, with its SE
    differences: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    problem: Problem | None = None  # what the solver was given
    unusable: Mapping[tuple[str, str], str] = field(default_factory=dict)  # the reason by (tensor, qtype) that could not be written
    selections: Mapping[str, Selection] = field(default_factory=dict)  # by the name of the file that ships
    levels: tuple[Level, ...] = ()  # of a ladder, in the order asked for; ``ours`` is then the recommended level
    constraints: tuple[str, ...] = ()  # pins, floors, menus, groups and the GPU's budget, in words

    @property
    def ours(self) -> Candidate:
        """The candidate of this run's own target."""
        return self.candidates[0]
