"""Second moments of inputs and gradients, against sums that know the model."""

import numpy as np
import pytest
import torch
from bitclass3_torch.loss import sampled_label_loss
from bitclass3_torch.model import TorchModel
from bitclass3_torch.moments import JUDGE_SHARE, MAX_JUDGED, moment_groups, tensor_moments
from bitclass3_torch.places import TorchPlace
from bitclass3_torch.sums import Gram
from transformers import LlamaConfig, LlamaForCausalLM

from bitclass3_core.model import Architecture, Place
from bitclass3_core.progress import Silent

CONFIG = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
NAME, KEY = "blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def loaded() -> TorchModel:
    torch.manual_seed(0)
    net = LlamaForCausalLM(LlamaConfig(**CONFIG)).eval().requires_grad_(False)
    place = TorchPlace(KEY, net.model.layers[1].mlp.down_proj, net.model.layers[1].mlp.down_proj.weight, Place(KEY))
    return TorchModel(net, None, torch.device("cpu"), {NAME: place}, None)


def chunks(n: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 61, (n, 32))


def test_gram_is_the_sum_of_outer_products() -> None:
    rng = np.random.default_rng(0)
    x, weights = (torch.from_numpy(rng.standard_normal(shape).astype(np.float32)) for shape in ((50, 600), (50,)))
    gram = Gram()
    assert gram.mean(1) is None
    gram.add(x[:30], weights[:30])
    gram.add(x[30:], weights[30:])
    gram.add(x[:5])
    whole = gram.mean(10)
    assert whole is not None
    expected = (x.T @ (x * weights[:, None]) + x[:5].T @ x[:5]) / 10
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(whole, whole.T)


def test_moments_are_those_of_the_linear(loaded: TorchModel) -> None:
    """Inputs and gradients as hooks on the module see them; half of each token's weight is the other side's energy."""
    ids, seen = chunks(3), []
    found = dict(tensor_moments(loaded, [NAME], Architecture("llama", frozenset()), ids, 2**30, 5, Silent()))[NAME]

    def keep(_module: object, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        output.register_hook(lambda gradient: seen.append((inputs[0].detach()[0], gradient[0])))

    generator = torch.Generator().manual_seed(5)
    module = loaded.places[NAME].module
    handles = [
        module.register_forward_hook(keep),
        loaded.net.get_input_embeddings().register_forward_hook(lambda _m, _i, rows: rows.requires_grad_(True)),
    ]
    for chunk in ids:
        logits = loaded.net(input_ids=torch.from_numpy(chunk)[None], use_cache=False).logits[0]
        sampled_label_loss(logits, generator).backward()
    for handle in handles:
        handle.remove()
    a, g = torch.zeros(40, 40), torch.zeros(24, 24)
    for x, own in seen:
        for total, inner, outer in ((a, x, own), (g, own, x)):
            energy, other = inner.square().sum(1), outer.square().sum(1)
            even = (energy / energy.median()).clamp(max=1) / energy
            weights = sum(w * energy.sum() / (w * energy).sum() for w in (other, even)) / 2
            total += torch.einsum("ti,t,tj->ij", inner, weights, inner)
    torch.testing.assert_close(found.inputs, a / ids.size, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.gradients, g / ids.size, rtol=1e-3, atol=1e-6)
    assert found.judged_x is None


def test_last_chunks_are_left_out_to_judge_by(loaded: TorchModel) -> None:
    ids = chunks(JUDGE_SHARE * MAX_JUDGED)
    arguments = (loaded, [NAME], Architecture("llama", frozenset()))
    found = dict(tensor_moments(*arguments, ids, 2**30, 5, Silent()))[NAME]
    fewer = dict(tensor_moments(*arguments, ids[: JUDGE_SHARE - 1], 2**30, 5, Silent()))[NAME]
    assert found.judged_x.shape == (MAX_JUDGED * 32, 40)
    assert found.judged_g.shape == (MAX_JUDGED * 32, 24)
    assert not torch.allclose(found.inputs, fewer.inputs)


def test_little_memory_makes_more_groups_and_drops_gradients_of_many_rows(loaded: TorchModel) -> None:
    names = [NAME] * 4
    assert moment_groups(loaded, names, 2**30, 32) == [names]
    assert moment_groups(loaded, names, 4 * 40**2 * 2, 32) == [names[:2], names[2:]]
    found = dict(tensor_moments(loaded, [NAME], Architecture("llama", frozenset()), chunks(2), 4 * 40**2, 5, Silent()))[NAME]
    assert found.gradients is None
