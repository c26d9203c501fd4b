"""What the tests of families ask of llama.cpp's programs, and the page that they make."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from families import TEXT, Family

from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.toolchain.finding import find_program
from bitclass3_core.toolchain.running import run_program

N_TOKENS = 8
_ATTEMPTS = 8
_DRY = re.compile(r"^\[ *\d+/ *\d+\] +(\S+) +- .*?type = +(\w+),.*?(?:\((\w+)\))?$", re.MULTILINE)
_PAGE = """\
# Architectures

Written by `BITCLASS3_UPDATE=1 pytest tests/integration/test_families.py`: every line is what that run found. A tiny random model of
each family is made from its transformers config, converted by llama.cpp's converter, allocated at 5 bits per weight (estimator
`uniform`, menu `k`, solver `ilp`), written by llama-quantize, read back tensor by tensor, and run by llama-completion and
llama-perplexity.

- **plugin**: the architecture plugin that a run takes, `generic` where the family needs nothing of its own.
- **tensors**: all of the GGUF; **quantizable**: those that get a type, the same that llama-quantize quantizes. In 27 stock mixes the
  solver `stock` gives each of them the type that llama-quantize gives it.
- **stacks**: 3-D tensors (experts, heads of latent attention), each with one type for the whole stack.
- **allocated, written**: tensors that got a type and have it in the file of llama-quantize; all others have the source's.
- **runs**: tokens that llama-completion generated from the file, with a finite perplexity.

| family | HF class | GGUF architecture | plugin | tensors | quantizable | stacks | allocated, written | runs |
|---|---|---|---|---|---|---|---|---|
{rows}

Matrices that keep the source's type, those that the recipe asks to keep included (llama-quantize alone turns a matrix whose rows hold
no block of 32 into F16), floors, and what the conversion does to HF's tensors:

| family | kept matrices | floors | conversion |
|---|---|---|---|
{notes}
"""


@dataclass(frozen=True)
class Row:
    """What the tests found out about a family."""

    plugin: str
    n_tensors: int
    n_quantizable: int
    n_stacks: int
    n_written: int
    n_tokens: int
    kept: tuple[str, ...]
    floors: Mapping[str, str]


def dry_run(llama_cpp: Path, model: Path, ftype: str) -> dict[str, str]:
    """The type that llama-quantize would give each tensor of a file in a stock mix, without an imatrix."""
    program = find_program("llama-quantize", llama_cpp).path
    output = run_program([str(program), "--dry-run", str(model), ftype])
    return {match[1]: (match[3] or match[2]).upper() for match in _DRY.finditer(output)}


def _until(command: list[str], pattern: str) -> str:
    """What the pattern's group finds in the program's output: its printing thread may lose the end, then it is run again."""
    for _ in range(_ATTEMPTS):
        if found := re.search(pattern, run_program(command)):
            return found[1]
    raise AssertionError(f"{command[0]} never printed what matches {pattern}")


def n_generated(llama_cpp: Path, model: Path) -> int:
    """Tokens that llama-completion generates when it is asked for eight: the first from the prompt, one of each later run."""
    program = find_program("llama-completion", llama_cpp).path
    asked = ["-p", "the cat sat", "-n", str(N_TOKENS), "--ignore-eos", "--temp", "0", "-no-cnv"]
    command = [str(program), "-m", str(model), *asked, "-c", "128", "-ngl", "0", "-t", "1", "--no-warmup", "--perf"]
    return 1 + int(_until(command, r"\beval time = .* (\d+) runs"))


def perplexity(llama_cpp: Path, model: Path) -> float:
    """llama-perplexity over seven or eight chunks of 64 tokens."""
    program = find_program("llama-perplexity", llama_cpp).path
    text = model.with_name("text.txt")
    text.write_text(" ".join(TEXT * 3))
    command = [str(program), "-m", str(model), "-f", str(text), "-c", "64", "-b", "64", "-ngl", "0", "-t", "1", "--no-warmup"]
    return float(_until(command, r"Final estimate: PPL = (\S+)"))


def kept_roles(model: GgufModel, quantizable: frozenset[str]) -> tuple[str, ...]:
    """Roles of the matrices that get no type, as the page names them."""
    kept = {info.role for name, info in model.tensors.items() if len(info.shape) > 1 and name not in quantizable}
    return tuple(sorted(kept))


def page(rows: Mapping[str, Row], families: Mapping[str, Family]) -> str:
    """The page of all families."""
    table, notes = [], []
    for name, family in families.items():
        row = rows[name]
        counts = f"{row.n_tensors} | {row.n_quantizable} | {row.n_stacks} | {row.n_written} of {row.n_quantizable}"
        table.append(f"| {name} | {family.model_class} | {family.arch} | {row.plugin} | {counts} | {row.n_tokens} tokens |")
        floors = ", ".join(f"`{role}` ≥ {q}" for role, q in sorted(row.floors.items()))
        kept = ", ".join(f"`{role}`" for role in row.kept)
        notes.append(f"| {name} | {kept or '-'} | {floors or '-'} | {family.note or '-'} |")
    return _PAGE.format(rows="\n".join(table), notes="\n".join(notes))
