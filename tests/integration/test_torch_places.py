"""Every family's tensors find their place in HF, get statistics of their own, and can be evaluated; llama.cpp's converter is the judge."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from bitclass3_torch.hf_layouts import find_places
from bitclass3_torch.model import TorchModel, load_torch_model
from bitclass3_torch.statistics import collect
from bitclass3_torch_evaluator import Options, bitclass3_evaluate
from families import FAMILIES

from bitclass3_core.corpus import Corpus, document
from bitclass3_core.errors import ModelFileError
from bitclass3_core.gguf.kernels import dequantize, quantize
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.model import Architecture
from bitclass3_core.plugin.checks import check_architecture, check_sensitivity
from bitclass3_core.progress import Silent
from bitclass3_core.qtypes import qtype
from bitclass3_core.sensitivity import Sensitivity, TensorSensitivity

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of tokenizers' own making
]
Loaded = tuple[GgufModel, Architecture, TorchModel]


def architecture_of(model: GgufModel) -> Architecture:
    """The answer of the plugin that a run would choose."""
    try:
        plugin = importlib.import_module(f"bitclass3_{model.arch.replace('-', '_')}")
    except ModuleNotFoundError:
        plugin = importlib.import_module("bitclass3_generic")
    answer: Architecture = plugin.bitclass3_architecture(model=model)
    check_architecture(answer, model, answer.name)
    return answer


@pytest.fixture(scope="module")
def family(tiny: Callable[[str], Path]) -> Callable[[str], Loaded]:
    """A family's tiny model, loaded on the first call."""
    made: dict[str, Loaded] = {}

    def loaded(name: str) -> Loaded:
        if name not in made:
            gguf = tiny(name)
            model = GgufModel(gguf, gguf.parent)
            architecture = architecture_of(model)
            made[name] = model, architecture, load_torch_model(model, architecture, "cpu", "float32")
        return made[name]

    return loaded


class Changed:
    """A GGUF whose tensors are read through a function."""

    def __init__(self, model: GgufModel, change: Callable[[str, np.ndarray], np.ndarray]) -> None:
        self._model, self._change = model, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def read(self, name: str, rows: Any = None) -> np.ndarray:
        values = self._change(name, self._model.read(name))
        return values if rows is None else values[rows]


def ids(n_chunks: int, n_ctx: int) -> np.ndarray:
    return np.random.default_rng(1).integers(3, families.VOCAB, (n_chunks, n_ctx))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_quantizable_tensor_has_its_place(family: Any, name: str) -> None:
    """Other values change as many weights as the tensor has, and the GGUF's own put the model back to the last bit."""
    model, architecture, loaded = family(name)
    assert set(loaded.places) == architecture.quantizable
    before = {key: parameter.clone() for key, parameter in loaded.net.named_parameters()}

    def n_changed() -> int:
        return sum(int((before[key] != parameter).sum()) for key, parameter in loaded.net.named_parameters())

    for tensor in loaded.places:
        loaded.set_weight(tensor, model.read(tensor) + 1, architecture)
        assert n_changed() == model.tensors[tensor].n_params, tensor
        loaded.load_weight(tensor, model, architecture)
        assert n_changed() == 0, tensor


@pytest.mark.parametrize("name", FAMILIES)
def test_permuted_rows_of_any_tensor_are_another_model(family: Any, name: str) -> None:
    model, architecture, loaded = family(name)
    for tensor in sorted(architecture.quantizable):
        other = Changed(model, lambda found, values, tensor=tensor: values[::-1] if found == tensor else values)
        with pytest.raises(ModelFileError, match=f"was not converted from .*: {tensor} differs; give the HF folder and the GGUF"):
            find_places(loaded.net, other, architecture)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_has_statistics_of_its_own(family: Any, name: str) -> None:
    model, architecture, loaded = family(name)
    for with_gradients in (True, False):
        tensors = collect(loaded, model, architecture, ids(2, 64), with_gradients, 0, Silent())
        answer = Sensitivity(tensors, "kl-hessian", 128, 64, "random")
        check_sensitivity(answer, model, architecture.quantizable, "kl-hessian")
        assert not with_gradients or answer.in_nats
        assert all((powers.in_power > 0).any() for tensor in tensors.values() for powers in tensor.roles)
    tied = model.tensors.keys().isdisjoint({"output.weight"})
    assert tied == (tensors["token_embd.weight"].linear is not None)


@pytest.mark.parametrize("name", FAMILIES)
def test_evaluation_of_the_source_and_of_a_quantized_candidate(family: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, architecture, loaded = family(name)
    monkeypatch.setattr("bitclass3_torch_evaluator.load_torch_model", lambda *_: loaded)
    text = "\n".join(families.TEXT * 8)
    corpus = Corpus((), (document(text, "prose"),))

    def rounded(tensor: str, values: np.ndarray) -> np.ndarray:
        q = qtype("Q4_0")
        return dequantize(quantize(values, q, None), q) if tensor in architecture.quantizable else values

    options = Options(n_tokens=256, n_ctx=64, device="cpu")
    candidates: Any = [model, Changed(model, rounded), model]
    same, worse, again = bitclass3_evaluate(model, candidates, architecture, corpus, options, Silent())
    assert abs(same.mean_kld) < 1e-6
    assert same.same_top1 == 1
    assert worse.mean_kld > 1e-3
    assert again.mean_kld == same.mean_kld


class FrozenRouting:
    """Sends each token to the experts that it went to at first, with the weights that the router gives them now.

    Where routing jumps, KLD is not of second order in the weights, and no Hessian says what it costs.
    """

    def __init__(self, net: Any) -> None:
        self._chosen: dict[str, list[torch.Tensor]] = {}
        self._calls: dict[str, int] = {}
        self.replays = False
        self._handles = [
            module.register_forward_hook(lambda _m, _i, output, name=name: self._route(name, output))
            for name, module in net.named_modules()
            if name.endswith("mlp.gate")
        ]

    def replay(self) -> None:
        self.replays = True
        self._calls.clear()

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _route(self, name: str, output: Any) -> Any:
        logits, scores, chosen = output
        if not self.replays:
            self._chosen.setdefault(name, []).append(chosen)
            return output
        number = self._calls[name] = self._calls.get(name, -1) + 1
        chosen = self._chosen[name][number]
        return logits, logits.float().softmax(-1).gather(-1, chosen).to(scores.dtype), chosen


@torch.inference_mode()
def log_probabilities(loaded: TorchModel, chunks: np.ndarray) -> torch.Tensor:
    tokens = [torch.from_numpy(chunk)[None] for chunk in chunks]
    return torch.cat([loaded.net(input_ids=chunk, use_cache=False).logits[0].double().log_softmax(-1) for chunk in tokens])


def predicted_cost(tensor: TensorSensitivity, squared: np.ndarray) -> float:
    total = 0.0
    for powers in tensor.roles:
        columns = np.atleast_2d(powers.in_factor)
        per_row = (squared * np.repeat(columns, len(squared) // len(columns), axis=0)).sum(1)
        total += 0.5 * float((powers.out_power * per_row).sum())
    return total


def predicted_and_measured(loaded_family: Loaded, chunks: np.ndarray, names: list[str], size: float) -> tuple[float, float]:
    """KLD of noise of ``size`` times each row's RMS on the named tensors: by their powers, and measured with the routing held."""
    model, architecture, loaded = loaded_family
    powers = collect(loaded, model, architecture, chunks, True, 0, Silent())
    routing = FrozenRouting(loaded.net)
    before = log_probabilities(loaded, chunks)
    rng = np.random.default_rng(0)
    predicted = 0.0
    for name in names:
        values = model.read(name)
        noise = size * np.sqrt(np.square(values).mean(axis=1, keepdims=True)) * rng.standard_normal(values.shape)
        predicted += predicted_cost(powers[name], np.square(noise))
        loaded.set_weight(name, values + noise.astype(np.float32), architecture)
    routing.replay()
    after = log_probabilities(loaded, chunks)
    routing.close()
    for name in names:
        loaded.load_weight(name, model, architecture)
    return predicted, float((before.exp() * (before - after)).sum(-1).mean())


@pytest.mark.parametrize("role", ["all", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"])
def test_prediction_agrees_with_measurement_where_routing_is_held(family: Any, role: str) -> None:
    tiny = family("qwen3moe")
    names = [name for name in sorted(tiny[1].quantizable) if role in ("all", tiny[0].tensors[name].role)]
    predicted, measured = predicted_and_measured(tiny, ids(8, 256), names, 0.01)
    assert 1e-5 < measured < 0.02
    assert predicted == pytest.approx(measured, rel=0.25)


def test_prediction_of_experts_that_no_router_follows(family: Any) -> None:
    """The last layer's experts: nothing needs to be held, the real routing is measured."""
    model, architecture, loaded = family("deepseek2")
    names = [name for name in sorted(architecture.quantizable) if name.startswith("blk.1.") and "exps" in name]
    assert len(names) == 3
    predicted, measured = predicted_and_measured((model, architecture, loaded), ids(8, 256), names, 0.02)
    assert predicted == pytest.approx(measured, rel=0.1)


def test_a_tensor_without_a_place_is_named(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, architecture, loaded = family("deepseek2")
    fewer = replace(loaded, places={name: place for name, place in loaded.places.items() if "attn_k_b" not in name})
    monkeypatch.setattr("bitclass3_torch_evaluator.load_torch_model", lambda *_: fewer)
    said = "^torch cannot place blk.0.attn_k_b.weight, blk.1.attn_k_b.weight of deepseek2; evaluate with llama-perplexity instead$"
    with pytest.raises(ModelFileError, match=said):
        bitclass3_evaluate(model, [model], architecture, Corpus((), ()), Options(), Silent())
