"""Report ``llama-completion``: stock llama.cpp loads the file and generates a few tokens, which shows that the file runs."""

import re
import shlex
from pathlib import Path

from pydantic import Field

from bitclass3_core import hookimpl
from bitclass3_core.errors import ModelFileError, ToolchainError
from bitclass3_core.files import write_text
from bitclass3_core.options import PluginOptions
from bitclass3_core.results import Run
from bitclass3_core.toolchain.finding import find_program
from bitclass3_core.toolchain.running import ProgramFailed, capture_program, last_lines

BITCLASS3_ANSWERS = "2ec31c0ebf92"  # changes when the answers do

PROGRAM = "llama-completion"
SAMPLE = "sample.txt"
_ATTEMPTS = 3  # on a busy machine llama.cpp can end before its printing thread has printed (llama.cpp issue 22142)
_SPEED = re.compile(r"^.*\beval time = .*?([\d.]+) tokens per second", re.MULTILINE)


class Options(PluginOptions):
    """The prompt, and how the program runs."""

    llama_cpp: Path | None = Field(None, description="folder of llama.cpp; else LLAMA_CPP_DIR, PATH, the managed one")
    prompt: str = Field("The", description="beginning that the model goes on with", min_length=1)
    n_tokens: int = Field(32, gt=0, description="tokens to generate, the likeliest each time")
    threads: int = Field(0, ge=0, description="0: its default")
    gpu_layers: int = Field(-1, ge=-1, description="layers on the GPU; -1: its default")


def generate(gguf: Path, options: Options) -> tuple[list[str], str, str]:
    """(command, prompt with the generated text, what the program logged).

    Raises ModelFileError if this llama.cpp cannot load or run the file, ToolchainError if the program is missing or says nothing.
    """
    program = find_program(PROGRAM, options.llama_cpp)
    command = [str(program.path), "-m", str(gguf), "-p", options.prompt, "-n", str(options.n_tokens), "-no-cnv", "--temp", "0"]
    command += ["-c", str(len(options.prompt) + options.n_tokens + 64)]
    command += ["-t", str(options.threads)] if options.threads else []
    command += ["-ngl", str(options.gpu_layers)] if options.gpu_layers >= 0 else []
    text = log = ""
    for _ in range(_ATTEMPTS):
        try:
            text, log = capture_program(command)
        except ProgramFailed as error:
            raise ModelFileError(f"{gguf.name} does not run in llama.cpp: {error}") from None
        if text.strip():
            break
    else:
        raise ToolchainError(f"{program.name} generated nothing from {gguf.name}; its last lines: {last_lines(log)}")
    return command, text.strip("\n"), log


@hookimpl
def bitclass3_report(run: Run, out: Path, options: Options) -> list[Path]:
    """Write ``sample.txt``: the command, the text, and the tokens a second."""
    if run.ours.path is None:
        return []
    command, text, log = generate(run.ours.path, options)
    speeds = _SPEED.findall(log)
    speed = f"\n\n{speeds[-1]} tokens per second" if speeds else ""
    write_text(out / SAMPLE, f"$ {shlex.join([Path(command[0]).name, '-m', run.ours.path.name, *command[3:]])}\n\n{text}{speed}\n")
    return [out / SAMPLE]
