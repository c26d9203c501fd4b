"""Tiny random models of every family that the tests take through the whole chain: HF folders in BF16, made by transformers.

Two layers each (one of each kind in the hybrids), four experts where there are experts. No two matrices of a model are alike and the
heads are grouped, so that a wrong name, order or split shows. Nothing here is trained: the text that these models write means nothing.
"""

import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VOCAB = 320
WIDTH = 256
END_OF_TEXT = "<|endoftext|>"
# Enough words for the few merges that a vocabulary of 320 has beyond the bytes.
TEXT = (
    "the cat sat on the mat and the dog lay on the log while the rain fell over the river and the old bridge near the mill",
    "every morning the baker carried warm bread through the narrow streets before the first bell rang in the tower",
    "a quiet harbour holds many boats and the people there mend their nets with patient hands under the evening light",
)
BPE, SENTENCEPIECE = "bpe", "sentencepiece"


@dataclass(frozen=True)
class Family:
    """A family: transformers' class, llama.cpp's name of the architecture, what its tiny config differs in, and what to know of it."""

    name: str
    arch: str
    config_class: str
    model_class: str
    options: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: str = BPE
    note: str = ""


_ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
_DENSE = {**_ATTENTION, "intermediate_size": 512}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 8,  # four value heads share a key head: the orders of two times four are not their own inverse
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "shared_expert_intermediate_size": 256}
_SECTIONED_ROPE = {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25,
        "mrope_interleaved": True,
        "mrope_section": [4, 2, 2],
    }
}
_MLA = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 256,
    "q_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
    "head_dim": 32,
    "intermediate_size": 512,
    "moe_intermediate_size": 256,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
}
_VALUE_HEADS = "value heads of linear attention reordered where there are more of them than key heads"
_STACKED = "experts stacked into one tensor a matrix"

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("llama", "llama", "LlamaConfig", "LlamaForCausalLM", _DENSE, note="rows of attn_q and attn_k permuted for RoPE"),
        Family(
            "mistral",
            "llama",
            "MistralConfig",
            "MistralForCausalLM",
            {**_DENSE, "sliding_window": None},
            SENTENCEPIECE,
            note="converted as llama, rows of attn_q and attn_k permuted for RoPE",
        ),
        Family(
            "mixtral",
            "llama",
            "MixtralConfig",
            "MixtralForCausalLM",
            {**_ATTENTION, "intermediate_size": 256, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
            note=f"converted as llama; {_STACKED}; rows of attn_q and attn_k permuted for RoPE",
        ),
        Family(
            "qwen2",
            "qwen2",
            "Qwen2Config",
            "Qwen2ForCausalLM",
            {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 416, "tie_word_embeddings": True},
            note="tied head; biases of attn_q, attn_k and attn_v stay F32",
        ),
        Family("qwen3", "qwen3", "Qwen3Config", "Qwen3ForCausalLM", {**_DENSE, "tie_word_embeddings": True}, note="tied head"),
        Family(
            "gemma2",
            "gemma2",
            "Gemma2Config",
            "Gemma2ForCausalLM",
            {**_DENSE, "query_pre_attn_scalar": 64},
            SENTENCEPIECE,
            note="tied head; norms are stored plus one",
        ),
        Family(
            "gemma3",
            "gemma3",
            "Gemma3TextConfig",
            "Gemma3ForCausalLM",
            {**_DENSE, "query_pre_attn_scalar": 64},
            SENTENCEPIECE,
            note="tied head; norms are stored plus one",
        ),
        Family(
            "phi3",
            "phi3",
            "Phi3Config",
            "Phi3ForCausalLM",
            {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 512, "original_max_position_embeddings": 512},
            SENTENCEPIECE,
            note="query, key and value fused in attn_qkv, gate and up in ffn_up, as in HF",
        ),
        Family(
            "qwen35",
            "qwen35",
            "Qwen3_5TextConfig",
            "Qwen3_5ForCausalLM",
            {**_DENSE, **_LINEAR, **_SECTIONED_ROPE},
            note=_VALUE_HEADS,
        ),
        Family(
            "qwen3next",
            "qwen3next",
            "Qwen3NextConfig",
            "Qwen3NextForCausalLM",
            {**_DENSE, **_LINEAR, **_EXPERTS},
            note=f"in_proj_qkvz split into attn_qkv and attn_gate, key head by key head in HF; {_STACKED}",
        ),
        Family(
            "falcon-h1",
            "falcon-h1",
            "FalconH1Config",
            "FalconH1ForCausalLM",
            {
                **_DENSE,
                "mamba_d_ssm": 256,
                "mamba_n_heads": 8,
                "mamba_d_head": 32,
                "mamba_n_groups": 2,
                "mamba_d_state": 32,
                "mamba_chunk_size": 32,
                "mamba_rms_norm": True,
                "mamba_norm_before_gate": False,  # the only order that llama.cpp knows, and the one of the published models
                # Powers of two: the converter multiplies the weights, which is exact in BF16 then.
                "lm_head_multiplier": 0.5,
                "embedding_multiplier": 4.0,
                "mlp_multipliers": [0.5, 0.25],
                "key_multiplier": 0.5,
                "attention_in_multiplier": 2.0,
                "attention_out_multiplier": 0.5,
                "ssm_multipliers": [0.5, 2.0, 0.25, 4.0, 0.125],
                "ssm_in_multiplier": 2.0,
                "ssm_out_multiplier": 0.5,
            },
            note="attention and Mamba-2 side by side in every layer; the config's multipliers are part of the weights in GGUF",
        ),
        Family(
            "lfm2",
            "lfm2",
            "Lfm2Config",
            "Lfm2ForCausalLM",
            {
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "intermediate_size": 512,
                "block_auto_adjust_ff_dim": False,
                "layer_types": ["conv", "full_attention"],
            },
            note="tied head",
        ),
        Family(
            "mamba",
            "mamba",
            "MambaConfig",
            "MambaForCausalLM",
            {"state_size": 16, "time_step_rank": 16},
            note="tied head; ssm_dt keeps the source's type where its rows hold no block of 32",
        ),
        Family(
            "qwen3moe",
            "qwen3moe",
            "Qwen3MoeConfig",
            "Qwen3MoeForCausalLM",
            {**_ATTENTION, **_EXPERTS, "num_key_value_heads": 1, "moe_intermediate_size": 128, "intermediate_size": 512},
            note=_STACKED,
        ),
        Family(
            "qwen35moe",
            "qwen35moe",
            "Qwen3_5MoeTextConfig",
            "Qwen3_5MoeForCausalLM",
            {**_ATTENTION, **_LINEAR, **_EXPERTS, **_SECTIONED_ROPE},
            note=f"gate_up_proj split into ffn_gate_exps and ffn_up_exps; {_VALUE_HEADS}",
        ),
        Family(
            "gpt-oss",
            "gpt-oss",
            "GptOssConfig",
            "GptOssForCausalLM",
            {
                **_ATTENTION,
                "num_attention_heads": 8,
                "hidden_size": 288,  # as the real one: a multiple of 32, not of 256
                "intermediate_size": 288,
                "num_local_experts": 4,
                "num_experts_per_tok": 2,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            note="gate_up_proj, interleaved and transposed in HF, split into ffn_gate_exps and ffn_up_exps; biases and sinks stay F32",
        ),
        Family(
            "deepseek2",
            "deepseek2",
            "DeepseekV2Config",
            "DeepseekV2ForCausalLM",
            {**_MLA, "norm_topk_prob": False},
            note=f"kv_b_proj split by head into attn_k_b (transposed) and attn_v_b; {_STACKED}",
        ),
        Family(
            "deepseek3",
            "deepseek2",
            "DeepseekV3Config",
            "DeepseekV3ForCausalLM",
            {**_MLA, "n_group": 2, "topk_group": 1, "num_nextn_predict_layers": 0},
            note=f"kv_b_proj split by head into attn_k_b (transposed) and attn_v_b; {_STACKED}",
        ),
    )
}


def make_hf(name: str, folder: Path) -> Path:
    """Write the tiny model of that family, the same on every call, and return its folder."""
    import torch
    import transformers

    family = FAMILIES[name]
    torch.manual_seed(zlib.crc32(name.encode()))
    common = {"hidden_size": WIDTH, "num_hidden_layers": 2, "vocab_size": VOCAB, "max_position_embeddings": 512}
    # Ids of the tokenizers below; no padding_idx, whose row of the embedding would be zero.
    tokens = {"bos_token_id": 0, "eos_token_id": 0} if family.tokenizer == BPE else {"bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, family.config_class)(**{**common, **tokens, "pad_token_id": None, **family.options})
    net = getattr(transformers, family.model_class)(config)
    _fill(net)
    net.to(torch.bfloat16).save_pretrained(folder)
    (save_bpe if family.tokenizer == BPE else save_sentencepiece)(folder)
    return folder


_KEPT = ("A_log", "D", "dt_bias", "dt_proj.bias", "inv_freq")


def _fill(net: Any) -> None:
    """Random weights with which activations keep their size from layer to layer; decays and time steps stay as the model drew them."""
    import torch

    for name, values in (*net.named_parameters(), *net.named_buffers()):
        if name.endswith(_KEPT) or not values.ndim or not values.is_floating_point():
            continue
        with torch.no_grad():
            noise = torch.randn(values.shape)
            if values.ndim == 1:  # norms, biases, sinks
                values.add_(0.1 * noise)
            else:
                values.copy_(noise / _fan_in(name, values) ** 0.5)


def _fan_in(name: str, values: Any) -> int:
    """Inputs of a matrix: its last axis, but gpt-oss keeps its experts as [expert, in, out]."""
    transposed = name.endswith(("experts.gate_up_proj", "experts.down_proj")) and values.shape[1] == 288
    return int(values.shape[1] if transposed else values.shape[-1])


def save_bpe(folder: Path) -> None:
    """A byte-level BPE with GPT-2's pre-tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(TEXT, trainer)
    if bpe.get_vocab_size() != VOCAB:
        raise ValueError(f"the tokenizer has {bpe.get_vocab_size()} entries, expected {VOCAB}; give it more text")
    PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT).save_pretrained(folder)


def save_sentencepiece(folder: Path) -> None:
    """A tiny sentencepiece model with byte fallback, and a fast tokenizer of the same pieces."""
    import sentencepiece
    from transformers import PreTrainedTokenizerFast

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB,
        control_symbols=[END_OF_TEXT],  # llama.cpp asks a model whose name is phi3 for it
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    fast = _fast_of([pieces.id_to_piece(i) for i in range(VOCAB)])
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "extra_special_tokens": [END_OF_TEXT]}
    PreTrainedTokenizerFast(tokenizer_object=fast, **special).save_pretrained(folder)


def _fast_of(pieces: list[str]) -> Any:
    """The BPE of a sentencepiece model's pieces: those that come first are merged first."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    fast = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return fast
