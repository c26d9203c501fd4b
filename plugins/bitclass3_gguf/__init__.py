"""The GGUF exporter that needs no llama.cpp: ggml's kernels in this process, one tensor at a time, guided by the imatrix.

With ``rounding = "feedback"`` it rounds better than llama-quantize can, in the same formats (``feedback.py``). With ``tuning_steps`` it tunes
the scales of all tensors together (``scale_tuner.py``). A stock mix is written as llama-quantize would, whatever the options.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bitclass3_core import hookimpl
from bitclass3_core.corpus import Corpus
from bitclass3_core.files import require_room
from bitclass3_core.gguf.recipe import nearest_ftype
from bitclass3_core.gguf.rounding_gains import SUFFIX, save_gains
from bitclass3_core.gguf.writer import gguf_sink, tensor_order
from bitclass3_core.layout import file_bytes
from bitclass3_core.machine import default_threads
from bitclass3_core.model import Architecture, Model
from bitclass3_core.problem import Allocation
from bitclass3_core.progress import Progress
from bitclass3_core.qtypes import qtype
from bitclass3_core.sensitivity import Sensitivity
from bitclass3_gguf.options import ANSWERS, Options
from bitclass3_gguf.plain import quantized_tensor
from bitclass3_gguf.rounded import Export, RoundedTensors, kept_in, round_with_feedback
from bitclass3_gguf.tuned import tune_rounded

BITCLASS3_ANSWERS = ANSWERS

__all__ = ["Options", "bitclass3_export", "quantized_tensor", "write_file"]


def write_file(
    model: Model,
    allocation: Allocation,
    sensitivity: Sensitivity,
    out: Path,
    stem: str,
    options: Options,
    progress: Progress,
    rounded: RoundedTensors | None = None,
) -> list[Path]:
    """Write ``out/stem.gguf``: each tensor as it was ``rounded`` before, else by ggml's kernel.

    Raises UnusableTypeError or ModelFileError with the tensor's name where it cannot be quantized.
    """
    path = out / f"{stem}.gguf"
    require_room(out, file_bytes(model, allocation.qtypes), path.name)
    progress.begin(f"export {path.name}", sum(info.n_params for info in model.tensors.values()))
    ftype = nearest_ftype(model, allocation.qtypes)
    n_chunks = sensitivity.n_tokens // max(1, sensitivity.n_ctx)
    with (
        ThreadPoolExecutor(default_threads(options.threads)) as pool,
        gguf_sink(path, model, dict(allocation.qtypes), ftype, len(sensitivity.tensors), n_chunks) as sink,
    ):
        for info in tensor_order(model):
            q = qtype(allocation.qtypes.get(info.name, info.dtype))
            data = rounded.load(info.name) if rounded else None
            sink.write(quantized_tensor(model, info.name, q, sensitivity, pool) if data is None else data)
            progress.advance(info.n_params)
    progress.end()
    return [path]


@hookimpl
def bitclass3_export(
    model: Model,
    architecture: Architecture,
    allocation: Allocation,
    sensitivity: Sensitivity,
    corpus: Corpus,
    out: Path,
    stem: str,
    options: Options,
    progress: Progress,
) -> list[Path]:
    """Write ``out/stem.gguf``, rounded as the options say; after feedback and tuning also what they gained."""
    with_feedback, is_tuned = options.rounding == "feedback", options.tuning_steps > 0
    if allocation.solver == "stock" or not (with_feedback or is_tuned):
        return write_file(model, allocation, sensitivity, out, stem, options, progress)
    export = Export(model, architecture, allocation, sensitivity, corpus, options, progress)
    rounded = kept_in(out, export)
    if with_feedback:
        round_with_feedback(export, rounded)
    tuned, tuning = rounded, None
    if is_tuned:
        tuned, tuning = tune_rounded(export, rounded)
    files = write_file(model, allocation, sensitivity, out, stem, options, progress, tuned)
    files.append(out / f"{stem}{SUFFIX}")
    save_gains(files[-1], rounded.gains(), tuning)
    if is_tuned:
        tuned.clear()
    if not options.keep_rounded:
        rounded.clear()
    return files
