"""Falcon-H1: the conversion multiplies weights with the config's multipliers, which HF applies to activations.

Only the config in the HF folder has them. Without that folder they are not needed, as they relate HF's parameters to the GGUF's tensors.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bitclass3_core import hookimpl
from bitclass3_core.errors import ModelFileError
from bitclass3_core.gguf.names import hf_stems, quantizable_tensors
from bitclass3_core.model import Architecture, FloatArray, Model, Place, TensorInfo

BITCLASS3_ANSWERS = "ad3063a19cde"  # changes when the answers do

_Config = Mapping[str, Any]
_FACTORS: Mapping[str, Callable[[_Config], float]] = {
    "ffn_gate": lambda config: config["mlp_multipliers"][0],
    "ffn_down": lambda config: config["mlp_multipliers"][1],
    "attn_q": lambda config: config["attention_in_multiplier"],
    "attn_k": lambda config: config["key_multiplier"] * config["attention_in_multiplier"],
    "attn_v": lambda config: config["attention_in_multiplier"],
    "attn_output": lambda config: config["attention_out_multiplier"],
    "ssm_out": lambda config: config["ssm_out_multiplier"],
    "output": lambda config: config["lm_head_multiplier"],
    "token_embd": lambda config: config["embedding_multiplier"],
}


@hookimpl
def bitclass3_architecture(model: Model) -> Architecture:
    """Names, and the factor of every tensor that the conversion multiplies."""
    stems = hf_stems(model)
    return Architecture("falcon-h1", quantizable_tensors(model), hf_stems=stems, places=_places(model, stems))


def _places(model: Model, stems: Mapping[str, tuple[str, ...]]) -> dict[str, Place]:
    if model.hf is None:
        return {}
    path = model.hf / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        scales = {name: scale for name, info in model.tensors.items() if (scale := _scale(info, config)) is not None}
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ModelFileError(
            f"{path} does not have Falcon-H1's multipliers ({error!r}); give the folder that was converted"
        ) from None
    return {name: Place(stems[name], scale=scale) for name, scale in scales.items() if name in stems}


def _scale(info: TensorInfo, config: _Config) -> float | FloatArray | None:
    """The factor of a tensor, or of each of its rows; None if the conversion does not change the tensor."""
    if not info.name.endswith(".weight"):
        return None
    if info.role == "ssm_in":
        return _input_scales(info, config)
    return _FACTORS[info.role](config) if info.role in _FACTORS else None


def _input_scales(info: TensorInfo, config: _Config) -> FloatArray:
    """The factor of each row of ssm_in [n_rows]: gate, x, B, C and time steps have one factor each."""
    n_inner, n_state = config["mamba_d_ssm"], config["mamba_n_groups"] * config["mamba_d_state"]
    lengths = (n_inner, n_inner, n_state, n_state, info.n_rows - 2 * n_inner - 2 * n_state)
    factors = np.repeat(np.asarray(config["ssm_multipliers"], np.float32), lengths)
    scales: FloatArray = factors * np.float32(config["ssm_in_multiplier"])
    return scales
