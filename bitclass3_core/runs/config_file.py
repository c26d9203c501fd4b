"""The pipeline as text: TOML file, flags and --set, read into one checked object. Flags beat the file, the file beats defaults."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli
from pydantic import ValidationError

from bitclass3_core.errors import ConfigError, did_you_mean, message_of
from bitclass3_core.plugin.manager import load_plugin
from bitclass3_core.plugin.stage_table import STAGE_TABLE
from bitclass3_core.qtypes import WRITABLE_QTYPES
from bitclass3_core.run_config import LEVEL_BUDGET, BudgetSection, CorpusSection, RunConfig
from bitclass3_core.sources.hub import is_hub_name
from bitclass3_core.targets import OF_VRAM, TARGETS

_PATH_KEYS = (("model", "hf"), ("model", "gguf"), *(("corpus", part) for part in CorpusSection.model_fields))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        values = tomli.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"pipeline file {path} does not exist; check the path") from None
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"pipeline file {path} is no valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"pipeline file {path} cannot be read: {error.strerror}") from None
    for section, key in _PATH_KEYS:
        entry = values.get(section, {})
        if isinstance(entry, dict) and key in entry:
            is_name = (section, key) == ("model", "hf") and is_hub_name(str(entry[key])) and not (path.parent / entry[key]).exists()
            entry[key] = entry[key] if is_name else _relative_to(path.parent, entry[key])
    tables = (values[section] for section in RunConfig.model_fields if isinstance(values.get(section), dict))
    for table, key, ending in (
        (values, "llama_cpp", ""),
        (values, "wrappers", ".py"),
        *((table, "plugin", ".py") for table in tables),
    ):
        if key in table:
            table[key] = _relative_to(path.parent, table[key], ending)
    return values


def _relative_to(folder: Path, value: Any, ending: str = "") -> Any:
    """Paths in a pipeline file are relative to that file; so is a plugin's file (``ending`` tells it from a plugin's name)."""
    if isinstance(value, list):
        return [_relative_to(folder, item, ending) for item in value]
    return str(folder / value) if isinstance(value, str) and value.endswith(ending) else value


def parse_setting(text: str) -> tuple[Sequence[str], Any]:
    """``estimate.options.n_tokens=4096`` as path and TOML value; a value that is no TOML is taken as a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r} is not understood; write it like estimate.options.n_tokens=4096")
    try:
        parsed = tomli.loads(f"value = {value}")["value"]
    except tomli.TOMLDecodeError:
        parsed = value
    return key.strip().split("."), parsed


def parse_menu(text: str) -> str | list[str]:
    """A menu as text: its name (``cpu``), or a list of types with commas between (``Q4_K,Q6_K``)."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return names if len(names) != 1 or names[0].upper() in WRITABLE_QTYPES else names[0]


def put(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a nested key. Raises ConfigError where the path runs through something that is no table."""
    for part in path[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise ConfigError(f"key {'.'.join(path)!r} cannot be set: {part!r} is no table")
    values[path[-1]] = value


def _put_plugins(values: dict[str, Any], plugins: Sequence[str]) -> None:
    """Put each ``--plugin`` into the stage whose hook it implements; a wrapper goes around all stages."""
    replaced: set[str] = set()
    for name in plugins:
        plugin = load_plugin(name)
        if plugin.wrapper:
            values.setdefault("wrappers", []).append(name)
            continue
        if len(plugin.stages) > 1:
            raise ConfigError(
                f"plugin {name!r} implements several stages ({', '.join(plugin.stages)}); name the stage: --set {plugin.stages[0]}.plugin={name}"
            )
        stage = plugin.stages[0]
        section = values.setdefault(stage, {})
        if not isinstance(section, dict):
            raise ConfigError(f"key {stage!r} is no table; write [{stage}] plugin = {name!r}")
        if STAGE_TABLE[stage].is_list:
            section["plugin"] = [*(section["plugin"] if stage in replaced else ()), name]
        elif stage in replaced:
            raise ConfigError(f"two plugins for the stage {stage!r} ({section['plugin']} and {name}); name one")
        else:
            if section.get("plugin", name) != name:
                section.pop("options", None)  # they were the other plugin's
            section["plugin"] = name
        replaced.add(stage)


def _move_budget_keys(values: dict[str, Any]) -> None:
    """``[budget] target_bpw = 4.8`` is short for ``options.target_bpw``."""
    section = values.get("budget")
    if isinstance(section, dict):
        short = {key: section.pop(key) for key in list(section) if key not in BudgetSection.model_fields}
        if short and isinstance(section.get("options", {}), dict):
            section["options"] = {**section.get("options", {}), **short}


def _drop_target(values: dict[str, Any]) -> None:
    """A target that is given replaces the file's, with what goes with that."""
    section = values.get("budget", {})
    for table in (section, section.get("options")):
        for key in (*TARGETS, *OF_VRAM) if isinstance(table, dict) else ():
            table.pop(key, None)


def _default_plugins(values: dict[str, Any]) -> None:
    """A section that sets options alone keeps the default plugin."""
    for name, field in RunConfig.model_fields.items():
        default = getattr(field.default, "plugin", None)
        if default is not None and isinstance(values.get(name), dict):
            by_level = name == "budget" and values[name].get("level") is not None
            values[name].setdefault("plugin", LEVEL_BUDGET if by_level else default)


def _checked(values: dict[str, Any]) -> RunConfig:
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise _as_config_error(error.errors()[0]) from None


def _as_config_error(first: Mapping[str, Any]) -> ConfigError:
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        section: Any = RunConfig
        for part in path[:-1]:
            section = section.model_fields[part].annotation if part in getattr(section, "model_fields", {}) else section
        return ConfigError(f"unknown key {key!r}{did_you_mean(path[-1], section.model_fields)}")
    given = first.get("input")
    return ConfigError(f"key {key!r}: {message_of(first)}" + ("" if isinstance(given, dict) else f", got {given!r}"))


def load_config(
    pipeline: Path | None = None,
    flags: Mapping[tuple[str, ...], Any] | None = None,
    plugins: Sequence[str] = (),
    settings: Sequence[str] = (),
) -> RunConfig:
    """The checked configuration: pipeline file, then ``--plugin``, then flags, then ``--set``, the later beating the earlier.

    Raises ConfigError for unknown keys and bad values, PluginError for unknown plugins.
    """
    values = _read_toml(pipeline) if pipeline else {}
    _move_budget_keys(values)
    _put_plugins(values, plugins)
    given = [*((path, value) for path, value in (flags or {}).items()), *(parse_setting(text) for text in settings)]
    if any(path[0] == "budget" and path[-1] in TARGETS for path, _ in given):
        _drop_target(values)
    for path, value in given:
        put(values, path, value)
    _move_budget_keys(values)
    _default_plugins(values)
    return _checked(values)


def with_settings(config: RunConfig, settings: Sequence[str]) -> RunConfig:
    """The configuration with some keys set, as ``--set`` does. Raises ConfigError for unknown keys and bad values."""
    values = config.model_dump()
    for text in settings:
        put(values, *parse_setting(text))
    return _checked(values)
