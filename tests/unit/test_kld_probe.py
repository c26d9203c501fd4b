"""The estimator that measures: groups, scales, and probes by an evaluator whose truth is known."""

import bitclass3_kld_probe as kld_probe
import numpy as np
import pytest
from bitclass3_kld_probe.groups import Measured, ProbeGroup, fit_scales, probe_groups
from gguf_files import heavy_tailed, matrices, memory_model, write_gguf

from bitclass3_core.corpus import Corpus, document
from bitclass3_core.errors import ConfigError, PluginError
from bitclass3_core.gguf.imatrix import write_imatrix
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.plugin.call import OtherStages
from bitclass3_core.progress import Silent
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity

NAMES = [f"blk.{block}.{role}.weight" for block in range(4) for role in ("attn_q", "ffn_down")]
TENSORS = {"token_embd.weight": ((32, 256), "BF16"), **dict.fromkeys(NAMES, ((16, 256), "BF16"))}
TRUTH = {"attn_q": 0.5, "ffn_down": 8.0, "token_embd": 2.0}
POWERS = {name: np.abs(heavy_tailed((256,), 100 + i)) + 0.01 for i, name in enumerate(NAMES)}

# An evaluator whose KLD is truth[role] * 1/2 sum_j in_power_j D_ij^2 over all tensors, plus a noise floor.
EVALUATOR = """
import json, pathlib
import numpy as np
from pydantic import BaseModel
from bitclass3_core import hookimpl
from bitclass3_core.evaluation import Evaluation

HERE = pathlib.Path(__file__).parent

class Options(BaseModel):
    n_ctx: int = 0
    n_chunks: int = 0
    floor: float = 0.0

@hookimpl
def bitclass3_evaluate(reference, candidates, corpus, options: Options):
    truth, powers = json.loads((HERE / "truth.json").read_text()), np.load(HERE / "powers.npz")
    answers = []
    for candidate in candidates:
        kld = options.floor
        for name, info in reference.tensors.items():
            d = candidate.read(name) - reference.read(name)
            weight = powers[name] if name in powers else 1.0 / info.n_rows
            kld += truth[info.role] * 0.5 * float((weight * d * d).sum())
        with (HERE / "calls.txt").open("a") as file:
            file.write(f"{options.n_ctx} {options.n_chunks} {len(corpus.evaluation)}\\n")
        figures = dict.fromkeys(("median_kld", "p99_kld", "p999_kld", "same_top1", "se_same_top1", "ppl", "se_ppl"), 1.0)
        answers.append(Evaluation(candidate.path.stem, 1000, 10, kld, 0.01 * kld, reference_ppl=1.0, se_reference_ppl=1.0, **figures))
    return answers
"""


@pytest.fixture
def probed(tmp_path, monkeypatch):
    """(folder with model, imatrix and evaluator; a function that estimates)."""
    import json

    monkeypatch.setenv("BITCLASS3_CACHE", str(tmp_path / "cache"))
    (tmp_path / "judge.py").write_text(EVALUATOR)
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    np.savez(tmp_path / "powers.npz", **POWERS)
    write_gguf(tmp_path / "model.gguf", TENSORS)
    known = {name: TensorSensitivity(Powers(power)) for name, power in POWERS.items()}
    write_imatrix(tmp_path / "imatrix.gguf", Sensitivity(known, "test", 4096, 512, ""), "text")

    def estimate(**options):
        model = GgufModel(tmp_path / "model.gguf")
        values = {"path": tmp_path / "imatrix.gguf", "evaluator": str(tmp_path / "judge.py"), "bands": 2, **options}
        return kld_probe.bitclass3_estimate(
            model=model,
            architecture=matrices(model),
            corpus=Corpus((document("calibration", "a"),), (document("never used", "b"), document("nor this", "b"))),
            options=kld_probe.Options(**values),
            progress=Silent(),
            stages=OtherStages(),
        )

    return tmp_path, estimate


def n_calls(folder) -> int:
    return len((folder / "calls.txt").read_text().splitlines())


def test_scales_are_the_truth(probed):
    _, estimate = probed
    answer = estimate()
    assert answer.in_nats
    for name in TENSORS:
        (powers,) = answer.tensors[name].roles
        role = "token_embd" if name.startswith("token") else name.split(".")[2]
        expected = TRUTH[role] / (32 if role == "token_embd" else 1)  # a looked-up row counts as often as it occurs
        np.testing.assert_allclose(powers.out_power, expected, rtol=0.05)


def test_noise_floor_is_taken_off(probed):
    _, estimate = probed
    answer = estimate(evaluator_options={"floor": 0.003})
    np.testing.assert_allclose(answer.tensors[NAMES[1]].linear.out_power, TRUTH["ffn_down"], rtol=0.1)
    assert "noise floor 0.003 nats/token" in answer.notes[-1]


def test_probes_see_calibration_text_alone_and_little_of_it(probed):
    folder, estimate = probed
    estimate(n_ctx=256, probe_tokens=1024)
    assert set((folder / "calls.txt").read_text().splitlines()) == {"256 4 1"}


def test_no_probe_is_measured_twice(probed):
    folder, estimate = probed
    first = estimate()
    calls = n_calls(folder)
    again = estimate()
    assert n_calls(folder) == calls
    np.testing.assert_array_equal(again.tensors[NAMES[0]].linear.out_power, first.tensors[NAMES[0]].linear.out_power)
    estimate(probe_tokens=1024)
    assert n_calls(folder) > calls


def test_nothing_is_left_behind(probed):
    folder, estimate = probed
    estimate()
    assert [path.name for path in (folder / "cache").iterdir()] == ["probes"]
    assert {path.suffix for path in (folder / "cache" / "probes").iterdir()} == {".json"}


def test_plugin_that_does_not_evaluate(probed):
    _, estimate = probed
    with pytest.raises(
        PluginError, match=r"plugin 'ilp' does not implement bitclass3_evaluate, only solve; name another with estimate\.options"
    ):
        estimate(evaluator="ilp")


def test_option_that_the_evaluator_does_not_have(probed):
    _, estimate = probed
    with pytest.raises(ConfigError, match="plugin 'torch' has no option 'flor'"):
        estimate(evaluator="torch", evaluator_options={"flor": 1})


def test_groups_cover_every_tensor_once():
    shapes = {f"blk__{i}__attn_q": (2, 32) for i in range(7)} | {
        "token_embd": (4, 32),
        "output": (4, 32),
        "blk__2__attn_v": (2, 32),
    }
    model = memory_model(**shapes)
    groups = probe_groups(model, set(model.tensors), 3)
    assert sorted(name for group in groups for name in group.tensors) == sorted(model.tensors)
    assert [(group.role, group.band, len(group.tensors)) for group in groups] == [
        ("attn_q", 0, 2), ("attn_q", 1, 3), ("attn_q", 2, 2), ("attn_v", 0, 1), ("output", None, 1), ("token_embd", None, 1),
    ]  # fmt: skip
    assert groups[1].tensors == ("blk.2.attn_q.weight", "blk.3.attn_q.weight", "blk.4.attn_q.weight")


def bands(n: int) -> list[ProbeGroup]:
    return [ProbeGroup("attn_q", band, (f"{band}",)) for band in range(n)]


def test_sure_measurements_stay():
    measured = [Measured(1.0, 1e-4, 1.0), Measured(4.0, 1e-4, 1.0), Measured(2.0, 1e-4, 1.0)]
    np.testing.assert_allclose(fit_scales(bands(3), measured).scales, [1, 4, 2], rtol=1e-3)


def test_noise_takes_its_classes_scale():
    measured = [Measured(2.0, 0.01, 1.0), Measured(2.1, 0.01, 1.0), Measured(0.001, 0.5, 1.0)]
    fitted = fit_scales(bands(3), measured)
    assert fitted.scales[2] == pytest.approx(2.0, rel=0.1)
    assert fitted.scales[0] == pytest.approx(2.0, rel=0.1)


def test_group_alone_in_its_class_keeps_its_own():
    groups = [ProbeGroup("output", None, ("output.weight",)), *bands(2)]
    measured = [Measured(5.0, 1.0, 1.0), Measured(1.0, 0.1, 1.0), Measured(1.0, 0.1, 1.0)]
    assert fit_scales(groups, measured).scales[0] == pytest.approx(5.0)


def test_tensor_without_error_does_not_break_the_fit():
    assert np.isfinite(fit_scales(bands(2), [Measured(0.0, 0.0, 0.0), Measured(1.0, 0.1, 1.0)]).scales).all()
