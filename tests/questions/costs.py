"""Questions to the estimators that need no program, and to the error metric."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import counting_evaluator

from bitclass3_core.gguf.imatrix import write_imatrix
from bitclass3_core.model import Model, OneTensor, TensorInfo
from bitclass3_core.progress import Silent
from bitclass3_core.qtypes import qtype
from bitclass3_core.sensitivity import Sensitivity, TensorSensitivity
from questions.asking import (
    LLAMA,
    ON_CPU,
    QWEN3,
    QWEN35,
    SEED_LLAMA,
    SEED_QWEN35,
    Answer,
    ask,
    corpus,
    made_up,
    model_of,
    sums,
    with_experts,
)

_ARCHITECTURES = {QWEN35: "qwen35", LLAMA: "llama", QWEN3: "qwen3"}
_TWO_CHUNKS = {"n_tokens": 64, "n_ctx": 32, **ON_CPU}
_ONE_CHUNK = {"n_tokens": 32, "n_ctx": 32, **ON_CPU}


def of_sensitivity(answer: Sensitivity, blocks: Sequence[int | None] = (None, 0, 3)) -> Answer:
    """Sums over each vector of the tensors in these blocks."""

    def one(tensor: TensorSensitivity) -> Answer:
        vectors = {
            f"{role} {which}": sums(getattr(powers, which))
            for role in ("linear", "lookup")
            if (powers := getattr(tensor, role)) is not None
            for which in ("in_power", "out_power", "in_fisher")
        }
        return {**{name: value for name, value in vectors.items() if value}, **tensor.activation}

    tensors = {name: one(tensor) for name, tensor in answer.tensors.items() if TensorInfo(name, (1,), "F32").block in blocks}
    return {"estimator": answer.estimator, "tokens": answer.n_tokens, "in nats": answer.in_nats, "tensors": tensors}


def estimated(plugin: str, folder: Path, values: Mapping[str, Any]) -> Answer:
    """The sensitivity of a model on the calibration text."""
    model = model_of(folder)
    architecture = ask(_ARCHITECTURES[folder], "architecture", model=model)
    arguments = {"model": model, "architecture": architecture, "corpus": corpus(), "progress": Silent()}
    return of_sensitivity(ask(plugin, "estimate", values, **arguments))


def imatrix_file(folder: Path, model: Model) -> Path:
    """An imatrix file of made-up powers."""
    path = folder / "given.gguf"
    write_imatrix(path, made_up(model), "made up")
    return path


def of_kld_probe(folder: Path) -> Answer:
    """Three bands of a small model, by an evaluator that counts bits."""
    judge = folder / "judge.py"
    judge.write_text(counting_evaluator.SOURCE, encoding="utf-8")
    options = {"evaluator": str(judge), "evaluator_options": {"of_role": {"attn_q": 9.0, "ffn_down": 25.0}}}
    return estimated("kld-probe", QWEN3, {"path": imatrix_file(folder, model_of(QWEN3)), **options})


TYPES = tuple(qtype(name) for name in ("Q8_0", "Q6_K", "Q4_K", "IQ4_NL", "IQ3_S", "Q2_K"))


def of_costs(model: Model, names: Sequence[str], values: Mapping[str, Any]) -> Answer:
    """Costs of these tensors at a type of each kind."""
    costs: Answer = {}
    for name in names:
        table = ask("weighted-error", "measure", values, model=OneTensor(model, name), sensitivity=made_up(model), qtypes=TYPES)
        costs[name] = {q: [cell.cost, cell.se, cell.n_rows] for q, cell in table.costs[name].items()}
    return costs


def of_weighted_error(folder: Path) -> Answer:
    """Whole tensors, sampled ones, and a stack of experts."""
    names = ("blk.0.ssm_out.weight", "blk.3.attn_k.weight", "blk.3.ffn_down.weight")
    return {
        "whole": of_costs(model_of(QWEN35), names, {"rounding": {"blk.3.attn_k.weight": 0.5}, "activations": "gpu"}),
        "sampled": of_costs(model_of(QWEN35), names, {"min_rows": 16, "whole_weights": 0, "relative_error": 0.3}),
        "experts": of_costs(with_experts(folder), ["blk.0.ffn_up_exps.weight"], {}),
    }


QUESTIONS: dict[str, Callable[[Path], Answer]] = {
    "uniform": lambda _: estimated("uniform", LLAMA, {}),
    "hessian-diag": lambda _: estimated("hessian-diag", QWEN35, _ONE_CHUNK),
    "kl-hessian": lambda _: {
        "tied": estimated("kl-hessian", LLAMA, {**_TWO_CHUNKS, "seed": SEED_LLAMA}),
        "not tied": estimated("kl-hessian", QWEN35, {**_ONE_CHUNK, "seed": SEED_QWEN35}),
    },
    "kld-probe": of_kld_probe,
    "weighted-error": of_weighted_error,
}
