"""A run of a model that has costs, a problem, files measured and scores, but no weights: what the explorer shows."""

import math
from pathlib import Path

import numpy as np
from gguf_files import MemoryModel, matrices

from bitclass3_core.constraints.limits import Limits
from bitclass3_core.constraints.problem import build_problem
from bitclass3_core.corpus import Corpus, document
from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.layout import bpw, budget_for_bpw, file_bytes
from bitclass3_core.problem import Allocation
from bitclass3_core.qtypes import menu
from bitclass3_core.results import Candidate, Run
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity

NAME = "Tiny-1B"
ROLES = {
    "attn_q": (512, 256),
    "attn_k": (128, 256),
    "attn_v": (128, 256),
    "attn_output": (256, 512),
    "ffn_gate": (768, 256),
    "ffn_up": (768, 256),
    "ffn_down": (256, 768),
}


def model(n_blocks: int = 12, name: str = NAME) -> MemoryModel:
    shapes = {"token_embd.weight": (4096, 256), "output.weight": (4096, 256), "output_norm.weight": (256,)}
    for block in range(n_blocks):
        shapes |= {f"blk.{block}.{role}.weight": shape for role, shape in ROLES.items()}
    del shapes["blk.0.attn_v.weight"]  # as hybrid models have roles in some blocks only
    values = {tensor: np.broadcast_to(np.float32(0), shape) for tensor, shape in shapes.items()}
    return MemoryModel(values, name=name, path=Path(f"{name}-BF16.gguf"), metadata={"general.architecture": "llama"})


def costs(source: MemoryModel, names: frozenset[str], seed: int = 0) -> CostTable:
    rng = np.random.default_rng(seed)
    table = {}
    for name in sorted(names):
        scale = source.tensors[name].n_params / 1e7 * math.exp(rng.normal(0, 1.2))
        cells = {q.name: Cost(float(scale * 4.0**-q.bpw * math.exp(rng.normal(0, 0.2))), 0.0, 8) for q in menu("default")}
        table[name] = {**cells, "BF16": Cost(0.0, 0.0, 8)}
    return CostTable(table)


def measured(name: str, mean_kld: float) -> Evaluation:
    return Evaluation(
        name,
        16320,
        64,
        mean_kld,
        mean_kld / 30,
        mean_kld / 3,
        5 * mean_kld,
        20 * mean_kld,
        0.95,
        0.002,
        18.4 + mean_kld,
        0.2,
        18.4,
        0.2,
    )


def make_run(target_bpw: float = 4.8, n_blocks: int = 12, name: str = NAME, seed: int = 0) -> Run:
    source = model(n_blocks, name)
    architecture = matrices(source)
    table = costs(source, architecture.quantizable, seed)
    problem = build_problem(source, architecture, table, Limits(), budget_for_bpw(source, target_bpw))
    files = []
    for label, kind, q, factor in (
        ("4.80bpw", "ours", "Q4_K", 1.2),
        ("stock-Q4_K_M", "stock", "Q4_K", 2.5),
        ("6.00bpw", "ours", "Q6_K", 1.3),
    ):
        qtypes = dict.fromkeys(sorted(architecture.quantizable), q)
        predicted = table.total(qtypes)
        assert predicted is not None
        evaluation = measured(f"{name}-{label}", factor * predicted)
        size = file_bytes(source, qtypes)
        files.append(
            Candidate(
                f"{name}-{label}",
                kind,
                Allocation(qtypes),
                Path(f"{name}-{label}.gguf"),
                size,
                bpw(source, qtypes),
                predicted,
                evaluation,
            )
        )
    powers = {tensor: Powers(np.full(4, 10.0 ** -(i % 5), np.float32)) for i, tensor in enumerate(sorted(architecture.quantizable))}
    return Run(
        model=source,
        architecture=architecture,
        corpus=Corpus((), (document("text", "wiki"),)),
        sensitivity=Sensitivity({t: TensorSensitivity(linear=p) for t, p in powers.items()}, "kl-hessian", 16384, 512, "c"),
        costs=table,
        candidates=tuple(files),
        command="bitclass3 run",
        versions={},
        timings={},
        problem=problem,
    )
