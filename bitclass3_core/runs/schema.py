"""The JSON schema of a pipeline file: what editors complete, with the installed plugins' names and options."""

import json
from typing import Any

from bitclass3_core.errors import PluginError
from bitclass3_core.plugin.manager import Plugin, installed, load_plugin
from bitclass3_core.plugin.stage_table import STAGE_TABLE
from bitclass3_core.run_config import AUTO, NONE, RunConfig

_WITHOUT_PLUGIN = {"architecture": [AUTO], "baseline": [NONE]}  # names that stand for no plugin


def pipeline_schema() -> dict[str, Any]:
    """The schema of RunConfig; in every stage's table the plugin's names are suggested, and its options go with its name.

    A plugin that cannot be loaded here is left out: an editor must not stop because of it.
    """
    schema = RunConfig.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "bitclass3 pipeline"
    plugins = _loaded()
    for section in (*STAGE_TABLE, "baseline"):
        stage = "solve" if section == "baseline" else section
        known = [plugin for plugin in plugins if stage in plugin.stages and not plugin.wrapper]
        schema["properties"][section] = _section(schema, section, stage, known)
    return schema


def schema_json() -> str:
    """The same as the text of a file."""
    return json.dumps(pipeline_schema(), indent=1) + "\n"


def _loaded() -> list[Plugin]:
    found = []
    for name in installed():
        try:
            found.append(load_plugin(name))
        except PluginError:
            continue
    return found


def _options(plugin: Plugin, stage: str) -> dict[str, Any]:
    """The schema of a plugin's options; of one that takes none, an empty table."""
    try:
        options = plugin.options_class(stage)
    except PluginError:
        return {"type": "object"}
    return options.model_json_schema() if options else {"type": "object", "additionalProperties": False}


def _section(schema: dict[str, Any], section: str, stage: str, known: list[Plugin]) -> dict[str, Any]:
    """A stage's table: ``plugin`` with the names that there are (any other string too), ``options`` by the plugin that is named."""
    default = RunConfig.model_fields[section].default
    about = RunConfig.model_fields[section].annotation
    names = [*_WITHOUT_PLUGIN.get(section, []), *(plugin.name for plugin in known)]
    one = {"anyOf": [{"enum": names}, {"type": "string", "description": "another plugin, or a .py file"}]}
    is_list = STAGE_TABLE[stage].is_list
    table: dict[str, Any] = {
        "type": "object",
        "description": (about.__doc__ or "").strip() if about else "",
        "properties": {
            "plugin": {"anyOf": [one, {"type": "array", "items": one}]} if is_list else one,
            "options": {"type": "object"},
        },
        "additionalProperties": section == "budget",  # whose options may stand in the table itself
    }
    if is_list:
        return table
    cases = []
    for plugin in known:
        defs = (options := _options(plugin, stage)).pop("$defs", {})
        schema.setdefault("$defs", {}).update(defs)
        named = {"properties": {"plugin": {"const": plugin.name}}, "required": ["plugin"]}
        is_default = default.plugin == plugin.name
        when = {"anyOf": [named, {"not": {"required": ["plugin"]}}]} if is_default else named
        then: dict[str, Any] = {"properties": {"options": options}}
        if section == "budget":
            then["properties"] |= {"plugin": True, **options.get("properties", {})}
            then["additionalProperties"] = False
        cases.append({"if": when, "then": then})
    return {**table, "allOf": cases}
