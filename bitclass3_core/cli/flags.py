"""Flags that several commands share, and what was given as paths into the configuration."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bitclass3_core.cli.limits import limit_flags

Pipeline = Annotated[Path | None, typer.Argument(help="pipeline file (TOML); flags beat it", show_default=False)]
ModelPath = Annotated[
    Path | None,
    typer.Option("--model", help="HF folder (converted if there is no GGUF in it), name on the hub, or a BF16 GGUF file"),
]
PreTokenizer = Annotated[
    str | None,
    typer.Option("--pre-tokenizer", help="how a tokenizer splits that llama.cpp's converter does not know: gpt-2, qwen2"),
]
Gguf = Annotated[Path | None, typer.Option("--gguf", help="the BF16/F16 GGUF of --model, where it lies elsewhere")]
TextFile = Annotated[list[Path] | None, typer.Option("--corpus", help="calibration text (.txt, .jsonl); repeatable")]
EvalFile = Annotated[
    list[Path] | None, typer.Option("--eval-corpus", help="held-out text; without it the calibration documents are split")
]
TargetBpw = Annotated[float | None, typer.Option("--target-bpw", help="bits per weight over all tensors")]
TargetSize = Annotated[str | None, typer.Option("--target-size", help="size of the file, metadata included: 15.3GiB")]
FitVram = Annotated[
    str | None, typer.Option("--fit-vram", help="what weights, KV cache, state and buffers may take on the GPU: 24GiB")
]
Ctx = Annotated[int | None, typer.Option("--ctx", min=1, help="with --fit-vram: tokens of context; default 8192")]
KvType = Annotated[str | None, typer.Option("--kv-type", help="with --fit-vram: type of the KV cache: f16, q8_0, q4_0")]
Level = Annotated[str | None, typer.Option("--level", help="a level, whose bits the model's sensitivity decides: Q4_K_M")]
TargetKld = Annotated[
    float | None, typer.Option("--target-kld", help="the smallest file whose measured mean KLD is within it, in nats per token")
]
Select = Annotated[
    bool | None,
    typer.Option("--select/--no-select", help="measure candidates on text of its own, ship the best; ladder does unless told"),
]
SelectFile = Annotated[
    list[Path] | None, typer.Option("--select-corpus", help="text to choose by; else half of the held-out documents")
]
ImatrixFile = Annotated[
    list[Path] | None,
    typer.Option("--imatrix-corpus", help="text for the imatrix; with --select else half of the calibration documents"),
]
MatchStock = Annotated[str | None, typer.Option("--match-stock", help="at most the size of that llama.cpp mix: Q4_K_M")]
PluginName = Annotated[
    list[str] | None, typer.Option("--plugin", help="plugin for the stage that it implements, by name or .py file; repeatable")
]
Setting = Annotated[
    list[str] | None, typer.Option("--set", help="any key of the pipeline: estimate.options.n_tokens=4096; repeatable")
]
Out = Annotated[Path | None, typer.Option("--out", help="folder of the run")]
Effort = Annotated[
    str | None,
    typer.Option(
        "--effort", help="fast (the default), normal: weights rounded with error feedback, high: block scales tuned after it"
    ),
]
Threads = Annotated[int | None, typer.Option("--threads", min=0, help="threads of the kernels; 0: all cores")]
AllowQuantized = Annotated[bool, typer.Option("--allow-quantized-source", help="go on with a source that is already quantized")]
Baseline = Annotated[
    str | None, typer.Option("--baseline", help="stock mix to compare with, or none; default: the one of like size")
]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON on stdout")]
LlamaCpp = Annotated[
    Path | None, typer.Option("--llama-cpp", help="folder of llama.cpp; else LLAMA_CPP_DIR, PATH, the managed one")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="warnings and errors only")]
Verbose = Annotated[bool, typer.Option("--verbose", help="show tracebacks of errors")]

_FIXED = ("target_bpw", "target_size", "match_stock", "fit_vram", "ctx", "kv_type")  # options of the budget plugin fixed


def given_flags(**values: Any) -> dict[tuple[str, ...], Any]:
    """Flags that were given, as paths into the configuration."""
    model, gguf = values["model"], values["gguf"]
    flags: dict[tuple[str, ...], Any] = {}
    if model is not None:
        flags["model", "gguf" if model.suffix == ".gguf" else "hf"] = model
    baseline = values["baseline"]
    if baseline is not None:
        flags.update(
            {("baseline", "plugin"): "none"} if baseline.lower() == "none" else {("baseline", "options", "ftype"): baseline}
        )
    paths: dict[tuple[str, ...], Any] = {
        ("model", "gguf"): gguf,
        ("model", "pre_tokenizer"): values["pre_tokenizer"],
        ("llama_cpp",): values["llama_cpp"],
        ("corpus", "calibration"): values["corpus"],
        ("corpus", "evaluation"): values["eval_corpus"],
        ("corpus", "selection"): values["select_corpus"],
        ("corpus", "imatrix"): values["imatrix_corpus"],
        ("select", "enabled"): values["select"],
        **{("budget", "options", key): values.get(key) for key in _FIXED},
        ("budget", "level"): values.get("level"),
        ("budget", "target_kld"): values.get("target_kld"),
        ("out",): values["out"],
        ("effort",): values["effort"],
        ("threads",): values["threads"],
        ("model", "allow_quantized_source"): values["allow_quantized"] or None,
    }
    flags |= limit_flags(**{key: values[key] for key in ("menu", "pin", "floor", "group", "gpu_budget", "gpu_tensors")})
    return {**flags, **{path: value for path, value in paths.items() if value not in (None, [])}}
