"""A run: source -> estimate -> measure -> solve -> export -> evaluate -> report, each stage skipped where its artefact is still good."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from bitclass3_core import checks
from bitclass3_core.building import build_problem, check_budget, larger_type, possible_bytes, resolve_pins
from bitclass3_core.candidates import CandidateStore, MadeFile, allocation_record
from bitclass3_core.config import RunConfig
from bitclass3_core.corpus import Corpus, load_corpus
from bitclass3_core.costs import CostStore, CostTable
from bitclass3_core.errors import Bitclass3Error, ConfigError, ContractError, UnusableTypeError
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.files import digest_of, human_bytes, sha256_file, write_json
from bitclass3_core.gguf_model import GgufModel, total_file_bytes
from bitclass3_core.imatrix_file import write_imatrix
from bitclass3_core.kernels import library
from bitclass3_core.layout import Budget, data_bytes, fixed_bytes
from bitclass3_core.measuring import Cells, CostJob, default_threads, wanted_cells
from bitclass3_core.model import Architecture
from bitclass3_core.problem import Allocation, Problem
from bitclass3_core.progress import Progress
from bitclass3_core.qtypes import menu
from bitclass3_core.results import Candidate, Run
from bitclass3_core.run_folder import RunFolder
from bitclass3_core.sensitivity import Sensitivity, load_sensitivity, save_sensitivity
from bitclass3_core.source import open_source, source_fingerprint
from bitclass3_core.stages import StageRunner
from bitclass3_core.versions import versions

STAGES = ("estimate", "measure", "solve", "export", "evaluate", "report")


class Pipeline:
    """One run in one folder. ``run`` goes through all stages; each stage's result is a property, computed once."""

    def __init__(self, config: RunConfig, progress: Progress, command: str, may_convert: bool = True) -> None:
        if config.out is None:
            raise ConfigError("no folder for the run; give --out DIR")
        self.config = config
        self.progress = progress
        self.command = command
        self.may_convert = may_convert
        self.stages = StageRunner(config)
        self.folder = RunFolder(config.out)
        self.threads = default_threads(config.threads)
        self.timings: dict[str, float] = dict(self.folder.timings)
        self.warnings: list[str] = []

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
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
        return load_corpus(section.calibration, section.evaluation)

    @cached_property
    def pins(self) -> dict[str, str]:
        """Pinned tensors and their types."""
        return resolve_pins(self.model, self.architecture, self.config.qtypes.pins)

    @property
    def sensitivity_path(self) -> Path:
        """Where this run's estimator keeps its answer; estimators lie side by side."""
        return self.folder.path / f"sensitivity-{self.stages.name('estimate')}.safetensors"

    def _sensitivity_parts(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "calibration": Corpus.fingerprint(self.corpus.calibration),
            "architecture": self.stages.identity("architecture"),
            **self.stages.identity("estimate"),
        }

    def _why_estimate(self) -> str | None:
        """Why the sensitivity must be estimated (again); None if the one in the folder is good."""
        return self.folder.reason(self.sensitivity_path.stem, self.sensitivity_path, self._sensitivity_parts())

    @cached_property
    def sensitivity(self) -> Sensitivity:
        """Estimated, or loaded if nothing that it depends on has changed."""
        path, reason = self.sensitivity_path, self._why_estimate()
        if reason is None:
            self.progress.say(f"estimate: {path.name} is up to date")
            answer = load_sensitivity(path)
        else:
            self.progress.say(f"estimate: {self.stages.name('estimate')} ({reason})")
            with self._timed("estimate"):
                answer = self.stages.estimate(self.model, self.architecture, self.corpus, self.progress)
            save_sensitivity(answer, path)
            self.folder.record(path.stem, path, self._sensitivity_parts())
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
        return self._why_estimate() is None and self.costs_path.is_file() and not self.cost_job.missing()

    @cached_property
    def costs(self) -> CostTable:
        """The cost table; only what is missing is measured."""
        sensitivity = self.sensitivity
        with self._timed("measure"):
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
        return wanted_cells(self.model, self.architecture.quantizable, menu(self.config.qtypes.menu), self.pins)

    def check_target(self) -> None:
        """Raise InfeasibleError for a target out of reach, before anything is computed for it."""
        check_budget(self.budget, *possible_bytes(self.model, self.architecture, self.wanted, self.pins))

    @cached_property
    def problem(self) -> Problem:
        """What the solver gets."""
        unusable = self.folder.unusable(self.source)
        return build_problem(self.model, self.architecture, self.costs, self.pins, self.budget, unusable)

    @cached_property
    def allocation(self) -> Allocation:
        """The solver's answer, checked."""
        problem = self.problem
        with self._timed("solve"):
            answer = self.stages.solve(problem, self.model, self.architecture)
        n_bytes = self._quantizable_bytes(answer)
        quantizable, name = self.architecture.quantizable, self.stages.name("solve")
        checks.check_allocation(answer, self.model, quantizable, n_bytes, problem.budget_bytes, self.pins, name)
        proof = answer.proof
        tail = f"; bound {proof.bound:.6g}, gap {proof.gap:.2e}, {'optimal' if proof.optimal else 'not proven'}" if proof else ""
        predicted = self.costs.total(answer.qtypes)
        cost = f"cost {predicted:.6g}" + (" nats/token" if self.costs.in_nats else "") if predicted is not None else "cost unknown"
        self.progress.say(f"solve: {name} in {self.timings['solve']:.2f} s, {cost}{tail}")
        return answer

    def _quantizable_bytes(self, allocation: Allocation) -> int:
        return data_bytes(self.model, allocation.qtypes) - fixed_bytes(self.model, self.architecture.quantizable)

    @cached_property
    def store(self) -> CandidateStore:
        """Files made in this folder."""
        return CandidateStore(self.folder, self.model, self.architecture, self.corpus, self.stages)

    @cached_property
    def files(self) -> list[MadeFile]:
        """Our file and the stock mix to compare with, written or still good.

        Where a tensor cannot have its type, that is noted, the problem is solved again without it, and the files are made anew.
        """
        with self._timed("export"):
            write_imatrix(self.folder.path / "imatrix.gguf", self.sensitivity, "bitclass3")
            while True:
                try:
                    made = self._make_files()
                    break
                except UnusableTypeError as error:
                    self._do_without(error)
        self._check_size(made[0])
        return made

    def _make_files(self) -> list[MadeFile]:
        planned = [MadeFile.planned(f"{self.model.name}-{self.budget.label}", "ours", self.allocation, self.model)]
        problem = replace(self.problem, budget_bytes=self._quantizable_bytes(self.allocation))
        baseline = self.stages.baseline(problem, self.model, self.architecture)
        if baseline is not None:
            name = f"{self.model.name}-{(baseline.note or baseline.solver).replace(' ', '-')}"
            planned.append(MadeFile.planned(name, "stock", self._usable(baseline), self.model))
        sha = sha256_file(self.sensitivity_path)
        return [self.store.make(file, self.sensitivity, sha, self.progress) for file in planned]

    def _usable(self, baseline: Allocation) -> Allocation:
        """A mix as it is, but the next larger type where a tensor cannot have its own."""
        qtypes = dict(baseline.qtypes)
        failed = self.folder.unusable(self.source)
        for name, q in baseline.qtypes.items():
            while (name, qtypes[name]) in failed:
                qtypes[name] = larger_type(self.model.tensors[name], qtypes[name])
            if qtypes[name] != q:
                self.warn(f"{baseline.note or baseline.solver}: {name} is {qtypes[name]} instead of {q}, which it cannot be")
        return replace(baseline, qtypes=qtypes)

    def _do_without(self, error: UnusableTypeError) -> None:
        """Note that a tensor cannot have a type, and forget the solution that gave it. Raises the error if that was known already."""
        if (error.tensor, error.qtype) in self.folder.unusable(self.source):
            raise error
        self.folder.put_unusable(self.source, error.tensor, error.qtype, error.reason)
        self.warn(f"{error}; it gets the next larger type that works, and the rest is solved again")
        for solved in ("problem", "allocation"):
            self.__dict__.pop(solved, None)
        _ = self.allocation
        write_json(self.folder.path / "allocation.json", allocation_record(self.allocation, self.costs, self.budget))

    def _check_size(self, ours: MadeFile) -> None:
        """The promise: never larger than asked, whatever the exporter added to the metadata."""
        size, asked = total_file_bytes(ours.path) if ours.path else 0, self.budget.file_bytes
        if asked is not None and size > asked:
            raise ContractError(
                f"{ours.name}.gguf is {size:,} bytes, asked were {asked:,}; lower the target by {size - asked:,} bytes"
            )

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """What was measured of every file that was made in this folder and can still be compared."""
        if not self.corpus.evaluation:
            self.warn("no evaluation text: nothing was measured; give --corpus or --eval-corpus to get KLD and PPL")
            return {}
        with self._timed("evaluate"):
            return self.store.evaluate(self.files, self.source, self.architecture, self.corpus, self.progress)

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
            unusable=self.folder.unusable(self.source),
        )

    def report(self) -> list[Path]:
        """Run every report plugin; returns their files. One that fails is noted, and the others run."""
        run, files = self.result, []
        with self._timed("report"):
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
            self.folder.put(command=self.command, versions=versions(), timings=self.timings, warnings=self.warnings)

    def _run_stage(self, stage: str) -> None:
        if stage == "estimate":
            info = self.model
            n_quantizable = len(self.architecture.quantizable)
            self.progress.say(
                f"source: {info.path.name}, {info.arch}, {len(info.tensors)} tensors ({n_quantizable} quantizable), {human_bytes(data_bytes(info, {}))}"
            )
            self.corpus  # noqa: B018 (bad text is to be found before anything is computed)
            if not self.stages.budget_needs_sensitivity():
                self.check_target()
            _ = self.sensitivity
        elif stage == "measure":
            _ = self.costs
        elif stage == "solve":
            write_json(self.folder.path / "allocation.json", allocation_record(self.allocation, self.costs, self.budget))
        elif stage == "export":
            _ = self.files
        elif stage == "evaluate":
            _ = self.evaluations
        else:
            self.report()
