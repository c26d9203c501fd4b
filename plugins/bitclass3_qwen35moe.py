"""Qwen3.5 with experts: the orders of Qwen3.5's linear attention; the experts' place in HF is found by their values."""

from dataclasses import replace

from bitclass3_qwen35 import bitclass3_architecture as dense_architecture

from bitclass3_core import hookimpl
from bitclass3_core.model import Architecture, Model


@hookimpl
def bitclass3_architecture(model: Model) -> Architecture:
    """Names, floors, and the orders of the value heads in linear attention."""
    dense: Architecture = dense_architecture(model=model)
    return replace(dense, name="qwen35moe")
