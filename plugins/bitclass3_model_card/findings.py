"""Key findings: which tensors matter, and which got the bits; every sentence comes from the run's numbers."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bitclass3_core.compare.predicted import agreement
from bitclass3_core.results import Candidate, Run
from bitclass3_model_card.bits import allocation_lines, role_table, type_table
from bitclass3_model_card.facts import file_name, stock_at_same_size
from bitclass3_model_card.other_run import other_run_lines
from bitclass3_model_card.prices import price_lines
from bitclass3_model_card.text import bullets, code, counted, listed, number, plain, plus_minus

_MOST, _LEAST = 5, 3


def _label(names: list[str]) -> str:
    """Names of tensors with one input: the first in full, the others by role."""
    first, *rest = (name.removesuffix(".weight") for name in names)
    return ", ".join([code(first), *(code(name.split(".", 2)[-1]) for name in rest)])


def _ranked(run: Run, scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """(tensors, score), largest first; tensors of a block with the same input have the same score and are listed together."""
    groups: dict[tuple[int | None, str], list[str]] = defaultdict(list)
    for name, score in scores.items():
        groups[run.model.tensors[name].block, f"{score:.6g}"].append(name)
    ranked = [(_label(sorted(names)), float(score)) for (_, score), names in groups.items()]
    return sorted(ranked, key=lambda entry: (-entry[1], entry[0]))


def _extremes(run: Run, scores: Mapping[str, float]) -> list[str]:
    if min(scores.values()) == max(scores.values()):
        return [f"All {counted(len(scores), 'tensor')} have the same score: this estimator tells none apart."]
    ranked = _ranked(run, scores)
    most, least = ranked[:_MOST], ranked[_MOST:][-_LEAST:]
    lines = ["Most sensitive by score: " + "; ".join(f"{label} ({number(score, 3)})" for label, score in most) + "."]
    if least:
        lines.append("Least sensitive: " + "; ".join(f"{label} ({number(score, 2)})" for label, score in reversed(least)) + ".")
    return lines


def _by_block(run: Run, scores: Mapping[str, float]) -> dict[int, list[float]]:
    blocks: dict[int, list[float]] = defaultdict(list)
    for name, score in scores.items():
        block = run.model.tensors[name].block
        if block is not None:
            blocks[block].append(score)
    return dict(sorted(blocks.items()))


def _mean(blocks: Mapping[int, list[float]], chosen: list[int]) -> float:
    return float(np.mean([score for block in chosen for score in blocks[block]]))


def _depth(run: Run, scores: Mapping[str, float]) -> list[str]:
    blocks = _by_block(run, scores)
    if len(blocks) < 3:
        return []
    thirds = [[int(block) for block in part] for part in np.array_split(np.array(list(blocks)), 3)]
    spans = [str(part[0]) if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in thirds]
    means = (f"{number(_mean(blocks, part), 3)} in blocks {span}" for part, span in zip(thirds, spans, strict=True))
    return [f"Mean score by depth: {listed(list(means))}."]


def _hybrid(run: Run, scores: Mapping[str, float]) -> list[str]:
    """A comparison of recurrent blocks (with ssm tensors) and the others, if a model has both."""
    blocks = _by_block(run, scores)
    recurrent = {info.block for info in run.model.tensors.values() if info.role.startswith("ssm_")}
    ssm, rest = [b for b in blocks if b in recurrent], [b for b in blocks if b not in recurrent]
    if not ssm or not rest:
        return []
    means = f"mean score {number(_mean(blocks, ssm), 3)} there, {number(_mean(blocks, rest), 3)} in the attention blocks"
    return [f"Hybrid model: {len(ssm)} of {len(blocks)} blocks are recurrent ({code('ssm_*')} tensors); {means}."]


def _prediction(run: Run, candidate: Candidate, who: str) -> str:
    predicted, measured = candidate.predicted_cost, candidate.evaluation
    if predicted is None or not run.costs.in_nats:
        return ""
    about = f"{who} {code(file_name(candidate))}: predicted mean KLD {number(predicted)}"
    if measured is None:
        return f"{about}, not measured."
    ratio = f", ratio measured / predicted {number(measured.mean_kld / predicted, 3)}" if predicted > 0 else ""
    return f"{about}, measured {plus_minus(measured.mean_kld, measured.se_kld)}{ratio}."


def _probes(run: Run, candidate: Candidate) -> str:
    """A comparison of single tensors' measured KLD with their costs, if the evaluator probed some."""
    if candidate.evaluation is None or not run.costs.in_nats:
        return ""
    qtypes = candidate.allocation.qtypes
    predicted = {name: cells[qtypes[name]].cost for name, cells in run.costs.costs.items() if qtypes.get(name) in cells}
    found = agreement(predicted, candidate.evaluation.tensor_kld)
    if found is None:
        return ""
    return (
        f"{counted(found.n, 'tensor')} of {code(file_name(candidate))}, each put alone into the source: rank correlation of predicted and"
        f" measured KLD {found.rank_correlation:.2f}, measured / predicted {found.ratio:.2f} in the geometric mean,"
        f" scattered by a factor of {found.factor:.2f}."
    )


def _predictions(run: Run) -> list[str]:
    stock = stock_at_same_size(run)
    found = [_prediction(run, run.ours, "Ours"), _probes(run, run.ours), _prediction(run, stock, "Stock mix") if stock else ""]
    lines = [line for line in found if line]
    return [*lines, "A prediction ranks choices; it is no result. Only the measured columns are results."] if lines else []


def findings_section(run: Run, other: Path | None = None) -> str:
    """The section: scores by tensor, depth and role, another run, prices, bits, and predictions beside measurements."""
    scores = {name: score for name, score in run.sensitivity.scores().items() if name in run.model.tensors}
    lines = [*_extremes(run, scores), *_depth(run, scores), *_hybrid(run, scores)] if scores else []
    lines += other_run_lines(run, other) if other and scores else []
    lines += [*price_lines(run), *allocation_lines(run), *_predictions(run)]
    about = "The score of a tensor is the mean of its in_power, normalised so that the largest is 1.0."
    return "\n\n".join(
        [
            f"## Key Sensitivity Findings ({plain(run.model.name)})",
            *([about] if scores else []),
            *([bullets(lines)] if lines else []),
            "### Roles",
            role_table(run, scores),
            "### Tensor Types",
            type_table(run),
        ]
    )
