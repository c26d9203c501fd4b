"""Moved to ``bitclass3_core.plugin.at_work``; this name stays for plugin API 1."""

from bitclass3_core.plugin.at_work import AtWork, all_at_work, at_work, where, working

__all__ = ["AtWork", "all_at_work", "at_work", "where", "working"]
