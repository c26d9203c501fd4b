"""The exporter keeps the contract, and compressed-tensors itself reads from its file what was allocated."""

import json
from pathlib import Path

import bitclass3_compressed_tensors
import numpy as np
import pytest
from safetensors.numpy import save_file

from bitclass3_core.errors import ConfigError
from bitclass3_core.gguf_model import GgufModel
from bitclass3_core.model import Architecture
from bitclass3_core.naming import hf_stems, quantizable_tensors
from bitclass3_core.problem import Allocation
from bitclass3_core.testing import ExporterConformance, Recorded
from bitclass3_core.testing.samples import write_sample

MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
MODULES |= {"ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def sample(tmp_path):
    """The suites' sample with an HF folder whose parameters have its names."""
    hf = tmp_path / "hf"
    hf.mkdir()
    names = [f"model.layers.{n}.{module}" for n in range(2) for module in MODULES.values()]
    save_file({f"{name}.weight": np.zeros((1, 1), np.float32) for name in [*names, "lm_head"]}, hf / "model.safetensors")
    source = tmp_path / "source"
    source.mkdir()
    return GgufModel(write_sample(source / "sample.gguf"), hf=hf)


@pytest.fixture
def model(tmp_path):
    return sample(tmp_path)


class TestExporter(ExporterConformance):
    plugin = bitclass3_compressed_tensors
    writes_gguf = False
    reads_weights = False

    @pytest.fixture
    def model(self, tmp_path):
        return sample(tmp_path)

    @pytest.fixture
    def architecture(self, model):
        return Architecture(model.arch, quantizable_tensors(model), hf_stems=hf_stems(model))


TYPES = {"attn_q": "Q3_K", "attn_k": "Q4_K", "attn_v": "Q6_K", "attn_output": "Q8_0", "ffn_up": "BF16", "ffn_down": "Q4_0"}
BITS = {
    "self_attn.q_proj": 4,
    "self_attn.k_proj": 4,
    "self_attn.v_proj": 8,
    "self_attn.o_proj": 8,
    "mlp.up_proj": None,
    "mlp.down_proj": 4,
}


def written(model, tmp_path, **options):
    quantizable = frozenset(name for name in quantizable_tensors(model) if model.tensors[name].role in TYPES)
    architecture = Architecture(model.arch, quantizable, hf_stems=hf_stems(model))
    allocation = Allocation({name: TYPES[model.tensors[name].role] for name in quantizable}, "test")
    (path,) = bitclass3_compressed_tensors.bitclass3_export(
        model, architecture, allocation, tmp_path, "sample", bitclass3_compressed_tensors.Options(**options), Recorded()
    )
    return json.loads(Path(path).read_text())


@pytest.mark.filterwarnings("ignore")
def test_compressed_tensors_reads_what_was_allocated(model, tmp_path):
    """Its own reader validates the config and puts it on a torch model; every Linear then has the bits of its tensor."""
    torch = pytest.importorskip("torch")
    quantization = pytest.importorskip("compressed_tensors.quantization")

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.self_attn, self.mlp = torch.nn.Module(), torch.nn.Module()
            for name in MODULES.values():
                part, _, leaf = name.partition(".")
                setattr(getattr(self, part), leaf, torch.nn.Linear(512 if leaf == "down_proj" else 256, 256, bias=False))

    net = torch.nn.Module()
    net.model = torch.nn.Module()
    net.model.layers = torch.nn.ModuleList([Block(), Block()])
    config = quantization.QuantizationConfig.model_validate(written(model, tmp_path))
    quantization.apply_quantization_config(net, config)
    found = {name: module for name, module in net.named_modules() if isinstance(module, torch.nn.Linear)}
    assert len(found) == 12
    for name, module in found.items():
        wanted = BITS[name.split(".", 3)[3]]
        scheme = getattr(module, "quantization_scheme", None)
        assert (scheme.weights.num_bits if scheme else None) == wanted, name
        if scheme:
            assert scheme.weights.group_size == 128
            assert scheme.weights.symmetric


def test_more_bits_to_choose_from(model, tmp_path):
    groups = written(model, tmp_path, bits=(3, 4, 6, 8))["config_groups"].values()
    bits = {module.rsplit(".", 1)[1]: group["weights"]["num_bits"] for group in groups for module in group["targets"]}
    assert bits == {"q_proj": 3, "k_proj": 4, "v_proj": 6, "o_proj": 8, "down_proj": 4}


def test_rows_that_the_group_does_not_divide_get_a_scale_each(model, tmp_path):
    groups = written(model, tmp_path, group_size=512)["config_groups"].values()
    strategies = {module: group["weights"]["strategy"] for group in groups for module in group["targets"]}
    assert strategies["model.layers.0.mlp.down_proj"] == "group"
    assert strategies["model.layers.0.self_attn.q_proj"] == "channel"


def test_without_an_hf_folder(model, tmp_path):
    with pytest.raises(ConfigError, match="compressed-tensors needs the HF folder of sample for the names of its modules"):
        written(GgufModel(model.path), tmp_path)


def test_bits_that_cannot_be_packed():
    with pytest.raises(ValueError, match="compressed-tensors packs 1 to 8 bits"):
        bitclass3_compressed_tensors.Options(bits=(4, 16))
