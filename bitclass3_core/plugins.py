"""Finding, loading and calling plugins: by entry point or by file, only those that a run names, each run with its own manager."""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import pluggy
from pydantic import BaseModel, ValidationError

from bitclass3_core import hookspecs
from bitclass3_core.errors import Bitclass3Error, ConfigError, ContractError, PluginError, did_you_mean
from bitclass3_core.plugin_sources import source_hash

GROUP = "bitclass3"
STAGES = ("architecture", "estimate", "measure", "budget", "solve", "export", "evaluate", "report")


@dataclass(frozen=True, slots=True)
class Plugin:
    """A loaded plugin: its module, the stages whose hooks it implements, and a version that changes with its source."""

    name: str
    module: ModuleType
    stages: tuple[str, ...]
    version: str
    wrapper: bool = False

    def options_class(self, stage: str) -> type[BaseModel] | None:
        """The pydantic class that annotates ``options`` in the hook of that stage; None if it takes none."""
        function = getattr(self.module, f"{GROUP}_{stage}")
        if "options" not in inspect.signature(function).parameters:
            return None
        annotation = get_type_hints(function).get("options")
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            raise PluginError(
                f"plugin {self.name!r}: options of {GROUP}_{stage} must be annotated with a pydantic class, got {annotation!r}"
            )
        return annotation


def installed() -> dict[str, EntryPoint]:
    """Entry points of the group ``bitclass3`` by plugin name; nothing is imported."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def _implemented(module: ModuleType) -> tuple[tuple[str, ...], bool]:
    """(stages whose hook the module implements, whether all of them are wrappers)."""
    marks = {stage: getattr(getattr(module, f"{GROUP}_{stage}", None), f"{GROUP}_impl", None) for stage in STAGES}
    found = {stage: mark for stage, mark in marks.items() if mark}
    return tuple(found), bool(found) and all(mark.get("wrapper") or mark.get("hookwrapper") for mark in found.values())


class _SourceLoader(SourceFileLoader):
    """Runs a file's source, never its bytecode cache, which cannot tell two edits of one size within a second apart."""

    def path_stats(self, path: str) -> Mapping[str, Any]:
        """No time of change: then the cache is neither read nor written."""
        raise OSError(f"no bytecode for {path}")


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise PluginError(f"plugin file {path} does not exist; give the path of a .py file")
    # one module for one content: a plugin of two stages is loaded for each of them, and must stay the same plugin
    digest = hashlib.sha256(f"{path.resolve()}".encode() + path.read_bytes()).hexdigest()[:12]
    name = f"bitclass3_file_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    loader = _SourceLoader(name, str(path))
    module = importlib.util.module_from_spec(ModuleSpec(name, loader, origin=str(path)))
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def load_plugin(name: str) -> Plugin:
    """The plugin of that entry-point name, or in that ``.py`` file.

    Raises PluginError if there is none, if it cannot be imported, or if it implements no hook.
    """
    points = installed()
    is_file = name.endswith(".py")
    if not is_file and name not in points:
        raise PluginError(f"no plugin named {name!r}{did_you_mean(name, points)}")
    try:
        module = _import_file(Path(name)) if is_file else points[name].load()
    except Bitclass3Error:
        raise
    except Exception as error:
        raise PluginError(f"plugin {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    stages, wrapper = _implemented(module)
    if not stages:
        hooks = ", ".join(f"{GROUP}_{stage}" for stage in STAGES)
        raise PluginError(f"plugin {name!r} implements no hook; mark one of {hooks} with @hookimpl")
    distribution = None if is_file else points[name].dist
    version = f"{distribution.version if distribution else 'file'}+{source_hash(module)}"
    return Plugin(Path(name).stem if is_file else name, module, stages, version, wrapper)


def _as_config_error(error: ValidationError, plugin: Plugin, options: type[BaseModel]) -> ConfigError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return ConfigError(f"plugin {plugin.name!r} has no option {key!r}{did_you_mean(key, options.model_fields)}")
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not key:  # a rule over several options
        return ConfigError(f"options of plugin {plugin.name!r}: {message}")
    return ConfigError(f"option {key!r} of plugin {plugin.name!r}: {message}, got {first.get('input')!r}")


def parse_options(plugin: Plugin, stage: str, values: Mapping[str, Any]) -> BaseModel | None:
    """The plugin's own options object for a stage. Raises ConfigError for unknown keys and bad values."""
    options = plugin.options_class(stage)
    if options is None:
        if values:
            raise ConfigError(f"plugin {plugin.name!r} takes no options, got {', '.join(sorted(values))}")
        return None
    try:
        return options.model_validate(dict(values))
    except ValidationError as error:
        raise _as_config_error(error, plugin, options) from None


class PluginManager:
    """pluggy's manager with one run's plugins, and one way to call a hook."""

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        self._plugins: dict[str, Plugin] = {}
        for plugin in plugins:
            if self._plugins.setdefault(plugin.name, plugin).module is not plugin.module:
                raise PluginError(f"two plugins are named {plugin.name!r}; rename the file of one")
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)
        for plugin in self._plugins.values():
            try:
                self._manager.register(plugin.module, plugin.name)
                self._manager.check_pending()
            except (pluggy.PluginValidationError, ValueError) as error:
                line = str(error).strip().splitlines()
                raise PluginError(f"plugin {plugin.name!r} does not fit its hook: {' '.join(line)}") from None

    def call(self, stage: str, plugin: Plugin, options: BaseModel | None, **arguments: Any) -> Any:
        """Call the stage's hook of that plugin alone (wrappers stay around it).

        Raises ContractError if it answers nothing; any other error of the plugin keeps its traceback and gains a note.
        """
        hook = f"{GROUP}_{stage}"
        others = [other.module for other in self._plugins.values() if other.module is not plugin.module and not other.wrapper]
        caller = self._manager.subset_hook_caller(hook, remove_plugins=others)
        try:
            answer = caller(options=options, **arguments)
        except Bitclass3Error:
            raise
        except Exception as error:
            if hasattr(error, "add_note"):  # Python 3.11
                error.add_note(f"raised by plugin {plugin.name!r} in {hook}")
            raise
        if answer is None:
            raise ContractError(f"plugin {plugin.name!r} answered nothing to {hook}; return what hookspecs.py says")
        return answer
