"""``bitclass3 run``: the pipeline, and the table at its end."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitclass3_core.cli.flags import Flags, PipelineFile, with_flags
from bitclass3_core.cli.groups import CONSTRAINTS, OUTPUT, PLUGINS, RUN, SOURCE, TARGET, TEXT
from bitclass3_core.errors import ConfigError, did_you_mean
from bitclass3_core.progress import terminal_progress

if TYPE_CHECKING:
    from bitclass3_core.results import Candidate, Run

_TABLE_WIDTH = 112  # a pipe is taken to be 80 columns wide: too few for the figures


@with_flags(SOURCE, TEXT, TARGET, CONSTRAINTS, PLUGINS, RUN, OUTPUT)
def run(
    flags: Flags,
    pipeline: PipelineFile = None,
    until: Annotated[str, typer.Option(help="last stage to run: estimate, measure, solve, export, evaluate, report")] = "report",
) -> None:
    """Measure a model, solve for every tensor's type at the target, write the GGUF, measure its KLD, write the model card."""
    from bitclass3_core.runs.config_file import load_config
    from bitclass3_core.runs.context import Context
    from bitclass3_core.runs.pipeline import STAGES, Pipeline
    from bitclass3_core.runs.summary import summary
    from bitclass3_core.runs.watch import stdout_kept, watched

    config = load_config(pipeline, flags.keys, flags.plugins, flags.settings)
    if until not in STAGES:
        raise ConfigError(f"unknown stage {until!r}{did_you_mean(until, STAGES)}")
    progress = terminal_progress(flags.quiet or flags.json)
    made = Pipeline(config, Context.of(config, progress, command_line()))
    with watched(progress), stdout_kept():
        made.run(until)
    if flags.json:
        print(json.dumps(summary(made, until), indent=1))
    elif until in ("evaluate", "report") and not flags.quiet:
        _print(made.result, made.context.folder.path)
    made.raise_failures()


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["bitclass3", *sys.argv[1:]])


def _row(candidate: "Candidate") -> tuple[str, ...]:
    from bitclass3_core.compare.tables import figures

    kld, _, *others = figures(candidate.evaluation)
    return f"{candidate.name}.gguf", f"{candidate.file_bytes:,}", f"{candidate.bpw:.3f}", kld, *others


def _print(run: "Run", out: Path) -> None:
    """Our file beside the stock mix and earlier targets: sizes and what was measured."""
    from rich.console import Console
    from rich.table import Table

    from bitclass3_core.runs.summary import verdict

    table = Table(title=f"{run.model.name}: measured against {run.model.path.name}")
    for column in ("file", "bytes", "bpw", "mean KLD", "99.9 % KLD", "same top-1", "PPL"):
        table.add_column(column, justify="left" if column == "file" else "right", no_wrap=True)
    for candidate in run.candidates:
        table.add_row(*_row(candidate))
    console = Console(width=max(Console().width, _TABLE_WIDTH))
    console.print(table)
    reference = next((c.evaluation for c in run.candidates if c.evaluation), None)
    if reference is not None:
        console.print(f"source PPL {reference.reference_ppl:.3f}; {reference.n_tokens:,} tokens scored", highlight=False)
    console.print(verdict(run), highlight=False, soft_wrap=True)
    console.print(f"files: {out}/ (model card: {out / 'README.md'})", highlight=False, soft_wrap=True)
