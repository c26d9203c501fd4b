"""``bitclass3 compare``: anyone's GGUFs measured against their source and each other; what was measured is kept in a folder."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bitclass3_core.compare.comparison import Comparison, as_candidate
from bitclass3_core.compare.files import check_comparable, opened
from bitclass3_core.compare.tables import markdown, types_csv
from bitclass3_core.corpus import Corpus, load_corpus
from bitclass3_core.costs import CostTable
from bitclass3_core.errors import ConfigError, InterruptedRunError
from bitclass3_core.evaluation import Evaluation, paired_difference
from bitclass3_core.files import write_text
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.layout import bpw
from bitclass3_core.model import Architecture
from bitclass3_core.plugin.stages import StageRunner
from bitclass3_core.progress import Progress
from bitclass3_core.results import Run
from bitclass3_core.run_config import COMPARE_REPORT, RunConfig
from bitclass3_core.runs.artefact import Artefact
from bitclass3_core.runs.candidates import evaluation_artefact
from bitclass3_core.runs.context import use_machine
from bitclass3_core.runs.folder import RunFolder
from bitclass3_core.runs.versions import versions
from bitclass3_core.sensitivity import Sensitivity
from bitclass3_core.sources.open import open_source, source_fingerprint


@dataclass(frozen=True, slots=True)
class Compared:
    """The files, what they are compared with and on, and what does it."""

    config: RunConfig
    reference: GgufModel
    models: Mapping[str, GgufModel]
    corpus: Corpus
    stages: StageRunner
    architecture: Architecture

    @classmethod
    def of(cls, config: RunConfig, files: Sequence[Path], progress: Progress) -> "Compared":
        """Everything opened and checked. Raises ModelFileError, naming what differs, for files of another model."""
        models, section = opened(files), config.model
        reference = next(iter(models.values()))
        if section.hf or section.gguf:
            reference = open_source(section, progress.warn, progress)
        elif config.corpus.evaluation:
            raise ConfigError("no reference to measure against; give --reference with the source (HF folder or BF16 GGUF)")
        for model in models.values():
            check_comparable(reference, model)
        corpus = load_corpus([], config.corpus.evaluation) if config.corpus.evaluation else Corpus((), ())
        stages = StageRunner(config)
        stages.load_all()
        return cls(config, reference, models, corpus, stages, stages.architecture(reference))

    def _artefacts(self, folder: RunFolder) -> dict[str, Artefact[Evaluation]]:
        """The figures of each file, with all that they depend on."""
        parts = {
            "source": source_fingerprint(self.reference),
            "evaluation": Corpus.fingerprint(self.corpus.evaluation),
            **self.stages.identity("evaluate"),
        }
        paths = {name: folder.path / "evaluation" / f"{name.replace('/', '_')}.npz" for name in self.models}
        return {
            name: evaluation_artefact(name, paths[name], {**parts, "file": model.fingerprint}, folder)
            for name, model in self.models.items()
        }

    def evaluations(self, folder: RunFolder, progress: Progress) -> dict[str, Evaluation]:
        """What was measured of each file, in ``folder``; only what is not there yet is measured."""
        if not self.corpus.evaluation:
            progress.warn("no evaluation text: only sizes and types are compared; give --eval-corpus to get KLD and PPL")
            return {}
        artefacts = self._artefacts(folder)
        found = {name: kept for name, artefact in artefacts.items() if (kept := artefact.kept()) is not None}
        if missing := [name for name in self.models if name not in found]:
            progress.say(f"evaluate: {self.stages.plugin('evaluate').name} on {', '.join(missing)}")
            candidates = [self.models[name] for name in missing]
            answers = self.stages.evaluate(self.reference, list(candidates), self.architecture, self.corpus, progress)
            found |= {name: artefacts[name].put(answer) for name, answer in zip(missing, answers, strict=True)}
        return {name: found[name] for name in self.models}

    def comparison(self, evaluations: Mapping[str, Evaluation], command: str) -> Comparison:
        """The figures of all files, and the difference of each from the first on the same tokens."""
        quantizable = self.architecture.quantizable
        candidates = tuple(as_candidate(model, name, quantizable, evaluations.get(name)) for name, model in self.models.items())
        first, *others = self.models
        pairs = {name: paired_difference(evaluations[name], evaluations[first]) for name in others if name in evaluations}
        reference = {
            "name": self.reference.name,
            "file": self.reference.path.name,
            "fingerprint": self.reference.fingerprint,
            "bpw": bpw(self.reference, {}),
        }
        text = Corpus.fingerprint(self.corpus.evaluation)
        return Comparison(reference, text, candidates, {name: pair for name, pair in pairs.items() if pair}, command)

    def report(self, comparison: Comparison, out: Path) -> None:
        """Run the report plugins: they see the files as a run without sensitivity and costs."""
        run = Run(
            model=self.reference,
            architecture=self.architecture,
            corpus=self.corpus,
            sensitivity=Sensitivity({}, "none", 0, 0, ""),
            costs=CostTable({}),
            candidates=comparison.candidates,
            command=comparison.command,
            versions=versions(),
            timings={},
            config=self.config.model_dump(mode="json"),
        )
        for name in self.config.report.plugin:
            self.stages.report(name, run, out)


def compare(config: RunConfig, files: Sequence[Path], progress: Progress, command: str) -> Comparison:
    """Compare the files; with ``config.out`` the result, its reports and what was measured are kept there.

    Raises ConfigError, ModelFileError for files that cannot be compared, InterruptedRunError on Ctrl-C.
    """
    use_machine(config)
    if config.report == RunConfig().report:
        config = config.model_copy(update={"report": COMPARE_REPORT})
    with _folder(config.out) as folder, folder.locked():
        compared = Compared.of(config, files, progress)
        compared.stages.place_evaluation(folder.path)
        comparison = compared.comparison(compared.evaluations(folder, progress), command)
        if config.out is not None:
            comparison.save(config.out / "compare.json")
            write_text(config.out / "compare.md", markdown(comparison))
            write_text(config.out / "types.csv", types_csv(comparison))
            compared.report(comparison, config.out)
    return comparison


@contextmanager
def _folder(out: Path | None) -> Iterator[RunFolder]:
    """The folder that is named, else one that is gone afterwards."""
    with TemporaryDirectory(prefix="bitclass3-") as temporary:
        try:
            yield RunFolder(out or Path(temporary))
        except KeyboardInterrupt:
            kept = "what was measured is kept" if out else "give --out DIR to keep what is measured"
            raise InterruptedRunError(f"interrupted; {kept}") from None
