"""Flags that constrain tensors, and how they meet a pipeline file."""

import pytest

from bitclass3_core.cli.groups import CONSTRAINTS
from bitclass3_core.errors import ConfigError
from bitclass3_core.runs.config_file import load_config


def flags(menu=None, pin=None, floor=None, group=None, gpu_budget=None, gpu_tensors=None):
    return CONSTRAINTS.keys(menu=menu, pin=pin, floor=floor, group=group, gpu_budget=gpu_budget, gpu_tensors=gpu_tensors)


def test_flags_become_keys_of_the_pipeline():
    given = flags(
        ["cpu", r"ffn_down=vulkan", "attn=Q4_K, Q6_K", "output=Q8_0"],
        [r"^token_embd\.weight$=Q6_K", "attn_(?=v)=q5_k"],
        ["ffn=Q4_K"],
        ["gate_up", r"blk\.(\d+)\.attn"],
        "24GiB",
        ["attn", "shexp"],
    )
    config = load_config(None, given)
    assert config.qtypes.menu == "cpu"
    assert config.qtypes.menus == {"ffn_down": "vulkan", "attn": ["Q4_K", "Q6_K"], "output": ["Q8_0"]}
    assert config.qtypes.pins == {r"^token_embd\.weight$": "Q6_K", "attn_(?=v)": "q5_k"}
    assert config.qtypes.floors == {"ffn": "Q4_K"}
    assert config.qtypes.groups == ["gate_up", r"blk\.(\d+)\.attn"]
    assert (config.gpu.budget, config.gpu.tensors) == ("24GiB", ["attn", "shexp"])


def test_nothing_given_changes_nothing():
    assert flags() == {}
    assert load_config(None, {}).gpu.budget is None


def test_a_list_of_types_is_a_menu():
    assert load_config(None, flags(["Q4_K,Q6_K"])).qtypes.menu == ["Q4_K", "Q6_K"]


def test_flags_stand_beside_the_file_and_beat_it(tmp_path):
    path = tmp_path / "pipeline.toml"
    path.write_text(
        '[qtypes]\nmenu = "k"\npins = { attn = "Q6_K", output = "Q8_0" }\nmenus = { ffn = "cpu" }\n[gpu]\nbudget = "8GiB"'
    )
    config = load_config(path, flags(pin=["attn=Q5_K"], menu=["exps=all"], gpu_budget="24GiB"))
    assert config.qtypes.pins == {"attn": "Q5_K", "output": "Q8_0"}
    assert config.qtypes.menus == {"ffn": "cpu", "exps": "all"}
    assert (config.qtypes.menu, config.gpu.budget) == ("k", "24GiB")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pin": ["Q6_K"]}, "--pin 'Q6_K' is not understood; write it like --pin 'ffn_down=Q6_K'"),
        ({"floor": ["ffn="]}, "--floor 'ffn=' is not understood"),
        ({"pin": ["=Q6_K"]}, "--pin '=Q6_K' is not understood"),
        ({"pin": ["ffn=Q6_K", "ffn=Q5_K"]}, "--pin 'ffn=Q5_K' contradicts an earlier --pin; give one of them"),
        ({"menu": ["cpu", "k"]}, "--menu 'k' contradicts an earlier --menu"),
    ],
)
def test_flags_that_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        flags(**given)
