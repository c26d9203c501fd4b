"""Every bad input ends in one clear line and its exit code, and leaves nothing half-written."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command import CALIBRATION, EVALUATION, EXAMPLE, GGUF, MODEL, ROOT, TEXT, Done, bitclass3, run

from bitclass3_core.gguf.model import GgufModel

FAST = ["--plugin", "uniform", "--menu", "k", "--target-bpw", 4.8]  # no torch


def uniform(out: Path, *arguments: object, model: Path = GGUF, **options: object) -> Done:
    return bitclass3("run", "--model", model, *TEXT, *FAST, "--until", "export", "--out", out, *arguments, **options)


def nothing_half_written(out: Path) -> bool:
    return not out.exists() or not [
        path for path in out.rglob("*") if path.suffix in {".part", ".gguf"} and "imatrix" not in path.name
    ]


def test_truncated_gguf(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(GGUF.read_bytes()[: GGUF.stat().st_size // 2])
    done = uniform(tmp_path / "out", model=broken)
    assert done.code == 1
    assert "broken.gguf is damaged or truncated" in done.error
    assert nothing_half_written(tmp_path / "out")


def test_quantized_source_is_refused_and_can_be_forced(tmp_path: Path) -> None:
    assert uniform(tmp_path / "first").code == 0
    quantized = next((tmp_path / "first").glob("*4.80bpw.gguf"))
    done = uniform(tmp_path / "out", "--target-bpw", 3.6, model=quantized)
    assert done.code == 1
    assert "is already quantized" in done.error
    assert "--allow-quantized-source" in done.error
    forced = uniform(tmp_path / "out", "--target-bpw", 3.6, "--allow-quantized-source", model=quantized)
    assert forced.code == 0, forced.err
    assert "warning:" in forced.err
    assert "means little" in forced.err


def test_missing_corpus(tmp_path: Path) -> None:
    done = bitclass3("run", *MODEL, "--corpus", tmp_path / "none.txt", *FAST, "--out", tmp_path / "out")
    assert done.code == 1
    assert "none.txt does not exist" in done.error


def test_empty_corpus(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    done = bitclass3("run", *MODEL, "--corpus", empty, *FAST, "--out", tmp_path / "out")
    assert done.code == 1
    assert "empty.txt is empty" in done.error


@pytest.mark.slow
def test_corpus_too_short_for_the_tokens_asked(tmp_path: Path) -> None:
    done = run(tmp_path / "out", "--target-bpw", 4.8, "--set", "estimate.options.n_tokens=10000000")
    assert done.code == 1
    assert "the calibration text has" in done.error
    assert "lower n_tokens" in done.error


def test_imatrix_of_another_model(tmp_path: Path) -> None:
    other = ROOT / "tests" / "data" / "llama-tiny" / "model-bf16.gguf"
    assert (
        bitclass3(
            "run", "--model", other, *TEXT, "--plugin", "uniform", "--target-bpw", 12, "--until", "export", "--out", tmp_path / "a"
        ).code
        == 0
    )
    done = bitclass3(
        "run", "--model", GGUF, *TEXT, "--plugin", "imatrix", "--set", f"estimate.options.path={tmp_path / 'a' / 'imatrix.gguf'}",
        "--target-bpw", 4.8, "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 1
    assert "is of another model" in done.error


def test_nan_in_a_tensor_is_named(tmp_path: Path) -> None:
    name = "blk.2.ffn_up.weight"
    data = bytearray(GGUF.read_bytes())
    raw = GgufModel(GGUF).read_raw(name)
    begin = data.find(raw.tobytes())
    data[begin : begin + 2] = np.array([0x7FC0], np.uint16).tobytes()
    broken = tmp_path / "nan.gguf"
    broken.write_bytes(data)
    done = uniform(tmp_path / "out", model=broken)
    assert done.code == 1
    assert f"tensor {name} of nan.gguf has NaN or Inf" in done.error
    assert nothing_half_written(tmp_path / "out")


@pytest.mark.parametrize(("bpw", "words"), [(1.0, "smallest possible is"), (17.5, "the source's own tensors take")])
def test_target_out_of_range(tmp_path: Path, bpw: float, words: str) -> None:
    done = uniform(tmp_path / "out", "--target-bpw", bpw)
    assert done.code == 3
    assert words in done.error
    assert not list((tmp_path / "out").glob("sensitivity*")), "nothing is computed for a target out of reach"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--set", 'qtypes.menu=["Q4_KM"]'], 2, "unknown qtype 'Q4_KM'; did you mean 'Q4_K'?"),
        (["--plugin", "ipl"], 1, "no plugin named 'ipl'; did you mean 'ilp'?"),
        (["--set", "solve.plugn=ilp"], 2, "unknown key 'solve.plugn'; did you mean 'plugin'?"),
        (["--set", "solve.options.gapp=1"], 2, "plugin 'ilp' has no option 'gapp'; did you mean 'gap'?"),
        (["--target-size", "5 parsecs"], 2, "size '5 parsecs' is not understood"),
        (["--until", "exprt"], 2, "unknown stage 'exprt'; did you mean 'export'?"),
    ],
)
def test_unknown_names_get_a_suggestion(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    base = [argument for argument in FAST if argument not in ("--target-bpw", 4.8)] if "--target-size" in arguments else FAST
    done = bitclass3("run", "--model", GGUF, *TEXT, *base, "--until", "solve", "--out", tmp_path / "out", *arguments)
    assert done.code == code, done.err
    assert words in done.error


def test_no_target_and_two_targets(tmp_path: Path) -> None:
    base = ["run", "--model", GGUF, *TEXT, "--plugin", "uniform", "--menu", "k", "--until", "solve", "--out", tmp_path / "out"]
    none, two = bitclass3(*base), bitclass3(*base, "--target-bpw", 4, "--target-size", "5MB")
    assert (none.code, two.code) == (2, 2)
    assert "no target" in none.error
    assert "give one target, not 2" in two.error


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("{name: 'F32' for g in problem.groups for name in g.tensors}", "the budget is"),
        ("{problem.groups[0].name: 'Q4_K'}", "must answer each quantizable tensor"),
    ],
)
def test_plugin_that_answers_wrongly_is_named(tmp_path: Path, answer: str, words: str) -> None:
    plugin = tmp_path / "wrong.py"
    plugin.write_text(
        "from bitclass3_core import hookimpl\nfrom bitclass3_core.problem import Allocation\n"
        f"@hookimpl\ndef bitclass3_solve(problem):\n    return Allocation({answer})\n"
    )
    done = uniform(tmp_path / "out", "--plugin", plugin)
    assert done.code == 1
    assert "plugin" in done.error
    assert "wrong" in done.error
    assert words in done.error


def test_target_size_is_kept_with_the_metadata(tmp_path: Path) -> None:
    base = ["run", "--model", GGUF, *TEXT, "--plugin", "uniform", "--menu", "k", "--until", "export", "--baseline", "none"]
    done = bitclass3(*base, "--target-size", "4.4MB", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    (file,) = [path for path in (tmp_path / "out").glob("*.gguf") if path.name != "imatrix.gguf"]
    assert 4_390_000 < file.stat().st_size <= 4_400_000


def test_disk_full_while_exporting_leaves_nothing_and_keeps_what_was_measured(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert uniform(out, "--until", "solve").code == 0
    measured = (out / "costs.sqlite").read_bytes()

    def small_files() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    done = uniform(out, preexec_fn=small_files)
    assert done.code == 1
    assert "no room on disk" in done.error
    assert nothing_half_written(out)
    assert (out / "costs.sqlite").read_bytes() == measured
    assert uniform(out).code == 0


INTERRUPTER = """
import os, signal
from bitclass3_core import hookimpl
STAGE = os.environ["INTERRUPT"]
def _stop(stage):
    if stage == STAGE:
        os.kill(os.getpid(), signal.SIGINT)
@hookimpl(wrapper=True)
def bitclass3_estimate():
    _stop("estimate")
    return (yield)
@hookimpl(wrapper=True)
def bitclass3_measure(model):
    answer = yield
    if "blk.3.attn_q.weight" in model.tensors:
        _stop("measure")
    return answer
@hookimpl(wrapper=True)
def bitclass3_solve():
    _stop("solve")
    return (yield)
@hookimpl(wrapper=True)
def bitclass3_export():
    _stop("export")
    return (yield)
@hookimpl(wrapper=True)
def bitclass3_evaluate():
    _stop("evaluate")
    return (yield)
@hookimpl(wrapper=True)
def bitclass3_report():
    _stop("report")
    return (yield)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["estimate", "measure", "solve", "export", "evaluate", "report"])
def test_ctrl_c_in_every_stage_and_a_rerun_goes_on(stage: str, finished: Path, copied: Callable[[], Path], tmp_path: Path) -> None:
    plugin = tmp_path / "interrupter.py"
    plugin.write_text(INTERRUPTER)
    out = copied() if stage in ("solve", "export", "evaluate", "report") else tmp_path / "out"
    target = 4.8 if stage in ("estimate", "measure") else 4.4
    done = run(out, "--target-bpw", target, "--plugin", plugin, env={"INTERRUPT": stage})
    assert done.code == 130, done.err
    assert "interrupted; what was measured is kept" in done.err
    assert "Traceback" not in done.err
    assert not list(out.rglob("*.part"))
    rerun = run(out, "--target-bpw", target, "--until", "evaluate" if stage == "evaluate" else "solve")
    assert rerun.code == 0, rerun.err
    if stage == "measure":
        assert "already measured" in rerun.err
        assert "(0 already measured)" not in rerun.err
    if stage not in ("estimate",):
        assert "estimate: sensitivity-kl-hessian.safetensors is up to date" in rerun.err
    if stage in ("estimate", "measure"):
        assert (out / "allocation.json").read_bytes() == (finished / "allocation.json").read_bytes()


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    out = tmp_path / "out"
    out.mkdir()
    with (out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = uniform(out)
    assert done.code == 1
    assert "another run is at work" in done.error


@pytest.mark.slow
def test_hf_folder_of_another_model(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("*.gguf", "held-out", "make"))
    data = bytearray((folder / "model.safetensors").read_bytes())
    middle = len(data) // 2
    data[middle:] = data[middle:][::-1]
    (folder / "model.safetensors").write_bytes(data)
    done = bitclass3(
        "run",
        "--model",
        folder,
        "--gguf",
        GGUF,
        "--corpus",
        CALIBRATION,
        "--eval-corpus",
        EVALUATION,
        "--target-bpw",
        4.8,
        "--out",
        tmp_path / "out",
    )
    assert done.code == 1
    assert "was not converted from" in done.error
