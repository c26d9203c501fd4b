"""What every solver keeps: an answer for each group, within the budget, the same each time; if ``exact``, the cheapest one."""

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from bitclass3_core.knapsack.dual import lagrangian_dual, tables_of
from bitclass3_core.knapsack.improve import best_effort
from bitclass3_core.model import Architecture, padded
from bitclass3_core.plugin.checks import check_types
from bitclass3_core.problem import Allocation, Choice, Group, Problem, undominated
from bitclass3_core.qtypes import menu
from bitclass3_core.testing.base import Conformance
from bitclass3_core.testing.samples import Shapes, sample_shapes

_FUSED = {"attn_k", "attn_v"}  # get one type together in every second problem


def sample_problem(seed: int, share: float = 0.4, n_blocks: int = 6, limit: int | None = None) -> tuple[Problem, Shapes]:
    """A problem and its model: costs fall about fourfold per bit and differ by orders of magnitude between tensors.

    ``share`` is how far the budget lies from the smallest possible size to the largest; ``limit`` keeps that many groups and 5 choices.
    """
    rng = np.random.default_rng(seed)
    model = Shapes(dict(list(sample_shapes(n_blocks).items())[:limit]))
    members: dict[str, list[str]] = {}
    for name, info in model.tensors.items():
        if len(info.shape) > 1:
            fused = seed % 2 == 0 and info.role in _FUSED
            members.setdefault(f"blk.{info.block}.kv" if fused else name, []).append(name)
    groups = []
    for name, tensors in members.items():
        infos = [model.tensors[tensor] for tensor in tensors]
        scale = sum(info.n_params for info in infos) / 1e9 * np.exp(rng.normal(0, 1.5))
        types = [q for q in menu("default") if all(info.accepts(q) for info in infos)]
        types = types if limit is None else [types[i] for i in sorted(rng.choice(len(types), 5, replace=False))]
        choices = [
            Choice(q.name, sum(padded(info.n_bytes(q)) for info in infos), float(scale * 4.0**-q.bpw * np.exp(rng.normal(0, 0.3))))
            for q in types
        ]
        groups.append(Group(name, tuple(tensors), undominated(choices)))
    sized = Problem(tuple(groups), 0)
    budget = sized.smallest_bytes + int(share * (sized.largest_bytes - sized.smallest_bytes))
    return Problem(tuple(groups), budget), model


def choices_of(problem: Problem, answer: Allocation) -> Iterator[Choice]:
    """The choice that the answer takes in each group."""
    for group in problem.groups:
        types = {answer.qtypes[tensor] for tensor in group.tensors}
        assert len(types) == 1, (
            f"{', '.join(group.tensors)} are one group and got {', '.join(sorted(types))}: a group gets one type"
        )
        found = next((choice for choice in group.choices if choice.qtype in types), None)
        assert found is not None, (
            f"{group.name} got {types.pop()}, which is none of its choices (pins, floors and the menu are in them); take one of them"
        )
        yield found


def cost_of(problem: Problem, answer: Allocation) -> float:
    """Total cost of an answer."""
    return sum(choice.cost for choice in choices_of(problem, answer))


class SolverConformance(Conformance):
    """Switches: ``exact`` (claims the optimum), ``two_budgets`` (keeps ``gpu_budget_bytes`` too, as ``--gpu-budget`` asks),
    ``uses_choices`` (False for one that ignores menu, costs and budget, as ``stock``).
    """

    stage: ClassVar[str] = "solve"
    exact: ClassVar[bool] = False
    two_budgets: ClassVar[bool] = False
    uses_choices: ClassVar[bool] = True

    def solve(self, problem: Problem, model: Shapes) -> Allocation:
        """The plugin's answer, checked as a run does."""
        tensors = frozenset(tensor for group in problem.groups for tensor in group.tensors)
        architecture = Architecture(model.arch, tensors)
        answer = self.call(problem=problem, model=model, architecture=architecture)
        assert isinstance(answer, Allocation), f"answered {type(answer).__name__}, expected Allocation; see problem.allocation_of"
        check_types(answer, model, tensors, self.loaded.name)
        if not self.uses_choices:
            return answer
        n_bytes = sum(choice.n_bytes for choice in choices_of(problem, answer))
        assert n_bytes <= problem.budget_bytes, (
            f"the answer takes {n_bytes:,} bytes, the budget is {problem.budget_bytes:,}: a file may never be larger than asked"
        )
        return answer

    @pytest.mark.parametrize("seed", range(20))
    def test_answers_each_group_within_the_budget(self, seed: int) -> None:
        """Twenty problems, from a budget that leaves next to nothing to one that leaves next to no wish."""
        self.solve(*sample_problem(seed, share=(seed + 1) / 21))

    def test_same_answer_twice(self) -> None:
        """A run that goes on must not come to another file."""
        problem, model = sample_problem(1)
        first, second = self.solve(problem, model), self.solve(problem, model)
        assert dict(first.qtypes) == dict(second.qtypes), (
            "two calls with the same problem gave different answers; seed every random generator, and mind the order of sets"
        )

    def test_takes_the_tightest_budget(self) -> None:
        """Where only the smallest choices fit, they are the answer."""
        problem, model = sample_problem(2, share=0.0)
        answer = self.solve(problem, model)
        if self.uses_choices:
            assert list(choices_of(problem, answer)) == [group.choices[0] for group in problem.groups]

    def test_spends_a_budget_without_limits(self) -> None:
        """Where everything fits, nothing is given away: each group gets its cheapest choice (the last)."""
        self._needs("uses_choices")
        problem, model = sample_problem(3, share=1.0)
        poor = [
            group.name
            for group, choice in zip(problem.groups, choices_of(problem, self.solve(problem, model)), strict=True)
            if choice != group.choices[-1]
        ]
        assert not poor, (
            f"the budget holds every group at its cheapest choice, and {', '.join(poor[:3])} got another: bytes lie unused"
        )

    def test_keeps_the_budget_of_the_gpu(self) -> None:
        """Every second block lies on the GPU, and its bytes may not exceed ``gpu_budget_bytes`` while the file's budget is wide."""
        self._needs("two_budgets")
        for seed in range(4):
            problem, model = sample_problem(seed, share=0.7)
            groups = tuple(
                replace(group, choices=tuple(replace(choice, gpu_bytes=i % 2 * choice.n_bytes) for choice in group.choices))
                for i, group in enumerate(problem.groups)
            )
            whole = sum(group.choices[-1].gpu_bytes for group in groups)
            least = Problem(groups, problem.budget_bytes).smallest_gpu_bytes
            limited = Problem(groups, problem.budget_bytes, least + (whole - least) // 10)
            n_bytes = sum(choice.gpu_bytes for choice in choices_of(limited, self.solve(limited, model)))
            assert n_bytes <= (limited.gpu_budget_bytes or 0), (
                f"the answer puts {n_bytes:,} bytes on the GPU, its budget is {limited.gpu_budget_bytes:,}; add up Choice.gpu_bytes too"
            )

    def test_proof_is_true(self) -> None:
        """A proof's bound is no more than the cheapest answer, its gap is (cost - bound) / cost; without a proof nothing is claimed."""
        self._needs("uses_choices")
        for seed in range(4):
            problem, model = sample_problem(seed, limit=7)
            answer = self.solve(problem, model)
            if answer.proof is None:
                assert not self.exact, "exact = True, and the answer has no proof; fill in Allocation.proof"
                return
            cost, best = cost_of(problem, answer), cheapest(problem)
            assert answer.proof.bound <= best * (1 + 1e-9), (
                f"the proof says that nothing costs less than {answer.proof.bound:.6g}, and an answer costs {best:.6g}"
            )
            gap = (cost - answer.proof.bound) / cost if cost else 0.0
            assert answer.proof.gap == pytest.approx(gap, abs=1e-6), f"gap is {answer.proof.gap}, (cost - bound) / cost is {gap}"
            if answer.proof.optimal:
                assert cost <= best * (1 + 1e-9), f"the proof says optimal at {cost:.9g}, and an answer costs {best:.9g}"

    def test_exact_equals_brute_force(self) -> None:
        """On problems of six groups every answer is tried."""
        self._needs("exact")
        for seed in range(12):
            problem, model = sample_problem(seed, share=(seed + 1) / 14, limit=7)
            cost, best = cost_of(problem, self.solve(problem, model)), cheapest(problem)
            assert cost <= best * (1 + 1e-9), (
                f"exact = True, and the answer to problem {seed} costs {cost:.9g}; one costs {best:.9g}"
            )

    def test_exact_is_not_beaten_on_300_tensors(self) -> None:
        """Costs of real models span orders of magnitude: scaled to too few integer steps, an optimum is none (brute force is blind to it)."""
        self._needs("exact")
        problem, model = sample_problem(5, n_blocks=42)
        tables = tables_of(problem)
        rival = tables.cost_of(best_effort(tables, lagrangian_dual(tables)))
        cost = cost_of(problem, self.solve(problem, model))
        assert cost <= rival * (1 + 1e-9), (
            f"exact = True, and a heuristic beats it: {rival:.9g} against {cost:.9g}; if costs are scaled to integers, take more steps"
        )


def cheapest(problem: Problem) -> float:
    """The cost of the best answer, by trying all."""
    costs, sizes = np.zeros(1), np.zeros(1, np.int64)
    for group in problem.groups:
        costs = np.add.outer(costs, [choice.cost for choice in group.choices]).reshape(-1)
        sizes = np.add.outer(sizes, [choice.n_bytes for choice in group.choices]).reshape(-1)
    return float(costs[sizes <= problem.budget_bytes].min())
