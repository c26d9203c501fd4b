"""Moved to ``bitclass3_core.knapsack.improve``; this name stays for plugin API 1."""

from bitclass3_core.knapsack.improve import best_effort, fill, swapped

__all__ = ["best_effort", "fill", "swapped"]
