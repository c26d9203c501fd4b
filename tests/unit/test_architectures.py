"""The architecture plugins, against files that llama.cpp's converter wrote."""

from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import bitclass3_generic
import bitclass3_llama
import bitclass3_qwen3
import bitclass3_qwen35
import numpy as np
import pytest
from safetensors import deserialize

from bitclass3_core.errors import ModelFileError
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.names import allows_quantization, metadata_int
from bitclass3_core.model import Architecture, TensorInfo
from bitclass3_core.plugin.checks import check_architecture
from bitclass3_core.plugin.manager import PluginManager, installed, load_plugin

ROOT = Path(__file__).parents[2]
TINY_QWEN35 = ROOT / "examples" / "tiny-qwen35"
DATA = ROOT / "tests" / "data"
FAMILIES = {
    "llama": (DATA / "llama-tiny", bitclass3_llama),
    "qwen3": (DATA / "qwen3-tiny", bitclass3_qwen3),
    "qwen35": (TINY_QWEN35, bitclass3_qwen35),
}


@dataclass
class FakeModel:
    """Shapes and metadata, no weights."""

    arch: str
    tensors: dict[str, TensorInfo]
    metadata: dict[str, Any] = field(default_factory=dict)
    name: str = "fake"


def fake(arch: str, shapes: dict[str, tuple[int, ...]], **metadata: Any) -> Any:
    infos = {name: TensorInfo(name, shape, "BF16") for name, shape in shapes.items()}
    return FakeModel(arch, infos, {f"{arch}.{key.replace('__', '.')}": value for key, value in metadata.items()})


def hf_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Every matrix of an HF folder as the bits of its BF16 values."""
    tensors = {}
    for name, tensor in deserialize((folder / "model.safetensors").read_bytes()):
        assert tensor["dtype"] == "BF16"
        tensors[name] = np.frombuffer(tensor["data"], np.uint16).reshape(tensor["shape"])
    return tensors


def in_gguf_order(hf: np.ndarray, name: str, architecture: Architecture) -> np.ndarray:
    rows = architecture.row_order.get(name, np.arange(hf.shape[0]))
    columns = architecture.column_order.get(name, np.arange(hf.shape[1]))
    return hf[rows][:, columns]


def bits(model: GgufModel, name: str) -> np.ndarray:
    return model.read_raw(name).view(np.uint16).reshape(model.tensors[name].shape)


@pytest.fixture(params=FAMILIES, scope="module")
def family(request: pytest.FixtureRequest) -> tuple[GgufModel, Architecture, dict[str, np.ndarray]]:
    folder, plugin = FAMILIES[request.param]
    model = GgufModel(folder / "model-bf16.gguf", folder)
    return model, plugin.bitclass3_architecture(model=model), hf_tensors(folder)


def test_hf_tensors_in_the_given_order_are_the_gguf_s(family):
    model, architecture, hf = family
    for name in sorted(architecture.quantizable):
        found = [f"{stem}.weight" for stem in architecture.hf_stems[name] if f"{stem}.weight" in hf]
        assert len(found) == 1, f"{name}: {found}"
        np.testing.assert_array_equal(in_gguf_order(hf[found[0]], name, architecture), bits(model, name), err_msg=name)


def test_likeliest_stem_is_the_one_in_the_folder(family):
    _, architecture, hf = family
    assert {name for name in architecture.quantizable if f"{architecture.hf_stems[name][0]}.weight" not in hf} == set()


def test_every_order_is_needed(family):
    """Without the orders exactly the tensors that have one differ: the test above can fail, and no order is for nothing."""
    model, architecture, hf = family
    unordered = Architecture("unordered", architecture.quantizable)
    differing = set()
    for name in architecture.quantizable:
        stem = next(stem for stem in architecture.hf_stems[name] if f"{stem}.weight" in hf)
        if not np.array_equal(in_gguf_order(hf[f"{stem}.weight"], name, unordered), bits(model, name)):
            differing.add(name)
    assert differing == {*architecture.row_order, *architecture.column_order}


def test_orders_are_those_of_the_family():
    roles = {}
    for arch, (folder, plugin) in FAMILIES.items():
        model = GgufModel(folder / "model-bf16.gguf", folder)
        answer = plugin.bitclass3_architecture(model=model)
        check_architecture(answer, model, arch)
        roles[arch] = {model.tensors[name].role for name in (*answer.row_order, *answer.column_order)}
    assert roles == {
        "llama": {"attn_q", "attn_k"},
        "qwen3": set(),
        "qwen35": {"attn_qkv", "attn_gate", "ssm_alpha", "ssm_beta", "ssm_out"},
    }


def test_matrices_are_quantizable_and_nothing_else(family):
    model, architecture, _ = family
    matrices = {name for name, info in model.tensors.items() if len(info.shape) == 2 and "conv1d" not in name}
    assert architecture.quantizable == matrices
    left = {info.role for name, info in model.tensors.items() if name not in architecture.quantizable}
    assert all("norm" in role or role in {"ssm_a", "ssm_dt.bias", "ssm_conv1d"} for role in left)


def test_every_architecture_plugin_is_one_that_a_run_can_load():
    """A hook that a module has under a second name is refused by the manager, not by an import."""
    architectures = {}
    for name in installed():
        plugin = load_plugin(name)
        if "architecture" in plugin.stages:
            PluginManager([plugin])
            architectures[name] = plugin.stages
    assert architectures == dict.fromkeys(architectures, ("architecture",))
    assert {"llama", "qwen3", "qwen35", "qwen35moe", "qwen3next", "falcon-h1", "generic"} <= architectures.keys()


@pytest.mark.parametrize("plugin", [bitclass3_qwen35, bitclass3_generic], ids=lambda plugin: plugin.__name__)
def test_fragile_gates_have_a_floor(plugin: ModuleType):
    model = GgufModel(TINY_QWEN35 / "model-bf16.gguf")
    floors = plugin.bitclass3_architecture(model=model).floors
    assert floors == {name: "Q8_0" for name, info in model.tensors.items() if info.role in {"ssm_alpha", "ssm_beta"}}
    assert floors


def test_generic_permutes_nothing_and_knows_no_names_of_an_unknown_architecture():
    model = fake("nobody-knows", {"token_embd.weight": (512, 64), "blk.0.attn_q.weight": (64, 64), "blk.0.ssm_ba.weight": (8, 64)})
    answer = bitclass3_generic.bitclass3_architecture(model=model)
    assert answer == Architecture("generic", frozenset(model.tensors), {"blk.0.ssm_ba.weight": "Q8_0"})


def test_generic_names_of_a_known_architecture():
    model = fake("gemma3", {"token_embd.weight": (512, 64), "blk.1.ffn_up.weight": (96, 64)})
    stems = bitclass3_generic.bitclass3_architecture(model=model).hf_stems
    assert stems["token_embd.weight"][:2] == ("model.embed_tokens", "model.language_model.embed_tokens")
    assert stems["blk.1.ffn_up.weight"][:2] == ("model.layers.1.mlp.up_proj", "model.language_model.layers.1.mlp.up_proj")


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("blk.0.ffn_up_exps.weight", (8, 96, 64), True),
        ("blk.0.attn_norm.weight", (64,), False),
        ("blk.0.attn_norm_2.weight", (64,), False),
        ("blk.0.attn_q.bias", (4, 64), False),
        ("blk.0.attn_k_norm.weight", (4, 64), False),
        ("blk.0.ffn_gate_inp.weight", (8, 64), False),
        ("blk.0.ffn_gate_inp_shexp.weight", (1, 64), False),
        ("blk.0.shortconv.conv.weight", (64, 3), False),
        ("blk.0.shortconv.in_proj.weight", (192, 64), True),
        ("blk.0.time_mix_w1.weight", (64, 64), False),
        ("blk.0.time_mix_key.weight", (64, 64), True),
        ("blk.0.altup_router.weight", (4, 64), False),
        ("blk.0.laurel_l.weight", (64, 64), False),
        ("position_embd.weight", (512, 64), False),
        ("token_types.weight", (2, 64), False),
        ("v.position_embd.weight", (512, 64), False),
        ("per_layer_token_embd.weight", (512, 64), True),
        ("blk.0.attn_k_b.weight", (4, 256, 32), True),
        ("blk.0.ffn_gate_exps.bias", (4, 288), False),
        ("blk.0.ssm_a", (512, 16), False),
        ("blk.0.ssm_norm.weight", (2, 128), False),
    ],
)
def test_rule_of_llama_quantize(name: str, shape: tuple[int, ...], expected: bool):
    assert allows_quantization(TensorInfo(name, shape, "BF16")) is expected


def test_rows_that_hold_no_block_are_not_quantizable():
    model = fake("nobody-knows", {"blk.0.ffn_up.weight": (64, 48), "blk.0.ffn_down.weight": (48, 64)})
    assert bitclass3_generic.bitclass3_architecture(model=model).quantizable == {"blk.0.ffn_down.weight"}


def test_qwen35_with_as_many_value_heads_as_key_heads_has_no_orders():
    shapes = {"blk.0.attn_qkv.weight": (192, 64), "blk.0.ssm_out.weight": (64, 64)}
    model = fake("qwen35", shapes, ssm__group_count=2, ssm__time_step_rank=2, ssm__state_size=32, ssm__inner_size=64)
    answer = bitclass3_qwen35.bitclass3_architecture(model=model)
    assert (answer.row_order, answer.column_order) == ({}, {})


def test_qwen35_value_heads_that_are_no_multiple_are_refused():
    model = fake("qwen35", {"blk.0.ssm_out.weight": (64, 96)}, ssm__group_count=2, ssm__time_step_rank=3)
    with pytest.raises(ModelFileError, match="3 value heads, no multiple of its 2 key heads"):
        bitclass3_qwen35.bitclass3_architecture(model=model)


def test_llama_without_head_counts_is_refused():
    model = fake("llama", {"blk.0.attn_q.weight": (64, 64)})
    with pytest.raises(ModelFileError, match=r"no metadata llama\.attention\.head_count"):
        bitclass3_llama.bitclass3_architecture(model=model)


def test_llama_head_counts_can_differ_from_block_to_block():
    shapes = {"blk.0.attn_k.weight": (64, 64), "blk.1.attn_k.weight": (64, 64)}
    orders = bitclass3_llama.bitclass3_architecture(model=fake("llama", shapes, attention__head_count_kv=[4, 2])).row_order
    assert orders["blk.0.attn_k.weight"][:3].tolist() == [0, 8, 1]
    assert orders["blk.1.attn_k.weight"][:3].tolist() == [0, 16, 1]


def test_metadata_list_that_is_too_short_is_refused():
    model = fake("llama", {}, attention__head_count_kv=[4, 2])
    with pytest.raises(ModelFileError, match="for block 2; convert it again"):
        metadata_int(model, "attention.head_count_kv", block=2)
