"""Which HF parameter holds a ggml tensor: found in any layout, told apart by its values."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from bitclass3_torch.hf_layouts import find_places
from bitclass3_torch.places import TorchPlace

from bitclass3_core.errors import ModelFileError
from bitclass3_core.model import Architecture, TensorInfo

RNG = np.random.default_rng(0)
GATE, UP, DOWN = (f"blk.3.ffn_{part}_exps.weight" for part in ("gate", "up", "down"))
KEYS, VALUES = "blk.3.attn_k_b.weight", "blk.3.attn_v_b.weight"


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


class Net(torch.nn.Module):
    """Experts and latent attention of one block, under HF's names."""

    def __init__(self, gate_up: np.ndarray, down: np.ndarray, latent: np.ndarray) -> None:
        super().__init__()
        block, experts, attention = (torch.nn.Module() for _ in range(3))
        experts.gate_up_proj, experts.down_proj = (torch.nn.Parameter(torch.from_numpy(values)) for values in (gate_up, down))
        attention.kv_b_proj = torch.nn.Linear(latent.shape[1], latent.shape[0], bias=False)
        attention.kv_b_proj.weight = torch.nn.Parameter(torch.from_numpy(latent))
        block.mlp, block.self_attn = torch.nn.Module(), attention
        block.mlp.experts = experts
        self.layers = torch.nn.ModuleList([torch.nn.Module(), torch.nn.Module(), torch.nn.Module(), block])


def source(tensors: dict[str, np.ndarray]) -> Any:
    """A GGUF with these tensors."""

    def read(name: str, rows: np.ndarray) -> np.ndarray:
        return tensors[name].reshape(-1, tensors[name].shape[-1])[rows]

    infos = {name: TensorInfo(name, values.shape, "BF16") for name, values in tensors.items()}
    return SimpleNamespace(tensors=infos, read=read, path=SimpleNamespace(name="model.gguf"), hf="hf")


GATES, UPS, DOWNS = random(4, 6, 6), random(4, 6, 6), random(4, 6, 6)
K, V = random(3, 6, 2), random(3, 4, 6)
LATENT = np.concatenate([K.swapaxes(1, 2), V], axis=1).reshape(18, 6)
FUSED = {
    "one after the other": np.concatenate([GATES, UPS], axis=1),
    "up first": np.concatenate([UPS, GATES], axis=1),
    "row about": np.stack([GATES, UPS], axis=2).reshape(4, 12, 6),
}


def found(gate_up: np.ndarray, down: np.ndarray, gguf: dict[str, np.ndarray]) -> dict[str, TorchPlace]:
    return find_places(Net(gate_up, down, LATENT), source(gguf), Architecture("any", frozenset(gguf)))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("layout", FUSED)
def test_experts_are_found_in_any_layout(layout: str, transposed: bool) -> None:
    gguf = {GATE: GATES, UP: UPS, DOWN: DOWNS, KEYS: K, VALUES: V}
    stacks = [values.swapaxes(1, 2).copy() if transposed else values for values in (FUSED[layout], DOWNS)]
    places = found(*stacks, gguf)
    assert set(places) == set(gguf)
    for name, values in gguf.items():
        rows = values.reshape(-1, values.shape[-1])
        np.testing.assert_array_equal(places[name].read(np.arange(len(rows))), rows)


@pytest.mark.parametrize("name", [GATE, UP, DOWN, KEYS, VALUES])
def test_permuted_rows_or_experts_are_another_model(name: str) -> None:
    gguf = {GATE: GATES, UP: UPS, DOWN: DOWNS, KEYS: K, VALUES: V}
    for axis in (0, 1):
        changed = {**gguf, name: np.flip(gguf[name], axis)}
        with pytest.raises(ModelFileError, match=f"^model.gguf was not converted from hf: {name} differs; give the HF folder"):
            found(FUSED["row about"], DOWNS, changed)


def test_a_tensor_that_no_parameter_can_hold_has_no_place() -> None:
    assert found(FUSED["row about"], DOWNS, {DOWN: random(5, 6, 6), GATE: GATES}).keys() == {GATE}
