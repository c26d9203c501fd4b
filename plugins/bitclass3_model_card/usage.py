"""Usage: commands to download the file and run it in several programs."""

import shlex
from pathlib import Path

from bitclass3_core.constraints.gpu import override_name
from bitclass3_core.results import Run
from bitclass3_core.sources.hub import is_hub_name
from bitclass3_model_card.facts import file_name
from bitclass3_model_card.text import code

# GGUF architectures of the families that Ollama's guide to importing models names (Llama, Mistral, Gemma, Phi3, Qwen, Command R)
_OLLAMA = frozenset({"llama", "gemma", "gemma2", "gemma3", "phi3", "qwen2", "qwen3", "command-r"})


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
    """The section: commands to download and load the file."""
    if run.ours.path is None:
        return "## Usage\n\nThis run wrote no GGUF."
    file = shlex.quote(file_name(run.ours))
    fetch = [_shell(f"hf download {repo} {file} --local-dir .")] if repo and is_hub_name(repo) else []
    chat = "" if run.model.metadata.get("tokenizer.chat_template") is None else " -cnv"
    return "\n\n".join(
        [
            "## Usage",
            *fetch,
            "With llama.cpp:",
            _shell(f"llama-cli    -m {file}{chat}", f"llama-server -m {file} --port 8080"),
            *_split(run, run.ours.path, file),
            "With LM Studio:",
            _shell(f"lms import {file}"),
            *_ollama(run),
        ]
    )
