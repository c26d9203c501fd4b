"""Questions to the plugins that run llama.cpp: what they ask of the program, and what they read from it. A script stands in for it."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from perplexity_bench import CORPUS, N_CHUNKS, Bench
from perplexity_runs import RECORDED

from bitclass3_core.progress import Silent
from questions.asking import QWEN3, Answer, ask, corpus, environment, model_of, with_experts
from questions.costs import estimated, imatrix_file, of_sensitivity
from questions.files import exported, of_evaluation

# Notes its arguments and copies the file beside it to where it is told to write.
_COPIES = """
place = sys.argv[sys.argv.index("-o") + 1] if "-o" in sys.argv else next(part for part in sys.argv if part.endswith(".part"))
shutil.copy(os.path.join(folder, "made.gguf"), place)
"""
_SPEAKS = """
print("Once upon a time")
print("common_perf_print:        eval time = 10.94 ms / 23 runs ( 0.48 ms per token, 2102.95 tokens per second)", file=sys.stderr)
"""


@contextmanager
def stand_in(folder: Path, name: str, body: str) -> Iterator[list[str]]:
    """A program of that name for llama.cpp's; what it was called with is in the list at the end, without its folders."""
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    head = f"#!{sys.executable} -S\nimport json, os, shutil, sys\nfolder = os.path.dirname(os.path.abspath(__file__))\n"
    calls, given = place / "calls.txt", list[str]()
    (place / name).write_text(f"{head}open(folder + '/calls.txt', 'w').write(json.dumps(sys.argv[1:]))\n{body}", encoding="utf-8")
    (place / name).chmod(0o755)
    with environment("LLAMA_CPP_DIR", place):
        yield given
    given += [Path(part).name if Path(part).is_absolute() else part for part in json.loads(calls.read_text(encoding="utf-8"))]


def of_imatrix(folder: Path) -> Answer:
    """The powers of a file, and those of one that the program made."""
    model = model_of(QWEN3)
    answer = {"given": estimated("imatrix", QWEN3, {"path": imatrix_file(folder, model)})}
    (folder / "bin").mkdir()
    shutil.copy(folder / "given.gguf", folder / "bin" / "made.gguf")
    arguments = {
        "model": model,
        "architecture": ask("qwen3", "architecture", model=model),
        "corpus": corpus(),
        "progress": Silent(),
    }
    with stand_in(folder, "llama-imatrix", _COPIES) as called:
        made = ask("imatrix", "estimate", {"n_tokens": 1024, "n_ctx": 128, "threads": 1, "gpu_layers": 0}, **arguments)
    return {**answer, "made": of_sensitivity(made, [0]), "called with": called, "experts": of_experts(folder)}


def of_experts(folder: Path) -> Answer:
    """A file that counts what reached each expert."""
    model = with_experts(folder)
    arguments = {"model": model, "architecture": ask("generic", "architecture", model=model), "corpus": corpus()}
    return of_sensitivity(ask("imatrix", "estimate", {"path": imatrix_file(folder, model)}, **arguments, progress=Silent()))


def of_llama_quantize(folder: Path) -> Answer:
    """The arguments, and the tensor-type file."""
    exported("gguf", folder / "bin")[0].replace(folder / "bin" / "made.gguf")
    with stand_in(folder, "llama-quantize", _COPIES) as called:
        files = exported("llama-quantize", folder / "out", {"threads": 3})
    called = ["the file" if part.endswith(".part") else part for part in called]  # the number of the process is in its name
    return {
        "called with": called,
        "files": [path.name for path in files],
        "recipe": files[1].read_text(encoding="utf-8").splitlines(),
    }


def of_llama_perplexity(folder: Path) -> Answer:
    """Figures of a recorded output and of a made-up one, and the arguments of the runs."""
    bench = Bench(folder)
    bench.prints("a", RECORDED)
    arguments = {"reference": bench.reference, "candidates": bench.candidates, "architecture": None, "corpus": CORPUS}
    values = {"n_chunks": N_CHUNKS, "llama_cpp": bench.bin, "threads": 2, "gpu_layers": 0}
    answers = ask("llama-perplexity", "evaluate", values, **arguments, progress=Silent())
    called = [
        [part for part in call if "/" not in part and not part.endswith((".part", ".txt", ".logits"))] for call in bench.calls
    ]
    return {"called with": called, **{one.candidate: of_evaluation(one) for one in answers}}


def of_llama_completion(folder: Path) -> Answer:
    """The text that it writes."""
    (folder / "m.gguf").touch()
    run = SimpleNamespace(ours=SimpleNamespace(path=folder / "m.gguf"))
    with stand_in(folder, "llama-completion", _SPEAKS) as called:
        (path,) = ask("llama-completion", "report", {"prompt": "Once", "n_tokens": 3, "threads": 1}, run=run, out=folder)
    return {"called with": called, "text": path.read_text(encoding="utf-8").splitlines()}


QUESTIONS: dict[str, Callable[[Path], Answer]] = {
    "imatrix": of_imatrix,
    "llama-quantize": of_llama_quantize,
    "llama-perplexity": of_llama_perplexity,
    "llama-completion": of_llama_completion,
}
