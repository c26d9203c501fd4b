"""Make the tiny random llama and qwen3 models of this folder: HF folders in BF16, and the GGUFs that llama.cpp's converter makes of them.

The tokenizer is a byte-level BPE with GPT-2's pre-tokenizer, which the converter cannot recognise by its hash: the one method
that asks is answered ``gpt-2``. The converter's source stays as it is.

usage: python make_fixtures.py LLAMA_CPP_DIR [OUT_DIR]      needs torch, transformers and a llama.cpp source folder
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

VOCAB = 264
END_OF_TEXT = "<|endoftext|>"
TEXT = "the cat sat on the mat and the dog lay on the log"
# Four query heads share two key heads; no two matrices of a block have the same values, so a wrong name or order shows.
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def save_tokenizer(folder: Path) -> None:
    """A byte-level BPE of 264 entries."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False)
    )
    if bpe.get_vocab_size() != VOCAB:
        sys.exit(f"the tokenizer has {bpe.get_vocab_size()} entries, expected {VOCAB}")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT)
    tokenizer.save_pretrained(folder)


def convert(hf: Path, out: Path) -> None:
    """Run the converter in this process."""
    import convert_hf_to_gguf
    from conversion.base import TextModel

    TextModel._set_vocab_sentencepiece = TextModel._set_vocab_gpt2  # tried first, and needs a package that nothing else here needs
    TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    sys.argv = ["convert_hf_to_gguf.py", os.path.relpath(hf), "--outtype", "bf16", "--outfile", str(out)]
    convert_hf_to_gguf.main()


def main(llama_cpp: Path, out: Path) -> None:
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    for name, model_class, config in (
        ("llama-tiny", LlamaForCausalLM, LlamaConfig(**SHAPE)),
        ("qwen3-tiny", Qwen3ForCausalLM, Qwen3Config(**SHAPE)),
    ):
        torch.manual_seed(0)
        folder = out / name
        model_class(config).to(torch.bfloat16).save_pretrained(folder)
        save_tokenizer(folder)
        convert(folder, folder / "model-bf16.gguf")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2] if len(sys.argv) == 3 else Path(__file__).parent).resolve())
