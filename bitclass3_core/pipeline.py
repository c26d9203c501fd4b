"""A run: source -> estimate -> measure -> solve -> export -> evaluate -> report, each stage skipped where its artefact is still good."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from bitclass3_core import checks
from bitclass3_core.building import Possible, build_problem, check_target, possible_bytes
from bitclass3_core.candidates import CandidateStore, MadeFile
from bitclass3_core.config import RunConfig
from bitclass3_core.corpus import Corpus, load_corpus
from bitclass3_core.costs import CostStore, CostTable
from bitclass3_core.errors import Bitclass3Error, ConfigError, UnusableTypeError
from bitclass3_core.estimating import sensitivity_of, why_estimate
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.files import digest_of, human_bytes, sha256_file
from bitclass3_core.gguf_model import GgufModel
from bitclass3_core.gpu_split import gpu_of
from bitclass3_core.kernels import library
from bitclass3_core.layout import Budget, data_bytes, fixed_bytes
from bitclass3_core.limits import Limits, limits_of
from bitclass3_core.measuring import Cells, CostJob, default_threads, wanted_cells
from bitclass3_core.model import Architecture
from bitclass3_core.problem import Allocation, Problem
from bitclass3_core.progress import Progress
from bitclass3_core.qtypes import menu
from bitclass3_core.results import Candidate, Run
from bitclass3_core.rules import rules_of
from bitclass3_core.run_folder import RunFolder
from bitclass3_core.selection import Choice
from bitclass3_core.sensitivity import Sensitivity
from bitclass3_core.shipping import ship, tidy, write_allocation
from bitclass3_core.source import open_source, source_fingerprint
from bitclass3_core.stages import StageRunner
from bitclass3_core.versions import versions

STAGES = ("estimate", "measure", "solve", "export", "evaluate", "report")


# Results that siblings share, and the sections of the configuration that each depends on
_MODEL = {"model"}
_ESTIMATE = {*_MODEL, "architecture", "corpus", "select", "estimate", "imatrix"}
_SHARED = {
    "model": _MODEL,
    "source": _MODEL,
    "architecture": {*_MODEL, "architecture"},
    "corpus": _ESTIMATE,
    "sensitivity": _ESTIMATE,
    "costs": {*_ESTIMATE, "measure", "qtypes"},
}


class Pipeline:
    """One run in one folder. ``run`` goes through all stages; each stage's result is a property, computed once."""

    def __init__(
        self, config: RunConfig, progress: Progress, command: str, may_convert: bool = True, folder: RunFolder | None = None
    ) -> None:
        if config.out is None:
            raise ConfigError("no folder for the run; give --out DIR")
        self.config = config
        self.progress = progress
        self.command = command
        self.may_convert = may_convert
        self.stages = StageRunner(config)
        self.folder = folder or RunFolder(config.out)
        self.threads = default_threads(config.threads)
        self.timings: dict[str, float] = dict(self.folder.timings)
        self.warnings: list[str] = []

    def sibling(self, config: RunConfig) -> "Pipeline":
        """A run of another configuration in the same folder, sharing what depends on nothing that differs."""
        other = Pipeline(config, self.progress, self.command, self.may_convert, self.folder)
        other.warnings, other.timings, other.stages = self.warnings, self.timings, StageRunner(config, self.stages)
        same = {name for name in RunConfig.model_fields if getattr(config, name) == getattr(self.config, name)}
        for result, sections in _SHARED.items():
            if result in self.__dict__ and sections <= same:
                other.__dict__[result] = self.__dict__[result]
        if "architecture" in other.__dict__:
            other.stages.use_architecture(self.stages.name("architecture"))
        return other

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Note the stage's seconds; where nothing had to be made, those of the run that made it stay."""
        begin = time.monotonic()
        yield
        seconds = round(time.monotonic() - begin, 3)
        if stage in self.stages.called or stage not in self.timings:
            self.timings[stage] = seconds

    def warn(self, line: str) -> None:
        """Say a warning and keep it for the run's record."""
        self.warnings.append(line)
        self.progress.warn(line)

    @cached_property
    def model(self) -> GgufModel:
        """The source."""
        return open_source(self.config.model, self.warn, self.progress, self.may_convert)

    @cached_property
    def source(self) -> str:
        """Fingerprint of the GGUF and the HF folder."""
        return source_fingerprint(self.model)

    @cached_property
    def architecture(self) -> Architecture:
        """Names, floors and permutations of the source's family."""
        return self.stages.architecture(self.model)

    @cached_property
    def corpus(self) -> Corpus:
        """The documents of both parts; empty if no text was given: not every estimator needs any."""
        section = self.config.corpus
        if not section.calibration and not section.evaluation:
            return Corpus((), ())
        split = {"split_selection": self.config.select.enabled, "split_imatrix": self.stages.wants_imatrix}
        return load_corpus(section.calibration, section.evaluation, section.selection, section.imatrix, **split)

    @cached_property
    def limits(self) -> Limits:
        """The constraints that were asked for, by tensor."""
        section, gpu = self.config.qtypes, self.config.gpu
        rules = rules_of(self.model, self.architecture, section.pins, section.floors, section.menus, section.groups)
        return limits_of(self.model, rules, gpu_of(self.model, gpu.budget, gpu.tensors))

    @property
    def sensitivity_path(self) -> Path:
        """Where this run's estimator keeps its answer; estimators lie side by side."""
        return self.folder.path / f"sensitivity-{self.stages.name('estimate')}.safetensors"

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
    def costs(self) -> CostTable:
        """The cost table; only what is missing is measured."""
        sensitivity = self.sensitivity
        with self.timed("measure"):
            hook = self.stages.measure_hook(sensitivity)
            self.cost_job.measure(hook, self.stages.name("measure"), self.threads, self.progress)
        table = self.cost_job.table(sensitivity.in_nats)
        self._note_unusable(table)
        return table

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

    @cached_property
    def wanted(self) -> Cells:
        """The types at which each tensor is measured."""
        return wanted_cells(self.model, self.architecture.quantizable, menu(self.config.qtypes.menu), self.limits)

    @property
    def possible_bytes(self) -> Possible:
        """Bytes that all tensors can take; needs no costs."""
        return possible_bytes(self.model, self.architecture, menu(self.config.qtypes.menu), self.limits)

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

    @cached_property
    def store(self) -> CandidateStore:
        """Files made in this folder."""
        return CandidateStore(self.folder, self.model, self.source, self.architecture, self.corpus, self.stages)

    @cached_property
    def _shipped(self) -> tuple[list[MadeFile], Choice]:
        with self.timed("export"):
            made, choice = ship(self)
        if choice.winner.allocation is not self.allocation:
            write_allocation(self, choice.winner.allocation)
        return made, choice

    @property
    def files(self) -> list[MadeFile]:
        """Our file and the stock mix to compare with, written or still good."""
        return self._shipped[0]

    @property
    def choice(self) -> Choice:
        """What ships, and what was measured to choose it."""
        return self._shipped[1]

    def solve_again(self) -> None:
        """Forget the solution, and find another one with what is now known."""
        for solved in ("problem", "allocation"):
            self.__dict__.pop(solved, None)
        write_allocation(self, self.allocation)

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """What was measured of every file that was made in this folder and can still be compared."""
        if not self.corpus.evaluation:
            self.warn("no evaluation text: nothing was measured; give --corpus or --eval-corpus to get KLD and PPL")
            return {}
        with self.timed("evaluate"):
            found = self.store.evaluate(self.files, self.progress)
        tidy(self)
        return found

    def _candidate(self, made: MadeFile) -> Candidate:
        predicted = self.costs.total(made.allocation.qtypes) if self.costs.in_nats else None
        return made.as_candidate(self.model, predicted, self.evaluations.get(made.name))

    @cached_property
    def result(self) -> Run:
        """Everything, for reports: our file, the stock mix, then earlier targets in the folder."""
        evaluations = self.evaluations
        now = [self._candidate(made) for made in self.files]
        names = {candidate.name for candidate in now}
        earlier = [self._candidate(made) for made in self.store.earlier() if made.name not in names and made.name in evaluations]
        return Run(
            model=self.model,
            architecture=self.architecture,
            corpus=self.corpus,
            sensitivity=self.sensitivity,
            costs=self.costs,
            candidates=(*now, *earlier),
            command=self.command,
            versions=versions(),
            timings=dict(self.timings),
            config=self.config.model_dump(mode="json"),
            warnings=tuple(self.warnings),
            differences=self.store.differences(now[0].name, evaluations),
            problem=self.problem,
            unusable=self.folder.unusable(self.source),
            selections={now[0].name: self.choice.selection} if self.choice.selection else {},
            constraints=tuple(self.limits.described()),
        )

    def report(self) -> list[Path]:
        """Run every report plugin; returns their files. One that fails is noted, and the others run."""
        run, files = self.result, []
        with self.timed("report"):
            for plugin in self.config.report.plugin:
                try:
                    files += self.stages.report(plugin, run, self.folder.path)
                except Bitclass3Error as error:
                    self.stages.failed[plugin] = error
                    self.warn(f"{error}; the run goes on without its files")
        return files

    def raise_failures(self) -> None:
        """Raise the error of the first export or report plugin that the run went on without."""
        for error in self.stages.failed.values():
            raise error

    def run(self, until: str = "report") -> None:
        """All stages up to ``until``, holding the folder. Raises Bitclass3Error subclasses for everything that a user can mend."""
        with self.folder.locked():
            self.stages.load_all()
            for stage in STAGES[: STAGES.index(until) + 1]:
                self._run_stage(stage)
            self.note()

    def note(self) -> None:
        """Note how the run was made."""
        self.folder.put(
            command=self.command,
            versions=versions(),
            timings=self.timings,
            warnings=self.warnings,
            constraints=self.limits.described(),
        )

    def open(self) -> None:
        """Say what the source is, and find unusable text, before anything is computed."""
        info, n_quantizable = self.model, len(self.architecture.quantizable)
        self.progress.say(
            f"source: {info.path.name}, {info.arch}, {len(info.tensors)} tensors ({n_quantizable} quantizable), {human_bytes(data_bytes(info, {}))}"
        )
        self.corpus  # noqa: B018 (it is read here)

    def _run_stage(self, stage: str) -> None:
        if stage == "estimate":
            self.open()
            if not self.stages.budget_needs_sensitivity():
                self.check_target()
            _ = self.sensitivity
        elif stage == "measure":
            _ = self.costs
        elif stage == "solve":
            write_allocation(self, self.allocation)
        elif stage == "export":
            _ = self.files
        elif stage == "evaluate":
            _ = self.evaluations
        else:
            self.report()
