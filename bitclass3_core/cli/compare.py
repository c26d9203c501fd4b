"""``bitclass3 compare``: its flags as a configuration, and what it prints."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitclass3_core.cli.comparison_tables import markdown, print_tables, types_csv
from bitclass3_core.cli.run import command_line
from bitclass3_core.compare.compare import compare
from bitclass3_core.files import write_text
from bitclass3_core.progress import terminal_progress
from bitclass3_core.run_config import RunConfig
from bitclass3_core.runs.config_file import load_config


def compare_config(
    reference: Path | None,
    gguf: Path | None,
    eval_corpus: Sequence[Path],
    out: Path | None,
    llama_cpp: Path | None,
    allow_quantized: bool,
    plugins: Sequence[str],
    settings: Sequence[str],
) -> RunConfig:
    """The flags as a configuration."""
    values: dict[tuple[str, ...], Any] = {
        ("model", "gguf" if reference and reference.suffix == ".gguf" else "hf"): reference,
        ("model", "allow_quantized_source"): allow_quantized or None,
        ("corpus", "evaluation"): list(eval_corpus) or None,
        ("out",): out,
        ("llama_cpp",): llama_cpp,
        **({("model", "gguf"): gguf} if gguf else {}),
    }
    return load_config(None, {path: value for path, value in values.items() if value is not None}, plugins, settings)


def compare_command(config: RunConfig, files: Sequence[Path], as_json: bool, quiet: bool) -> None:
    """Compare, print the tables or JSON; with ``config.out`` tables are written there as well."""
    progress = terminal_progress(quiet or as_json)
    try:
        comparison = compare(config, files, progress, command_line())
    finally:
        progress.end()
    if config.out is not None:
        write_text(config.out / "compare.md", markdown(comparison))
        write_text(config.out / "types.csv", types_csv(comparison))
    if as_json:
        print(json.dumps(comparison.to_json(), indent=1))
    elif not quiet:
        print_tables(comparison, config.out)
