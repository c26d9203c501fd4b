"""What the quantization of activations adds to the KLD: one text, one set of weights, torch beside llama-perplexity.

llama.cpp multiplies quantized weights with activations that it quantizes to 8 bits; torch multiplies the dequantized weights with
float32 activations. So each file is measured three times on the same tokens, against the same F32 reference: in torch, in llama.cpp
as an F32 file of its dequantized weights, and in llama.cpp as it is. The first two should agree; the third less the second is what
the activations cost. Differences are paired, by groups of chunks. Prints a Markdown table.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import bitclass3_gguf
import bitclass3_llama_perplexity as llama_perplexity
import bitclass3_torch_evaluator
import numpy as np
from bitclass3_qwen35 import bitclass3_architecture
from numpy.typing import NDArray

from bitclass3_core.corpus import Corpus, document, read_documents
from bitclass3_core.evaluation import Evaluation, group_bounds, grouped_error
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.writer import gguf_sink, tensor_order
from bitclass3_core.model import Architecture, Model
from bitclass3_core.problem import Allocation
from bitclass3_core.progress import Plain
from bitclass3_core.sensitivity import Sensitivity

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "tiny-qwen35"
N_CTX = 512
QTYPES = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q4_0", "Q3_K")


def as_f32(model: Model, path: Path) -> GgufModel:
    """The model's weights, dequantized, as an F32 GGUF."""
    with gguf_sink(path, model, dict.fromkeys(model.tensors, "F32"), "F32") as sink:
        for info in tensor_order(model):
            sink.write(model.read(info.name).reshape(-1).view(np.uint8))
    return GgufModel(path)


def quantized(model: GgufModel, architecture: Architecture, qtype: str, out: Path) -> GgufModel:
    """Every quantizable tensor at one type, written without an imatrix."""
    allocation = Allocation(dict.fromkeys(architecture.quantizable, qtype))
    nothing, options = Sensitivity({}, "none", 0, 0, ""), bitclass3_gguf.Options.model_validate({})
    return GgufModel(bitclass3_gguf.write_file(model, allocation, nothing, out, qtype, options, Plain(quiet=True))[0])


def group_means(evaluation: Evaluation) -> NDArray[np.float64]:
    """Mean KLD of each group of chunks, whichever evaluator measured it."""
    if evaluation.token_kld is None:
        return np.asarray(evaluation.group_kld, np.float64)
    chunks = evaluation.token_kld.astype(np.float64).reshape(evaluation.n_chunks, -1).mean(axis=1)
    bounds = group_bounds(evaluation.n_chunks)
    return np.add.reduceat(chunks, bounds[:-1]) / np.diff(bounds)


def difference(a: Evaluation, b: Evaluation) -> tuple[float, float]:
    """(mean KLD of ``a`` less that of ``b`` on the same tokens, its standard error), whichever evaluators measured them."""
    return a.mean_kld - b.mean_kld, grouped_error(group_means(a) - group_means(b), a.n_chunks)


def rows(evaluations: Iterable[tuple[str, Evaluation, Evaluation, Evaluation]]) -> list[str]:
    """The table: torch, llama.cpp on F32 weights, llama.cpp on the file, and the two differences."""
    lines = [
        "| type | torch | llama-perplexity, F32 of the same weights | less torch | llama-perplexity, the file | less its F32: activations |",
        "|---|---|---|---|---|---|",
    ]
    for qtype, torch, plain, file in evaluations:
        klds = [f"{e.mean_kld:.5f} ± {e.se_kld:.5f}" for e in (torch, plain, file)]
        less = ["{:+.5f} ± {:.5f}".format(*difference(a, b)) for a, b in ((plain, torch), (file, plain))]
        lines.append(f"| {qtype} | {klds[0]} | {klds[1]} | {less[0]} | {klds[2]} | {less[1]} |")
    return lines


def measured(
    out: Path, qtypes: tuple[str, ...], n_chunks: int, llama_cpp: Path | None
) -> list[tuple[str, Evaluation, Evaluation, Evaluation]]:
    """Every type's three evaluations."""
    source = GgufModel(EXAMPLE / "model-bf16.gguf", EXAMPLE)
    architecture = bitclass3_architecture(model=source)
    text = "\n\n".join(doc.text for doc in read_documents(EXAMPLE / "held-out" / "evaluation.jsonl"))
    corpus = Corpus((), (document(text, "all"),))  # one document: torch puts an end token between two
    files: list[Model] = [quantized(source, architecture, qtype, out) for qtype in qtypes]
    plain = [as_f32(file, out / f"{file.path.stem}-f32.gguf") for file in files]
    reference, progress = as_f32(source, out / "source-f32.gguf"), Plain()
    torch = {"n_tokens": n_chunks * N_CTX, "n_ctx": N_CTX, "device": "cpu", "dtype": "float32", "activations": "none"}
    in_torch = bitclass3_torch_evaluator.bitclass3_evaluate(
        source, files, architecture, corpus, bitclass3_torch_evaluator.Options.model_validate(torch), progress
    )
    llama = llama_perplexity.Options.model_validate({"n_chunks": n_chunks, "n_ctx": N_CTX, "llama_cpp": llama_cpp})
    in_llama = llama_perplexity.bitclass3_evaluate(reference, [*plain, *files], corpus, llama, progress)
    return list(zip(qtypes, in_torch, in_llama[: len(files)], in_llama[len(files) :], strict=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "out" / "activation-quantization", help="folder for the files")
    parser.add_argument("--n-chunks", type=int, default=96, help="chunks of 512 tokens (default 96)")
    parser.add_argument(
        "--llama-cpp", type=Path, default=None, help="folder of llama.cpp; else LLAMA_CPP_DIR, PATH, the managed one"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = measured(arguments.out, QTYPES, arguments.n_chunks, arguments.llama_cpp)
    print(f"{found[0][1].n_tokens:,} scored tokens, {found[0][2].evaluator}", file=sys.stderr)
    print("\n".join(rows(found)))


if __name__ == "__main__":
    main()
