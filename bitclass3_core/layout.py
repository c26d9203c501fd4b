"""Bytes: the size of a GGUF with a given allocation, and how many bytes a budget leaves for the tensors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bitclass3_core.errors import ConfigError
from bitclass3_core.gguf.writer import header_bytes
from bitclass3_core.model import Model, padded, total_params
from bitclass3_core.qtypes import qtype

_SUFFIXES = {"B": 1000, "IB": 1024, "": 1024}
_UNITS = {"B": 1} | {unit + suffix: base**n for n, unit in enumerate("KMG", 1) for suffix, base in _SUFFIXES.items()}


@dataclass(frozen=True, slots=True)
class Budget:
    """At most ``data_bytes`` for all tensors of the file, alignment included; ``label`` names it in file names and tables.

    ``file_bytes`` is what the whole file may take, if the user gave a size of the file.
    """

    data_bytes: int
    label: str
    file_bytes: int | None = None


def data_bytes(model: Model, qtypes: Mapping[str, str]) -> int:
    """Bytes of all tensor data, alignment included, with these types; a tensor without one keeps its source type."""
    return sum(padded(info.n_bytes(qtype(qtypes.get(name, info.dtype)))) for name, info in model.tensors.items())


def fixed_bytes(model: Model, quantizable: frozenset[str]) -> int:
    """Bytes of the tensors that are never quantized, alignment included."""
    return sum(padded(info.source_bytes) for name, info in model.tensors.items() if name not in quantizable)


def file_bytes(model: Model, qtypes: Mapping[str, str]) -> int:
    """Exact size of the file that the exporter ``gguf`` writes, metadata included."""
    return header_bytes(model) + data_bytes(model, qtypes)


def bpw(model: Model, qtypes: Mapping[str, str]) -> float:
    """Bits per weight over all tensors, metadata left out (what llama-quantize prints as BPW)."""
    unpadded = sum(info.n_bytes(qtype(qtypes.get(name, info.dtype))) for name, info in model.tensors.items())
    return 8 * unpadded / total_params(model)


def budget_for_bpw(model: Model, target_bpw: float) -> Budget:
    """The budget of a target in bits per weight, over all tensors, metadata left out."""
    return Budget(int(target_bpw * total_params(model) / 8), f"{target_bpw:.2f}bpw")


def budget_for_file(model: Model, target_bytes: int, label: str) -> Budget:
    """The budget that keeps the whole file, metadata included, within ``target_bytes``."""
    return Budget(target_bytes - header_bytes(model), label, target_bytes)


def parse_size(text: str | int) -> int:
    """Bytes of ``"15.3GiB"``, ``"4200MB"`` or a plain number. Raises ConfigError for anything else."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", str(text))
    if not match or (match[2] or "B").upper() not in _UNITS:
        raise ConfigError(f"size {text!r} is not understood; write it like 15.3GiB, 4200MB or 4404019200")
    return int(float(match[1]) * _UNITS[(match[2] or "B").upper()])
