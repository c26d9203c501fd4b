"""A run: source -> estimate -> measure -> solve -> export -> evaluate -> report, each stage skipped where its artefact is still good."""

from functools import cached_property
from pathlib import Path

from bitclass3_core.errors import Bitclass3Error
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.files import human_bytes
from bitclass3_core.layout import data_bytes
from bitclass3_core.results import Candidate, Run
from bitclass3_core.runs.candidates import MadeFile
from bitclass3_core.runs.select import Choice
from bitclass3_core.runs.ship import ship, tidy
from bitclass3_core.runs.solution import Solution
from bitclass3_core.runs.versions import versions

STAGES = ("estimate", "measure", "solve", "export", "evaluate", "report")


class Pipeline(Solution):
    """A whole run. ``run`` goes through all stages; each stage's result is a property, computed once."""

    @cached_property
    def _shipped(self) -> tuple[list[MadeFile], Choice]:
        with self.timed("export"):
            made, choice = ship(self)
        if choice.winner.allocation is not self.allocation:
            self.write_allocation(choice.winner.allocation)
        return made, choice

    @property
    def files(self) -> list[MadeFile]:
        """Our file and the stock mix to compare with, written or still good."""
        return self._shipped[0]

    @property
    def choice(self) -> Choice:
        """What ships, and what was measured to choose it."""
        return self._shipped[1]

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """What was measured of every file that was made in this folder and can still be compared."""
        if not self.corpus.evaluation:
            self.warn("no evaluation text: nothing was measured; give --corpus or --eval-corpus to get KLD and PPL")
            return {}
        with self.timed("evaluate"):
            found = self.store.evaluate(self.files, self.progress)
        tidy(self, self.files, self.choice)
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
            constraints=tuple(self.described),
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
            constraints=self.described,
        )

    def open(self) -> None:
        """Say what the source is, and find unusable text and roles that there are not, before anything is computed."""
        info, n_quantizable = self.model, len(self.architecture.quantizable)
        self.progress.say(
            f"source: {info.path.name}, {info.arch}, {len(info.tensors)} tensors ({n_quantizable} quantizable), {human_bytes(data_bytes(info, {}))}"
        )
        _ = self.corpus, self.cost_multipliers

    def _run_stage(self, stage: str) -> None:
        if stage == "estimate":
            self.open()
            if not self.stages.budget_needs_sensitivity():
                self.check_target()
            _ = self.sensitivity
        elif stage == "measure":
            _ = self.costs
        elif stage == "solve":
            self.write_allocation(self.allocation)
        elif stage == "export":
            _ = self.files
        elif stage == "evaluate":
            _ = self.evaluations
        else:
            self.report()
