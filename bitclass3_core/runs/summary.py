"""A finished run as the values that scripts read, and its result in one sentence."""

from dataclasses import asdict
from typing import Any

from bitclass3_core.results import Candidate, Run
from bitclass3_core.runs.pipeline import Pipeline


def summary(pipeline: Pipeline, until: str) -> dict[str, Any]:
    """What ``run --json`` prints: as much as the stages up to ``until`` can tell."""
    context = pipeline.context
    values: dict[str, Any] = {"out": str(context.folder.path), "timings": context.timings, "warnings": context.warnings}
    if pipeline.stages.failed:
        values["failed"] = {name: str(error) for name, error in pipeline.stages.failed.items()}
    if until in ("estimate", "measure"):
        return values
    proof = pipeline.allocation.proof
    values["allocation"] = dict(sorted(pipeline.allocation.qtypes.items()))
    values["predicted_cost"] = pipeline.costs.total(pipeline.allocation.qtypes)
    values["proof"] = asdict(proof) if proof else None
    if until in ("evaluate", "report"):
        values["candidates"] = [_candidate(candidate) for candidate in pipeline.result.candidates]
        values["paired_differences"] = {name: {"mean": m, "se": se} for name, (m, se) in pipeline.result.differences.items()}
    return values


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "name": candidate.name,
        "kind": candidate.kind,
        "file": str(candidate.path),
        "file_bytes": candidate.file_bytes,
        "bpw": candidate.bpw,
        "predicted_kld": candidate.predicted_cost,
        "evaluation": candidate.evaluation.to_json() if candidate.evaluation else None,
    }


def verdict(run: Run) -> str:
    """One sentence on ours against the stock mix, from the paired difference."""
    ours = run.ours
    stock = next((c for c in run.candidates[1:] if c.kind == "stock"), None)
    if stock is None or stock.name not in run.differences or ours.evaluation is None or stock.evaluation is None:
        return "no stock mix was measured beside it"
    mean, se = run.differences[stock.name]
    fewer = stock.file_bytes - ours.file_bytes
    size = f"{fewer:,} bytes smaller than" if fewer > 0 else ("the same size as" if fewer == 0 else f"{-fewer:,} bytes larger than")
    change = ours.evaluation.mean_kld / stock.evaluation.mean_kld - 1
    sure = "" if abs(mean) > 2 * se else ", within twice the error: no difference shown"
    return f"ours is {size} {stock.name} and its mean KLD is {change:+.1%} (paired difference {mean:+.4f} ± {se:.4f}{sure})"
