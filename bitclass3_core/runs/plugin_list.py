"""The installed plugins, and what one of them takes, as plain values."""

from typing import Any

from bitclass3_core.plugin.manager import Plugin, installed, load_plugin


def installed_plugins() -> list[dict[str, str]]:
    """Name, module and package of every installed plugin; none is imported."""
    return [
        {"name": name, "module": point.value, "package": f"{point.dist.name} {point.dist.version}" if point.dist else "?"}
        for name, point in installed().items()
    ]


def plugin_values(name: str) -> dict[str, Any]:
    """Name, version, description and options by stage of a plugin, by name or .py file. Raises PluginError if there is none."""
    plugin = load_plugin(name)
    return {
        "name": plugin.name,
        "version": plugin.version,
        "about": (plugin.module.__doc__ or "").strip(),
        "stages": {stage: _options(plugin, stage) for stage in plugin.stages},
    }


def _options(plugin: Plugin, stage: str) -> dict[str, Any]:
    options = plugin.options_class(stage)
    return {
        name: {
            "default": field.default,
            "type": str(field.annotation).replace("<class '", "").replace("'>", ""),
            "help": field.description or "",
        }
        for name, field in (options.model_fields if options else {}).items()
    }
