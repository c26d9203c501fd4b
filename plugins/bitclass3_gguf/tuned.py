"""A file's tensors with tuned scales, kept on disk until the file is written.

``rounded.py`` has the tensors that the tuning begins with, ``scale_tuner.py`` tunes them.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from bitclass3_core.errors import ModelFileError
from bitclass3_core.files import digest_of
from bitclass3_core.gguf.rounding_gains import TuningGain, load_tuning, save_gains
from bitclass3_core.machine import default_threads
from bitclass3_core.qtypes import QType, qtype
from bitclass3_gguf.codes import Bytes
from bitclass3_gguf.plain import quantized_tensor
from bitclass3_gguf.rounded import Export, RoundedTensors


def _gathered(export: Export, qtypes: Mapping[str, QType], rounded: RoundedTensors) -> dict[str, Bytes]:
    """The bytes of every quantized tensor: as it was rounded before, else by ggml's kernel."""
    found: dict[str, Bytes] = {}
    with ThreadPoolExecutor(default_threads(export.options.threads)) as pool:
        for name, q in qtypes.items():
            data = rounded.load(name)
            found[name] = quantized_tensor(export.model, name, q, export.sensitivity, pool) if data is None else data
    return found


def tune_rounded(export: Export, rounded: RoundedTensors) -> tuple[RoundedTensors, TuningGain | None]:
    """Every quantized tensor of the file, with tuned scales if that gains anything; and what it gained.

    Tensors that ``rounded`` does not have are rounded by ggml's kernels first. All tensors are in memory twice: as bytes, and as weights
    of the torch model. Raises UnusableTypeError for a tensor that cannot have its type, ModelFileError for too little text, and the errors
    of ``load_torch_model`` where there is no HF folder.
    """
    from bitclass3_torch.model import load_torch_model
    from bitclass3_torch.tokens import token_chunks

    options, progress = export.options, export.progress
    # beside those that they were made from
    parts = {"rounded": rounded.digest, "steps": options.tuning_steps, "rate": options.tuning_rate}
    kept = RoundedTensors(rounded.folder, digest_of(parts))
    qtypes = {name: q for name, given in export.allocation.qtypes.items() if not (q := qtype(given)).is_float}
    if all(kept.has(name) for name in qtypes):
        return kept, load_tuning(kept.gain_path("tuning"))
    loaded = load_torch_model(export.model, export.architecture, options.device, options.dtype)
    from bitclass3_gguf.scale_tuner import N_JUDGED, tune_scales

    n_tokens = (options.tuning_steps + N_JUDGED) * options.n_ctx
    chunks, _ = token_chunks(loaded.tokenizer, export.corpus.calibration, n_tokens, options.n_ctx, "calibration", at_most=True)
    if len(chunks) < 2:
        raise ModelFileError(
            f"the calibration text has fewer than {2 * options.n_ctx:,} tokens: too few to tune scales and to judge it; give more text or set tuning_steps = 0"
        )
    data = _gathered(export, qtypes, rounded)
    tuned = tune_scales(loaded, export.architecture, data, qtypes, chunks, options.tuning_steps, options.tuning_rate, progress)
    progress.say(tuned_line(tuned.gain))
    save_gains(kept.gain_path("tuning"), {}, tuned.gain)  # first: where the last tensor is, all is there
    for name in qtypes:
        kept.save(name, tuned.data[name])
    return kept, tuned.gain


def tuned_line(gain: TuningGain) -> str:
    """What the tuning gained, for the terminal."""
    line = f"scales tuned: KLD {gain.before:.4f} before, {gain.after:.4f} after, on calibration text that they were not tuned on"
    return line if gain.is_kept else f"{line}; left as they were"
