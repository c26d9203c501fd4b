"""What the files of candidates are called, without their endings."""

from bitclass3_core.model import Model
from bitclass3_core.problem import Allocation


def ours_name(model: Model, label: str, ending: str = "") -> str:
    """``MODEL-4.80bpw``; another candidate of the same target has an ``ending``: ``-k-types``, ``-fitted``, ``-mix01``."""
    return f"{model.name}-{label}{ending}"


def stock_name(model: Model, mix: Allocation) -> str:
    """``MODEL-stock-Q4_K_M``."""
    return f"{model.name}-{(mix.note or mix.solver).replace(' ', '-')}"
