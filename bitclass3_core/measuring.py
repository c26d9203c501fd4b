"""Moved to the modules that are named here; this name stays for plugin API 1."""

from bitclass3_core.constraints.wanted import Cells, wanted_cells, wanted_qtypes
from bitclass3_core.machine import default_threads
from bitclass3_core.model import OneTensor
from bitclass3_core.runs.measure import CostJob, MeasureHook

__all__ = ["Cells", "CostJob", "MeasureHook", "OneTensor", "default_threads", "wanted_cells", "wanted_qtypes"]
