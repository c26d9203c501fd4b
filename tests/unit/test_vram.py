"""KV cache, recurrent state and buffers, by hand; llama.cpp's own report is the test in integration/."""

import bitclass3_fixed
import pytest
from bitclass3_fixed import Options
from model_shapes import ShapeModel, qwen3_30b_a3b, qwen35_9b

from bitclass3_core.errors import ConfigError, InfeasibleError, ModelFileError
from bitclass3_core.gguf.names import quantizable_tensors
from bitclass3_core.gguf.vram import memory_of
from bitclass3_core.layout import data_bytes
from bitclass3_core.model import Architecture, TensorInfo

MIB = 2**20


def shapes(arch: str, metadata: dict, roles: dict[int, list[str]], width: int = 256) -> ShapeModel:
    """Blocks with these roles, all of them width x width."""
    names = ["token_embd.weight", *(f"blk.{block}.{role}.weight" for block, listed in roles.items() for role in listed)]
    infos = {name: TensorInfo(name, (width, width), "BF16") for name in names}
    about = {
        "block_count": len(roles),
        "embedding_length": width,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        **metadata,
    }
    return ShapeModel(infos, {f"{arch}.{key}": value for key, value in about.items()}, arch=arch)


ATTENTION = ["attn_q", "attn_k", "attn_v", "attn_output"]


def test_hybrid_counts_its_attention_layers_alone():
    """Qwen3.5-9B, 32768 tokens, q8_0: 8 layers x 32768 x (4 x 256 keys and as many values) x 34/32 bytes."""
    memory = memory_of(qwen35_9b(), 32768, "q8_0")
    assert memory.kv_bytes == 8 * 32768 * 2 * 1024 * 34 // 32
    # 24 layers in float32: 3 inputs of the convolution over 4096 + 2 x 16 x 128 channels, and 128 x 4096 of state
    assert memory.state_bytes == 24 * 4 * (3 * (4096 + 2 * 16 * 128) + 128 * 4096)
    assert memory.n_cells == 32768


def test_experts_take_no_cache():
    memory = memory_of(qwen3_30b_a3b(), 8192, "f16")
    assert memory.kv_bytes == 48 * 8192 * 2 * 4 * 128 * 2 == 768 * MIB
    assert memory.state_bytes == 0


def test_context_is_rounded_up_to_256():
    model = shapes("llama", {}, {0: ATTENTION})
    assert memory_of(model, 300, "f16").kv_bytes == 512 * 2 * (2 * 64) * 2
    assert memory_of(model, 512, "f16").kv_bytes == memory_of(model, 300, "f16").kv_bytes


def test_sliding_windows():
    """gemma3: five layers of six look back 1024 tokens, and a batch of 512 lies in their cache beside them."""
    model = shapes("gemma3", {"attention.sliding_window": 1024}, dict.fromkeys(range(6), ATTENTION))
    row = 2 * (2 * 64) * 2  # keys and values of 2 heads of 64, float16
    assert memory_of(model, 32768, "f16").kv_bytes == (5 * (1024 + 512) + 32768) * row
    assert memory_of(model, 1024, "f16").kv_bytes == 6 * 1024 * row, "a window is no larger than the context"


def test_pattern_of_the_file_counts():
    pattern = {"attention.sliding_window": 256, "attention.sliding_window_pattern": [True, False, True]}
    model = shapes(
        "gemma4", {**pattern, "attention.key_length_swa": 32, "attention.value_length_swa": 32}, dict.fromkeys(range(3), ATTENTION)
    )
    assert memory_of(model, 8192, "f16").kv_bytes == 2 * 768 * 2 * (2 * 32) * 2 + 8192 * 2 * (2 * 64) * 2


def test_unknown_window_counts_the_whole_context():
    model = shapes("newarch", {"attention.sliding_window": 256}, {0: ATTENTION})
    assert memory_of(model, 8192, "f16").kv_bytes == 8192 * 2 * (2 * 64) * 2


def test_latent_attention_keeps_no_values():
    roles = {0: ["attn_q", "attn_kv_a_mqa", "attn_k_b", "attn_v_b", "attn_output"]}
    about = {
        "attention.head_count_kv": 1,
        "attention.key_length": 576,
        "attention.value_length": 512,
        "attention.key_length_mla": 192,
    }
    assert memory_of(shapes("deepseek2", about, roles), 4096, "f16").kv_bytes == 4096 * 576 * 2


def test_draft_layers_and_shared_layers_keep_nothing():
    model = shapes("qwen35", {"nextn_predict_layers": 1}, dict.fromkeys(range(3), ATTENTION))
    assert memory_of(model, 256, "f16").kv_bytes == 2 * 256 * 2 * (2 * 64) * 2
    model = shapes("gemma3n", {"attention.shared_kv_layers": 2}, dict.fromkeys(range(3), ATTENTION))
    assert memory_of(model, 256, "f16").kv_bytes == 1 * 256 * 2 * (2 * 64) * 2


def test_heads_by_layer():
    model = shapes("lfm2", {"attention.head_count_kv": [0, 2], "shortconv.l_cache": 3}, {0: ["shortconv.in_proj"], 1: ATTENTION})
    memory = memory_of(model, 256, "f16")
    assert (memory.kv_bytes, memory.state_bytes) == (256 * 2 * (2 * 64) * 2, 256 * 2 * 4)


def test_unknown_kv_type_and_missing_metadata():
    with pytest.raises(ConfigError, match=r"unknown KV cache type 'q8'; did you mean 'q8_0'\?"):
        memory_of(qwen35_9b(), 4096, "q8")
    with pytest.raises(ModelFileError, match=r"no metadata llama\.block_count"):
        memory_of(ShapeModel({"token_embd.weight": TensorInfo("token_embd.weight", (8, 32), "F16")}, arch="llama"), 4096, "f16")


def budget(model: ShapeModel, **options: object):
    architecture = Architecture(model.arch, quantizable_tensors(model))
    return bitclass3_fixed.bitclass3_budget(model=model, architecture=architecture, options=Options(**options))


def test_fit_vram_leaves_what_the_caches_do_not_take():
    model = qwen35_9b()
    found = budget(model, fit_vram="8GiB", ctx=32768, kv_type="q8_0", vram_reserve="256MiB")
    kv, state = 8 * 32768 * 2 * 1024 * 34 // 32, 24 * 4 * (3 * 8192 + 524288)
    # a mask of 32768 x 512 in float16; logits of 512 tokens, four vectors of the model's width beside them
    compute = 32768 * 512 * 2 + 512 * 4 * (248320 + 4 * 4096)
    assert found.data_bytes == 8 * 2**30 - 2**28 - kv - state - compute
    assert found.label == "8GiB-32768ctx"
    assert found.file_bytes is None


def test_more_than_the_source_needs_is_not_asked_for():
    model = qwen35_9b()
    assert budget(model, fit_vram="80GiB").data_bytes == data_bytes(model, {})


def test_nothing_left_for_weights():
    with pytest.raises(
        InfeasibleError, match=r"2.00 GiB leaves nothing for weights: KV cache 8.00 GiB .*lower --ctx, or take --kv-type q8_0"
    ):
        budget(qwen35_9b(), fit_vram="2GiB", ctx=262144)
