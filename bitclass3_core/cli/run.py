"""``bitclass3 run``: the pipeline, and the table at its end."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from bitclass3_core.cli.watching import stdout_kept, watched
from bitclass3_core.errors import ConfigError, did_you_mean
from bitclass3_core.progress import terminal_progress
from bitclass3_core.results import Candidate, Run
from bitclass3_core.run_config import RunConfig
from bitclass3_core.runs.context import Context
from bitclass3_core.runs.pipeline import STAGES, Pipeline

_TABLE_WIDTH = 112  # a pipe is taken to be 80 columns wide: too few for the figures


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["bitclass3", *sys.argv[1:]])


def run_command(config: RunConfig, until: str, as_json: bool, quiet: bool) -> None:
    """Run the pipeline; print the result table, or JSON."""

    if until not in STAGES:
        raise ConfigError(f"unknown stage {until!r}{did_you_mean(until, STAGES)}")
    progress = terminal_progress(quiet or as_json)
    pipeline = Pipeline(config, Context.of(config, progress, command_line()))
    try:
        with watched(progress), stdout_kept():
            pipeline.run(until)
    finally:
        progress.end()
    if as_json:
        print(json.dumps(summary(pipeline, until), indent=1))
    elif until in ("evaluate", "report") and not quiet:
        print_result(pipeline.result, pipeline.folder.path)
    pipeline.raise_failures()


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


def summary(pipeline: Pipeline, until: str) -> dict[str, Any]:
    """What ``--json`` prints: as much as the stages that ran can tell."""
    values: dict[str, Any] = {"out": str(pipeline.folder.path), "timings": pipeline.timings, "warnings": pipeline.warnings}
    if pipeline.stages.failed:
        values["failed"] = {name: str(error) for name, error in pipeline.stages.failed.items()}
    if until in ("estimate", "measure"):
        return values
    proof = pipeline.allocation.proof
    values["allocation"] = dict(sorted(pipeline.allocation.qtypes.items()))
    values["predicted_cost"] = pipeline.costs.total(pipeline.allocation.qtypes)
    values["proof"] = (
        {"bound": proof.bound, "gap": proof.gap, "optimal": proof.optimal, "seconds": proof.seconds} if proof else None
    )
    if until in ("evaluate", "report"):
        values["candidates"] = [_candidate(candidate) for candidate in pipeline.result.candidates]
        values["paired_differences"] = {name: {"mean": m, "se": se} for name, (m, se) in pipeline.result.differences.items()}
    return values


def print_result(run: Run, out: Path) -> None:
    """Our file beside the stock mix and earlier targets: sizes and what was measured."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{run.model.name}: measured against {run.model.path.name}")
    for column in ("file", "bytes", "bpw", "mean KLD", "99.9 % KLD", "same top-1", "PPL"):
        table.add_column(column, justify="left" if column == "file" else "right", no_wrap=True)
    for candidate in run.candidates:
        figures = candidate.evaluation
        measured = ("-",) * 4
        if figures is not None:
            measured = (
                f"{figures.mean_kld:.4f} ± {figures.se_kld:.4f}",
                f"{figures.p999_kld:.3f}",
                f"{figures.same_top1:.1%}",
                f"{figures.ppl:.3f}",
            )
        table.add_row(f"{candidate.name}.gguf", f"{candidate.file_bytes:,}", f"{candidate.bpw:.3f}", *measured)
    console = Console(width=max(Console().width, _TABLE_WIDTH))
    console.print(table)
    reference = next((c.evaluation for c in run.candidates if c.evaluation), None)
    if reference is not None:
        console.print(f"source PPL {reference.reference_ppl:.3f}; {reference.n_tokens:,} tokens scored", highlight=False)
    console.print(verdict(run), highlight=False, soft_wrap=True)
    console.print(f"files: {out}/ (model card: {out / 'README.md'})", highlight=False, soft_wrap=True)


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
