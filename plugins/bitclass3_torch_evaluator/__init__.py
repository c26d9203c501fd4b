"""Evaluation in torch: the HF model with its weights replaced by the dequantized tensors of each GGUF.

It needs no llama.cpp. It rounds the inputs of matrix products as llama.cpp does; it does not imitate the precision of llama.cpp's attention
and KV cache.
"""

from dataclasses import replace
from typing import Any, Literal

from bitclass3_torch import WEIGHT_BYTES
from bitclass3_torch.model import TorchModel, load_torch_model
from bitclass3_torch.tokens import token_chunks
from pydantic import Field

from bitclass3_core import hookimpl
from bitclass3_core.corpus import Corpus
from bitclass3_core.errors import ModelFileError
from bitclass3_core.evaluation import Evaluation, summarize
from bitclass3_core.model import Architecture, Model
from bitclass3_core.options import Demands, PluginOptions, Work
from bitclass3_core.progress import Progress

BITCLASS3_ANSWERS = "15b8a0b4c46d"  # changes when the answers do

PROBED_CHUNKS = 4  # of the evaluation text: a tensor costs a forward pass over each


class Options(PluginOptions):
    """How much held-out text, and where torch runs."""

    n_tokens: int = Field(32768, gt=0, description="evaluation tokens at the most; the second half of each chunk is scored")
    n_ctx: int = Field(512, gt=3, description="tokens a chunk")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    dtype: str = Field("auto", description="auto (float32 on the CPU, bfloat16 on a GPU), float32, bfloat16, float16")
    activations: Literal["cpu", "gpu", "none"] = Field(
        "cpu", description="round the inputs of products as ggml does on a CPU, with blocks of 32 throughout, or not at all"
    )
    n_probes: int = Field(
        0,
        ge=0,
        description="tensors of each file, drawn at random, that are also measured alone, against what was predicted for them",
    )
    logits_mib: int = Field(1024, gt=0, description="memory for the reference's logits; more means fewer swaps of weights")

    def demands(self, work: Work) -> Demands:
        """2 operations a weight and token, for the source and for each file."""
        return Demands((1 + work.n_files) * 2 * self.n_tokens * work.n_params, n_bytes=WEIGHT_BYTES * work.n_params)


def _check_candidates(loaded: TorchModel, reference: Model, candidates: list[Model], architecture: Architecture) -> None:
    lost = sorted(architecture.quantizable - set(loaded.places))
    if lost:
        named = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        raise ModelFileError(f"torch cannot place {named} of {reference.arch}; evaluate with llama-perplexity instead")
    for candidate in candidates:
        for name in loaded.places:
            info = candidate.tensors.get(name)
            if info is None or info.shape != reference.tensors[name].shape:
                raise ModelFileError(
                    f"{candidate.path.name} is no quantization of {reference.path.name}: {name} is missing or has another shape"
                )


@hookimpl
def bitclass3_evaluate(
    reference: Model, candidates: list[Model], architecture: Architecture, corpus: Corpus, options: Options, progress: Progress
) -> list[Evaluation]:
    """Mean KLD with its error, tails, same-top-1 and PPL of each candidate on ``corpus.evaluation``."""
    loaded = load_torch_model(reference, architecture, options.device, options.dtype)
    _check_candidates(loaded, reference, candidates, architecture)
    chunks, domains = token_chunks(loaded.tokenizer, corpus.evaluation, options.n_tokens, options.n_ctx, "evaluation", at_most=True)
    if len(chunks) < options.n_tokens // options.n_ctx:  # hours of measuring must not end here: the figures carry their errors
        progress.warn(f"the evaluation text has only {chunks.size:,} of the {options.n_tokens:,} tokens asked for; all are used")
    n_vocab: Any = loaded.net.config.get_text_config().vocab_size
    per_chunk = (options.n_ctx - options.n_ctx // 2) * n_vocab * 4
    group = max(1, (options.logits_mib << 20) // per_chunk)
    from bitclass3_torch_evaluator.bench import Bench

    bench = Bench(loaded, reference, architecture, options.activations, progress)
    progress.begin("evaluate", len(chunks) * (len(candidates) + 1))
    scores = bench.scores(candidates, chunks, group)
    progress.end()
    probed = [bench.tensor_klds(candidate, options.n_probes, chunks[:PROBED_CHUNKS]) for candidate in candidates]
    scored_domains = domains[:, options.n_ctx // 2 + 1 :].reshape(-1)
    summaries = [
        summarize(c.path.stem, s.kld, s.same_top1, s.nll, s.reference_nll, scored_domains, len(chunks), "torch")
        for c, s in zip(candidates, scores, strict=True)
    ]
    return [replace(summary, tensor_kld=klds) for summary, klds in zip(summaries, probed, strict=True)]
