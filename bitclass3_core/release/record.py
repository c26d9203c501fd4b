"""What a ladder comes to: the level to recommend, one run over all levels for the reports, and ``ladder.json`` for scripts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bitclass3_core.evaluation import Evaluation
from bitclass3_core.results import Level, Run
from bitclass3_core.runs.candidates import differences

PPL_WITHIN = 0.01  # of the source's: the smallest file that keeps so close is the one to recommend


def ppl_change(evaluation: Evaluation) -> float:
    """PPL over the source's, less 1."""
    return evaluation.ppl / evaluation.reference_ppl - 1


def recommended(levels: Sequence[Level]) -> Level | None:
    """The smallest measured file whose PPL is within 1 % of the source's, else the one of the lowest mean KLD.

    Where nothing was measured the first that was made; None if none was.
    """
    made = [(level, level.candidate) for level in levels if level.candidate]
    measured = [(level, file.file_bytes, file.evaluation) for level, file in made if file.evaluation]
    near = [(level, n_bytes) for level, n_bytes, evaluation in measured if ppl_change(evaluation) <= PPL_WITHIN]
    if near:
        return min(near, key=lambda of: of[1])[0]
    if measured:
        return min(measured, key=lambda of: of[2].mean_kld)[0]
    return made[0][0] if made else None


def release(levels: Sequence[Level], runs: Mapping[str, Run], command: str, timings: Mapping[str, float]) -> Run | None:
    """The run of the recommended level with every level's file in it, then the stock mixes; None if no level was made."""
    best = recommended(levels)
    if best is None or best.candidate is None:
        return None
    ours = [best.candidate, *(level.candidate for level in levels if level.candidate and level is not best)]
    stock = {c.name: c for run in runs.values() for c in run.candidates if c.kind == "stock"}
    candidates = (*ours, *stock.values())
    selections = {name: chosen for run in runs.values() for name, chosen in run.selections.items()}
    return replace(
        runs[best.name],
        candidates=candidates,
        command=command,
        timings=dict(timings),
        differences=differences(best.candidate.name, {c.name: c.evaluation for c in candidates if c.evaluation}),
        selections=selections,
        levels=tuple(levels),
    )


def level_json(level: Level, selections: Mapping[str, Any]) -> dict[str, Any]:
    """One level as ``ladder.json`` has it."""
    values: dict[str, Any] = {"level": level.name, "status": "failed" if level.error else "ok"}
    candidate = level.candidate
    if candidate is None:
        return {**values, "error": level.error, "exit_code": level.exit_code}
    chosen = selections.get(candidate.name)
    return {
        **values,
        "name": candidate.name,
        "file": candidate.path.name if candidate.path else None,
        "file_bytes": candidate.file_bytes,
        "asked_bytes_of_tensors": level.asked_bytes,
        "bpw": candidate.bpw,
        "predicted_kld": candidate.predicted_cost,
        "evaluation": candidate.evaluation.to_json() if candidate.evaluation else None,
        "baseline": level.baseline or None,
        "difference_to_baseline": dict(zip(("mean", "se"), level.difference, strict=True)) if level.difference else None,
        "selection": asdict(chosen) if chosen else None,
        "seconds": level.seconds,
    }


def ladder_json(model: str, out: Path, command: str, levels: Sequence[Level], selections: Mapping[str, Any]) -> dict[str, Any]:
    """All levels so far; NaN (an error that is not known) is null."""
    best = recommended(levels)
    values = {
        "model": model,
        "out": str(out),
        "command": command,
        "recommended": best.name if best else None,
        "levels": [level_json(level, selections) for level in levels],
    }
    return dict(_plain(values))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and value != value else value
