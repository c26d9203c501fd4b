"""Questions to the architecture plugins: two have a model in tests/data, one is the example's, the others get names and shapes."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

from bitclass3_core.model import Architecture, Model
from bitclass3_core.testing.samples import Shapes
from questions.asking import LLAMA, QWEN3, QWEN35, Answer, ask, digest, model_of


def of_architecture(plugin: str, model: Model) -> Answer:
    """How many there are of each kind, and a digest of them; what is empty says nothing."""
    answer: Architecture = ask(plugin, "architecture", model=model)
    known = {field.name: getattr(answer, field.name) for field in fields(answer)}
    return {name: [len(value), digest(value)] for name, value in known.items() if len(value)}


_MATRICES = {"attn_q": (256, 256), "attn_k": (64, 256), "attn_v": (64, 256), "attn_output": (256, 256)}
_LINEAR = {"attn_qkv": (384, 256), "attn_gate": (256, 256), "ssm_out": (256, 256)}
_FFN = {"ffn_gate": (512, 256), "ffn_up": (512, 256), "ffn_down": (256, 512)}
_EXPERTS = {"ffn_gate_exps": (4, 128, 256), "ffn_up_exps": (4, 128, 256), "ffn_down_exps": (4, 256, 128)}
_MIXER = {"ssm_in": (648, 256), "ssm_out": (256, 256)}
_COUNTS = {"ssm.group_count": 2, "ssm.time_step_rank": 8, "ssm.inner_size": 256, "ssm.state_size": 32, "block_count": 2}
_HEADS = {"attention.head_count": 4, "attention.head_count_kv": 1}


def shapes_of(arch: str, first: Mapping[str, tuple[int, ...]], both: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Names and shapes of two blocks: one with ``first``, one with attention, ``both`` in each."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (320, 256),
        "output.weight": (320, 256),
        "output_norm.weight": (256,),
    }
    for block, roles in enumerate(({**first, **both}, {**_MATRICES, **both})):
        shapes |= {f"blk.{block}.{role}.weight": shape for role, shape in roles.items()}
    return Shapes(shapes, arch=arch, metadata={f"{arch}.{key}": value for key, value in {**_COUNTS, **_HEADS}.items()})


_GATES = {"ssm_alpha": (8, 256), "ssm_beta": (8, 256)}
QUESTIONS: dict[str, Callable[[Path], Answer]] = {
    "generic": lambda _: of_architecture("generic", model_of(QWEN3)),
    "llama": lambda _: of_architecture("llama", model_of(LLAMA)),
    "qwen3": lambda _: of_architecture("qwen3", model_of(QWEN3)),
    "qwen35": lambda _: of_architecture("qwen35", model_of(QWEN35)),
    "qwen35moe": lambda _: of_architecture("qwen35moe", shapes_of("qwen35moe", {**_LINEAR, **_GATES}, _EXPERTS)),
    "qwen3next": lambda _: of_architecture("qwen3next", shapes_of("qwen3next", {**_LINEAR, "ssm_ba": (16, 256)}, _EXPERTS)),
    "falcon-h1": lambda _: of_architecture("falcon-h1", shapes_of("falcon-h1", _MIXER, {**_MATRICES, **_FFN})),
}
