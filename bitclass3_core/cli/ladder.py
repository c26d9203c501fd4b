"""``bitclass3 ladder``: all levels, the table at its end, its plan, and the exit code for scripts."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitclass3_core.cli.flags import Flags, PipelineFile, with_flags
from bitclass3_core.cli.groups import CONSTRAINTS, OUTPUT, PLUGINS, RUN, SOURCE, TEXT
from bitclass3_core.cli.run import command_line
from bitclass3_core.files import human_bytes
from bitclass3_core.progress import Silent, terminal_progress

if TYPE_CHECKING:
    from bitclass3_core.release.ladder import Ladder
    from bitclass3_core.results import Level

_TABLE_WIDTH = 132


@with_flags(SOURCE, TEXT, CONSTRAINTS, PLUGINS, RUN, OUTPUT)
def ladder(
    flags: Flags,
    pipeline: PipelineFile = None,
    levels: Annotated[
        str, typer.Option("--levels", help="levels, bits per weight or file sizes, with commas between: Q8_0,Q4_K_M,4.2,3.5GiB")
    ] = "Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q3_K_S",
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            help="GGUFs to keep once measured: shipped (ours alone; the default), stock (the mix beside it too), all, none",
        ),
    ] = None,
    only_plan: Annotated[
        bool, typer.Option("--plan", help="solve what is measured, say sizes, disk and minutes; write nothing")
    ] = False,
) -> None:
    """Make a release: several levels from one calibration and one cost table, each measured, with one card over all of them."""
    from bitclass3_core.release.ladder import Ladder, exit_code
    from bitclass3_core.release.plan import plan_of
    from bitclass3_core.runs.config_file import load_config
    from bitclass3_core.runs.watch import stdout_kept, watched

    config = load_config(pipeline, flags.keys, flags.plugins, flags.settings)
    if only_plan:
        _print_plan(plan_of(Ladder(config, levels, keep, Silent(), "plan", may_convert=False)), flags.json)
        return
    progress = terminal_progress(flags.quiet or flags.json)
    made = Ladder(config, levels, keep, progress, command_line())
    with watched(progress), stdout_kept():
        made.run()
    if flags.json:
        print(json.dumps(made.summary(), indent=1))
    elif not flags.quiet:
        _print_table(made)
    if code := exit_code(made.levels):
        sys.exit(code)


def _row(level: "Level") -> tuple[str, ...]:
    from bitclass3_core.compare.tables import figures

    candidate = level.candidate
    if candidate is None:
        return (level.name, "-", "-", "-", "-", "-", f"failed: {level.error}")
    kld, _, p999, _, ppl = figures(candidate.evaluation)
    beside = f"{level.difference[0]:+.4f} ± {level.difference[1]:.4f} {level.baseline}" if level.difference else level.baseline
    return (candidate.name, f"{candidate.file_bytes:,}", f"{candidate.bpw:.3f}", kld, p999, ppl, beside)


def _print_table(ladder: "Ladder") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{ladder.base.model.name}: measured against {ladder.base.model.path.name}")
    for column in ("file", "bytes", "bpw", "mean KLD", "99.9 % KLD", "PPL", "beside the stock mix"):
        table.add_column(column, justify="left" if column in ("file", "beside the stock mix") else "right")
    for level in ladder.levels:
        table.add_row(*_row(level))
    console = Console(width=max(Console().width, _TABLE_WIDTH))
    console.print(table, highlight=False)
    out, best = ladder.folder, ladder.summary()["recommended"]
    if best:
        console.print(
            f"recommended: {best}; files: {out}/ (model card: {out / 'README.md'}, for scripts: {out / 'ladder.json'})",
            highlight=False,
            soft_wrap=True,
        )


def _print_plan(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(values, indent=1))
        return
    print(f"source    {values['source']} ({values['architecture']}), {values['weights']:,} weights")
    for level in values["levels"]:
        if "error" in level:
            print(f"{level['level']:<9} cannot be made: {level['error']}")
        elif level["bytes_of_tensors"] is None:
            print(f"{level['level']:<9} size known once the sensitivity is estimated")
        else:
            file = f", file {level['file_bytes']:,} bytes" if "file_bytes" in level else ""
            print(f"{level['level']:<9} at most {level['bytes_of_tensors']:,} bytes of tensors, {level['bpw']:.3f} bpw{file}")
    print(
        f"to do     {values['costs_to_measure']} costs to measure; at most {human_bytes(values['disk_bytes'])} on the disk at a time"
    )
