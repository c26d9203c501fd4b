"""A stand-in for llama-perplexity, with models that it measures."""

import json
import sys
from pathlib import Path
from typing import Any

from bitclass3_llama_perplexity import Options, bitclass3_evaluate
from gguf_files import write_gguf
from perplexity_runs import N_SCORED, made_up, table

from bitclass3_core.corpus import Corpus, document
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.progress import Silent

N_VOCAB, N_CTX, N_CHUNKS = 4, 512, 16
CHUNK_BYTES = N_SCORED * (N_VOCAB + 4) * 2
N_BYTES = 20 + N_CHUNKS * (4 * N_CTX + CHUNK_BYTES)
CORPUS = Corpus((), tuple(document(f"document {number}\n" * 400, "text") for number in range(8)))

# Writes a base file as the real program does and prints its progress; over a model, prints what lies under that model's name.
PROGRAM = """#!{python} -S
import json, os, signal, struct, sys, time
folder, arguments = os.path.dirname(os.path.abspath(__file__)), sys.argv[1:]
if "--version" in arguments:
    print("version: 1 (abc)")
    sys.exit()
with open(os.path.join(folder, "calls.txt"), "a") as log:
    log.write(json.dumps(arguments) + "\\n")
def value(name, otherwise=None):
    return arguments[arguments.index(name) + 1] if name in arguments else otherwise
def say(text):
    sys.stdout.write(text)
    sys.stdout.flush()
n_ctx, n_vocab, n_chunks = int(value("-c")), {n_vocab}, {n_chunks}
path, stem = value("--kl-divergence-base"), os.path.basename(value("-m")).removesuffix(".gguf")
chunk = bytes((n_ctx - 1 - n_ctx // 2) * (2 * ((n_vocab + 1) // 2) + 4) * 2)
kld = "--kl-divergence" in arguments
{before}
if kld:
    open(path, "rb").close()
    say(open(os.path.join(folder, stem + ".txt")).read())
else:
    n_chunks = min(n_chunks, int(value("--chunks")))
    with open(path, "wb", buffering=0) as file:
        file.write(struct.pack("<8siii", b"_logits_", n_ctx, n_vocab, n_chunks) + bytes(4 * n_ctx * n_chunks))
        for number in range(1, n_chunks + 1):
            {each}
            file.write(chunk)
            say(f"[{{number}}]9.1234,")
    say("\\nFinal estimate: PPL = 9.1234 +/- 0.50683\\n")
{after}
"""


class Recorder(Silent):
    """Keeps what was said and counted."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []
        self.bars: list[list[Any]] = []

    def begin(self, label: str, total: float) -> None:
        self.bars.append([label, total, 0])

    def advance(self, units: float = 1.0) -> None:
        self.bars[-1][2] += units

    def say(self, line: str) -> None:
        self.said.append(line)

    def warn(self, line: str) -> None:
        self.warned.append(line)


class Bench:
    """A reference, two candidates of it, and the program with what it prints for each."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.out = folder / "bin", folder / "out"
        self.evaluation = self.out / "evaluation"
        self.bin.mkdir()
        self.out.mkdir()
        self.reference = GgufModel(write_gguf(folder / "source.gguf"))
        self.values = {"a": made_up(N_CHUNKS), "b": made_up(N_CHUNKS)}
        self.values["b"]["kld"] = self.values["b"]["kld"] * 1.5
        self.candidates = [GgufModel(write_gguf(self.out / f"{name}.gguf")) for name in self.values]
        for name, values in self.values.items():
            self.prints(name, table(**values))
        self.program()
        self.progress = Recorder()

    def prints(self, name: str, text: str) -> None:
        """What the program prints over that candidate."""
        (self.bin / f"{name}.txt").write_text(text)

    def program(self, before: str = "", each: str = "", after: str = "", n_chunks: int = N_CHUNKS, n_vocab: int = N_VOCAB) -> None:
        """Another program: lines that it runs before, after, and for each chunk of the base."""
        path = self.bin / "llama-perplexity"
        lines = {"before": before, "each": each or "pass", "after": after}
        path.write_text(PROGRAM.format(python=sys.executable, n_chunks=n_chunks, n_vocab=n_vocab, **lines))
        path.chmod(0o755)

    def evaluate(self, corpus: Corpus = CORPUS, **options: Any) -> list[Any]:
        options = {"n_chunks": N_CHUNKS, **options}
        return bitclass3_evaluate(
            reference=self.reference,
            candidates=self.candidates,
            corpus=corpus,
            options=Options(**options),
            progress=self.progress,
        )

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of every call but ``--version``."""
        log = self.bin / "calls.txt"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    @property
    def n_base_calls(self) -> int:
        return len([call for call in self.calls if "--kl-divergence" not in call])

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.evaluation.iterdir()) if self.evaluation.exists() else []
