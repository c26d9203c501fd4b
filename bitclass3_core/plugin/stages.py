"""The run's plugins behind one typed method a stage: options parsed, answers checked, identities for fingerprints."""

import inspect
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bitclass3_core.constraints.limits import Limits
from bitclass3_core.corpus import Corpus
from bitclass3_core.costs import CostTable
from bitclass3_core.errors import Bitclass3Error, ConfigError, ContractError, PluginError, did_you_mean
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.files import sha256_file
from bitclass3_core.layout import Budget
from bitclass3_core.model import Architecture, Model
from bitclass3_core.plugin import checks
from bitclass3_core.plugin.manager import Plugin, PluginManager, installed, load_plugin, parse_options
from bitclass3_core.problem import Allocation, Problem
from bitclass3_core.progress import Progress
from bitclass3_core.qtypes import QType
from bitclass3_core.results import Run
from bitclass3_core.run_config import RunConfig
from bitclass3_core.sensitivity import Sensitivity

FALLBACK_ARCHITECTURE = "generic"


def _expect(answer: Any, kind: type, plugin: str, stage: str) -> Any:
    if not isinstance(answer, kind):
        raise ContractError(f"plugin {plugin!r} answered {type(answer).__name__} to bitclass3_{stage}, expected {kind.__name__}")
    return answer


class StageRunner:
    """The plugins that a configuration names, loaded when first used, registered in a manager of this run's own."""

    def __init__(self, config: RunConfig, like: "StageRunner | None" = None) -> None:
        """``like`` is the runner of another configuration of the same run: a plugin is loaded once for both."""
        self._config = config
        self._plugins: dict[str, Plugin] = like._plugins if like else {}
        self._loaded: dict[tuple[str, str], tuple[Plugin, BaseModel | None]] = {}
        self._arch_name: str | None = None
        self.called: set[str] = set()  # stages whose hook did some work in this run
        self.failed: dict[str, Bitclass3Error] = {}  # export and report plugins without which the run could go on

    def _plugin(self, name: str) -> Plugin:
        if name not in self._plugins:
            self._plugins[name] = load_plugin(name)
        return self._plugins[name]

    @cached_property
    def _manager(self) -> PluginManager:
        """Every plugin that the configuration names, but the architecture's, which may depend on the model."""
        wrappers = [self._plugin(name) for name in self._config.wrappers]
        named = {plugin.name: plugin for plugin, _ in (self._get(stage, name) for stage, name in self._named())}
        return PluginManager([*wrappers, *named.values()])

    def _named(self) -> list[tuple[str, str]]:
        config = self._config
        single = [(stage, getattr(config, stage).plugin) for stage in ("estimate", "measure", "budget", "solve", "evaluate")]
        architecture = [("architecture", name)] if (name := self._arch_name or config.architecture.plugin) != "auto" else []
        if config.baseline.plugin != "none":
            single.append(("solve", config.baseline.plugin))
        if config.select.enabled and config.select.stock:
            single.append(("solve", "stock"))
        if self.wants_imatrix:
            single.append(("estimate", config.imatrix.plugin))
        return [
            *architecture,
            *single,
            *(("export", name) for name in config.export.plugin),
            *(("report", name) for name in config.report.plugin),
        ]

    def load_all(self) -> None:
        """Load every plugin and parse every option now, so that a typo is found before anything is computed."""
        for stage, name in self._named():
            self._get(stage, name)
        self.check_level()

    def check_level(self) -> None:
        """Raise ConfigError for a level that the budget plugin's option ``levels`` (if it has one) does not have."""
        _, options = self._get("budget", self._config.budget.plugin)
        level, known = self._config.budget.level, getattr(options, "levels", None)
        if level is not None and known and level.upper() not in known:
            raise ConfigError(f"unknown level {level!r}{did_you_mean(level, known)}")

    @property
    def wants_imatrix(self) -> bool:
        """Whether the imatrix is to come from text of its own: asked for, or candidates are compared and the estimator reads text."""
        return bool(self._config.corpus.imatrix) or (self._config.select.enabled and self._config.estimate.plugin == "kl-hessian")

    def _get(self, stage: str, name: str) -> tuple[Plugin, BaseModel | None]:
        if (stage, name) not in self._loaded:
            plugin = self._plugin(name)
            if stage not in plugin.stages:
                raise PluginError(
                    f"plugin {plugin.name!r} does not implement bitclass3_{stage}, only {', '.join(plugin.stages)}; name another for [{stage}]"
                )
            values = self._options(stage, name, plugin)
            self._loaded[stage, name] = plugin, parse_options(plugin, stage, values, self._config.effort)
        return self._loaded[stage, name]

    def _options(self, stage: str, name: str, plugin: Plugin) -> dict[str, Any]:
        section = getattr(self._config, stage)
        if stage in ("export", "report"):
            return dict(section.options_of(name))
        if name == section.plugin or stage == "architecture":
            return dict(section.options)
        # a second plugin of the stage: of the options, those that it shares
        return {**_shared_options(plugin, stage, section.options), **(self._config.imatrix.options if stage == "estimate" else {})}

    def _call(self, stage: str, name: str, **arguments: Any) -> Any:
        plugin, options = self._get(stage, name)
        self.called.add(stage)
        return self._manager.call(stage, plugin, options, **arguments)

    def name(self, stage: str) -> str:
        """Name of the plugin of a stage that has one."""
        configured = (self._arch_name or "auto") if stage == "architecture" else getattr(self._config, stage).plugin
        return self._get(stage, configured)[0].name

    @property
    def exporters(self) -> list[str]:
        """Names of the export plugins, in their order."""
        return list(self._config.export.plugin)

    def export_demands(self, n_params: int) -> tuple[float, int]:
        """(floating-point operations, bytes of memory beside the model's) that the exporters' options say ``n_params`` weights take."""
        found: list[Any] = [self._get("export", name)[1] for name in self.exporters]
        asked = [options.demands(n_params) for options in found if hasattr(options, "demands")]
        return sum(operations for operations, _ in asked), sum(n_bytes for _, n_bytes in asked)

    def identity(self, stage: str, name: str | None = None) -> dict[str, Any]:
        """What a stage's answer depends on besides its inputs: plugin, version, options."""
        configured = name or (self._arch_name if stage == "architecture" else getattr(self._config, stage).plugin)
        plugin, options = self._get(stage, str(configured))
        values = options.model_dump(mode="json") if options else {}
        for key, value in options or ():  # a file may change under its name
            if isinstance(value, Path) and value.is_file():
                values[f"{key}_sha256"] = sha256_file(value)
        return {f"{stage}_plugin": f"{plugin.name} {plugin.version}", **({"options": values} if values else {})}

    def architecture(self, model: Model) -> Architecture:
        """The named architecture plugin's answer; with ``auto``, the one called like the model's architecture, else the generic one."""
        name = self._config.architecture.plugin
        if name == "auto":
            name = model.arch if model.arch in installed() else FALLBACK_ARCHITECTURE
        self._arch_name = name
        self.__dict__.pop("_manager", None)
        plugin = self._get("architecture", name)[0].name
        answer: Architecture = _expect(self._call("architecture", name, model=model), Architecture, plugin, "architecture")
        checks.check_architecture(answer, model, plugin)
        return answer

    def use_architecture(self, name: str) -> None:
        """Take the plugin that a run of the same model found."""
        self._arch_name = name

    def estimate(
        self, model: Model, architecture: Architecture, corpus: Corpus, progress: Progress, imatrix: bool = False
    ) -> Sensitivity:
        """The sensitivity, every quantizable tensor in it; with ``imatrix`` by the plugin of that section."""
        name = (self._config.imatrix if imatrix else self._config.estimate).plugin
        answer = self._call("estimate", name, model=model, architecture=architecture, corpus=corpus, progress=progress)
        sensitivity: Sensitivity = _expect(answer, Sensitivity, name, "estimate")
        checks.check_sensitivity(sensitivity, model, architecture.quantizable, name)
        return sensitivity

    def measure_hook(self, sensitivity: Sensitivity) -> Callable[[Model, tuple[QType, ...]], CostTable]:
        """The measure hook with sensitivity and options filled in; its answers are checked by who calls it."""
        name = self._config.measure.plugin
        _ = self._manager  # build it here, not in several threads at once

        def measure(model: Model, qtypes: tuple[QType, ...]) -> CostTable:
            answer = self._call("measure", name, model=model, sensitivity=sensitivity, qtypes=qtypes)
            table: CostTable = _expect(answer, CostTable, name, "measure")
            return table

        return measure

    def budget_needs_sensitivity(self) -> bool:
        """Whether the budget plugin asks for the sensitivity; if not, a target can be checked before anything is computed."""
        if self._config.budget.target_kld is not None:  # it is even searched for by measuring
            return True
        plugin, _ = self._get("budget", self._config.budget.plugin)
        return "sensitivity" in inspect.signature(plugin.function("budget")).parameters

    def budget(self, model: Model, architecture: Architecture, sensitivity: Sensitivity | None) -> Budget:
        """The budget. Raises ConfigError if a level was asked of a plugin that knows none."""
        name, level = self._config.budget.plugin, self._config.budget.level
        plugin, _ = self._get("budget", name)
        if level is not None and "level" not in inspect.signature(plugin.function("budget")).parameters:
            raise ConfigError(
                f"budget plugin {plugin.name!r} knows no levels, got {level}; leave [budget] plugin out, or name bit-classes"
            )
        answer = self._call("budget", name, model=model, architecture=architecture, sensitivity=sensitivity, level=level)
        budget: Budget = _expect(answer, Budget, name, "budget")
        checks.check_budget_answer(budget, name)
        return budget

    def solve(self, problem: Problem, model: Model, architecture: Architecture) -> Allocation:
        """The solver's answer, not yet checked."""
        name = self._config.solve.plugin
        answer: Allocation = _expect(
            self._call("solve", name, problem=problem, model=model, architecture=architecture), Allocation, name, "solve"
        )
        return answer

    def baseline(self, problem: Problem, model: Model, architecture: Architecture) -> Allocation | None:
        """The allocation to compare with: the baseline solver's answer to the problem whose budget is our file's size."""
        section = self._config.baseline
        if section.plugin == "none":
            return None
        plugin = self._plugin(section.plugin)
        values = section.options or self._default_baseline() if plugin.name == "stock" else section.options
        options = parse_options(plugin, "solve", values)
        arguments = {"problem": problem, "model": model, "architecture": architecture}
        answer: Allocation = _expect(self._manager.call("solve", plugin, options, **arguments), Allocation, plugin.name, "solve")
        checks.check_allocation(answer, model, architecture.quantizable, 0, None, Limits(), plugin.name)
        return answer

    def stock_within(self, problem: Problem, model: Model, architecture: Architecture) -> Allocation:
        """The largest stock mix within the problem's budget. Raises InfeasibleError if none fits."""
        plugin = self._plugin("stock")
        arguments = {"problem": problem, "model": model, "architecture": architecture}
        answer: Allocation = _expect(
            self._manager.call("solve", plugin, parse_options(plugin, "solve", {}), **arguments), Allocation, "stock", "solve"
        )
        checks.check_allocation(answer, model, architecture.quantizable, 0, None, Limits(), plugin.name)
        return answer

    def _default_baseline(self) -> dict[str, Any]:
        matched = self._config.budget.options.get("match_stock")
        return {"ftype": matched} if matched else {"at_least": True}

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
                files += _checked_files(self._call("export", name, **arguments), name, "export")
            except PluginError as error:
                broken[name] = error
        if broken and not any(path.suffix == ".gguf" for path in files):
            raise next(iter(broken.values()))
        self.failed.update(broken)
        for line in broken.values():
            progress.warn(f"{line}; the run goes on without its files")
        return files

    def evaluate(
        self, reference: Model, candidates: list[Model], architecture: Architecture, corpus: Corpus, progress: Progress
    ) -> list[Evaluation]:
        """One evaluation for each candidate."""
        name = self._config.evaluate.plugin
        answer = self._call(
            "evaluate",
            name,
            reference=reference,
            candidates=candidates,
            architecture=architecture,
            corpus=corpus,
            progress=progress,
        )
        evaluations: list[Evaluation] = _expect(answer, list, name, "evaluate")
        checks.check_evaluations(evaluations, [candidate.path.stem for candidate in candidates], name)
        return evaluations

    def report(self, name: str, run: Run, out: Path) -> list[Path]:
        """Files of one report plugin."""
        return _checked_files(self._call("report", name, run=run, out=out), name, "report")


def _shared_options(plugin: Plugin, stage: str, options: dict[str, Any]) -> dict[str, Any]:
    known = plugin.options_class(stage)
    return {key: value for key, value in options.items() if known is not None and key in known.model_fields}


def _checked_files(answer: Any, plugin: str, stage: str) -> list[Path]:
    files: list[Path] = _expect(answer, list, plugin, stage)
    for path in files:
        if not (isinstance(path, Path) and path.is_file()):
            raise ContractError(f"plugin {plugin!r} says that it wrote {path}, which is no file")
    return files
