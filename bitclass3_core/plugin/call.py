"""One plugin called at one stage: options read, wrappers around it, the answer checked. The only place that calls hooks."""

import inspect
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bitclass3_core import hookspecs
from bitclass3_core.errors import ContractError, PluginError
from bitclass3_core.files import sha256_file
from bitclass3_core.plugin.manager import GROUP, Plugin, PluginManager, load_plugin, parse_options
from bitclass3_core.plugin.stage_table import STAGE_TABLE


@dataclass(frozen=True, slots=True)
class StagePlugin:
    """A plugin at a stage with its options, inside the wrappers that go around every stage of a run."""

    stage: str
    plugin: Plugin
    options: BaseModel | None
    wrappers: tuple[Plugin, ...]
    manager: PluginManager

    @classmethod
    def of(
        cls, stage: str, plugin: Plugin, values: Mapping[str, Any], effort: str = "fast", wrappers: Iterable[Plugin] = ()
    ) -> "StagePlugin":
        """Raises PluginError for a plugin that does not do the stage or does not fit its hook, ConfigError for options that it does not have."""
        require_stage(plugin, stage)
        around = tuple(wrappers)
        return cls(stage, plugin, parse_options(plugin, stage, values, effort), around, PluginManager([*around, plugin]))

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self.plugin.name

    @property
    def identity(self) -> dict[str, Any]:
        """What an answer depends on besides what is asked: plugin, version, options."""
        values = self.options.model_dump(mode="json") if self.options else {}
        for key, value in self.options or ():  # a file may change under its name
            if isinstance(value, Path) and value.is_file():
                values[f"{key}_sha256"] = sha256_file(value)
        return {f"{self.stage}_plugin": f"{self.name} {self.plugin.version}", **({"options": values} if values else {})}

    @property
    def around(self) -> list[str]:
        """The wrappers that go around the stage, with their versions."""
        return [f"{wrapper.name} {wrapper.version}" for wrapper in self.wrappers if self.stage in wrapper.stages]

    @property
    def label(self) -> str:
        """Identity and wrappers as one line of text."""
        values = json.dumps(self.options.model_dump(mode="json"), sort_keys=True) if self.options else ""
        return " ".join([self.name, self.plugin.version, values, *self.around])

    def __call__(self, **arguments: Any) -> Any:
        """The plugin's answer.

        Raises ContractError for an answer of another type or one that the stage's check refuses, CrashError for any error of the
        plugin that is not for the user.
        """
        stage = STAGE_TABLE[self.stage]
        arguments = with_stages(self.stage, arguments, self.wrappers)
        answer = self.manager.call(self.stage, self.plugin, self.options, **arguments)
        if not isinstance(answer, stage.answer):
            raise ContractError(
                f"plugin {self.name!r} answered {type(answer).__name__} to {GROUP}_{self.stage}, expected {stage.answer.__name__}"
            )
        stage.check(answer, arguments, self.name)
        return answer


def with_stages(stage: str, arguments: Mapping[str, Any], wrappers: tuple[Plugin, ...] = ()) -> dict[str, Any]:
    """The arguments of a hook, ``stages`` among them where the hook has it and they do not."""
    has_it = "stages" in inspect.signature(getattr(hookspecs, f"{GROUP}_{stage}")).parameters
    return {**({"stages": OtherStages(wrappers)} if has_it else {}), **arguments}


def require_stage(plugin: Plugin, stage: str) -> None:
    """Raise PluginError for a plugin that does not do a stage."""
    if stage not in plugin.stages:
        raise PluginError(
            f"plugin {plugin.name!r} does not implement {GROUP}_{stage}, only {', '.join(plugin.stages)}; name another for [{stage}]"
        )


@dataclass(frozen=True, slots=True)
class OtherStages:
    """What a plugin gets that asks for ``stages``: any installed plugin, inside the wrappers of the run."""

    wrappers: tuple[Plugin, ...] = ()
    _loaded: dict[str, Plugin] = field(default_factory=dict)

    def _load(self, name: str) -> Plugin:
        if name not in self._loaded:
            self._loaded[name] = load_plugin(name)
        return self._loaded[name]

    def option_names(self, stage: str, name: str) -> Collection[str]:
        """The options that a plugin has at a stage."""
        plugin = self._load(name)
        require_stage(plugin, stage)
        options = plugin.options_class(stage)
        return frozenset(options.model_fields if options else ())

    def plugin(self, stage: str, name: str, options: Mapping[str, Any]) -> StagePlugin:
        """The plugin of that name at that stage."""
        return StagePlugin.of(stage, self._load(name), options, wrappers=self.wrappers)
