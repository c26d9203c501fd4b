"""``bitclass3``: the commands, and how errors become one line and an exit code. Heavy modules are imported by the commands."""

import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from bitclass3_core.cli.flags import (
    AllowQuantized,
    AsJson,
    Baseline,
    Ctx,
    Effort,
    EvalFile,
    FitVram,
    Gguf,
    ImatrixFile,
    KvType,
    Level,
    LlamaCpp,
    MatchStock,
    ModelPath,
    Out,
    Pipeline,
    PluginName,
    PreTokenizer,
    Quiet,
    Select,
    SelectFile,
    Setting,
    TargetBpw,
    TargetKld,
    TargetSize,
    TextFile,
    Threads,
    Verbose,
    given_flags,
)
from bitclass3_core.cli.limits import Floor, GpuBudget, GpuTensors, Group, Menu, Pin
from bitclass3_core.errors import Bitclass3Error, CrashError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Turn a language model into a mixed-precision GGUF: Hessian sensitivity, an exact solver, measured KLD.",
)
plugins_app = typer.Typer(no_args_is_help=True, help="List the installed plugins, show one with its options, or write a new one.")
app.add_typer(plugins_app, name="plugins")
toolchain_app = typer.Typer(no_args_is_help=True, help="Stock llama.cpp: build a pinned one, or say which programs are found.")
app.add_typer(toolchain_app, name="toolchain")


@app.command()
def run(
    pipeline: Pipeline = None,
    model: ModelPath = None,
    gguf: Gguf = None,
    pre_tokenizer: PreTokenizer = None,
    corpus: TextFile = None,
    eval_corpus: EvalFile = None,
    target_bpw: TargetBpw = None,
    target_size: TargetSize = None,
    match_stock: MatchStock = None,
    level: Level = None,
    fit_vram: FitVram = None,
    ctx: Ctx = None,
    kv_type: KvType = None,
    target_kld: TargetKld = None,
    select: Select = None,
    select_corpus: SelectFile = None,
    imatrix_corpus: ImatrixFile = None,
    plugin: PluginName = None,
    set_: Setting = None,
    menu: Menu = None,
    pin: Pin = None,
    floor: Floor = None,
    group: Group = None,
    gpu_budget: GpuBudget = None,
    gpu_tensors: GpuTensors = None,
    out: Out = None,
    baseline: Baseline = None,
    until: Annotated[str, typer.Option(help="last stage to run: estimate, measure, solve, export, evaluate, report")] = "report",
    effort: Effort = None,
    threads: Threads = None,
    llama_cpp: LlamaCpp = None,
    allow_quantized: AllowQuantized = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure a model, solve for every tensor's type at the target, write the GGUF, measure its KLD, write the model card."""
    from bitclass3_core.cli.run import run_command
    from bitclass3_core.runs.config_file import load_config

    flags = given_flags(**{key: value for key, value in locals().items() if key not in {"run_command", "load_config"}})
    run_command(load_config(pipeline, flags, plugin or (), set_ or ()), until, as_json, quiet)


@app.command()
def plan(
    pipeline: Pipeline = None,
    model: ModelPath = None,
    gguf: Gguf = None,
    pre_tokenizer: PreTokenizer = None,
    corpus: TextFile = None,
    eval_corpus: EvalFile = None,
    target_bpw: TargetBpw = None,
    target_size: TargetSize = None,
    match_stock: MatchStock = None,
    level: Level = None,
    fit_vram: FitVram = None,
    ctx: Ctx = None,
    kv_type: KvType = None,
    target_kld: TargetKld = None,
    select: Select = None,
    select_corpus: SelectFile = None,
    imatrix_corpus: ImatrixFile = None,
    plugin: PluginName = None,
    set_: Setting = None,
    menu: Menu = None,
    pin: Pin = None,
    floor: Floor = None,
    group: Group = None,
    gpu_budget: GpuBudget = None,
    gpu_tensors: GpuTensors = None,
    out: Out = None,
    baseline: Baseline = None,
    effort: Effort = None,
    threads: Threads = None,
    llama_cpp: LlamaCpp = None,
    allow_quantized: AllowQuantized = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Say what a run would do: sizes, types where they are known, disk, memory, minutes. Writes nothing."""
    from bitclass3_core.cli.plan import plan_command
    from bitclass3_core.runs.config_file import load_config

    flags = given_flags(**{key: value for key, value in locals().items() if key not in {"plan_command", "load_config"}})
    plan_command(load_config(pipeline, flags, plugin or (), set_ or ()), as_json)


@app.command()
def ladder(
    pipeline: Pipeline = None,
    levels: Annotated[
        str, typer.Option("--levels", help="levels, bits per weight or file sizes, with commas between: Q8_0,Q4_K_M,4.2,3.5GiB")
    ] = "Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q3_K_S",
    model: ModelPath = None,
    gguf: Gguf = None,
    pre_tokenizer: PreTokenizer = None,
    corpus: TextFile = None,
    eval_corpus: EvalFile = None,
    select: Select = None,
    select_corpus: SelectFile = None,
    imatrix_corpus: ImatrixFile = None,
    plugin: PluginName = None,
    set_: Setting = None,
    menu: Menu = None,
    pin: Pin = None,
    floor: Floor = None,
    group: Group = None,
    gpu_budget: GpuBudget = None,
    gpu_tensors: GpuTensors = None,
    out: Out = None,
    baseline: Baseline = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", help="GGUFs to keep once measured: shipped (ours alone), stock (and the mix beside it), all, none"),
    ] = None,
    only_plan: Annotated[
        bool, typer.Option("--plan", help="solve what is measured, say sizes, disk and minutes; write nothing")
    ] = False,
    effort: Effort = None,
    threads: Threads = None,
    llama_cpp: LlamaCpp = None,
    allow_quantized: AllowQuantized = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make a release: several levels from one calibration and one cost table, each measured, with one card over all of them."""
    from bitclass3_core.cli.ladder import ladder_command
    from bitclass3_core.runs.config_file import load_config

    flags = given_flags(**{key: value for key, value in locals().items() if key not in {"ladder_command", "load_config"}})
    ladder_command(load_config(pipeline, flags, plugin or (), set_ or ()), levels, keep, only_plan, as_json, quiet)


@app.command()
def compare(
    files: Annotated[list[Path], typer.Argument(help="GGUF files of one model, anyone's", show_default=False)],
    reference: Annotated[
        Path | None, typer.Option("--reference", help="the source: HF folder, name on the hub, or BF16 GGUF", show_default=False)
    ] = None,
    gguf: Gguf = None,
    eval_corpus: Annotated[list[Path] | None, typer.Option("--eval-corpus", help="text to measure on; repeatable")] = None,
    plugin: PluginName = None,
    set_: Setting = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder for tables, plots and what is measured")] = None,
    llama_cpp: LlamaCpp = None,
    allow_quantized: AllowQuantized = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure anyone's GGUFs of one model side by side: size, KLD, PPL, same top-1, by domain, types that differ."""
    from bitclass3_core.cli.compare import compare_command, compare_config

    config = compare_config(reference, gguf, eval_corpus or (), out, llama_cpp, allow_quantized, plugin or (), set_ or ())
    compare_command(config, files, as_json, quiet)


@app.command()
def recipe(
    file: Annotated[Path, typer.Argument(help="a GGUF, or any file of a split one", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", help="file to write; default: stdout")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the types of a GGUF's tensors, anyone's, as a recipe for llama-quantize --tensor-type-file."""
    from bitclass3_core.cli.recipe import recipe_command

    recipe_command(file, out, as_json)


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(help="folder of a finished run", show_default=False)],
    repo: Annotated[str | None, typer.Option("--repo", help="name on the hub: me/Model-GGUF", show_default=False)] = None,
    private: Annotated[bool, typer.Option("--private", help="make a new repository private")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would be uploaded; needs no token and no network")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Upload a run's files, card, plots and explorer to the Hugging Face hub."""
    from bitclass3_core.cli.publish import publish_command

    publish_command(folder, repo, private, dry_run, as_json, quiet)


@plugins_app.command("list")
def plugins_list(as_json: AsJson = False) -> None:
    """List the installed plugins; nothing is imported."""
    from bitclass3_core.cli.plugins import list_command

    list_command(as_json)


@plugins_app.command("show")
def plugins_show(name: Annotated[str, typer.Argument(help="plugin name or .py file")], as_json: AsJson = False) -> None:
    """Show a plugin: its stages, version, options with their defaults."""
    from bitclass3_core.cli.plugins import show_command

    show_command(name, as_json)


@plugins_app.command("new")
def plugins_new(
    name: Annotated[str, typer.Argument(help="name of the plugin: small letters, digits, dashes")],
    stage: Annotated[str, typer.Option(help="architecture, estimate, measure, budget, solve, export, evaluate, report")] = "solve",
    out: Annotated[Path, typer.Option(help="folder in which the package's folder is made")] = Path(),
) -> None:
    """Write a package that is a working plugin, with a test that runs its stage's conformance suite."""
    from bitclass3_core.cli.new_plugin import new_command

    new_command(name, stage, out)


@toolchain_app.command("install")
def toolchain_install(
    version: Annotated[str | None, typer.Option(help="pinned source release; default: the latest")] = None,
    backend: Annotated[str, typer.Option(help="cpu, cuda, vulkan, metal, hip, sycl")] = "cpu",
    jobs: Annotated[int, typer.Option(min=0, help="compilers at a time; 0: as many as cores and memory allow")] = 0,
    programs: Annotated[list[str] | None, typer.Option(help="program to build instead of the usual ones; repeatable")] = None,
    force: Annotated[bool, typer.Option("--force", help="build again what is installed")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Build a pinned llama.cpp in the user's cache folder: six to ten minutes on two cores; needs cmake and a C++ compiler."""
    from bitclass3_core.cli.toolchain import install_command

    install_command(version, backend, programs or [], jobs, force, as_json, quiet)


@toolchain_app.command("path")
def toolchain_path(
    program: Annotated[
        str | None, typer.Argument(help="llama-quantize, ...; default: the managed folder", show_default=False)
    ] = None,
    llama_cpp: LlamaCpp = None,
) -> None:
    """Print the path of a program as it would be found, or of the managed llama.cpp; exit code 1 if there is none."""
    from bitclass3_core.cli.toolchain import path_command

    path_command(program, llama_cpp)


@toolchain_app.command("list")
def toolchain_list(llama_cpp: LlamaCpp = None, as_json: AsJson = False) -> None:
    """List the managed llama.cpp builds, and for every program which one would be used."""
    from bitclass3_core.cli.toolchain import list_command

    list_command(llama_cpp, as_json)


@app.command()
def schema() -> None:
    """Print the JSON schema of the pipeline file, with the installed plugins and their options, for editors."""
    from bitclass3_core.runs.schema import schema_json

    print(schema_json(), end="")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what was found on this machine, and what works without the rest."""
    from bitclass3_core.cli.doctor import doctor_command

    doctor_command(as_json)


def main() -> None:
    """Entry point: errors that a user can mend are one line on stderr, with the exit code of their kind."""
    try:
        app()
    except Bitclass3Error as error:
        if "--verbose" in sys.argv:
            raise
        if (
            isinstance(error, CrashError) and error.__cause__ is not None
        ):  # a plugin's author needs it, and may not be there to ask again
            traceback.print_exception(error.__cause__)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
