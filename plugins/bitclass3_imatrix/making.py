"""Makes an imatrix by stock llama-imatrix: forward passes over the calibration text, for any architecture."""

import tempfile
from pathlib import Path

from pydantic import Field

from bitclass3_core.corpus import Corpus
from bitclass3_core.errors import ConfigError, ModelFileError, ToolchainError
from bitclass3_core.gguf.imatrix import Imatrix, read_imatrix
from bitclass3_core.model import Model
from bitclass3_core.options import PluginOptions
from bitclass3_core.progress import Progress
from bitclass3_core.toolchain.finding import find_program
from bitclass3_core.toolchain.running import ProgramFailed, Steps, last_lines, run_program

PROGRAM = "llama-imatrix"
_CHARS_PER_TOKEN = 12  # more than with any usual tokenizer: the program itself stops after the chunks that were asked for
_CHUNK = r"\[\d+\][\d.a-z-]+,"


class MakingOptions(PluginOptions):
    """How llama-imatrix runs, if no file is given."""

    llama_cpp: Path | None = Field(None, description="folder of llama.cpp; else LLAMA_CPP_DIR, PATH, the managed one")
    n_tokens: int = Field(65536, gt=0, description="calibration tokens at the most")
    n_ctx: int = Field(512, gt=1, description="tokens a chunk")
    threads: int = Field(0, ge=0, description="0: llama-imatrix's default")
    gpu_layers: int = Field(-1, ge=-1, description="layers on the GPU; -1: llama-imatrix's default")


def calibration_text(corpus: Corpus, n_tokens: int) -> str:
    """As many calibration documents as ``n_tokens`` tokens need, joined to one text. Raises ConfigError if there are none."""
    if not corpus.calibration:
        raise ConfigError("no calibration text; give --corpus FILE, or an imatrix with --set estimate.options.path=FILE")
    texts: list[str] = []
    n_chars = 0
    for doc in corpus.calibration:
        texts.append(doc.text)
        n_chars += len(doc.text)
        if n_chars > n_tokens * _CHARS_PER_TOKEN:
            break
    return "\n\n".join(texts)


def make_imatrix(model: Model, corpus: Corpus, options: MakingOptions, progress: Progress) -> Imatrix:
    """Run llama-imatrix on the model and the calibration text.

    Raises ModelFileError for too little text, ToolchainError if the program is missing or fails.
    """
    given = calibration_text(corpus, options.n_tokens)
    program = find_program(PROGRAM, options.llama_cpp)
    n_chunks = max(1, options.n_tokens // options.n_ctx)
    progress.say(f"estimate: {program.path} on at most {n_chunks} chunks of {options.n_ctx} tokens")
    with tempfile.TemporaryDirectory(prefix="bitclass3-imatrix-") as folder:
        text, out = Path(folder) / "calibration.txt", Path(folder) / "imatrix.gguf"
        text.write_text(given, encoding="utf-8")
        command = [str(program.path), "-m", str(model.path), "-f", str(text), "-o", str(out), "--process-output"]
        command += ["-c", str(options.n_ctx), "--chunks", str(n_chunks)]
        command += ["-t", str(options.threads)] if options.threads else []
        command += ["-ngl", str(options.gpu_layers)] if options.gpu_layers >= 0 else []
        progress.begin(f"{PROGRAM} {model.name}", n_chunks)
        try:
            output = run_program(command, listener=Steps(_CHUNK, progress.advance))
        except ProgramFailed as error:
            raise _as_error(error, model) from None
        finally:
            progress.end()
        if "you need at least" in output:
            raise ModelFileError(
                f"the calibration text is too short for llama-imatrix ({last_lines(output, 2)}); give more text or a smaller n_ctx"
            )
        if not out.is_file():
            raise ToolchainError(f"{PROGRAM} wrote no imatrix; its last lines: {last_lines(output)}")
        return read_imatrix(out)


def _as_error(error: ProgramFailed, model: Model) -> ToolchainError | ModelFileError:
    if "unknown model architecture" in error.output:
        return ModelFileError(f"this llama.cpp does not know the architecture {model.arch!r} of {model.path.name}; use a newer one")
    return ToolchainError(str(error))
