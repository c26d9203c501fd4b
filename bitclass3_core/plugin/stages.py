"""The plugins that a configuration names, a typed method for each stage."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bitclass3_core.corpus import Corpus
from bitclass3_core.costs import CostTable
from bitclass3_core.errors import Bitclass3Error, ConfigError, PluginError, did_you_mean
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.layout import Budget
from bitclass3_core.model import Architecture, Model
from bitclass3_core.options import Demands, PluginOptions, Work, demands_of, reads_text
from bitclass3_core.plugin.call import StagePlugin
from bitclass3_core.plugin.manager import Plugin, PluginManager, installed, load_plugin
from bitclass3_core.plugin.stage_table import STAGE_TABLE
from bitclass3_core.problem import Allocation, Problem
from bitclass3_core.progress import Progress
from bitclass3_core.qtypes import QType
from bitclass3_core.results import Run
from bitclass3_core.run_config import AUTO, FALLBACK_ARCHITECTURE, NONE, STOCK_SOLVER, RunConfig
from bitclass3_core.sensitivity import Sensitivity


class StageRunner:
    """One method a stage. Plugins are loaded when they are first used, and once for all runs that share ``loaded``."""

    def __init__(
        self, config: RunConfig, loaded: dict[str, Plugin] | None = None, usual_wrappers: Sequence[str] | None = None
    ) -> None:
        """``usual_wrappers`` are those of the run that opened the folder: what its fingerprints do not say again."""
        self._config = config
        self._loaded: dict[str, Plugin] = {} if loaded is None else loaded
        self._usual_wrappers = config.wrappers if usual_wrappers is None else list(usual_wrappers)
        self._ready: dict[tuple[str, str], StagePlugin] = {}
        self.called: set[str] = set()  # stages whose hook did some work in this run
        self.failed: dict[str, Bitclass3Error] = {}  # export and report plugins without which the run could go on

    def of_same_run(self, config: RunConfig) -> "StageRunner":
        """The plugins of another configuration of the same run: what they did and where they failed counts for both."""
        other = StageRunner(config, self._loaded, self._usual_wrappers)
        other.called, other.failed = self.called, self.failed
        return other

    def _plugin(self, name: str) -> Plugin:
        if name not in self._loaded:
            self._loaded[name] = load_plugin(name)
        return self._loaded[name]

    @property
    def _wrappers(self) -> list[Plugin]:
        return [self._plugin(name) for name in self._config.wrappers]

    def plugin(self, stage: str, name: str | None = None) -> StagePlugin:
        """The plugin of a stage, the configured one unless another is named, with the options that the configuration gives it."""
        name = name or str(getattr(self._config, stage).plugin)
        if (stage, name) not in self._ready:
            plugin = self._plugin(name)
            values = self._options(stage, name, plugin)
            self._ready[stage, name] = StagePlugin.of(stage, plugin, values, self._config.effort, self._wrappers)
        return self._ready[stage, name]

    def _options(self, stage: str, name: str, plugin: Plugin) -> dict[str, Any]:
        section = getattr(self._config, stage)
        if STAGE_TABLE[stage].is_list:
            return dict(section.options_of(name))
        if name == section.plugin or stage == "architecture":
            return dict(section.options)
        # a second plugin of the stage: of the options, those that it shares
        known = plugin.options_class(stage) if stage in plugin.stages else None
        shared = {key: value for key, value in section.options.items() if known is not None and key in known.model_fields}
        return {**shared, **(self._config.imatrix.options if stage == "estimate" else {})}

    def _call(self, plugin: StagePlugin, **arguments: Any) -> Any:
        self.called.add(plugin.stage)
        return plugin(**arguments)

    def _named(self) -> Iterator[tuple[str, str]]:
        """(stage, plugin) of all that the configuration names."""
        config = self._config
        for stage, row in STAGE_TABLE.items():
            named = getattr(config, stage).plugin
            yield from ((stage, name) for name in (named if row.is_list else [named]) if name != AUTO)
        if config.baseline.plugin != NONE:
            yield "solve", config.baseline.plugin
        if config.select.enabled and config.select.stock:
            yield "solve", STOCK_SOLVER
        if self.wants_imatrix:
            yield "estimate", config.imatrix.plugin

    def load_all(self) -> None:
        """Load every plugin and read every option now, so that a typo is found before anything is computed."""
        named = [self.plugin(stage, name) for stage, name in self._named()]
        PluginManager([*self._wrappers, *{id(one.plugin.module): one.plugin for one in named}.values()])
        self.check_level()

    def check_level(self) -> None:
        """Raise ConfigError for a level that the budget plugin does not declare, where it declares any."""
        level, known = self._config.budget.level, getattr(self.plugin("budget").options, "levels", ())
        if level is not None and known and level.upper() not in known:
            raise ConfigError(f"unknown level {level!r}{did_you_mean(level, known)}")

    @property
    def wants_imatrix(self) -> bool:
        """Whether the imatrix is to come from text of its own: asked for, or candidates are compared and the estimator reads text."""
        config = self._config
        return bool(config.corpus.imatrix) or (config.select.enabled and reads_text(self.plugin("estimate").options))

    def demands(self, work: Work) -> Demands:
        """What the plugins of the stages say that ``work`` takes, added up; of memory the largest."""
        exporters = (self.plugin("export", name) for name in self._config.export.plugin)
        plugins = (self.plugin("estimate"), self.plugin("measure"), self.plugin("evaluate"), *exporters)
        found = [demands_of(plugin.options, work) for plugin in plugins]
        return Demands(
            sum(one.operations for one in found), sum(one.core_seconds for one in found), max(one.n_bytes for one in found)
        )

    def identity(self, stage: str, name: str | None = None) -> dict[str, Any]:
        """What a stage's answer depends on besides its inputs: plugin, version, options, and wrappers that are not the folder's usual ones."""
        plugin = self.plugin(stage, name)
        usual = replace(plugin, wrappers=tuple(self._plugin(wrapper) for wrapper in self._usual_wrappers))
        return plugin.identity if plugin.around == usual.around else {**plugin.identity, f"{stage}_wrappers": plugin.around}

    def export_identities(self) -> dict[str, Any]:
        """The identity of every export plugin, by its name."""
        return {name: self.identity("export", name) for name in self._config.export.plugin}

    def architecture_plugin(self, model: Model) -> str:
        """The architecture plugin that is named; with ``auto``, the one called like the model's architecture, else the fallback."""
        name = self._config.architecture.plugin
        if name != AUTO:
            return name
        return model.arch if model.arch in installed() else FALLBACK_ARCHITECTURE

    def architecture(self, model: Model) -> Architecture:
        """Names, floors and permutations of the model's family."""
        answer: Architecture = self._call(self.plugin("architecture", self.architecture_plugin(model)), model=model)
        return answer

    def estimate(
        self, model: Model, architecture: Architecture, corpus: Corpus, progress: Progress, name: str | None = None
    ) -> Sensitivity:
        """The sensitivity, every quantizable tensor in it, by the configured plugin unless another is named."""
        plugin = self.plugin("estimate", name)
        answer: Sensitivity = self._call(plugin, model=model, architecture=architecture, corpus=corpus, progress=progress)
        return answer

    def measure_hook(self, sensitivity: Sensitivity) -> Callable[[Model, tuple[QType, ...]], CostTable]:
        """The measure hook with sensitivity and options filled in, to be called from several threads."""
        plugin = self.plugin("measure")

        def measure(model: Model, qtypes: tuple[QType, ...]) -> CostTable:
            table: CostTable = self._call(plugin, model=model, sensitivity=sensitivity, qtypes=qtypes)
            return table

        return measure

    def budget_needs_sensitivity(self) -> bool:
        """Whether the budget plugin asks for the sensitivity; if not, a target can be checked before anything is computed."""
        return "sensitivity" in _arguments(self.plugin("budget"))

    def budget(self, model: Model, architecture: Architecture, sensitivity: Sensitivity | None) -> Budget:
        """The budget. Raises ConfigError if a level was asked of a plugin that knows none."""
        plugin, level = self.plugin("budget"), self._config.budget.level
        if level is not None and "level" not in _arguments(plugin):
            raise ConfigError(
                f"budget plugin {plugin.name!r} knows no levels, got {level}; leave [budget] plugin out, or name one that does"
            )
        answer: Budget = self._call(plugin, model=model, architecture=architecture, sensitivity=sensitivity, level=level)
        return answer

    def solve(self, problem: Problem, model: Model, architecture: Architecture) -> Allocation:
        """The solver's answer; whether it keeps the budget and the limits is not yet checked."""
        answer: Allocation = self._call(self.plugin("solve"), problem=problem, model=model, architecture=architecture)
        return answer

    def baseline(self, problem: Problem, model: Model, architecture: Architecture) -> Allocation | None:
        """The allocation to compare with: the baseline solver's answer to the problem whose budget is our file's size."""
        section = self._config.baseline
        if section.plugin == NONE:
            return None
        return self._other_solver(section.plugin, section.options or None)(problem=problem, model=model, architecture=architecture)  # type: ignore[no-any-return]

    def stock_within(self, problem: Problem, model: Model, architecture: Architecture) -> Allocation:
        """The largest stock mix within the problem's budget. Raises InfeasibleError if none fits."""
        return self._other_solver(STOCK_SOLVER, {})(problem=problem, model=model, architecture=architecture)  # type: ignore[no-any-return]

    def _other_solver(self, name: str, values: dict[str, Any] | None) -> StagePlugin:
        """A solver beside the run's own; without options it answers as one to compare with."""
        plugin = self._plugin(name)
        if values is None:
            options = plugin.options_class("solve") if "solve" in plugin.stages else None
            ftype = self._config.budget.options.get("match_stock")
            values = dict(options.as_baseline(ftype)) if options and issubclass(options, PluginOptions) else {}
        return StagePlugin.of("solve", plugin, values, wrappers=self._wrappers)

    def export(
        self,
        model: Model,
        architecture: Architecture,
        allocation: Allocation,
        sensitivity: Sensitivity,
        corpus: Corpus,
        out: Path,
        stem: str,
        progress: Progress,
    ) -> list[Path]:
        """Files of all export plugins, in their order. One that breaks is noted in ``failed``, as long as another writes the GGUF."""
        arguments = {
            "model": model,
            "architecture": architecture,
            "allocation": allocation,
            "sensitivity": sensitivity,
            "corpus": corpus,
            "out": out,
            "stem": stem,
            "progress": progress,
        }
        files: list[Path] = []
        broken: dict[str, PluginError] = {}
        for name in self._config.export.plugin:
            try:
                files += self._call(self.plugin("export", name), **arguments)
            except PluginError as error:
                broken[name] = error
        if broken and not any(path.suffix == ".gguf" for path in files):
            raise next(iter(broken.values()))
        self.failed.update(broken)
        for line in broken.values():
            progress.warn(f"{line}; the run goes on without its files")
        return files

    def evaluate(
        self,
        reference: Model,
        candidates: list[Model],
        architecture: Architecture,
        corpus: Corpus,
        progress: Progress,
    ) -> list[Evaluation]:
        """One evaluation for each candidate."""
        answer: list[Evaluation] = self._call(
            self.plugin("evaluate"),
            reference=reference,
            candidates=candidates,
            architecture=architecture,
            corpus=corpus,
            progress=progress,
        )
        return answer

    def place_evaluation(self, folder: Path) -> None:
        """Let the evaluator put large temporary files into ``folder``, not beside files that are not the run's."""
        plugin = self.plugin("evaluate")
        if isinstance(plugin.options, PluginOptions):
            placed = replace(plugin, options=plugin.options.placed_in(folder))
            self._ready["evaluate", self._config.evaluate.plugin] = placed

    def report(self, name: str, run: Run, out: Path) -> list[Path]:
        """Files of one report plugin."""
        answer: list[Path] = self._call(self.plugin("report", name), run=run, out=out)
        return answer


def _arguments(plugin: StagePlugin) -> frozenset[str]:
    """Names of the arguments that a plugin takes of its hook's."""
    return frozenset(inspect.signature(plugin.plugin.function(plugin.stage)).parameters)
