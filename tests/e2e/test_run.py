"""A whole run: what it leaves, what a second one uses again, and that all ways of asking give the same answer."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command import CALIBRATION, EVALUATION, EXAMPLE, GGUF, SMALL, bitclass3, run
from gguf import GGUFReader

from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.layout import file_bytes
from bitclass3_core.sensitivity import load_sensitivity

pytestmark = pytest.mark.slow
OURS = "tiny-qwen35-4.80bpw"


def allocation(out: Path) -> dict[str, str]:
    return dict(json.loads((out / "allocation.json").read_text())["qtypes"])


def test_leaves_every_artefact(finished: Path) -> None:
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert {
        "run.json",
        "sensitivity-kl-hessian.safetensors",
        "costs.sqlite",
        "allocation.json",
        "imatrix.gguf",
        f"{OURS}.gguf",
        f"{OURS}.tensor_types.txt",
        f"{OURS}.llama-quantize.sh",
        f"evaluation/{OURS}.npz",
        "README.md",
        "plots/size_kld.png",
        "plots/types.png",
        "plots/sensitivity.png",
    } <= names
    assert not [name for name in names if name.endswith(".part")]


def test_file_holds_the_allocation_and_the_predicted_size(finished: Path) -> None:
    written = GgufModel(finished / f"{OURS}.gguf")
    source = GgufModel(GGUF)
    qtypes = allocation(finished)
    assert {name: info.dtype for name, info in written.tensors.items()} == {
        name: qtypes.get(name, info.dtype) for name, info in source.tensors.items()
    }
    assert (finished / f"{OURS}.gguf").stat().st_size == file_bytes(source, qtypes)


def test_file_has_the_bits_that_were_asked_for_and_no_more(finished: Path) -> None:
    reader = GGUFReader(finished / f"{OURS}.gguf")
    weights = sum(int(t.n_elements) for t in reader.tensors)
    bpw = 8 * sum(int(t.n_bytes) for t in reader.tensors) / weights
    assert 4.75 < bpw <= 4.8


def test_stock_mix_beside_it_is_no_smaller(finished: Path) -> None:
    (stock,) = finished.glob("*stock*.gguf")
    assert stock.stat().st_size >= (finished / f"{OURS}.gguf").stat().st_size


def test_second_run_uses_everything_again(copied: Callable[[], Path]) -> None:
    out = copied()
    took = json.loads((out / "run.json").read_text())["timings"]
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.gguf") if path.name != "imatrix.gguf"}
    done = run(out, "--target-bpw", 4.8, "--json")
    assert done.code == 0, done.err
    quiet = run(out, "--target-bpw", 4.8)
    assert "estimate: sensitivity-kl-hessian.safetensors is up to date" in quiet.err
    assert "measure:" not in quiet.err
    assert "evaluate: everything is up to date" in quiet.err
    assert before == {name: (out / name).stat().st_mtime_ns for name in before}
    again = json.loads((out / "run.json").read_text())["timings"]
    assert {stage: again[stage] for stage in ("estimate", "measure", "export", "evaluate")} == {
        stage: took[stage] for stage in ("estimate", "measure", "export", "evaluate")
    }, "a run that finds everything in place keeps the time that it took to make"
    candidates = json.loads(done.out)["candidates"]
    assert [c["kind"] for c in candidates] == ["ours", "stock"]
    assert all(c["evaluation"]["mean_kld"] > 0 for c in candidates)


def test_another_target_is_solved_without_measuring(copied: Callable[[], Path]) -> None:
    out = copied()
    done = run(out, "--target-bpw", 4.0, "--until", "solve")
    assert done.code == 0, done.err
    assert "measure:" not in done.err
    assert "solve: ilp" in done.err
    assert allocation(out) != allocation_of_first(out)


def allocation_of_first(out: Path) -> dict[str, str]:
    return dict(json.loads((out / "run.json").read_text())["candidates"][OURS]["qtypes"])


def test_changed_option_says_why_it_estimates_again(copied: Callable[[], Path]) -> None:
    done = run(copied(), "--target-bpw", 4.8, "--set", "estimate.options.seed=1", "--until", "estimate")
    assert done.code == 0, done.err
    assert "estimate: kl-hessian (options.seed 0 -> 1)" in done.err


def test_toml_and_plugin_flag_give_the_same_allocation(finished: Path, copied: Callable[[], Path], tmp_path: Path) -> None:
    pipeline = tmp_path / "pipeline.toml"
    pipeline.write_text(
        f"""
        [model]
        hf = "{EXAMPLE}"
        [corpus]
        calibration = ["{CALIBRATION}"]
        evaluation = ["{EVALUATION}"]
        [qtypes]
        menu = "k"
        [estimate]
        plugin = "kl-hessian"
        options.n_tokens = 2048
        [budget]
        target_bpw = 4.8
        [solve]
        plugin = "ilp"
        """
    )
    from_file = bitclass3("run", pipeline, "--until", "solve", "--out", tmp_path / "a", "--json")
    from_flags = run(copied(), "--plugin", "ilp", "--target-bpw", 4.8, "--until", "solve", "--json")
    assert from_file.code == from_flags.code == 0, from_file.err + from_flags.err
    assert json.loads(from_file.out)["allocation"] == json.loads(from_flags.out)["allocation"] == allocation(finished)
    assert json.loads(from_flags.out)["proof"]["optimal"] is True


def test_plan_writes_nothing_and_knows_the_allocation_of_a_measured_run(finished: Path, tmp_path: Path) -> None:
    fresh = bitclass3("plan", "--model", EXAMPLE, *SMALL[-2:], "--target-bpw", 4.8, "--out", tmp_path / "never", "--json")
    assert fresh.code == 0, fresh.err
    assert not (tmp_path / "never").exists()
    assert "allocation" not in json.loads(fresh.out)
    known = bitclass3(
        "plan",
        "--model",
        EXAMPLE,
        "--corpus",
        CALIBRATION,
        "--eval-corpus",
        EVALUATION,
        *SMALL,
        "--target-bpw",
        4.8,
        "--out",
        finished,
        "--json",
    )
    assert json.loads(known.out)["allocation"] == allocation(finished)
    assert json.loads(known.out)["costs_to_measure"] == 0 < json.loads(fresh.out)["costs_to_measure"]


def test_plan_counts_what_an_effort_takes(tmp_path: Path) -> None:
    asked = ["plan", "--model", EXAMPLE, *SMALL[-2:], "--target-bpw", 4.8, "--out", tmp_path / "never", "--json"]
    plans = [json.loads(bitclass3(*asked, "--effort", effort).out) for effort in ("fast", "normal", "high")]
    minutes, memory = ([plan[key] for plan in plans] for key in ("minutes", "memory_bytes"))
    assert minutes[0] < minutes[1] < minutes[2]
    assert memory[0] + 8 * 2**30 == memory[1] == memory[2], "more than what tuning holds of so small a model"


def test_imatrix_of_a_run_is_read_by_the_imatrix_estimator(finished: Path, tmp_path: Path) -> None:
    done = run(
        tmp_path / "out",
        "--plugin",
        "imatrix",
        "--set",
        f"estimate.options.path={finished / 'imatrix.gguf'}",
        "--set",
        "estimate.options.n_tokens=2048",
        "--target-bpw",
        4.8,
        "--until",
        "solve",
    )
    assert done.code == 0, done.err
    mine = load_sensitivity(tmp_path / "out" / "sensitivity-imatrix.safetensors").tensors
    theirs = load_sensitivity(finished / "sensitivity-kl-hessian.safetensors").tensors
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        np.testing.assert_allclose(tensor.imatrix, theirs[name].imatrix, rtol=1e-5)


def test_own_plugin_from_a_file_solves(copied: Callable[[], Path], tmp_path: Path) -> None:
    plugin = tmp_path / "smallest.py"
    plugin.write_text(
        "from bitclass3_core import hookimpl\n"
        "from bitclass3_core.problem import allocation_of\n"
        "@hookimpl\n"
        "def bitclass3_solve(problem):\n"
        "    return allocation_of(problem, [0] * len(problem.groups), 'smallest')\n"
    )
    out = copied()
    done = run(out, "--plugin", plugin, "--target-bpw", 4.8, "--until", "solve")
    assert done.code == 0, done.err
    assert set(allocation(out).values()) <= {"Q2_K", "Q8_0"}
