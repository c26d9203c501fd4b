"""What a ladder would do: the size of every level, and where the costs are measured its types. Writes nothing."""

from typing import Any

from bitclass3_core.errors import Bitclass3Error
from bitclass3_core.gguf.writer import header_bytes
from bitclass3_core.layout import bpw, file_bytes
from bitclass3_core.model import total_params
from bitclass3_core.release.ladder import Ladder
from bitclass3_core.runs.pipeline import Pipeline
from bitclass3_core.runs.select import files_beside


def plan_of(ladder: Ladder) -> dict[str, Any]:
    """What ``ladder --plan --json`` prints."""
    base = ladder.base
    ladder.check()
    is_measured = base.is_measured
    levels = [_level(name, base.sibling(config), is_measured) for name, config in ladder.configs.items()]
    n_costs = 0 if is_measured else sum(len(types) for types in base.inputs.wanted.values())
    return {
        "source": str(base.model.path),
        "architecture": base.model.arch,
        "weights": total_params(base.model),
        "costs_to_measure": n_costs,
        "disk_bytes": _disk_bytes(ladder, levels),
        "levels": levels,
    }


def _level(name: str, pipeline: Pipeline, is_measured: bool) -> dict[str, Any]:
    try:
        budget = pipeline.budget if is_measured or pipeline.has_known_target else None
        if budget is None:
            return {"level": name, "bytes_of_tensors": None}
        pipeline.check_target()
        values: dict[str, Any] = {
            "level": name,
            "bytes_of_tensors": budget.data_bytes,
            "bpw": 8 * budget.data_bytes / total_params(pipeline.model),
        }
        if is_measured:
            qtypes = pipeline.allocation.qtypes
            values |= {
                "bpw": bpw(pipeline.model, qtypes),
                "file_bytes": file_bytes(pipeline.model, qtypes),
                "allocation": dict(qtypes),
            }
    except Bitclass3Error as error:
        return {"level": name, "error": str(error)}
    return values


def _disk_bytes(ladder: Ladder, levels: list[dict[str, Any]]) -> int:
    """The files that stay, and the largest level's candidates beside them: its variations, the stock mixes to choose from and beside it.

    A level whose size is not known yet counts as large as the source: none is larger.
    """
    config, header = ladder.base.config, header_bytes(ladder.base.model)
    largest = sum(info.source_bytes for info in ladder.base.model.tensors.values())
    sizes = [header + int(level["bytes_of_tensors"] or largest) for level in levels if "error" not in level]
    n_candidates = files_beside(config)
    if not sizes:
        return 0
    if config.keep == "stock":
        return 2 * sum(sizes) + n_candidates * max(sizes)
    if config.keep == "all":
        return sum(sizes) * (1 + n_candidates)
    return (sum(sizes) if config.keep == "shipped" else max(sizes)) + n_candidates * max(sizes)
