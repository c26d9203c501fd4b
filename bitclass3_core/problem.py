"""The allocation problem that solvers answer, and the answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Choice:
    """One qtype for one group: bytes in the file (alignment included), cost in nats/token, and how many of the bytes lie on the GPU."""

    qtype: str
    n_bytes: int
    cost: float
    gpu_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors that share a type (mostly just one), and their choices: from one to the next bytes rise and costs fall.

    Bytes on the GPU never fall from one choice to the next: each tensor's bytes rise with its bits per weight.
    """

    name: str
    tensors: tuple[str, ...]
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """Pick one choice for each group: minimal total cost, total bytes at most ``budget_bytes``.

    The bytes of tensors that are never quantized are already taken off the budget. If ``gpu_budget_bytes`` is a number, the total of
    ``gpu_bytes`` may not exceed it.
    """

    groups: tuple[Group, ...]
    budget_bytes: int
    gpu_budget_bytes: int | None = None

    @property
    def smallest_bytes(self) -> int:
        """Bytes with every group at its smallest choice."""
        return sum(group.choices[0].n_bytes for group in self.groups)

    @property
    def largest_bytes(self) -> int:
        """Bytes with every group at its largest choice."""
        return sum(group.choices[-1].n_bytes for group in self.groups)

    @property
    def smallest_gpu_bytes(self) -> int:
        """Bytes on the GPU with every group at its smallest choice."""
        return sum(group.choices[0].gpu_bytes for group in self.groups)


@dataclass(frozen=True, slots=True)
class Proof:
    """What the solver proved of its answer: no answer costs less than ``bound``; ``gap`` is (cost - bound) / cost."""

    bound: float
    gap: float
    optimal: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Allocation:
    """The qtype of every quantizable tensor, by ggml name; ``remarks`` are lines that the user is to read."""

    qtypes: Mapping[str, str]
    solver: str = ""
    proof: Proof | None = None
    note: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def undominated(choices: list[Choice]) -> tuple[Choice, ...]:
    """The choices that no other beats in bytes and cost at once, smallest first: bytes strictly rise, costs strictly fall."""
    kept: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.n_bytes, c.cost, c.qtype)):
        if not kept or choice.cost < kept[-1].cost:
            kept.append(choice)
    return tuple(kept)


def allocation_of(problem: Problem, picks: list[int], solver: str, proof: Proof | None = None) -> Allocation:
    """The allocation that gives group ``i`` its choice ``picks[i]``."""
    qtypes = {
        tensor: group.choices[pick].qtype for group, pick in zip(problem.groups, picks, strict=True) for tensor in group.tensors
    }
    return Allocation(qtypes, solver, proof)
