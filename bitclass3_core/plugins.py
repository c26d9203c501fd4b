"""Moved to ``bitclass3_core.plugin.manager``; this name stays for plugin API 1."""

from bitclass3_core.plugin.manager import GROUP, Plugin, PluginManager, installed, load_plugin, parse_options, plugin_of
from bitclass3_core.plugin.stage_table import STAGES

__all__ = ["GROUP", "STAGES", "Plugin", "PluginManager", "installed", "load_plugin", "parse_options", "plugin_of"]
