"""``bitclass3 run``: the pipeline, and the table at its end."""

import json
import os
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
    from bitclass3_core.run_config import RunConfig

_TABLE_WIDTH = 112  # a pipe is taken to be 80 columns wide: too few for the figures


@with_flags(SOURCE, TEXT, TARGET, CONSTRAINTS, PLUGINS, RUN, OUTPUT)
def run(
    flags: Flags,
    pipeline: PipelineFile = None,
    until: Annotated[str, typer.Option(help="last stage to run: estimate, measure, solve, export, evaluate, report")] = "report",
) -> None:
    """Measure a model, solve for every tensor's type at the target, write the GGUF, measure its KLD, write the model card."""
    from bitclass3_core.runs.config_file import load_config
    from bitclass3_core.runs.pipeline import STAGES, Pipeline
    from bitclass3_core.runs.summary import summary
    from bitclass3_core.runs.target_kld import find_size
    from bitclass3_core.runs.watch import stdout_kept, watched

    config = load_config(pipeline, flags.keys, flags.plugins, flags.settings)
    if until not in STAGES:
        raise ConfigError(f"unknown stage {until!r}{did_you_mean(until, STAGES)}")
    use_llama_cpp(config)
    if config.out is None:
        config = config.model_copy(update={"out": default_out(config)})
    made = Pipeline(config, terminal_progress(flags.quiet or flags.json), command_line())
    with watched(made.progress), stdout_kept():
        if config.budget.target_kld is not None:
            made = find_size(made)
        made.run(until)
    if flags.json:
        print(json.dumps(summary(made, until), indent=1))
    elif until in ("evaluate", "report") and not flags.quiet:
        _print(made.result, made.folder.path)
    made.raise_failures()


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["bitclass3", *sys.argv[1:]])


def default_out(config: "RunConfig") -> Path:
    """``out/<model>`` where no folder was named."""
    source = config.model.hf or config.model.gguf
    return Path("out") / (source.resolve().name.removesuffix(".gguf") if source else "run")


def use_llama_cpp(config: "RunConfig") -> None:
    """Make the folder that a run names the one that programs and kernels are looked for in. Raises ConfigError if it is none."""
    if config.llama_cpp is None:
        return
    if not config.llama_cpp.is_dir():
        raise ConfigError(f"llama.cpp folder {config.llama_cpp} does not exist; check --llama-cpp")
    os.environ["LLAMA_CPP_DIR"] = str(config.llama_cpp.absolute())


def _row(candidate: "Candidate") -> tuple[str, ...]:
    sizes = f"{candidate.name}.gguf", f"{candidate.file_bytes:,}", f"{candidate.bpw:.3f}"
    measured = candidate.evaluation
    if measured is None:
        return *sizes, *("-",) * 4
    kld = f"{measured.mean_kld:.4f} ± {measured.se_kld:.4f}"
    return *sizes, kld, f"{measured.p999_kld:.3f}", f"{measured.same_top1:.1%}", f"{measured.ppl:.3f}"


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
