"""Report ``explorer``: explorer.html, one page with every file's size and divergence and every tensor's type, cost and score.

A slider chooses another size; the page then solves again, as the solver ``lagrangian`` does.
"""

import html
import json
import math
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from bitclass3_core import hookimpl
from bitclass3_core.compare.comparison import COMPARED, compared_with, on_front
from bitclass3_core.files import write_text
from bitclass3_core.gguf.recipe import with_kept
from bitclass3_core.gguf.writer import header_bytes
from bitclass3_core.layout import bpw, fixed_bytes
from bitclass3_core.model import TensorInfo, total_params
from bitclass3_core.options import PluginOptions
from bitclass3_core.problem import Problem
from bitclass3_core.qtypes import qtype
from bitclass3_core.results import Candidate, Run

BITCLASS3_ANSWERS = "8371cf0be355"  # changes when the answers do

_SCRIPTS = ("solver.js", "sizes.js", "charts.js", "explorer.js")


class ExplorerOptions(PluginOptions):
    """``compared`` lists results of bitclass3 compare (compare.json); their files are shown beside the run's own."""

    compared: tuple[Path, ...] = ()


@hookimpl
def bitclass3_report(run: Run, out: Path, options: ExplorerOptions) -> list[Path]:
    """Write ``explorer.html``; it needs no network."""
    data = explorer_data(run, compared_with(run, options.compared))
    path = out / "explorer.html"
    write_text(path, page(data["model"], json.dumps(data, allow_nan=False)))
    return [path]


def page(title: str, data: str) -> str:
    """The page's HTML with styles, scripts, plotly.js and the data inside."""
    from plotly.offline import get_plotlyjs

    folder = files("bitclass3_explorer") / "page"
    parts = {
        "title": html.escape(title),
        "style": (folder / "explorer.css").read_text(encoding="utf-8"),
        "plotly": get_plotlyjs(),
        "data": data.replace("<", "\\u003c"),  # so that nothing in the data can end the script
        "script": "\n".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS),
    }
    return re.sub(r"{{(\w+)}}", lambda found: parts[found[1]], (folder / "explorer.html").read_text(encoding="utf-8"))


def explorer_data(run: Run, compared: Sequence[Candidate]) -> dict[str, Any]:
    """Plain data for JSON; tensors and types are in lists, and are referred to by their index."""
    model, quantizable, candidates = run.model, run.architecture.quantizable, [*run.candidates, *compared]
    tensors = [info for name, info in model.tensors.items() if name in quantizable]
    names, scores = _types(run, candidates), run.sensitivity.scores()
    return {
        "model": model.name,
        "arch": model.arch,
        "n_params": total_params(model),
        "source": {"file": model.path.name, "bpw": bpw(model, {})},
        "estimator": run.sensitivity.estimator,
        "in_nats": run.costs.in_nats,
        "header_bytes": header_bytes(model),
        "fixed_bytes": fixed_bytes(model, quantizable),
        # without alignment, as in bpw
        "fixed_bits": sum(8 * info.source_bytes for name, info in model.tensors.items() if name not in quantizable),
        "types": [{"name": name, "bpw": qtype(name).bpw} for name in names],
        "tensors": [_tensor(run, info, scores.get(info.name), names) for info in tensors],
        "kept": [[name, _pattern(name), q.lower()] for name, q in with_kept(model, {}).items() if name not in quantizable],
        "problem": _problem(run.problem, [info.name for info in tensors], names),
        "gpu_budget": run.problem is not None and run.problem.gpu_budget_bytes is not None,
        "candidates": [
            _candidate(candidate, best, model.name, [info.name for info in tensors], names)
            for candidate, best in zip(candidates, on_front(candidates), strict=True)
        ],
    }


def _pattern(name: str) -> str:
    return f"^{re.escape(name)}$"


def _types(run: Run, candidates: Sequence[Candidate]) -> list[str]:
    """Every type that has a cost, is a choice or is given to a tensor, smallest first."""
    found = {q for cells in run.costs.costs.values() for q in cells}
    found |= {q for candidate in candidates for q in candidate.allocation.qtypes.values()}
    found |= {choice.qtype for group in (run.problem.groups if run.problem else ()) for choice in group.choices}
    return sorted(found, key=lambda name: (qtype(name).bpw, name))


def _tensor(run: Run, info: TensorInfo, score: float | None, names: Sequence[str]) -> dict[str, Any]:
    """A tensor with its costs by index of the type; a type that the tensor cannot have has no cost."""
    costs = run.costs.costs.get(info.name, {})
    return {
        "name": info.name,
        "pattern": _pattern(info.name),
        "role": info.role,
        "block": info.block,
        "shape": list(info.shape),
        "n_params": info.n_params,
        "score": score,
        "costs": {names.index(q): cell.cost for q, cell in costs.items() if math.isfinite(cell.cost)},
    }


def _problem(problem: Problem | None, tensors: Sequence[str], names: Sequence[str]) -> dict[str, Any] | None:
    """The problem that the page's slider solves; None if there is none, or if it has two budgets, as the page knows one."""
    if problem is None or problem.gpu_budget_bytes is not None:
        return None
    place = {name: i for i, name in enumerate(tensors)}
    groups = [
        {
            "tensors": [place[name] for name in group.tensors],
            "choices": [{"type": names.index(each.qtype), "bytes": each.n_bytes, "cost": each.cost} for each in group.choices],
        }
        for group in problem.groups
    ]
    return {"groups": groups, "budget": problem.budget_bytes}


def _candidate(candidate: Candidate, front: bool, model: str, tensors: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    measured, qtypes = candidate.evaluation, candidate.allocation.qtypes
    keys = ("mean_kld", "se_kld", "median_kld", "p999_kld", "same_top1", "ppl")
    figures = {key: value if math.isfinite(value := getattr(measured, key)) else None for key in keys} if measured else None
    return {
        "name": candidate.name,
        "label": candidate.name.removeprefix(model).lstrip("-_. ") or candidate.name,
        "kind": candidate.kind if candidate.kind in ("stock", COMPARED) else "ours",
        "bytes": candidate.file_bytes,
        "bpw": candidate.bpw,
        "front": front,
        "types": [names.index(qtypes[name]) if name in qtypes else None for name in tensors],
        "predicted": candidate.predicted_cost,
        "measured": figures,
    }
