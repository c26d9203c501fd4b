"""The data of the explorer's page: tensors, types, costs, the solver's problem, and every file with its measured figures."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bitclass3_core.compare.comparison import COMPARED, on_front
from bitclass3_core.gguf.recipe import with_kept
from bitclass3_core.gguf.writer import header_bytes
from bitclass3_core.layout import bpw, fixed_bytes
from bitclass3_core.model import Model, total_params
from bitclass3_core.problem import Problem
from bitclass3_core.qtypes import qtype
from bitclass3_core.results import Candidate, Run


def explorer_data(run: Run, compared: Sequence[Candidate]) -> dict[str, Any]:
    """Plain data for JSON; tensors and types are in lists, and are referred to by their index."""
    candidates = [*run.candidates, *compared]
    tensors = [info for name, info in run.model.tensors.items() if name in run.architecture.quantizable]
    names = _types(run, candidates)
    scores = run.sensitivity.scores()
    return {
        "model": run.model.name,
        "arch": run.model.arch,
        "n_params": total_params(run.model),
        "source": {"file": run.model.path.name, "bpw": bpw(run.model, {})},
        "estimator": run.sensitivity.estimator,
        "in_nats": run.costs.in_nats,
        "header_bytes": header_bytes(run.model),
        "fixed_bytes": fixed_bytes(run.model, run.architecture.quantizable),
        "fixed_bits": _fixed_bits(run.model, run.architecture.quantizable),
        "types": [{"name": name, "bpw": qtype(name).bpw} for name in names],
        "tensors": [
            {
                "name": info.name,
                "pattern": f"^{re.escape(info.name)}$",
                "role": info.role,
                "block": info.block,
                "shape": list(info.shape),
                "n_params": info.n_params,
                "score": scores.get(info.name),
                "costs": _costs(run, info.name, names),
            }
            for info in tensors
        ],
        "kept": [
            [name, f"^{re.escape(name)}$", q.lower()]
            for name, q in with_kept(run.model, {}).items()
            if name not in run.architecture.quantizable
        ],
        "problem": _problem(run.problem, _names(tensors), names),
        "gpu_budget": run.problem is not None and run.problem.gpu_budget_bytes is not None,
        "candidates": [
            _candidate(candidate, best, run, names) for candidate, best in zip(candidates, on_front(candidates), strict=True)
        ],
    }


def _names(tensors: Sequence[Any]) -> dict[str, int]:
    return {info.name: i for i, info in enumerate(tensors)}


def _types(run: Run, candidates: Sequence[Candidate]) -> list[str]:
    """Every type that has a cost, is a choice or is given to a tensor, smallest first."""
    found = {q for cells in run.costs.costs.values() for q in cells}
    found |= {q for candidate in candidates for q in candidate.allocation.qtypes.values()}
    found |= {choice.qtype for group in (run.problem.groups if run.problem else ()) for choice in group.choices}
    return sorted(found, key=lambda name: (qtype(name).bpw, name))


def _fixed_bits(model: Model, quantizable: frozenset[str]) -> int:
    """Bits of the tensors that are never quantized, without alignment, as in bpw."""
    return sum(8 * info.source_bytes for name, info in model.tensors.items() if name not in quantizable)


def _costs(run: Run, tensor: str, names: Sequence[str]) -> dict[int, float]:
    """Costs by index of the type; a type that the tensor cannot have has no cost."""
    cells = run.costs.costs.get(tensor, {})
    return {names.index(q): cell.cost for q, cell in cells.items() if math.isfinite(cell.cost)}


def _problem(problem: Problem | None, tensors: Mapping[str, int], names: Sequence[str]) -> dict[str, Any] | None:
    """The problem that the page's slider solves; None if there is none, or if it has two budgets, as the page knows one."""
    if problem is None or problem.gpu_budget_bytes is not None:
        return None
    groups = [
        {
            "tensors": [tensors[name] for name in group.tensors],
            "choices": [
                {"type": names.index(choice.qtype), "bytes": choice.n_bytes, "cost": choice.cost} for choice in group.choices
            ],
        }
        for group in problem.groups
    ]
    return {"groups": groups, "budget": problem.budget_bytes}


def _candidate(candidate: Candidate, front: bool, run: Run, names: Sequence[str]) -> dict[str, Any]:
    short = candidate.name.removeprefix(run.model.name).lstrip("-_. ")
    measured = candidate.evaluation
    qtypes = candidate.allocation.qtypes
    values = {
        "name": candidate.name,
        "label": short or candidate.name,
        "kind": candidate.kind if candidate.kind in ("stock", COMPARED) else "ours",
        "bytes": candidate.file_bytes,
        "bpw": candidate.bpw,
        "front": front,
        "types": [
            names.index(qtypes[name]) if name in qtypes else None
            for name in run.model.tensors
            if name in run.architecture.quantizable
        ],
        "predicted": candidate.predicted_cost,
        "measured": None,
    }
    if measured is not None:
        keys = ("mean_kld", "se_kld", "median_kld", "p999_kld", "same_top1", "ppl")
        values["measured"] = {key: value if math.isfinite(value := getattr(measured, key)) else None for key in keys}
    return values
