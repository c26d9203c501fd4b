"""The flags that several commands share."""

from functools import partial
from pathlib import Path

from bitclass3_core.cli.constraints import menus, types
from bitclass3_core.cli.flags import Flag, Group, Keys


def source_key(path: Path) -> Keys:
    """The key of a source: a GGUF, or a folder or name of an HF model."""
    return {("model", "gguf" if path.suffix == ".gguf" else "hf"): path}


def _baseline(name: str) -> Keys:
    return {("baseline", "plugin"): "none"} if name.lower() == "none" else {("baseline", "options", "ftype"): name}


SOURCE = Group(
    "Source",
    (
        Flag("--model", Path, "HF folder (converted if there is no GGUF in it), name on the hub, or a BF16 GGUF file", source_key),
        Flag("--gguf", Path, "the BF16/F16 GGUF of --model, where it lies elsewhere", ("model", "gguf")),
        Flag(
            "--pre-tokenizer",
            str,
            "splitting rule of a tokenizer that llama.cpp's converter does not know: gpt-2, qwen2",
            ("model", "pre_tokenizer"),
        ),
        Flag(
            "--allow-quantized-source",
            bool,
            "go on with a source that is already quantized",
            ("model", "allow_quantized_source"),
            default=False,
        ),
    ),
)
TEXT = Group(
    "Text",
    (
        Flag("--corpus", list[Path], "calibration text (.txt, .jsonl); repeatable", ("corpus", "calibration")),
        Flag(
            "--eval-corpus",
            list[Path],
            "held-out text; without it the calibration documents are split",
            ("corpus", "evaluation"),
        ),
        Flag("--select-corpus", list[Path], "text to choose by; else half of the held-out documents", ("corpus", "selection")),
        Flag(
            "--imatrix-corpus",
            list[Path],
            "text for the imatrix; with --select else half of the calibration documents",
            ("corpus", "imatrix"),
        ),
    ),
)
TARGET = Group(
    "Target",
    (
        Flag("--target-bpw", float, "bits per weight over all tensors", ("budget", "options", "target_bpw")),
        Flag("--target-size", str, "size of the file, metadata included: 15.3GiB", ("budget", "options", "target_size")),
        Flag("--match-stock", str, "at most the size of that llama.cpp mix: Q4_K_M", ("budget", "options", "match_stock")),
        Flag("--level", str, "a level, whose bits the model's sensitivity decides: Q4_K_M", ("budget", "level")),
        Flag(
            "--fit-vram",
            str,
            "what weights, KV cache, state and buffers may take on the GPU: 24GiB",
            ("budget", "options", "fit_vram"),
        ),
        Flag("--ctx", int, "with --fit-vram: tokens of context; default 8192", ("budget", "options", "ctx"), min=1),
        Flag("--kv-type", str, "with --fit-vram: type of the KV cache: f16, q8_0, q4_0", ("budget", "options", "kv_type")),
        Flag(
            "--target-kld",
            float,
            "the smallest file whose measured mean KLD is within it, in nats per token",
            ("budget", "target_kld"),
        ),
    ),
)
CONSTRAINTS = Group(
    "Constraints",
    (
        Flag(
            "--menu",
            list[str],
            "types to choose from: default, k, cuda, cpu, metal, vulkan, all or Q4_K,Q6_K; REGEX=MENU for some tensors",
            menus,
        ),
        Flag("--pin", list[str], "REGEX=TYPE: the type of the tensors that match; repeatable", partial(types, "--pin", "pins")),
        Flag("--floor", list[str], "REGEX=TYPE: at least that type; repeatable", partial(types, "--floor", "floors")),
        Flag(
            "--group",
            list[str],
            "tensors that share a type: gate_up, qkv, or a REGEX with captures; repeatable",
            ("qtypes", "groups"),
        ),
        Flag("--gpu-budget", str, "bytes of the tensors on the GPU: 24GiB", ("gpu", "budget")),
        Flag(
            "--gpu-tensors",
            list[str],
            "REGEX: what lies on the GPU; default: all but experts; repeatable",
            ("gpu", "tensors"),
        ),
    ),
)
PLUGINS = Group(
    "Plugins",
    (
        Flag("--plugin", list[str], "plugin for the stage that it implements, by name or .py file; repeatable", "plugins"),
        Flag("--set", list[str], "any key of the pipeline: estimate.options.n_tokens=4096; repeatable", "settings"),
    ),
)
RUN = Group(
    "Run",
    (
        Flag("--out", Path, "folder of the run", ("out",)),
        Flag("--baseline", str, "stock mix to compare with, or none; default: the one of like size", _baseline),
        Flag(
            "--select/--no-select",
            bool,
            "measure candidates on text of their own, ship the best; only ladder does so by default",
            ("select", "enabled"),
        ),
        Flag(
            "--effort",
            str,
            "fast (the default), normal: weights rounded with error feedback, high: block scales tuned after it",
            ("effort",),
        ),
        Flag("--threads", int, "threads of the kernels; 0: all cores", ("threads",), min=0),
        Flag("--llama-cpp", Path, "folder of llama.cpp; else LLAMA_CPP_DIR, PATH, the managed one", ("llama_cpp",)),
    ),
)
OUTPUT = Group(
    "Output",
    (
        Flag("--json", bool, "print the result as JSON on stdout", "json", default=False),
        Flag("--quiet", bool, "warnings and errors only", "quiet", default=False),
        Flag("--verbose", bool, "show tracebacks of errors", "verbose", default=False),
    ),
)
