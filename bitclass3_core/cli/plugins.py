"""``bitclass3 plugins``: what is installed, and what one plugin takes."""

import json
from typing import Any

from bitclass3_core.plugin.manager import Plugin, installed, load_plugin


def list_command(as_json: bool) -> None:
    """Name, module and package of every installed plugin."""
    rows = [
        {"name": name, "module": point.value, "package": f"{point.dist.name} {point.dist.version}" if point.dist else "?"}
        for name, point in installed().items()
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        print(f"{row['name']:<{width}}  {row['module']:<26}  {row['package']}")


def _fields(plugin: Plugin, stage: str) -> dict[str, Any]:
    options = plugin.options_class(stage)
    fields = options.model_fields if options else {}
    return {
        name: {
            "default": field.default,
            "type": str(field.annotation).replace("<class '", "").replace("'>", ""),
            "help": field.description or "",
        }
        for name, field in fields.items()
    }


def show_command(name: str, as_json: bool) -> None:
    """A plugin's stages, version and options."""
    plugin = load_plugin(name)
    stages = {stage: _fields(plugin, stage) for stage in plugin.stages}
    about = (plugin.module.__doc__ or "").strip()
    if as_json:
        print(json.dumps({"name": plugin.name, "version": plugin.version, "about": about, "stages": stages}, indent=1, default=str))
        return
    print(f"{plugin.name} {plugin.version}\n\n{about}\n")
    for stage, fields in stages.items():
        print(f"[{stage}] plugin = {plugin.name!r}" + ("" if fields else "   (no options)"))
        for key, field in fields.items():
            print(f"  options.{key} = {field['default']!r}   ({field['type']})  {field['help']}")
