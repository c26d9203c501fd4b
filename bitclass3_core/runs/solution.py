"""A run as far as its solution: sensitivity, costs, budget, problem and allocation, and the files that can be made from it."""

import math
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from bitclass3_core.constraints.problem import build_problem, check_target, larger_type
from bitclass3_core.costs import CostStore, CostTable
from bitclass3_core.errors import UnusableTypeError
from bitclass3_core.files import digest_of, human_bytes, sha256_file, write_json
from bitclass3_core.gguf.kernels import library
from bitclass3_core.layout import Budget, data_bytes, fixed_bytes
from bitclass3_core.plugin import checks
from bitclass3_core.plugin.stages import StageRunner
from bitclass3_core.problem import Allocation, Problem
from bitclass3_core.qtypes import menu
from bitclass3_core.run_config import RunConfig
from bitclass3_core.runs.candidates import CandidateStore, MadeFile, allocation_record
from bitclass3_core.runs.estimate import sensitivity_of, why_estimate
from bitclass3_core.runs.inputs import Inputs
from bitclass3_core.runs.measure import CostJob
from bitclass3_core.sensitivity import Sensitivity

# Results that siblings share, and the sections of the configuration that each depends on
_MODEL = {"model"}
_ESTIMATE = {*_MODEL, "architecture", "corpus", "select", "estimate", "imatrix"}
_SHARED = {
    "model": _MODEL,
    "source": _MODEL,
    "architecture": {*_MODEL, "architecture"},
    "corpus": _ESTIMATE,
    "sensitivity": _ESTIMATE,
    "measured": {*_ESTIMATE, "measure", "qtypes"},
}

_Run = TypeVar("_Run", bound="Solution")


class Solution(Inputs):
    """From inputs to an allocation; each result is a property, computed once, or loaded where it is still good."""

    def sibling(self: _Run, config: RunConfig) -> _Run:
        """A run of another configuration in the same folder, sharing what depends on nothing that differs."""
        other = type(self)(config, self.progress, self.command, self.may_convert, self.folder)
        other.warnings, other.timings, other.stages = self.warnings, self.timings, StageRunner(config, self.stages)
        same = {name for name in RunConfig.model_fields if getattr(config, name) == getattr(self.config, name)}
        for result, sections in _SHARED.items():
            if result in self.__dict__ and sections <= same:
                other.__dict__[result] = self.__dict__[result]
        if "architecture" in other.__dict__:
            other.stages.use_architecture(self.stages.name("architecture"))
        return other

    @cached_property
    def sensitivity(self) -> Sensitivity:
        """Estimated, or loaded if nothing that it depends on has changed."""
        answer = sensitivity_of(self)
        for note in answer.notes:
            self.warn(note)
        return answer

    @property
    def costs_path(self) -> Path:
        """Where a run keeps its cost table."""
        return self.folder.path / "costs.sqlite"

    @cached_property
    def cost_job(self) -> CostJob:
        """The costs that this run wants; needs the sensitivity's file."""
        parts = {
            "source": self.model.fingerprint,
            "sensitivity": sha256_file(self.sensitivity_path),
            "kernels": library().fingerprint,
            **self.stages.identity("measure"),
        }
        return CostJob(self.model, self.wanted, CostStore(self.costs_path), digest_of(parts))

    @property
    def is_measured(self) -> bool:
        """Whether a solution needs nothing that is not in the folder yet. Writes nothing."""
        return why_estimate(self) is None and self.costs_path.is_file() and not self.cost_job.missing()

    @cached_property
    def measured(self) -> CostTable:
        """The cost table; only what is missing is measured."""
        sensitivity = self.sensitivity
        with self.timed("measure"):
            hook = self.stages.measure_hook(sensitivity)
            self.cost_job.measure(hook, self.stages.name("measure"), self.threads, self.progress)
        table = self.cost_job.table(sensitivity.in_nats)
        self._note_unusable(table)
        return table

    @cached_property
    def costs(self) -> CostTable:
        """What the solver minimises: the cost table, times the multipliers that were asked for."""
        return self.measured.multiplied(self.cost_multipliers) if self.cost_multipliers else self.measured

    def _note_unusable(self, table: CostTable) -> None:
        """Say once which tensors cannot have which type, as the kernels found."""
        known = self.folder.unusable(self.source)
        for name, cells in table.costs.items():
            for q in (q for q, cell in cells.items() if math.isinf(cell.cost) and (name, q) not in known):
                error = UnusableTypeError(name, q, "its blocks come out invalid")
                self.folder.put_unusable(self.source, name, q, error.reason)
                self.warn(f"{error}; it gets a larger type")

    @cached_property
    def budget(self) -> Budget:
        """How many bytes all tensors may take."""
        sensitivity = self.sensitivity if self.stages.budget_needs_sensitivity() else None
        return self.stages.budget(self.model, self.architecture, sensitivity)

    def check_target(self) -> None:
        """Raise InfeasibleError for a target out of reach, before anything is computed for it."""
        check_target(self.model, self.architecture, menu(self.config.qtypes.menu), self.limits, self.budget)

    @cached_property
    def problem(self) -> Problem:
        """What the solver gets."""
        unusable = self.folder.unusable(self.source)
        return build_problem(self.model, self.architecture, self.costs, self.limits, self.budget, unusable)

    @cached_property
    def allocation(self) -> Allocation:
        """The solver's answer, checked."""
        problem = self.problem
        with self.timed("solve"):
            answer = self.stages.solve(problem, self.model, self.architecture)
        n_bytes = self.quantizable_bytes(answer)
        quantizable, name = self.architecture.quantizable, self.stages.name("solve")
        checks.check_allocation(answer, self.model, quantizable, n_bytes, problem.budget_bytes, self.limits, name)
        proof = answer.proof
        tail = f"; bound {proof.bound:.6g}, gap {proof.gap:.2e}, {'optimal' if proof.optimal else 'not proven'}" if proof else ""
        predicted = self.costs.total(answer.qtypes)
        cost = f"cost {predicted:.6g}" + (" nats/token" if self.costs.in_nats else "") if predicted is not None else "cost unknown"
        on_gpu = self.limits.gpu and f"; {human_bytes(self.limits.gpu.bytes_of(self.model, answer.qtypes))} on the GPU"
        self.progress.say(f"solve: {name} in {self.timings['solve']:.2f} s, {cost}{tail}{on_gpu or ''}")
        for remark in answer.remarks:
            self.warn(remark)
        return answer

    def quantizable_bytes(self, allocation: Allocation) -> int:
        """Bytes that an allocation gives to the tensors that have a choice."""
        return data_bytes(self.model, allocation.qtypes) - fixed_bytes(self.model, self.architecture.quantizable)

    def usable(self, mix: Allocation) -> Allocation:
        """A mix as it is, but the next larger type where a tensor cannot have its own."""
        qtypes, failed = dict(mix.qtypes), self.folder.unusable(self.source)
        for name, q in mix.qtypes.items():
            while (name, qtypes[name]) in failed:
                qtypes[name] = larger_type(self.model.tensors[name], qtypes[name])
            if qtypes[name] != q:
                self.warn(f"{mix.note or mix.solver}: {name} is {qtypes[name]} instead of {q}, which it cannot be")
        return replace(mix, qtypes=qtypes)

    def solve_again(self) -> None:
        """Forget the solution, and find another one with what is now known."""
        for solved in ("problem", "allocation"):
            self.__dict__.pop(solved, None)
        self.write_allocation(self.allocation)

    def write_allocation(self, allocation: Allocation) -> None:
        """``allocation.json``."""
        write_json(self.folder.path / "allocation.json", allocation_record(allocation, self.costs, self.budget))

    def planned(self, ending: str, kind: str) -> MadeFile:
        """The allocation's file, still to be written: ``MODEL-4.80bpw`` and the ending."""
        return MadeFile.planned(f"{self.model.name}-{self.budget.label}{ending}", kind, self.allocation, self.model)

    @cached_property
    def store(self) -> CandidateStore:
        """Files made in this folder."""
        return CandidateStore(self.folder, self.model, self.source, self.architecture, self.corpus, self.stages)
