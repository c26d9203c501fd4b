"""``bitclass3 compare``: its flags, and the tables on the terminal."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitclass3_core.cli.flags import Flag, Flags, Group, with_flags
from bitclass3_core.cli.groups import OUTPUT, PLUGINS, RUN, SOURCE, TEXT, source_key
from bitclass3_core.cli.run import command_line
from bitclass3_core.progress import terminal_progress

if TYPE_CHECKING:
    from bitclass3_core.compare.comparison import Comparison

_TABLE_WIDTH = 140
REFERENCE = Group(
    SOURCE.title,
    (
        Flag("--reference", Path, "the source: HF folder, name on the hub, or BF16 GGUF", source_key),
        *SOURCE.only("allow_quantized_source", gguf="the BF16/F16 GGUF of --reference, where it lies elsewhere").flags,
    ),
)
MEASURED = TEXT.only(eval_corpus="text to measure on; repeatable")
WRITTEN = RUN.only("llama_cpp", out="folder for tables, plots and what is measured")


@with_flags(REFERENCE, MEASURED, PLUGINS, WRITTEN, OUTPUT.only("json", "quiet"))
def compare(
    flags: Flags, files: Annotated[list[Path], typer.Argument(help="GGUF files of one model, anyone's", show_default=False)]
) -> None:
    """Measure anyone's GGUFs of one model side by side: size, KLD, PPL, same top-1, by domain, types that differ."""
    from bitclass3_core.compare.compare import compare as compared
    from bitclass3_core.runs.config_file import load_config

    config, progress = load_config(None, flags.keys, flags.plugins, flags.settings), terminal_progress(flags.quiet or flags.json)
    try:
        comparison = compared(config, files, progress, command_line())
    finally:
        progress.end()
    if flags.json:
        print(json.dumps(comparison.to_json(), indent=1))
    elif not flags.quiet:
        _print(comparison, config.out)


def _print(comparison: "Comparison", out: Path | None) -> None:
    """The tables, however wide the terminal says it is."""
    from rich.console import Console
    from rich.table import Table

    from bitclass3_core.compare.tables import notes, tables

    console = Console(width=max(Console().width, _TABLE_WIDTH))
    for table in tables(comparison):
        shown = Table(title=table.title)
        for i, column in enumerate(table.header):
            shown.add_column(column, justify="right" if i and table.header[0] == "file" else "left", no_wrap=i == 0)
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    for line in [*notes(comparison), *([f"files: {out}/ (tables: {out / 'compare.md'})"] if out else [])]:
        console.print(line, highlight=False, soft_wrap=True)
