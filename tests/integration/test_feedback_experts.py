"""Error feedback for stacks of experts: each is rounded for the tokens that are routed to it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bitclass3_gguf import Options
from bitclass3_gguf.rounded import Export, kept_in, round_with_feedback
from bitclass3_qwen3 import bitclass3_architecture as qwen3
from bitclass3_qwen35moe import bitclass3_architecture as qwen35moe
from bitclass3_torch.model import TorchModel, load_torch_model
from bitclass3_torch.products import Product, Products, eager_experts
from bitclass3_torch.tokens import token_chunks
from families import TEXT

from bitclass3_core.corpus import Corpus, document
from bitclass3_core.gguf.kernels import dequantize, quantize
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.problem import Allocation
from bitclass3_core.progress import Silent
from bitclass3_core.qtypes import qtype
from bitclass3_core.sensitivity import Sensitivity

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of tokenizers' own making
CORPUS = Corpus((document(" ".join(TEXT * 8), "words"),), ())
OPTIONS = Options.model_validate({"rounding": "feedback", "n_tokens": 1024, "n_ctx": 128, "device": "cpu"})


def routed_inputs(loaded: TorchModel, name: str) -> dict[int, torch.Tensor]:
    """What each expert of a stack is multiplied with, on the text that the rounding sees."""
    chunks, _ = token_chunks(loaded.tokenizer, CORPUS.calibration, OPTIONS.n_tokens, OPTIONS.n_ctx, "calibration")
    place, found = loaded.places[name], {}

    def seen(product: Product) -> None:
        found.setdefault(product.matrix, []).append(product.inputs.detach().float().reshape(-1, product.inputs.shape[-1]))

    with torch.no_grad(), eager_experts(loaded.net), Products({place.key: place.parameter}, seen):
        for chunk in chunks:
            loaded.net(input_ids=torch.from_numpy(chunk)[None], use_cache=False)
    return {expert: torch.cat(parts) for expert, parts in found.items()}


@pytest.mark.parametrize(("name", "architecture_of"), [("qwen3moe", qwen3), ("qwen35moe", qwen35moe)])
def test_every_expert_is_nearer_on_its_own_tokens(
    tiny: Callable[[str], Path], tmp_path: Path, name: str, architecture_of: Callable[..., object]
) -> None:
    gguf = tiny(name)
    model = GgufModel(gguf, gguf.parent)
    architecture = architecture_of(model=model)
    stacks = ["blk.0.ffn_gate_exps.weight", "blk.0.ffn_down_exps.weight"]
    q = "Q4_0"  # rows of 128 columns too
    allocation = Allocation(dict.fromkeys(stacks, q))
    nothing = Sensitivity({}, "none", 0, 0, "")
    export = Export(model, architecture, allocation, nothing, CORPUS, OPTIONS, Silent())
    kept = kept_in(tmp_path, export)
    round_with_feedback(export, kept)
    loaded = load_torch_model(model, architecture, "cpu", "float32")
    for stack in stacks:
        info = model.tensors[stack]
        rows, data = model.read(stack), kept.load(stack)
        assert kept.gains()[stack].rounding == "rows alone"
        assert kept.gains()[stack].kept < 0.9 * kept.gains()[stack].plain
        n_rows = info.n_rows // info.n_experts
        ratios = []
        for expert, x in routed_inputs(loaded, stack).items():
            own = slice(expert * n_rows, (expert + 1) * n_rows)
            errors = [
                float((x @ torch.from_numpy(dequantize(rounded, qtype(q)) - rows[own]).T).square().sum())
                for rounded in (data[own], quantize(rows[own], qtype(q), None))
            ]
            ratios.append(errors[0] / errors[1])
        assert len(ratios) == info.n_experts
        assert np.mean(ratios) < 0.9, ratios
