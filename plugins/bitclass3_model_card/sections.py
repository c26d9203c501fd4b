"""The short sections: title and first paragraph, usage, plots, disclaimer."""

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bitclass3_core.constraints.gpu import override_name
from bitclass3_core.model import total_params
from bitclass3_core.results import Run
from bitclass3_core.sources.hub import is_hub_name
from bitclass3_model_card.comparison import Figure
from bitclass3_model_card.tables import made
from bitclass3_model_card.text import code, counted, file_name, megabytes, n_weights, number, plain

# GGUF architectures of the families that Ollama's guide to importing models names (Llama, Mistral, Gemma, Phi3, Qwen, Command R)
_OLLAMA = frozenset({"llama", "gemma", "gemma2", "gemma3", "phi3", "qwen2", "qwen3", "command-r"})
_CAPTIONS = {
    "size_kld.png": "File size against mean KLD",
    "levels.png": "Types in every file",
    "types.png": "Type of every tensor",
    "sensitivity.png": "Sensitivity score of every tensor",
}


def _what_is_here(run: Run) -> str:
    """A sentence on the files of a ladder, or on the types of the one file."""
    if files := made(run):
        low, high = (pick(files, key=lambda candidate: candidate.file_bytes) for pick in (min, max))
        return (
            f"Here are {counted(len(files), 'file')} from one measurement, {number(low.bpw, 3)} to {number(high.bpw, 3)} bits per weight"
            f" (bpw), {megabytes(low.file_bytes)} to {megabytes(high.file_bytes)}."
        )
    qtypes = run.ours.allocation.qtypes
    return (
        f"Here {counted(len(qtypes), 'tensor')} {'shares' if len(qtypes) == 1 else 'share'}"
        f" {counted(len(set(qtypes.values())), 'quantization type')}: {number(run.ours.bpw, 3)} bits per weight (bpw),"
        f" {megabytes(run.ours.file_bytes)}."
    )


def intro_section(run: Run, title: str | None) -> str:
    """The heading and the first paragraph."""
    name = plain(run.model.name)
    weights = Counter[str]()
    for info in run.model.tensors.values():
        weights[info.dtype] += info.n_params
    architecture = f"{code(run.model.arch)} architecture, " if run.model.arch else ""
    return (
        f"# {plain(title) if title else f'{name}: bitclass3 mixed-precision GGUF'}\n\n"
        f"Mixed-precision GGUF quantization of {name} ({architecture}{n_weights(total_params(run.model))} weights, source in"
        f" {max(weights, key=weights.__getitem__)}). bitclass3 measures how much every weight matrix matters, prices each one at every"
        f" type on its menu with ggml's own kernels, and solves for the type of every tensor at a given size. {_what_is_here(run)}"
    )


def _shell(*lines: str) -> str:
    return "```sh\n" + "\n".join(lines) + "\n```"


def _ollama(run: Run) -> list[str]:
    if run.model.arch not in _OLLAMA or " " in file_name(run.ours):
        return []
    name = shlex.quote(run.model.name.lower().replace(" ", "-"))
    modelfile = f"With Ollama, a `Modelfile`:\n\n```\nFROM ./{file_name(run.ours)}\n```"
    return [modelfile, _shell(f"ollama create {name} -f Modelfile", f"ollama run {name}")]


def _split(run: Run, path: Path, file: str) -> list[str]:
    """How to load the file split between GPU and CPU; empty if it was not made for that."""
    gpu = run.config.get("gpu") or {}
    if not gpu.get("budget"):
        return []
    override = shlex.quote(override_name(path.stem))
    made_for = f"Made for a GPU that holds {code(str(gpu['budget']))} of its tensors, the others in the CPU's memory:"
    return [made_for, _shell(f'llama-server -m {file} -ngl 999 -ot "$(cat {override})"')]


def usage_section(run: Run, repo: str | None) -> str:
    """The section: commands to download the file and to load it in several programs."""
    if run.ours.path is None:
        return "## Usage\n\nThis run wrote no GGUF."
    file = shlex.quote(file_name(run.ours))
    chat = "" if run.model.metadata.get("tokenizer.chat_template") is None else " -cnv"
    parts = [
        "## Usage",
        *([_shell(f"hf download {repo} {file} --local-dir .")] if repo and is_hub_name(repo) else []),
        "With llama.cpp:",
        _shell(f"llama-cli    -m {file}{chat}", f"llama-server -m {file} --port 8080"),
        *_split(run, run.ours.path, file),
        "With LM Studio:",
        _shell(f"lms import {file}"),
        *_ollama(run),
    ]
    return "\n\n".join(parts)


def plots_section(out: Path) -> str:
    """The plots in ``out/plots``; empty if there are none."""
    names = {path.name for path in (out / "plots").glob("*.png")}
    ordered = [name for name in _CAPTIONS if name in names] + sorted(names - set(_CAPTIONS))
    images = [f"![{_CAPTIONS.get(name, plain(Path(name).stem))}](<plots/{name}>)" for name in ordered]
    return "\n\n".join(["## Plots", *images]) if images else ""


def disclaimer_section(run: Run, compared: bool, published: Sequence[Figure]) -> str:
    """Whose figures these are, and that the project is independent."""
    said = [f"Independent project. Not affiliated with or endorsed by the authors of {plain(run.model.name)} or of llama.cpp."]
    if any(candidate.evaluation for candidate in run.candidates):
        said += ["The measured figures hold for the evaluation text and the versions named above; other text gives other figures."]
    if compared:
        said += ["Figures of files made by others are our own measurements of the files named; they may have changed since."]
    if published:
        said += ["Published figures are their publishers' own, taken as found."]
    return "## Disclaimer\n\n" + " ".join(said)
