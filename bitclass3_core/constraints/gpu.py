"""A model split between the GPU and the CPU's memory: where llama.cpp keeps each tensor, and the -ot argument for that."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from bitclass3_core.constraints.limits import Gpu
from bitclass3_core.constraints.rules import compiled
from bitclass3_core.errors import ConfigError
from bitclass3_core.files import write_text
from bitclass3_core.layout import parse_size
from bitclass3_core.model import Model

# everything but experts: llama.cpp's --cpu-moe keeps that on the GPU (common.h, llm_ffn_exps_cpu_override)
NOT_EXPERTS = r"^(?!.*\.ffn_(?:up|down|gate|gate_up)_(?:ch)?exps)"
# llama.cpp keeps the input layer in the CPU's memory (llama-model.cpp, dev_input; llama-arch.cpp, LLM_TENSOR_LAYER_INPUT)
_INPUT = frozenset({"token_embd.weight", "position_embd.weight", "token_types.weight", "per_layer_token_embd.weight"})


def gpu_of(model: Model, budget: str | int | None, patterns: Sequence[str]) -> Gpu | None:
    """The tensors on the GPU, which any of the patterns matches, and their budget; None if there is no budget.

    The input layer is never among them, but a tied embedding can be: llama.cpp keeps a copy of it where the output is.
    Raises ConfigError for a bad size or pattern, for patterns without a budget, and for patterns that match nothing.
    """
    if budget is None:
        if patterns:
            raise ConfigError("tensors for the GPU were named without a budget; give --gpu-budget 24GiB")
        return None
    n_bytes = parse_size(budget)
    matchers = [compiled("GPU pattern", pattern) for pattern in patterns or (NOT_EXPERTS,)]
    for matcher in matchers:
        if not any(matcher.search(name) for name in model.tensors):
            raise ConfigError(
                f"GPU pattern {matcher.pattern!r} matches none of the {len(model.tensors)} tensors; look at them with bitclass3 plan"
            )
    named = {name for name in model.tensors if any(matcher.search(name) for matcher in matchers)}
    return Gpu(frozenset(named - input_layer(model)), n_bytes, str(budget))


def input_layer(model: Model) -> frozenset[str]:
    """The tensors that llama.cpp always keeps in the CPU's memory; a tied embedding is not among them."""
    return _INPUT - ({"token_embd.weight"} if "output.weight" not in model.tensors else set())


def override_name(stem: str) -> str:
    """File name of a candidate's ``-ot`` argument."""
    return f"{stem}.override_tensor.txt"


def write_override(out: Path, stem: str, model: Model, gpu: Gpu | None) -> None:
    """Write the ``-ot`` argument for a candidate; nothing if the model is not split (``gpu`` is None)."""
    if gpu is not None:
        write_text(out / override_name(stem), override_argument(model, gpu.tensors) + "\n")


def override_argument(model: Model, on_gpu: Collection[str]) -> str:
    """The value of llama.cpp's ``-ot``: every tensor that is not in ``on_gpu`` goes to the CPU, all others follow ``-ngl``.

    There is one anchored pattern for each role. Commas separate the patterns; no pattern has one.
    """
    stays = {name for name in model.tensors if name in on_gpu or name in input_layer(model)}
    patterns = [rf"^{re.escape(info.name)}$" for info in model.tensors.values() if info.block is None and info.name not in stays]
    blocks: dict[str, list[int]] = {}
    for info in model.tensors.values():
        if info.block is not None:
            blocks.setdefault(info.name.split(".", 2)[2], []).append(info.block)
    for rest, numbers in blocks.items():
        apart = [number for number in sorted(numbers) if f"blk.{number}.{rest}" not in stays]
        if apart:
            which = r"\d+" if len(apart) == len(numbers) else f"({'|'.join(map(str, apart))})"
            patterns.append(rf"^blk\.{which}\.{re.escape(rest)}$")
    return ",".join(f"{pattern}=CPU" for pattern in patterns)
