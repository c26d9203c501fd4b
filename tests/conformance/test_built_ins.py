"""Every built-in plugin keeps its hook's contract, by the suites that anyone's plugin is held against."""

from pathlib import Path

import bitclass3_bit_classes
import bitclass3_falcon_h1
import bitclass3_fixed
import bitclass3_generic
import bitclass3_gguf
import bitclass3_greedy
import bitclass3_ilp
import bitclass3_lagrangian
import bitclass3_llama
import bitclass3_model_card
import bitclass3_plots
import bitclass3_qwen3
import bitclass3_qwen3next
import bitclass3_qwen35
import bitclass3_qwen35moe
import bitclass3_recipe
import bitclass3_stock
import bitclass3_uniform
import bitclass3_weighted_error
import pytest
from safetensors import safe_open

from bitclass3_core.gguf.imatrix import write_imatrix
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.names import quantizable_tensors
from bitclass3_core.testing import (
    ArchitectureConformance,
    BudgetConformance,
    EstimatorConformance,
    ExporterConformance,
    MetricConformance,
    ReportConformance,
    SolverConformance,
)
from bitclass3_core.testing.samples import sample_sensitivity, sample_weights, write_gguf

DATA = Path(__file__).parents[1] / "data"


class TestIlp(SolverConformance):
    plugin = bitclass3_ilp
    two_budgets = True
    exact = True


class TestLagrangian(SolverConformance):
    plugin = bitclass3_lagrangian
    two_budgets = True


class TestGreedy(SolverConformance):
    plugin = bitclass3_greedy
    two_budgets = True


class TestStock(SolverConformance):
    plugin = bitclass3_stock
    options = {"ftype": "Q4_K_M"}
    uses_choices = False


class TestFixed(BudgetConformance):
    plugin = bitclass3_fixed
    options = {"target_bpw": 4.8}
    larger = {"target_bpw": 5.6}
    needs_options = True


class TestFixedSize(BudgetConformance):
    plugin = bitclass3_fixed
    options = {"target_size": "700KiB"}
    larger = {"target_size": "900KiB"}


class TestBitClasses(BudgetConformance):
    plugin = bitclass3_bit_classes
    level = "Q4_K_M"
    larger_level = "Q6_K"
    needs_options = True


class TestWeightedError(MetricConformance):
    plugin = bitclass3_weighted_error


class TestWeightedErrorSampled(MetricConformance):
    plugin = bitclass3_weighted_error
    options = {"min_rows": 16, "relative_error": 0.2}


class TestUniform(EstimatorConformance):
    plugin = bitclass3_uniform
    reads_text = False


class TestImatrix(EstimatorConformance):
    """With a file that another program made."""

    plugin = "imatrix"
    reads_text = False

    @pytest.fixture(autouse=True)
    def file(self, model, tmp_path, monkeypatch):
        path = tmp_path / "imatrix.gguf"
        write_imatrix(path, sample_sensitivity(model, quantizable_tensors(model)), "sample")
        monkeypatch.setattr(type(self), "options", {"path": path})


class TestGguf(ExporterConformance):
    plugin = bitclass3_gguf


class TestRecipe(ExporterConformance):
    plugin = bitclass3_recipe
    writes_gguf = False
    reads_weights = False


class TestModelCard(ReportConformance):
    plugin = bitclass3_model_card


class TestPlots(ReportConformance):
    plugin = bitclass3_plots


class TestGeneric(ArchitectureConformance):
    plugin = bitclass3_generic
    knows_hf = False  # the sample has a tensor of another family


class _Tiny(ArchitectureConformance):
    """Of a small model in tests/data, against the HF folder that it was converted from."""

    folder = staticmethod(lambda: DATA)

    @pytest.fixture
    def model(self):
        return GgufModel(self.folder() / "model-bf16.gguf")

    @pytest.fixture
    def hf_weights(self):
        torch = pytest.importorskip("torch")
        with safe_open(self.folder() / "model.safetensors", "pt") as file:
            return {name.removesuffix(".weight"): file.get_tensor(name).to(torch.float32).numpy() for name in file.keys()}  # noqa: SIM118


class TestLlama(_Tiny):
    plugin = bitclass3_llama
    folder = staticmethod(lambda: DATA / "llama-tiny")


class TestQwen3(_Tiny):
    plugin = bitclass3_qwen3
    folder = staticmethod(lambda: DATA / "qwen3-tiny")


def _family(arch: str, metadata: dict, tensors: dict[str, tuple[int, ...]]):
    """A suite's fixture ``model``: a random GGUF of that architecture, one block of each kind."""

    @pytest.fixture
    def model(self, tmp_path):
        weights = {name: sample_weights(shape, i) for i, (name, shape) in enumerate(tensors.items())}
        values = {f"{arch}.{key}": value for key, value in metadata.items()}
        return GgufModel(write_gguf(tmp_path / f"{arch}.gguf", arch, weights, values))

    return model


_ATTENTION = {
    f"blk.1.{role}.weight": shape for role, shape in {"attn_q": (256, 256), "attn_k": (64, 256), "attn_v": (64, 256)}.items()
}
_COMMON = {"token_embd.weight": (320, 256), "output_norm.weight": (256,), "blk.1.attn_output.weight": (256, 256), **_ATTENTION}
_FFN = {
    f"blk.{n}.{role}.weight": shape
    for n in range(2)
    for role, shape in {"ffn_gate": (512, 256), "ffn_up": (512, 256), "ffn_down": (256, 512)}.items()
}
_EXPERTS = {
    f"blk.{n}.{role}_exps.weight": shape
    for n in range(2)
    for role, shape in {"ffn_gate": (4, 128, 256), "ffn_up": (4, 128, 256), "ffn_down": (4, 256, 128)}.items()
}
_LINEAR = {
    "blk.0.attn_qkv.weight": (384, 256),
    "blk.0.attn_gate.weight": (256, 256),
    "blk.0.ssm_alpha.weight": (8, 256),
    "blk.0.ssm_beta.weight": (8, 256),
    "blk.0.ssm_out.weight": (256, 256),
}
_SSM = {"ssm.group_count": 2, "ssm.time_step_rank": 8, "ssm.inner_size": 256, "ssm.state_size": 32, "block_count": 2}
_HEADS = {"attention.head_count": 4, "attention.head_count_kv": 1}


class TestQwen35(ArchitectureConformance):
    plugin = bitclass3_qwen35
    model = _family("qwen35", _SSM, {**_COMMON, **_FFN, **_LINEAR})


class TestQwen35Moe(ArchitectureConformance):
    plugin = bitclass3_qwen35moe
    model = _family("qwen35moe", _SSM, {**_COMMON, **_EXPERTS, **_LINEAR})


class TestQwen3Next(ArchitectureConformance):
    plugin = bitclass3_qwen3next
    model = _family(
        "qwen3next",
        _SSM,
        {
            **_COMMON,
            **_EXPERTS,
            **{k: v for k, v in _LINEAR.items() if "alpha" not in k and "beta" not in k},
            "blk.0.ssm_ba.weight": (16, 256),
        },
    )


class TestFalconH1(ArchitectureConformance):
    plugin = bitclass3_falcon_h1
    model = _family(
        "falcon-h1",
        {**_SSM, **_HEADS},
        {**_COMMON, **_FFN, "output.weight": (320, 256), "blk.0.ssm_in.weight": (648, 256), "blk.0.ssm_out.weight": (256, 256)},
    )
