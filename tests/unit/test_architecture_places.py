"""The architecture plugins that say how the conversion cut a tensor out of HF's, on shapes and metadata alone."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bitclass3_falcon_h1
import bitclass3_qwen3next
import bitclass3_qwen35moe
import numpy as np
import pytest

from bitclass3_core.errors import ModelFileError
from bitclass3_core.model import TensorInfo

MULTIPLIERS: dict[str, Any] = {
    "mlp_multipliers": [0.5, 0.25],
    "attention_in_multiplier": 2.0,
    "attention_out_multiplier": 3.0,
    "key_multiplier": 0.5,
    "ssm_in_multiplier": 2.0,
    "ssm_out_multiplier": 5.0,
    "ssm_multipliers": [1.0, 2.0, 3.0, 4.0, 5.0],
    "lm_head_multiplier": 7.0,
    "embedding_multiplier": 11.0,
    "mamba_d_ssm": 4,
    "mamba_n_groups": 1,
    "mamba_d_state": 2,
}


def model(arch: str, shapes: dict[str, tuple[int, ...]], hf: Path | None = None, **metadata: int) -> Any:
    tensors = {name: TensorInfo(name, shape, "BF16") for name, shape in shapes.items()}
    found = {f"{arch}.{key.replace('__', '.')}": value for key, value in metadata.items()}
    return SimpleNamespace(name="tiny", arch=arch, tensors=tensors, metadata=found, hf=hf)


def falcon(hf: Path | None) -> Any:
    names = ("attn_k", "ssm_in", "ffn_gate", "ffn_up", "ffn_down")
    shapes = {f"blk.0.{name}.weight": (15 if name == "ssm_in" else 8, 32) for name in names}
    return model("falcon-h1", {**shapes, "output.weight": (8, 32)}, hf)


def test_falcon_h1_multiplies_what_its_config_says(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MULTIPLIERS))
    places = bitclass3_falcon_h1.bitclass3_architecture(model=falcon(tmp_path)).places
    scales = {name.removeprefix("blk.0.").removesuffix(".weight"): place.scale for name, place in places.items()}
    rows = scales.pop("ssm_in")
    assert scales == {"attn_k": 1.0, "ffn_gate": 0.5, "ffn_down": 0.25, "output": 7.0}
    assert isinstance(rows, np.ndarray)
    assert rows.tolist() == [2] * 4 + [4] * 4 + [6] * 2 + [8] * 2 + [10] * 3


def test_falcon_h1_without_an_hf_folder_needs_no_multipliers() -> None:
    answer = bitclass3_falcon_h1.bitclass3_architecture(model=falcon(None))
    assert answer.places == {}
    assert len(answer.quantizable) == 6


@pytest.mark.parametrize("config", ["{", "[]", "{}", json.dumps({**MULTIPLIERS, "ssm_multipliers": [1.0]})])
def test_falcon_h1_with_another_config(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelFileError, match=r"does not have Falcon-H1's multipliers .*; give the folder that was converted$"):
        bitclass3_falcon_h1.bitclass3_architecture(model=falcon(tmp_path))


def qwen3next(**metadata: int) -> Any:
    shapes = {f"blk.0.{role}.weight": (32, 32) for role in ("attn_qkv", "attn_gate", "ssm_out")}
    shapes["blk.1.attn_gate.weight"] = (32, 32)  # a full-attention block
    return model("qwen3next", shapes, **{"ssm__group_count": 2, "ssm__inner_size": 6, "ssm__state_size": 1, **metadata})


def test_qwen3next_takes_query_key_and_value_out_of_every_key_head() -> None:
    places = bitclass3_qwen3next.bitclass3_architecture(model=qwen3next()).places
    rows = {name: place.rows.tolist() for name, place in places.items() if isinstance(place.rows, np.ndarray)}
    # each head is: query, key, three values, three gates
    assert rows == {
        "blk.0.attn_qkv.weight": [0, 8, 1, 9, 2, 3, 4, 10, 11, 12],
        "blk.0.attn_gate.weight": [5, 6, 7, 13, 14, 15],
    }
    assert {place.stems for place in places.values()} == {("model.layers.0.linear_attn.in_proj_qkvz",)}


def test_qwen3next_of_a_head_count_that_does_not_divide() -> None:
    with pytest.raises(ModelFileError, match=r"^model tiny has 7 values for 2 key heads, no multiple; convert it again$"):
        bitclass3_qwen3next.bitclass3_architecture(model=qwen3next(ssm__inner_size=7))


def test_qwen35moe_has_the_orders_of_qwen35() -> None:
    shapes = {f"blk.0.{role}.weight": (32, 32) for role in ("attn_gate", "ssm_out")}
    sizes = {"ssm__group_count": 2, "ssm__time_step_rank": 8, "ssm__inner_size": 32, "ssm__state_size": 4}
    answer = bitclass3_qwen35moe.bitclass3_architecture(model=model("qwen35moe", shapes, **sizes))
    assert answer.name == "qwen35moe"
    assert answer.row_order["blk.0.attn_gate.weight"].tolist()[:8] == [0, 1, 2, 3, 16, 17, 18, 19]
    assert set(answer.column_order) == {"blk.0.ssm_out.weight"}
