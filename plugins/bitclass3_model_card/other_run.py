"""Compares the sensitivity with that of another run: of another model, or of this one on other text."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bitclass3_core.errors import ConfigError
from bitclass3_core.results import Run
from bitclass3_core.sensitivity import load_sensitivity
from bitclass3_model_card.text import code, counted, number

_MOVED = 3


def other_scores(folder: Path, estimator: str) -> dict[str, float]:
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
    name = max(scores, key=lambda tensor: (scores[tensor], tensor))
    return f"{code(name.removesuffix('.weight'))} ({number(scores[name], 3)})"


def _block_peak(scores: Mapping[str, float]) -> int | None:
    """The block whose tensors have the largest mean score."""
    blocks: dict[int, list[float]] = defaultdict(list)
    for name, score in scores.items():
        if name.startswith("blk."):
            blocks[int(name.split(".")[1])].append(score)
    return max(blocks, key=lambda block: (float(np.mean(blocks[block])), -block)) if blocks else None


def other_run_lines(run: Run, folder: Path) -> list[str]:
    """Sentences on how this run's scores and the other's differ."""
    ours, theirs = run.sensitivity.scores(), other_scores(folder, run.sensitivity.estimator)
    name = code(folder.resolve().name)
    shared = sorted(set(ours) & set(theirs))
    if len(shared) < 2:
        return [f"{name}, another run, shares no tensor names with this one: nothing can be compared."]
    a, b = (np.array([scores[tensor] for tensor in shared]) for scores in (ours, theirs))
    lines = [
        f"Against {name}, another run ({counted(len(shared), 'tensor')} of both): most sensitive here {_peak(ours)}, there {_peak(theirs)}."
    ]
    here, there = _block_peak(ours), _block_peak(theirs)
    if here is not None and there is not None:
        same = "in both runs" if here == there else f"here, {there} there"
        lines.append(f"Block with the largest mean score: {here} {same}.")
    if a.std() > 0 and b.std() > 0:
        correlation = float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])
        lines.append(f"Rank correlation of the scores: {correlation:.2f}.")
    moved = np.argsort(-np.abs(a - b), kind="stable")[:_MOVED]
    changes = [
        f"{code(shared[i].removesuffix('.weight'))} ({number(a[i], 3)} here, {number(b[i], 3)} there)"
        for i in moved
        if a[i] != b[i]
    ]
    lines.append(f"Largest changes of score: {'; '.join(changes)}." if changes else "All scores are the same.")
    return lines
