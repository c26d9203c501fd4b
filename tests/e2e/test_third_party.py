"""The packages of examples/third_party: installed by pip, found by entry point alone, their own tests passed, used in a run."""

import json
from pathlib import Path

import pytest
from command import ROOT
from gguf_files import write_gguf
from installing import pip_install, python

PACKAGES = sorted(path.parent for path in (ROOT / "examples" / "third_party").glob("*/pyproject.toml"))
PLUGINS = {"granite", "cosine", "capped", "compressed-tensors", "timing", "cost-cache"}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where they are installed."""
    folder = tmp_path_factory.mktemp("target")
    pip_install(PACKAGES, folder)
    return folder


def test_found_by_entry_point_alone(target: Path) -> None:
    rows = json.loads(python("-m", "bitclass3_core", "plugins", "list", "--json", target=target).stdout)
    assert {row["name"] for row in rows} >= PLUGINS
    before = json.loads(python("-m", "bitclass3_core", "plugins", "list", "--json", target=Path("nowhere")).stdout)
    assert not {row["name"] for row in before} & PLUGINS
    for name in sorted(PLUGINS):
        shown = python("-m", "bitclass3_core", "plugins", "show", name, target=target)
        assert shown.returncode == 0, shown.stderr


@pytest.mark.slow  # torch, and four packages' suites
def test_their_own_tests_pass(target: Path, tmp_path: Path) -> None:
    tests = [package / "tests" for package in PACKAGES]
    done = python(
        "-m", "pytest", "-q", "-rfs", "--import-mode=importlib", "--rootdir", tmp_path, *tests, target=target, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert "could not import" not in done.stdout  # compressed-tensors' own reader was there


def run(target: Path, folder: Path, *arguments: object, **env: str):
    line = [
        "run",
        "--model",
        "model.gguf",
        "--target-bpw",
        "8",
        "--menu",
        "k",
        "--plugin",
        "uniform",
        "--baseline",
        "none",
        *arguments,
    ]
    return python("-m", "bitclass3_core", *line, target=target, cwd=folder, **env)


def test_metric_solver_and_wrappers_in_a_run(target: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", arch="qwen3")
    chosen = [
        "--plugin",
        "cosine",
        "--plugin",
        "capped",
        "--plugin",
        "timing",
        "--plugin",
        "cost-cache",
        "--until",
        "solve",
        "--json",
    ]
    cache = {"BITCLASS3_COST_CACHE": str(tmp_path / "cache")}
    done = run(target, tmp_path, *chosen, "--out", "one", **cache)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["allocation"]
    assert "timing: bitclass3_solve by capped 0.1.0+" in done.stderr
    kept = sorted(path.name for path in (tmp_path / "cache").iterdir())
    again = run(target, tmp_path, *chosen, "--out", "two", **cache)
    assert json.loads(again.stdout)["allocation"] == json.loads(done.stdout)["allocation"]
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == kept
    tight = run(target, tmp_path, *chosen, "--out", "one", "--set", "solve.options.max_cost=1e-9", **cache)
    assert tight.returncode == 3
    assert "raise max_cost" in tight.stderr


def test_granite_is_taken_for_a_granite_model(target: Path, tmp_path: Path) -> None:
    heads = {"granite.attention.head_count": 2, "granite.attention.head_count_kv": 2, "granite.block_count": 2}
    write_gguf(tmp_path / "model.gguf", metadata={"general.name": "granite", **heads}, arch="granite")
    done = run(target, tmp_path, "--until", "solve", "--out", "out")
    assert done.returncode == 0, done.stderr
    parts = json.loads((tmp_path / "out" / "run.json").read_text())["artefacts"]["sensitivity-uniform"]["parts"]
    assert parts["architecture"]["architecture_plugin"].startswith("granite 0.1.0+")
