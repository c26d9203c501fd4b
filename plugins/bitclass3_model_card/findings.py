"""Key findings: which tensors matter, here and in another run, and which got the bits; every sentence comes from the run's numbers."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from bitclass3_core.compare.predicted import agreement
from bitclass3_core.errors import ConfigError
from bitclass3_core.results import Candidate, Run
from bitclass3_core.sensitivity import load_sensitivity
from bitclass3_model_card.comparison import stock_at_same_size
from bitclass3_model_card.roles import allocation_lines, price_lines, role_table, type_table
from bitclass3_model_card.text import bullets, code, counted, file_name, listed, number, plain, plus_minus, tensor

_MOST, _LEAST, _MOVED = 5, 3, 3


def _ranked(run: Run, scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """(tensors, score), largest first; tensors of a block with the same input have the same score and are listed together.

    The first of them is named in full, the others by role.
    """
    groups: dict[tuple[int | None, str], list[str]] = defaultdict(list)
    for name, score in scores.items():
        groups[run.model.tensors[name].block, f"{score:.6g}"].append(name.removesuffix(".weight"))
    ranked = []
    for (_, rounded), names in groups.items():
        first, *rest = sorted(names)
        ranked.append((", ".join(code(name) for name in (first, *(name.split(".", 2)[-1] for name in rest))), float(rounded)))
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


def _by_block(scores: Iterable[tuple[int | None, float]]) -> dict[int, list[float]]:
    blocks: dict[int, list[float]] = defaultdict(list)
    for block, score in scores:
        if block is not None:
            blocks[block].append(score)
    return dict(sorted(blocks.items()))


def _depth(run: Run, scores: Mapping[str, float]) -> list[str]:
    """The mean score by depth, and a comparison of recurrent blocks (with ssm tensors) and the others, if a model has both."""
    blocks = _by_block((run.model.tensors[name].block, score) for name, score in scores.items())

    def mean(chosen: list[int]) -> str:
        return number(float(np.mean([score for block in chosen for score in blocks[block]])), 3)

    lines = []
    if len(blocks) >= 3:
        thirds = [part.tolist() for part in np.array_split(np.array(list(blocks)), 3)]
        spans = [str(part[0]) if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in thirds]
        means = [f"{mean(part)} in blocks {span}" for part, span in zip(thirds, spans, strict=True)]
        lines.append(f"Mean score by depth: {listed(means)}.")
    recurrent = {info.block for info in run.model.tensors.values() if info.role.startswith("ssm_")}
    ssm, rest = [b for b in blocks if b in recurrent], [b for b in blocks if b not in recurrent]
    if ssm and rest:
        lines.append(
            f"Hybrid model: {len(ssm)} of {len(blocks)} blocks are recurrent ({code('ssm_*')} tensors); mean score {mean(ssm)} there,"
            f" {mean(rest)} in the attention blocks."
        )
    return lines


def _other_scores(folder: Path, estimator: str) -> dict[str, float]:
    """The scores in another run's folder, by the same estimator if it has them. Raises ConfigError if it has none."""
    files = sorted(folder.glob("sensitivity-*.safetensors"))
    if not files:
        raise ConfigError(f"{folder} has no sensitivity-*.safetensors; give the folder of a bitclass3 run")
    return load_sensitivity(next((path for path in files if path.stem == f"sensitivity-{estimator}"), files[0])).scores()


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks with ties averaged."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: np.ndarray = ((ends - counts + ends - 1) / 2)[inverse]
    return ranks


def _peak(scores: Mapping[str, float]) -> str:
    name = max(scores, key=lambda name: (scores[name], name))
    return f"{tensor(name)} ({number(scores[name], 3)})"


def _block_peak(scores: Mapping[str, float]) -> int | None:
    """The block whose tensors have the largest mean score."""
    blocks = _by_block((int(name.split(".")[1]), score) for name, score in scores.items() if name.startswith("blk."))
    return max(blocks, key=lambda block: (float(np.mean(blocks[block])), -block), default=None)


def _other_run(run: Run, folder: Path) -> list[str]:
    """Sentences on how this run's scores and another's differ: of another model, or of this one on other text."""
    ours, theirs = run.sensitivity.scores(), _other_scores(folder, run.sensitivity.estimator)
    name, shared = code(folder.resolve().name), sorted(set(ours) & set(theirs))
    if len(shared) < 2:
        return [f"{name}, another run, shares no tensor names with this one: nothing can be compared."]
    a, b = (np.array([scores[tensor] for tensor in shared]) for scores in (ours, theirs))
    both = counted(len(shared), "tensor")
    lines = [f"Against {name}, another run ({both} of both): most sensitive here {_peak(ours)}, there {_peak(theirs)}."]
    here, there = _block_peak(ours), _block_peak(theirs)
    if here is not None and there is not None:
        same = "in both runs" if here == there else f"here, {there} there"
        lines.append(f"Block with the largest mean score: {here} {same}.")
    if a.std() > 0 and b.std() > 0:
        lines.append(f"Rank correlation of the scores: {np.corrcoef(_ranks(a), _ranks(b))[0, 1]:.2f}.")
    moved = [i for i in np.argsort(-np.abs(a - b), kind="stable")[:_MOVED] if a[i] != b[i]]
    changes = "; ".join(f"{tensor(shared[i])} ({number(a[i], 3)} here, {number(b[i], 3)} there)" for i in moved)
    return [*lines, f"Largest changes of score: {changes}." if changes else "All scores are the same."]


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
    lines = [*_extremes(run, scores), *_depth(run, scores), *(_other_run(run, other) if other else [])] if scores else []
    lines += [*price_lines(run), *allocation_lines(run), *_predictions(run)]
    parts = (
        f"## Key Sensitivity Findings ({plain(run.model.name)})",
        "The score of a tensor is the mean of its in_power, normalised so that the largest is 1.0." if scores else "",
        bullets(lines),
        f"### Roles\n\n{role_table(run, scores)}",
        f"### Tensor Types\n\n{type_table(run)}",
    )
    return "\n\n".join(part for part in parts if part)
