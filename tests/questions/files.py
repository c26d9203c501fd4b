"""Questions to the exporters that need no program, and to the evaluator in torch."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bitclass3_core.evaluation import Evaluation
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.model import Model
from bitclass3_core.problem import Allocation
from bitclass3_core.progress import Silent
from questions.asking import ON_CPU, QWEN3, QWEN35, SEED_QWEN35, Answer, ask, corpus, made_up, model_of, sums

EXACT = {"blk.0.ffn_up.weight": "Q8_0", "blk.0.ffn_down.weight": "Q4_0"}  # the same bytes on every machine
SUMMED = {"blk.3.attn_v.weight": "Q4_K", "blk.3.attn_k.weight": "IQ4_XS"}
COARSE = {"blk.0.attn_qkv.weight": "Q4_K", "blk.0.ffn_up.weight": "Q4_0", "blk.3.ffn_down.weight": "Q2_K"}
SMALL = {"blk.0.attn_q.weight": "Q8_0", "blk.1.ffn_down.weight": "Q4_0"}


def export(
    plugin: str, architecture: str, model: Model, qtypes: Mapping[str, str], out: Path, values: Mapping[str, Any]
) -> list[Path]:
    """The files of an allocation: all tensors that ``qtypes`` does not name as they are."""
    arguments = {"model": model, "architecture": ask(architecture, "architecture", model=model), "sensitivity": made_up(model)}
    arguments |= {"allocation": Allocation(dict(qtypes)), "corpus": corpus(), "out": out, "stem": "m", "progress": Silent()}
    out.mkdir(exist_ok=True)
    files: list[Path] = ask(plugin, "export", values, **arguments)
    return files


def exported(plugin: str, out: Path, values: Mapping[str, Any] | None = None) -> list[Path]:
    """The files of a small model that lies beside the folder, which has an imatrix."""
    source = shutil.copy(QWEN3 / "model-bf16.gguf", out.parent / "source.gguf")
    out.mkdir(exist_ok=True)
    (out / "imatrix.gguf").touch()
    return export(plugin, "qwen3", GgufModel(source), SMALL, out, values or {})


def written(out: Path, qtypes: Mapping[str, str], values: Mapping[str, Any]) -> Answer:
    """The digest of each tensor whose bytes are the same everywhere, sums over the squared errors of the others."""
    source = model_of(QWEN35)
    made = GgufModel(export("gguf", "qwen35", source, qtypes, out, {"threads": 1, **values})[0])
    exact = {name: hashlib.sha256(made.read_raw(name).tobytes()).hexdigest()[:16] for name in qtypes if name in EXACT}
    return {**exact, **{name: sums(np.square(made.read(name) - source.read(name))) for name in qtypes if name in SUMMED}}


def of_gguf(folder: Path) -> Answer:
    """What is written plainly, with feedback, and tuned."""
    feedback = {"rounding": "feedback", "n_tokens": 32, "n_ctx": 32, "rounds": 1, "seed": SEED_QWEN35, **ON_CPU}
    return {
        "plain": written(folder / "plain", {**EXACT, **SUMMED}, {}),
        "feedback": written(folder / "feedback", SUMMED, feedback),
        "tuned": written(folder / "tuned", SUMMED, {"tuning_steps": 4, "tuning_rate": 0.01, "n_ctx": 32, **ON_CPU}),
    }


def of_recipe(folder: Path) -> Answer:
    """The lines of both files."""
    return {path.name: path.read_text(encoding="utf-8").splitlines() for path in exported("recipe", folder / "out")}


def of_evaluation(one: Evaluation) -> Answer:
    """Its figures."""
    names = ("n_tokens", "n_chunks", "mean_kld", "se_kld", "median_kld", "p99_kld", "same_top1", "ppl", "se_ppl", "reference_ppl")
    more = {
        "ln_ppl_ratio": one.ln_ppl_ratio,
        "se_ln_ppl_ratio": one.se_ln_ppl_ratio,
        "rms_dp": one.rms_dp,
        "tensors": dict(one.tensor_kld),
    }
    return {**{name: getattr(one, name) for name in names}, **{name: value for name, value in more.items() if value}}


def of_torch(folder: Path) -> Answer:
    """A quantization of the example, so coarse that rounding errors do not count, and one tensor of it alone."""
    model = model_of(QWEN35)
    made = GgufModel(export("gguf", "qwen35", model, COARSE, folder, {"threads": 1})[0])
    arguments = {"reference": model, "candidates": [made], "architecture": ask("qwen35", "architecture", model=model)}
    values = {**ON_CPU, "n_tokens": 64, "n_ctx": 32, "n_probes": 1}
    (answer,) = ask("torch", "evaluate", values, **arguments, corpus=corpus(), progress=Silent())
    return of_evaluation(answer)


QUESTIONS: dict[str, Callable[[Path], Answer]] = {"gguf": of_gguf, "recipe": of_recipe, "torch": of_torch}
