"""An allocation as mixed integer bits for compressed-tensors, the format of llm-compressor and vLLM.

Each matrix gets the fewest of the offered bits that are no fewer than its ggml type has (Q4_K: 4, Q6_K: 6, so 8 where 4 and 8 are
offered); what stays a float goes under ``ignore``. Modules are named as the HF folder's safetensors name them.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from safetensors import safe_open

from bitclass3_core import hookimpl
from bitclass3_core.errors import ConfigError, ModelFileError
from bitclass3_core.files import write_text
from bitclass3_core.model import Architecture, Model
from bitclass3_core.problem import Allocation
from bitclass3_core.progress import Progress
from bitclass3_core.qtypes import QType, qtype

BITCLASS3_API = 1


class Options(BaseModel):
    """What the runtime can do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bits: tuple[int, ...] = Field((4, 8), min_length=1, description="numbers of bits to choose from, 1 to 8")
    group_size: int = Field(128, gt=0, description="weights that share a scale; rows that it does not divide get one scale each")

    @field_validator("bits")
    @classmethod
    def _possible(cls, bits: tuple[int, ...]) -> tuple[int, ...]:
        if not all(1 <= n <= 8 for n in bits):
            raise ValueError("compressed-tensors packs 1 to 8 bits")
        return tuple(sorted(bits))


@hookimpl
def bitclass3_export(
    model: Model, architecture: Architecture, allocation: Allocation, out: Path, stem: str, options: Options, progress: Progress
) -> list[Path]:
    """Write ``stem.quantization_config.json``. Raises ConfigError where the model has no HF folder."""
    if model.hf is None:
        raise ConfigError(
            f"compressed-tensors needs the HF folder of {model.name} for the names of its modules; give --model FOLDER"
        )
    parameters = _parameters(model.hf)
    groups: dict[tuple[int, int | None], list[str]] = {}
    ignored, lost = [], []
    for name, q in sorted(allocation.qtypes.items()):
        info = model.tensors[name]
        module = next((stem for stem in architecture.hf_stems.get(name, ()) if f"{stem}.weight" in parameters), None)
        if module is None or name in architecture.places or len(info.shape) > 2:
            lost.append(name)
        elif info.role == "token_embd":
            continue  # an Embedding, which compressed-tensors' Linear scheme does not take
        elif (n_bits := _bits(qtype(q), options.bits)) is None:
            ignored.append(module)
        else:
            group_size = options.group_size if info.n_in % options.group_size == 0 else None
            groups.setdefault((n_bits, group_size), []).append(module)
    if lost:
        progress.warn(
            f"compressed-tensors: {len(lost)} tensors are no module of their own and keep 16 bits ({', '.join(lost[:3])})"
        )
    path = out / f"{stem}.quantization_config.json"
    write_text(path, json.dumps(_config(groups, ignored), indent=1) + "\n")
    return [path]


def _bits(q: QType, offered: Iterable[int]) -> int | None:
    """The fewest bits that are no fewer than the type's, the most where all are fewer; None for a float."""
    if q.is_float:
        return None
    enough = [n for n in offered if n >= int(q.bpw)]
    return min(enough) if enough else max(offered)


def _config(groups: dict[tuple[int, int | None], list[str]], ignored: list[str]) -> dict[str, Any]:
    schemes = {}
    for number, ((n_bits, group_size), modules) in enumerate(sorted(groups.items(), key=str)):
        weights: dict[str, Any] = {"num_bits": n_bits, "type": "int", "symmetric": True, "dynamic": False}
        weights |= {"strategy": "group", "group_size": group_size} if group_size else {"strategy": "channel"}
        schemes[f"group_{number}"] = {"targets": modules, "weights": weights}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": schemes,
        "ignore": ignored,
    }


def _parameters(folder: Path) -> frozenset[str]:
    """Names of all parameters in the folder's safetensors files; only their headers are read."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelFileError(f"{folder} has no safetensors file; compressed-tensors takes the names of modules from there")
    names: set[str] = set()
    for path in files:
        with safe_open(path, framework="numpy") as file:
            names.update(file.keys())
    return frozenset(names)
