"""Finding, loading and calling plugins: by entry point or by file, only those that a run names, each run with its own manager."""

import hashlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import pluggy
from pydantic import BaseModel, ValidationError

from bitclass3_core import hookspecs
from bitclass3_core.errors import Bitclass3Error, ConfigError, ContractError, CrashError, PluginError, did_you_mean, message_of
from bitclass3_core.options import PluginOptions
from bitclass3_core.plugin.answers_version import answers_version
from bitclass3_core.plugin.at_work import working
from bitclass3_core.plugin.source_hash import source_hash
from bitclass3_core.plugin.stage_table import STAGES

GROUP = "bitclass3"


@dataclass(frozen=True, slots=True)
class Plugin:
    """A loaded plugin: its module, the stages whose hooks it implements, and a version that changes with its answers.

    A ``wrapper`` goes around or before the plugins of the stages: each of its functions is marked ``wrapper=True`` or ``tryfirst=True``.
    """

    name: str
    module: ModuleType
    stages: tuple[str, ...]
    version: str
    wrapper: bool = False

    def function(self, stage: str) -> Callable[..., Any]:
        """The function that implements the hook of that stage."""
        return next(function for hook, function, _ in _marked(self.module) if hook == f"{GROUP}_{stage}")

    def options_class(self, stage: str) -> type[BaseModel] | None:
        """The pydantic class that annotates ``options`` in the hook of that stage; None if it takes none, as a wrapper."""
        function = self.function(stage)
        if self.wrapper or "options" not in inspect.signature(function).parameters:
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


def _marked(module: ModuleType) -> list[tuple[str, Callable[..., Any], Mapping[str, Any]]]:
    """(hook, function, mark) of each function of the module that ``hookimpl`` has marked."""
    marks = [(name, value, getattr(value, f"{GROUP}_impl", None)) for name, value in vars(module).items()]
    return [(str(mark.get("specname") or name), value, mark) for name, value, mark in marks if isinstance(mark, dict)]


def plugin_of(module: ModuleType, name: str, version: str = "") -> Plugin:
    """The plugin that a module is. Raises PluginError if it implements no hook or is written for another plugin API."""
    _check_api(name, getattr(module, "BITCLASS3_API", None))
    marks = {hook: mark for hook, _, mark in _marked(module)}
    stages = tuple(stage for stage in STAGES if f"{GROUP}_{stage}" in marks)
    if not stages:
        hooks = ", ".join(f"{GROUP}_{stage}" for stage in STAGES)
        raise PluginError(f"plugin {name!r} implements no hook; mark one of {hooks} with @hookimpl")
    around = all(mark.get("wrapper") or mark.get("hookwrapper") or mark.get("tryfirst") for mark in marks.values())
    return Plugin(name, module, stages, version or source_hash(module), around)


def _check_api(name: str, declared: Any) -> None:
    """A plugin without ``BITCLASS3_API`` is taken to fit; what does not is found where its hook is registered."""
    ours, oldest = hookspecs.API_VERSION, hookspecs.OLDEST_API
    if declared is None or (type(declared) is int and oldest <= declared <= ours):
        return
    if type(declared) is not int:
        raise PluginError(f"plugin {name!r}: BITCLASS3_API is {declared!r}, expected a whole number; write BITCLASS3_API = {ours}")
    if declared > ours:
        do = f"upgrade bitclass3, or install a release of the plugin for API {ours}"
    else:
        do = f"ask its author for a release for API {ours}; what changed: docs/reference/hooks.md, Plugin API versions"
    known = str(ours) if oldest == ours else f"{oldest} to {ours}"
    raise PluginError(f"plugin {name!r} is written for plugin API {declared}, this bitclass3 has {known}; {do}")


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

    The version of an installed plugin is its distribution's and that of its answers. A file's is always the hash over its source,
    whatever it declares as ``BITCLASS3_ANSWERS``: a file that is named by its path is being written, and every edit counts. Raises PluginError if there is none, if it cannot be imported, if it implements no hook or is written for another plugin API.
    """
    points = installed()
    is_file = name.endswith(".py")
    if not is_file and name not in points:
        raise PluginError(f"no plugin named {name!r}{did_you_mean(name, points)}")
    _check_rivals(name)
    try:
        with working(name, "import"):
            module = _import_file(Path(name)) if is_file else points[name].load()
    except Bitclass3Error:
        raise
    except (Exception, SystemExit) as error:  # a module that calls sys.exit() must not end the run without a word
        _check_api(name, _declared_api(Path(name) if is_file else _source_of(points[name])))
        raise PluginError(f"plugin {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    distribution = None if is_file else points[name].dist
    answers = source_hash(module) if is_file else answers_version(module, name)
    version = f"{distribution.version if distribution else 'file'}+{answers}"
    plugin = plugin_of(module, name, version)
    return replace(plugin, name=Path(name).stem) if is_file else plugin


def _check_rivals(name: str) -> None:
    """Two packages that offer one name: neither may take the other's place unseen."""
    found = {point.value: point for point in entry_points(group=GROUP, name=name)}
    if len(found) > 1:
        packages = ", ".join(sorted(f"{p.dist.name} {p.dist.version}" if p.dist else p.value for p in found.values()))
        raise PluginError(f"plugin {name!r} is offered by {len(found)} packages ({packages}); uninstall all but one")


def _source_of(point: EntryPoint) -> Path | None:
    try:
        spec = importlib.util.find_spec(point.module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin else None


def _declared_api(source: Path | None) -> int | None:
    """The API version in the text of a module that cannot be imported: that may be the reason."""
    if source is None or not source.is_file():
        return None
    match = re.search(
        r"^BITCLASS3_API\s*(?::\s*\w+\s*)?=\s*(\d+)", source.read_text(encoding="utf-8", errors="replace"), re.MULTILINE
    )
    return int(match[1]) if match else None


def _as_config_error(error: ValidationError, plugin: Plugin, options: type[BaseModel]) -> ConfigError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return ConfigError(f"plugin {plugin.name!r} has no option {key!r}{did_you_mean(key, options.model_fields)}")
    message = message_of(first)
    if not key:  # a rule over several options
        return ConfigError(f"options of plugin {plugin.name!r}: {message}")
    return ConfigError(f"option {key!r} of plugin {plugin.name!r}: {message}, got {first.get('input')!r}")


def parse_options(plugin: Plugin, stage: str, values: Mapping[str, Any], effort: str = "fast") -> BaseModel | None:
    """The plugin's own options object for a stage. Raises ConfigError for unknown keys and bad values.

    What the class's ``efforts`` says of an effort (option values by its name) stands where ``values`` do not say otherwise.
    """
    options = plugin.options_class(stage)
    if options is None:
        if values:
            raise ConfigError(f"plugin {plugin.name!r} takes no options, got {', '.join(sorted(values))}")
        return None
    try:
        return options.model_validate({**getattr(options, "efforts", PluginOptions.efforts).get(effort, {}), **values})
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

        Raises ContractError if it answers nothing, CrashError from any error of the plugin that is not for the user.
        """
        hook = f"{GROUP}_{stage}"
        others = [other.module for other in self._plugins.values() if other.module is not plugin.module and not other.wrapper]
        caller = self._manager.subset_hook_caller(hook, remove_plugins=others)
        with working(plugin.name, hook, plugin.version, options):
            try:
                answer = caller(options=options, **arguments)
            except Bitclass3Error:
                raise
            except (Exception, SystemExit) as error:
                raise self._crash(error, plugin, stage) from error
        if answer is None:
            around = [other.name for other in self._plugins.values() if other.wrapper and stage in other.stages]
            inside = f" (inside {', '.join(around)})" if around else ""
            raise ContractError(f"plugin {plugin.name!r}{inside} answered nothing to {hook}; return what hookspecs.py says")
        return answer

    def _crash(self, error: BaseException, plugin: Plugin, stage: str) -> CrashError:
        """The error that names whose code it was: the innermost frame of one of the run's plugins, which may be a wrapper."""
        owners = {other.module.__name__: other.name for other in self._plugins.values()}
        guilty, line = plugin.name, ""
        for frame, number in reversed(list(traceback.walk_tb(error.__traceback__))):
            module = str(frame.f_globals.get("__name__", ""))
            owner = next((name for own, name in owners.items() if module == own or module.startswith(f"{own}.")), None)
            if owner is not None:
                guilty, line = owner, f" ({Path(frame.f_code.co_filename).name} line {number})"
                break
        said = " ".join(str(error).split())[:300]
        return CrashError(
            f"plugin {guilty!r} crashed in {GROUP}_{stage}{line}: {type(error).__name__}{': ' if said else ''}{said}; "
            "what was measured is kept, tell its author or name another plugin"
        )
