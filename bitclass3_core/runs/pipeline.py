"""A run, from top to bottom: source, estimate, measure, solve, ship, evaluate, report."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from bitclass3_core.corpus import Corpus
from bitclass3_core.costs import CostTable
from bitclass3_core.errors import Bitclass3Error
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.files import human_bytes
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.layout import Budget, data_bytes
from bitclass3_core.model import Architecture
from bitclass3_core.problem import Allocation, Problem
from bitclass3_core.results import Candidate, Run
from bitclass3_core.run_config import NONE, BaselineSection, BudgetSection, RunConfig
from bitclass3_core.runs.candidates import CandidateFile, differences
from bitclass3_core.runs.context import Context, use_machine
from bitclass3_core.runs.export import Shipped, ship, unwanted
from bitclass3_core.runs.inputs import Inputs
from bitclass3_core.runs.solution import Solution
from bitclass3_core.runs.target_kld import check_asked, find_budget
from bitclass3_core.runs.versions import versions
from bitclass3_core.sensitivity import Sensitivity

STAGES = ("estimate", "measure", "solve", "export", "evaluate", "report")  # where ``run`` can stop


class Pipeline:
    """One configuration in one folder. Each stage's result is a property: made when it is first asked for, in any order."""

    def __init__(self, config: RunConfig, context: Context) -> None:
        self.config, self.context = config, context
        self.stages = context.stages(config)
        self.inputs = Inputs(config, self.stages, context)

    def sibling(self, config: RunConfig) -> "Pipeline":
        """A run of another configuration in the same folder; results whose parts are the same are made once for both."""
        return Pipeline(config, self.context)

    # source

    @property
    def model(self) -> GgufModel:
        """The source."""
        return self.inputs.model

    @property
    def architecture(self) -> Architecture:
        """Names, floors and permutations of the source's family."""
        return self.inputs.architecture

    @property
    def corpus(self) -> Corpus:
        """The text in its parts."""
        return self.inputs.corpus

    # estimate, measure, solve

    @cached_property
    def sized(self) -> RunConfig:
        """The configuration with a size in place of a target KLD: the smallest one that keeps it, found by measuring."""
        target = self.config.budget.target_kld
        if target is None:
            return self.config
        check_asked(self.config, bool(self.corpus.evaluation))
        budget = find_budget(self._at_any_size, target, self._measured_at)
        return self.config.model_copy(update={"budget": budget})

    def _measured_at(self, budget: BudgetSection) -> Evaluation:
        """What is measured of our file at a size; the file is deleted, its figures are kept."""
        alone = {"budget": budget, "baseline": BaselineSection(plugin=NONE), "keep": "none"}
        run = self.sibling(self.config.model_copy(update=alone))
        return run.evaluations[run.files[0].name]

    @cached_property
    def _at_any_size(self) -> Solution:
        return Solution(self.inputs)

    @cached_property
    def solution(self) -> Solution:
        """Sensitivity, costs, budget, problem and allocation."""
        if self.sized is self.config:
            return self._at_any_size
        return Solution(Inputs(self.sized, self.stages.of_same_run(self.sized), self.context))

    @property
    def sensitivity(self) -> Sensitivity:
        """Estimated, or loaded if nothing that it depends on has changed."""
        return self._at_any_size.estimate.sensitivity

    @property
    def costs(self) -> CostTable:
        """What the solver minimises: the cost table, times the multipliers that were asked for."""
        return self._at_any_size.costs

    @property
    def is_measured(self) -> bool:
        """Whether a solution needs nothing that is not in the folder yet. Writes nothing."""
        return self._at_any_size.is_measured

    @property
    def budget(self) -> Budget:
        """How many bytes all tensors may take."""
        return self.solution.budget

    def check_target(self) -> None:
        """Raise InfeasibleError for a target out of reach, before anything is computed for it."""
        self.solution.check_target()

    @property
    def problem(self) -> Problem:
        """What the solver gets."""
        return self.solution.problem

    @property
    def allocation(self) -> Allocation:
        """The solver's answer, checked."""
        return self.solution.allocation

    # ship, evaluate

    @cached_property
    def shipped(self) -> Shipped:
        """The files of this run, written or still good, and how ours was chosen."""
        with self.context.timed("export", self.stages.called):
            return ship(self.solution)

    @property
    def files(self) -> list[CandidateFile]:
        """Our file and the stock mix to compare with."""
        return self.shipped.files

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """What was measured of every file that was made in this folder and can still be compared."""
        if not self.corpus.evaluation:
            self.context.warn("no evaluation text: nothing was measured; give --corpus or --eval-corpus to get KLD and PPL")
            return {}
        store = self.solution.store
        with self.context.timed("evaluate", self.stages.called):
            found = store.evaluate(self.files, self.context.progress)
        for made in unwanted(self.shipped, self.config.keep):  # now that they are measured
            store.drop(made)
        return found

    # report

    def _candidate(self, made: CandidateFile) -> Candidate:
        predicted = self.costs.total(made.allocation.qtypes) if self.costs.in_nats else None
        return made.as_candidate(self.model, predicted, self.evaluations.get(made.name))

    @cached_property
    def result(self) -> Run:
        """Everything, for reports: our file, the stock mix, then earlier targets in the folder."""
        evaluations, selection = self.evaluations, self.shipped.choice.selection
        now = [self._candidate(made) for made in self.files]
        names = {candidate.name for candidate in now}
        earlier = [made for made in self.solution.store.earlier() if made.name not in names and made.name in evaluations]
        return Run(
            model=self.model,
            architecture=self.architecture,
            corpus=self.corpus,
            sensitivity=self.sensitivity,
            costs=self.costs,
            candidates=(*now, *(self._candidate(made) for made in earlier)),
            command=self.context.command,
            versions=versions(),
            timings=dict(self.context.timings),
            config=self.sized.model_dump(mode="json"),
            warnings=tuple(self.context.warnings),
            differences=differences(now[0].name, evaluations),
            problem=self.problem,
            unusable=self.solution.unusable,
            selections={now[0].name: selection} if selection else {},
            constraints=tuple(self.inputs.constraints),
        )

    def report(self) -> list[Path]:
        """Run every report plugin; returns their files. One that fails is noted, and the others run."""
        run, files = self.result, []
        with self.context.timed("report", self.stages.called):
            for plugin in self.config.report.plugin:
                try:
                    files += self.stages.report(plugin, run, self.context.folder.path)
                except Bitclass3Error as error:
                    self.stages.failed[plugin] = error
                    self.context.warn(f"{error}; the run goes on without its files")
        return files

    # all of it

    def run(self, until: str = "report") -> None:
        """All stages up to ``until``, holding the folder. Raises Bitclass3Error subclasses for everything that a user can mend."""
        results: dict[str, Callable[[], object]] = {
            "estimate": lambda: self.sensitivity,
            "measure": lambda: self.costs,
            "solve": lambda: self.solution.write_allocation(self.allocation),
            "export": lambda: self.shipped,
            "evaluate": lambda: self.evaluations,
            "report": self.report,
        }
        use_machine(self.config)
        with self.context.folder.locked():
            self.stages.load_all()
            self.open()
            if self.has_known_target:
                self.check_target()
            for stage in STAGES[: STAGES.index(until) + 1]:
                results[stage]()
            self.note()

    def open(self) -> None:
        """Say what the source is, and find what is wrong with text and roles before anything is computed: what levels share."""
        model, n_quantizable = self.model, len(self.architecture.quantizable)
        self.context.progress.say(
            f"source: {model.path.name}, {model.arch}, {len(model.tensors)} tensors ({n_quantizable} quantizable), {human_bytes(data_bytes(model, {}))}"
        )
        check_asked(self.config, bool(self.corpus.evaluation))
        self.inputs.check_roles()

    @property
    def has_known_target(self) -> bool:
        """Whether the budget can be known before anything is computed."""
        return self.config.budget.target_kld is None and not self.stages.budget_needs_sensitivity()

    def prepare(self) -> CostTable:
        """Estimate and measure what runs of other sizes share."""
        return self.costs

    def finish(self) -> Run:
        """Solve, write, choose, measure and delete what is not to be kept, once the source is open; what reports see."""
        self.check_target()
        self.solution.write_allocation(self.allocation)
        return self.result

    def note(self) -> None:
        """Note how the run was made."""
        context = self.context
        context.folder.put(
            command=context.command,
            versions=versions(),
            timings=context.timings,
            warnings=context.warnings,
            constraints=self.inputs.constraints,
        )

    def raise_failures(self) -> None:
        """Raise the error of the first export or report plugin that the run went on without."""
        for error in self.stages.failed.values():
            raise error
