"""Train the example model from nothing: a byte-level BPE tokenizer and a 7 M parameter Qwen3.5 text model.

Reads only what ``corpus.py`` calls ``train``; at the end it prints the perplexity of the held-out ``evaluation`` documents beside
that of a unigram model (token frequencies of the training text, add-one smoothed) on the same tokens.

usage: python train.py OUT_DIR [MINUTES]       OUT_DIR gets an HF folder (BF16); MINUTES of training, 45 unless told
"""

import math
import sys
import time
from pathlib import Path

import torch
from corpus import documents
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3_5ForCausalLM, Qwen3_5TextConfig

VOCAB, N_CTX, BATCH, PEAK_LR, WARMUP_STEPS = 4096, 512, 4, 2e-3, 100
END_OF_TEXT = "<|endoftext|>"


def model_config() -> Qwen3_5TextConfig:
    """Every quantizable row is 256 or 512 wide (K and IQ types apply); twice as many value heads as key heads, as in the 9B."""
    return Qwen3_5TextConfig(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        # A quarter of the 64 head dimensions rotate: 8 frequencies, shared out over the three M-RoPE sections.
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
            "mrope_section": [4, 2, 2],
            "mrope_interleaved": True,
        },
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with GPT-2's pre-tokenizer, which llama.cpp knows by name."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, model_max_length=2048
    )


def tokens_of(part: str, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """All documents of a part as one stream, each ended by the end-of-text token."""
    ids: list[int] = []
    for doc in documents(part):
        ids += [*tokenizer(doc.text, verbose=False).input_ids, tokenizer.eos_token_id]
    return torch.tensor(ids)


def learning_rate(step: int, progress: float) -> float:
    """Linear warm-up, then a cosine down to a twentieth over the time that is given."""
    return PEAK_LR * min(1.0, (step + 1) / WARMUP_STEPS) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def train(model: Qwen3_5ForCausalLM, ids: torch.Tensor, minutes: float) -> None:
    """AdamW over the text's windows in a new random order each epoch, until the minutes are over."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.95))
    n_windows = len(ids) // N_CTX
    order = torch.randperm(n_windows)
    begin, step, smooth = time.monotonic(), 0, 0.0
    while (elapsed := time.monotonic() - begin) < minutes * 60:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, elapsed / (minutes * 60))
        if len(order) < BATCH:
            order = torch.randperm(n_windows)
        picks, order = order[:BATCH], order[BATCH:]
        batch = torch.stack([ids[p * N_CTX : (p + 1) * N_CTX] for p in picks])
        with torch.autocast("cpu", torch.bfloat16):  # master weights stay float32; twice as fast where the CPU has bf16
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        smooth = loss.item() if step == 1 else 0.95 * smooth + 0.05 * loss.item()
        if step % 50 == 0:
            pace = step * BATCH * N_CTX / (time.monotonic() - begin)
            print(f"step {step}  loss {smooth:.3f}  {pace:,.0f} tokens/s  {elapsed / 60:.1f} min", flush=True)
    print(f"{step} steps, {step * BATCH * N_CTX:,} tokens, {(time.monotonic() - begin) / 60:.0f} minutes")


@torch.no_grad()
def held_out_perplexities(model: Qwen3_5ForCausalLM, train_ids: torch.Tensor, ids: torch.Tensor) -> tuple[float, float, int]:
    """(model's, unigram's, number of tokens scored): the first token of each chunk of 512 has no context and is not scored."""
    counts = torch.bincount(train_ids, minlength=VOCAB).double() + 1
    log_unigram = (counts / counts.sum()).log()
    nats, unigram_nats, n_scored = 0.0, 0.0, 0
    for chunk in ids[: len(ids) // N_CTX * N_CTX].view(-1, N_CTX):
        loss = model(input_ids=chunk[None], labels=chunk[None], use_cache=False).loss
        nats += float(loss) * (N_CTX - 1)
        unigram_nats -= float(log_unigram[chunk[1:]].sum())
        n_scored += N_CTX - 1
    return math.exp(nats / n_scored), math.exp(unigram_nats / n_scored), n_scored


def main(out: Path, minutes: float) -> None:
    torch.manual_seed(0)
    tokenizer = train_tokenizer([doc.text for doc in documents("train")])
    train_ids, held_out = tokens_of("train", tokenizer), tokens_of("evaluation", tokenizer)
    print(f"training text {len(train_ids):,} tokens, held-out text {len(held_out):,} tokens")
    model = Qwen3_5ForCausalLM(model_config())
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    model.train()
    train(model, train_ids, minutes)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    ppl, unigram, n_scored = held_out_perplexities(model.float().eval(), train_ids, held_out)
    print(f"held-out perplexity over {n_scored:,} tokens: {ppl:.2f}; unigram model {unigram:.1f}; ratio {ppl / unigram:.3f}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) == 3 else 45.0)
