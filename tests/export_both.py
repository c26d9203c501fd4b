"""Writes recipes of many types with both exporters, for a process whose kernels are those of ``$LLAMA_CPP_DIR``.

usage: python export_both.py OUT GGUF...      writes OUT/NAME/ours-0.gguf, OUT/NAME/stock-0.gguf, ...
"""

import sys
from pathlib import Path

import bitclass3_gguf
import bitclass3_llama_quantize
import numpy as np

from bitclass3_core.corpus import Corpus
from bitclass3_core.gguf.imatrix import write_imatrix
from bitclass3_core.gguf.kernels import library
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.names import quantizable_tensors
from bitclass3_core.model import Architecture, Model, TensorInfo
from bitclass3_core.problem import Allocation
from bitclass3_core.progress import Silent
from bitclass3_core.qtypes import WRITABLE_QTYPES, qtype
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity

N_RECIPES = 2
_SLOW = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S")  # ggml makes tables for them, 16 seconds in each process
_STEP = 5


def many_types(model: Model, number: int) -> dict[str, str]:
    """Recipe ``number``: each tensor, the smallest first, gets the next type that its rows accept; the slow types are in the first."""
    fast = [q for q in WRITABLE_QTYPES if q not in _SLOW]
    turned = fast[_STEP * number :] + fast[: _STEP * number]
    wanted = [*(() if number else _SLOW), *turned, *turned]
    qtypes = {}
    for name in sorted(quantizable_tensors(model), key=lambda name: (model.tensors[name].n_params, name)):
        fitting = next(q for q in wanted if model.tensors[name].accepts(qtype(q)))
        wanted.remove(fitting)
        qtypes[name] = fitting
    return qtypes


def uneven(model: Model) -> Sensitivity:
    """A sensitivity whose columns differ, each expert's from another's: an imatrix that is lost or mixed up changes bytes."""
    rng = np.random.default_rng(0)

    def powers(info: TensorInfo) -> Powers:
        shape = (info.n_experts, info.n_in) if len(info.shape) == 3 else (info.n_in,)
        return Powers(rng.lognormal(0, 1.5, shape).astype(np.float32))

    tensors = {name: TensorSensitivity(linear=powers(model.tensors[name])) for name in sorted(quantizable_tensors(model))}
    return Sensitivity(tensors, "uneven", n_tokens=4096, n_ctx=512, corpus="none")


def export_both(gguf: Path, out: Path) -> None:
    """Write every recipe of a model with both exporters."""
    out.mkdir()
    model = GgufModel(gguf)
    sensitivity, generic = uneven(model), Architecture("generic", quantizable_tensors(model))
    write_imatrix(out / "imatrix.gguf", sensitivity, "bitclass3")
    for number in range(N_RECIPES):
        common = {"model": model, "allocation": Allocation(many_types(model, number)), "out": out, "progress": Silent()}
        ours, stock = bitclass3_gguf.Options(rounding="plain"), bitclass3_llama_quantize.Options()
        known = {"architecture": generic, "sensitivity": sensitivity, "corpus": Corpus((), ())}
        bitclass3_gguf.bitclass3_export(**common, **known, stem=f"ours-{number}", options=ours)
        bitclass3_llama_quantize.bitclass3_export(**common, stem=f"stock-{number}", options=stock)


if __name__ == "__main__":
    for path in sys.argv[2:]:
        export_both(Path(path), Path(sys.argv[1]) / Path(path).stem)
    print(library().path)
