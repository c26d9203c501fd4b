"""From inputs to an allocation: sensitivity, costs, budget, problem and the solver's answer, each made when it is first asked for."""

from dataclasses import replace
from functools import cached_property

from bitclass3_core.constraints.larger_types import usable_types
from bitclass3_core.constraints.problem import build_problem, check_target
from bitclass3_core.costs import CostTable
from bitclass3_core.errors import UnusableTypeError
from bitclass3_core.files import human_bytes, write_json
from bitclass3_core.layout import Budget, data_bytes, fixed_bytes
from bitclass3_core.plugin.checks import check_kept
from bitclass3_core.problem import Allocation, Problem
from bitclass3_core.run_config import RunConfig
from bitclass3_core.runs.artefact import Results
from bitclass3_core.runs.candidates import CandidateFile, CandidateStore
from bitclass3_core.runs.context import Context
from bitclass3_core.runs.estimate import Estimate, estimate, sensitivity_artefact
from bitclass3_core.runs.file_names import ours_name
from bitclass3_core.runs.inputs import Inputs
from bitclass3_core.runs.measure import cost_job, costs_path, measured_costs


class Solution:
    """The solution of one configuration. Problem and answer follow from what is known of unusable types at the time of asking."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self._solved = Results()

    @cached_property
    def estimate(self) -> Estimate:
        """The sensitivity with the hash of its file."""
        return estimate(self.inputs)

    @property
    def is_measured(self) -> bool:
        """Whether a solution needs nothing that is not in the folder yet. Writes nothing."""
        inputs = self.inputs
        known = sensitivity_artefact(inputs).why() is None and costs_path(inputs).is_file()
        return known and not cost_job(inputs, self.estimate).missing()

    @cached_property
    def measured(self) -> CostTable:
        """The cost table as it was measured."""
        return measured_costs(self.inputs, self.estimate)

    @cached_property
    def costs(self) -> CostTable:
        """What the solver minimises: the cost table, times the multipliers that were asked for."""
        multipliers = self.inputs.cost_multipliers
        return self.measured.multiplied(multipliers) if multipliers else self.measured

    @cached_property
    def budget(self) -> Budget:
        """How many bytes all tensors may take."""
        inputs, stages = self.inputs, self.inputs.stages
        sensitivity = self.estimate.sensitivity if stages.budget_needs_sensitivity() else None
        return stages.budget(inputs.model, inputs.architecture, sensitivity)

    def check_target(self) -> None:
        """Raise InfeasibleError for a target out of reach, before anything is computed for it."""
        inputs = self.inputs
        check_target(inputs.model, inputs.architecture, inputs.menu, inputs.limits, self.budget)

    @property
    def unusable(self) -> dict[tuple[str, str], str]:
        """Pairs of tensor and type that failed so far, with the reason."""
        return self.inputs.context.folder.unusable(self.inputs.source)

    @property
    def problem(self) -> Problem:
        """What the solver gets."""
        inputs, unusable = self.inputs, self.unusable
        return self._solved.get(
            "problem",
            {"unusable": sorted(unusable)},
            lambda: build_problem(inputs.model, inputs.architecture, self.costs, inputs.limits, self.budget, unusable),
        )

    @property
    def allocation(self) -> Allocation:
        """The solver's answer, checked."""
        problem = self.problem
        return self._solved.get("allocation", {"unusable": sorted(self.unusable)}, lambda: self._solve(problem))

    def _solve(self, problem: Problem) -> Allocation:
        inputs, stages, context = self.inputs, self.inputs.stages, self.inputs.context
        with context.timed("solve", stages.called):
            answer = stages.solve(problem, inputs.model, inputs.architecture)
        name = stages.plugin("solve").name
        check_kept(answer, inputs.model, self.quantizable_bytes(answer), problem.budget_bytes, inputs.limits, name)
        context.progress.say(f"solve: {name} in {context.timings['solve']:.2f} s, {self._described(answer)}")
        for remark in answer.remarks:
            context.warn(remark)
        return answer

    def _described(self, answer: Allocation) -> str:
        """Cost, proof and bytes on the GPU of an answer, for the terminal."""
        proof, gpu = answer.proof, self.inputs.limits.gpu
        predicted = self.costs.total(answer.qtypes)
        cost = f"cost {predicted:.6g}" + (" nats/token" if self.costs.in_nats else "") if predicted is not None else "cost unknown"
        tail = f"; bound {proof.bound:.6g}, gap {proof.gap:.2e}, {'optimal' if proof.optimal else 'not proven'}" if proof else ""
        on_gpu = f"; {human_bytes(gpu.bytes_of(self.inputs.model, answer.qtypes))} on the GPU" if gpu else ""
        return f"{cost}{tail}{on_gpu}"

    def without(self, error: UnusableTypeError) -> None:
        """Note that a tensor cannot have a type, and solve again. Raises the error if that was known already."""
        if (error.tensor, error.qtype) in self.unusable:
            raise error
        context = self.inputs.context
        context.folder.put_unusable(self.inputs.source, error.tensor, error.qtype, error.reason)
        context.warn(f"{error}; it gets the next larger type that works, and the rest is solved again")
        self.write_allocation(self.allocation)

    def quantizable_bytes(self, allocation: Allocation) -> int:
        """Bytes that an allocation gives to the tensors that have a choice."""
        model, quantizable = self.inputs.model, self.inputs.architecture.quantizable
        return data_bytes(model, allocation.qtypes) - fixed_bytes(model, quantizable)

    def usable(self, mix: Allocation) -> Allocation:
        """A mix as it is, but the next larger type where a tensor cannot have its own."""
        qtypes = usable_types(self.inputs.model, mix.qtypes, self.unusable)
        for name, q in qtypes.items():
            if q != mix.qtypes[name]:
                line = f"{mix.note or mix.solver}: {name} is {q} instead of {mix.qtypes[name]}, which it cannot be"
                self.inputs.context.warn(line)
        return replace(mix, qtypes=qtypes)

    def write_allocation(self, allocation: Allocation) -> None:
        """Write ``allocation.json``: types, predicted cost, proof."""
        proof, budget = allocation.proof, self.budget
        record = {
            "budget": {"data_bytes": budget.data_bytes, "label": budget.label},
            "cost": self.costs.total(allocation.qtypes),
            "cost_in_nats_per_token": self.costs.in_nats,
            "proof": {"bound": proof.bound, "gap": proof.gap, "optimal": proof.optimal} if proof else None,
            "qtypes": dict(allocation.qtypes),
            "solver": allocation.solver,
        }
        write_json(self.inputs.context.folder.path / "allocation.json", record)

    def planned(self, ending: str, kind: str) -> CandidateFile:
        """The allocation's file, still to be written."""
        model = self.inputs.model
        return CandidateFile.planned(ours_name(model, self.budget.label, ending), kind, self.allocation, model)

    @cached_property
    def store(self) -> CandidateStore:
        """What writes and evaluates files of this solution."""
        return CandidateStore(self.inputs, self.estimate)


def solution_of(config: RunConfig, context: Context) -> Solution:
    """The solution of another configuration in the same folder; what depends on nothing that differs is made once for both."""
    return Solution(Inputs(config, context.stages(config), context))
