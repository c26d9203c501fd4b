"""``bitclass3 compare``: anyone's GGUFs against their source and each other; tables, a Pareto plot, types that differ."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bitclass3_core.cli.run import command_line, use_llama_cpp
from bitclass3_core.compare.comparison import Comparison, as_candidate, check_comparable, unique_names
from bitclass3_core.compare.tables import markdown, types_csv
from bitclass3_core.corpus import Corpus, load_corpus
from bitclass3_core.costs import CostTable
from bitclass3_core.errors import ConfigError, InterruptedRunError, ModelFileError
from bitclass3_core.evaluation import Evaluation, paired_difference
from bitclass3_core.files import write_text
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.layout import bpw
from bitclass3_core.model import Architecture
from bitclass3_core.plugin.stages import StageRunner
from bitclass3_core.progress import Progress
from bitclass3_core.results import Run
from bitclass3_core.run_config import RunConfig, StageListSection
from bitclass3_core.runs.candidates import load_evaluation, save_evaluation
from bitclass3_core.runs.folder import RunFolder
from bitclass3_core.runs.versions import versions
from bitclass3_core.sensitivity import Sensitivity
from bitclass3_core.sources.open import open_source, source_fingerprint

_REPORT = StageListSection(plugin=["plots"], options={"only": ["size_kld"]})


@dataclass(frozen=True)
class Comparing:
    """The files, what they are compared with and on, and what does it."""

    config: RunConfig
    progress: Progress
    reference: GgufModel
    models: Mapping[str, GgufModel]
    corpus: Corpus
    stages: StageRunner
    architecture: Architecture

    @classmethod
    def of(cls, config: RunConfig, files: Sequence[Path], progress: Progress) -> "Comparing":
        """Everything opened and checked. Raises ModelFileError, naming what differs, for files of another model."""
        names = unique_names(files)
        if doubles := sorted(name for name, n in Counter(names).items() if n > 1):
            raise ConfigError(f"file {doubles[0]} is named twice; name each file once")
        models = {name: _opened(file) for name, file in zip(names, files, strict=True)}
        section = config.model
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
        return cls(config, progress, reference, models, corpus, stages, stages.architecture(reference))

    def evaluations(self, folder: RunFolder) -> dict[str, Evaluation]:
        """What was measured of each file, in ``folder``; only what is not there yet is measured."""
        if not self.corpus.evaluation:
            self.progress.warn("no evaluation text: only sizes and types are compared; give --eval-corpus to get KLD and PPL")
            return {}
        parts = {
            "source": source_fingerprint(self.reference),
            "evaluation": Corpus.fingerprint(self.corpus.evaluation),
            **self.stages.identity("evaluate"),
        }
        paths = {name: folder.path / "evaluation" / f"{name.replace('/', '_')}.npz" for name in self.models}
        made_of = {name: {**parts, "file": model.fingerprint} for name, model in self.models.items()}
        missing = [name for name in self.models if folder.reason(f"evaluation {name}", paths[name], made_of[name])]
        if missing:
            self.progress.say(f"evaluate: {self.stages.name('evaluate')} on {', '.join(missing)}")
            candidates = [self.models[name] for name in missing]
            answers = self.stages.evaluate(self.reference, list(candidates), self.architecture, self.corpus, self.progress)
            for name, evaluation in zip(missing, answers, strict=True):
                save_evaluation(evaluation, paths[name])
                folder.record(f"evaluation {name}", paths[name], made_of[name])
        return {name: load_evaluation(path) for name, path in paths.items()}

    def comparison(self, evaluations: Mapping[str, Evaluation]) -> Comparison:
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
        return Comparison(reference, text, candidates, {name: pair for name, pair in pairs.items() if pair}, command_line())

    def as_run(self, comparison: Comparison) -> Run:
        """The files as reports see a run: without sensitivity and costs."""
        return Run(
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


def _opened(file: Path) -> GgufModel:
    if not file.is_file():
        raise ModelFileError(f"{file} does not exist; give GGUF files, of a split one the first")
    return GgufModel(file)


def compare_files(config: RunConfig, files: Sequence[Path], progress: Progress) -> Comparison:
    """Compare, and write everything into ``config.out`` if there is one; reports are the plot of sizes, unless plugins are named."""
    use_llama_cpp(config)
    if config.report == RunConfig().report:
        config = config.model_copy(update={"report": _REPORT})
    with TemporaryDirectory(prefix="bitclass3-") as temporary:
        folder = RunFolder(config.out or Path(temporary))
        if config.evaluate.plugin == "llama-perplexity":  # its gigabytes belong there, not beside somebody's files
            config.evaluate.options.setdefault("folder", str(folder.path))
        try:
            with folder.locked():
                comparing = Comparing.of(config, files, progress)
                comparison = comparing.comparison(comparing.evaluations(folder))
                if config.out is not None:
                    _write(comparing, comparison, config.out)
        except KeyboardInterrupt:
            kept = "what was measured is kept" if config.out else "give --out DIR to keep what is measured"
            raise InterruptedRunError(f"interrupted; {kept}") from None
        finally:
            progress.end()
    return comparison


def _write(comparing: Comparing, comparison: Comparison, out: Path) -> None:
    comparison.save(out / "compare.json")
    write_text(out / "compare.md", markdown(comparison))
    write_text(out / "types.csv", types_csv(comparison))
    run = comparing.as_run(comparison)
    for name in comparing.config.report.plugin:
        comparing.stages.report(name, run, out)
