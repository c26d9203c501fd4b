"""A finished run that is made up: what report plugins get to see."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bitclass3_core.corpus import Corpus, document
from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.evaluation import Evaluation, summarize
from bitclass3_core.model import Architecture, FloatArray, Rows, TensorInfo
from bitclass3_core.problem import Allocation, Proof
from bitclass3_core.qtypes import qtype
from bitclass3_core.results import Candidate, Run
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity

MENU = ("Q2_K", "Q4_K", "Q6_K", "Q8_0")
OURS, STOCK = "Tiny-1B-4.80bpw", "Tiny-1B-Q4_K_M"


@dataclass(frozen=True)
class FakeModel:
    """A model of tensor names and shapes only."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    name: str = "Tiny-1B"
    arch: str = "qwen35"
    path: Path = Path("Tiny-1B-BF16.gguf")
    hf: Path | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = "f" * 64

    def read(self, name: str, rows: Rows = None) -> FloatArray:
        raise AssertionError("a report must not read weights")

    def read_raw(self, name: str) -> Any:
        raise AssertionError("a report must not read weights")


def tensor_infos(n_blocks: int) -> dict[str, TensorInfo]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (4096, 256),
        "output.weight": (4096, 256),
        "output_norm.weight": (256,),
    }
    for block in range(n_blocks):
        attention = {"attn_q": (512, 256), "attn_k": (128, 256), "attn_output": (256, 512)}
        roles = attention if block % 4 == 3 else {"attn_qkv": (768, 256), "ssm_out": (256, 256)}
        shapes |= {f"blk.{block}.{role}.weight": shape for role, shape in roles.items()}
        shapes |= {f"blk.{block}.ffn_up.weight": (512, 256), f"blk.{block}.ffn_down.weight": (256, 512)}
        shapes[f"blk.{block}.attn_norm.weight"] = (256,)
    return {name: TensorInfo(name, shape, "BF16" if len(shape) > 1 else "F32") for name, shape in shapes.items()}


def evaluation(name: str, mean_kld: float) -> Evaluation:
    rng = np.random.default_rng(7)
    n_chunks, n_tokens = 16, 16 * 64
    kld = rng.gamma(0.5, 2 * mean_kld, n_tokens).astype(np.float32)
    nll = rng.gamma(2, 1, n_tokens)
    domains = np.array(["code", "wiki"])[np.arange(n_tokens) // 64 % 2]
    measured = summarize(name, kld, rng.random(n_tokens) > 0.1, nll + mean_kld, nll, domains, n_chunks, "fake evaluator")
    return replace(measured, mean_kld=mean_kld, se_kld=0.00056, ppl=12.346, se_ppl=0.12, reference_ppl=12.1, se_reference_ppl=0.11)


def sensitivity(infos: Mapping[str, TensorInfo], names: list[str]) -> Sensitivity:
    """Lognormal powers; the roles that read the block's input share them."""
    rng = np.random.default_rng(1)
    shared: dict[tuple[int | None, str], FloatArray] = {}
    tensors = {}
    for name in names:
        key = "attn" if infos[name].role in ("attn_q", "attn_k") else infos[name].role
        power = shared.setdefault((infos[name].block, key), np.full(4, rng.lognormal(0, 2), np.float32))
        powers = Powers(power, power)
        tensors[name] = TensorSensitivity(lookup=powers) if name.startswith("token_embd") else TensorSensitivity(linear=powers)
    return Sensitivity(tensors, "kl-hessian", 16384, 512, "c" * 64)


def make_run(
    ours_kld: float = 0.01234, stock_kld: float = 0.02345, n_blocks: int = 8, metadata: Mapping[str, Any] | None = None
) -> Run:
    infos = tensor_infos(n_blocks)
    names = [name for name, info in infos.items() if len(info.shape) == 2]
    rng = np.random.default_rng(2)
    costs = {name: {q: Cost(float(rng.lognormal(-9, 1) * 4 ** -qtype(q).bpw), 0.0, 8) for q in MENU} for name in names}
    ours = Allocation({name: str(rng.choice(MENU)) for name in names}, "ilp", Proof(0.0101, 0.0002, True, 1.25))
    stock = Allocation(dict.fromkeys(names, "Q4_K"), "stock")
    candidates = (
        Candidate(OURS, "ours", ours, Path(f"out/{OURS}.gguf"), 2_900_000, 4.79, 0.0102, evaluation(OURS, ours_kld)),
        Candidate(STOCK, "stock", stock, Path(f"out/{STOCK}.gguf"), 2_912_345, 4.81, 0.0204, evaluation(STOCK, stock_kld)),
    )
    documents = tuple(document(f"text {i}", "code" if i % 2 else "wiki") for i in range(4))
    return Run(
        model=FakeModel(infos, metadata or {}),
        architecture=Architecture("qwen35", frozenset(names), {"blk.0.ssm_out.weight": "Q4_K"}),
        corpus=Corpus(documents[:2], documents[2:], ("somewhere/a.jsonl", "b.txt")),
        sensitivity=sensitivity(infos, names),
        costs=CostTable(costs),
        candidates=candidates,
        command="bitclass3 run --model Tiny-1B-BF16.gguf --target-bpw 4.8",
        versions={"bitclass3": "0.1.0", "gguf": "0.19.0"},
        timings={"estimate": 12.5},
        differences={STOCK: (ours_kld - stock_kld, 0.0004)},
    )
