"""``bitclass3 plugins new``: for every stage a package that installs, is found, passes its own tests as written, and works in a run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from gguf_files import write_gguf
from installing import pip_install, python

from bitclass3_core.errors import Bitclass3Error, ConfigError
from bitclass3_core.plugin.stage_table import STAGES
from bitclass3_core.runs.new_plugin import write_package

NAMES = {stage: f"first-{stage}" for stage in STAGES}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(folder of one new package a stage, where they are installed)."""
    folder, target = tmp_path_factory.mktemp("new"), tmp_path_factory.mktemp("target")
    packages = [write_package(name, stage, folder) for stage, name in NAMES.items()]
    pip_install(packages, target)
    return folder, target


@pytest.mark.slow  # eight packages built and tested
def test_every_stage_passes_its_own_tests_as_written(made: tuple[Path, Path], tmp_path: Path) -> None:
    folder, target = made
    packages = [folder / f"bitclass3-{name}" for name in NAMES.values()]
    done = python("-m", "pytest", "-q", "-rf", "--rootdir", tmp_path, *(p / "tests" for p in packages), target=target, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]
    for package in packages:
        module = package.name.removeprefix("bitclass3-").replace("-", "_")
        assert (package / "tests" / f"test_{module}.py").is_file()


def test_every_stage_is_found_by_its_entry_point(made: tuple[Path, Path]) -> None:
    _, target = made
    done = python("-m", "bitclass3_core", "plugins", "list", "--json", target=target)
    packages = {row["name"]: row["package"] for row in json.loads(done.stdout)}
    assert {name: packages.get(name) for name in NAMES.values()} == {name: f"bitclass3-{name} 0.1.0" for name in NAMES.values()}
    shown = json.loads(python("-m", "bitclass3_core", "plugins", "show", NAMES["solve"], "--json", target=target).stdout)
    assert shown["stages"]["solve"]["spare"]["default"] == 0.0


def test_new_plugins_do_a_whole_run(made: tuple[Path, Path], tmp_path: Path) -> None:
    _, target = made
    write_gguf(tmp_path / "model.gguf", metadata={"general.name": "tiny", "llama.block_count": 2})
    (tmp_path / "text.txt").write_text("\n\n".join(f"document {n} " * 500 for n in range(8)))
    chosen = [part for stage, name in NAMES.items() if stage not in ("export", "evaluate") for part in ("--plugin", name)]
    exporters = ["--plugin", "gguf", "--plugin", NAMES["export"]]
    line = ["-m", "bitclass3_core", "run", "--model", "model.gguf", "--corpus", "text.txt", *chosen, *exporters]
    done = python(
        *line, "--plugin", NAMES["evaluate"], "--baseline", "none", "--menu", "k", "--out", "out", target=target, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "out" / "first-report.csv").read_text().splitlines()
    assert len(lines) == 2
    assert float(lines[1].split(",")[3]) > 0  # a measured KLD
    types = json.loads(next((tmp_path / "out").glob("*.types.json")).read_text())["types"]
    assert types["output_norm.weight"] == "F32"


def test_written_code_is_tidy(tmp_path: Path) -> None:
    for stage, name in NAMES.items():
        package = write_package(name, stage, tmp_path)
        ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or "ruff"
        done = subprocess.run(
            [ruff, "check", "--isolated", "--line-length", "132", package], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
        assert "$" not in "".join(path.read_text() for path in package.rglob("*.py"))


@pytest.mark.parametrize(
    ("name", "stage", "message"),
    [
        ("mine", "slove", r"^unknown stage 'slove'; did you mean 'solve'\? known: architecture, .*solve$"),
        ("My_Solver", "solve", r"^plugin name 'My_Solver' is not understood; use small letters, digits and single dashes"),
        ("../x", "solve", r"^plugin name '\.\./x' is not understood"),
        ("ilp", "solve", r"^a plugin named 'ilp' is installed already; choose another name$"),
        (
            "json",
            "report",
            r"^a Python module named 'json' is there already and would be hidden; choose another name, like my-json$",
        ),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, stage: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write_package(name, stage, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_package("mine-own", "solve", tmp_path)
    with pytest.raises(Bitclass3Error, match=r"bitclass3-mine-own exists already; choose another name or --out, or remove it"):
        write_package("mine-own", "solve", tmp_path)
