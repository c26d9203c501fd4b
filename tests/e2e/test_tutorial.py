"""The tutorial of the first plugin, followed word for word in a fresh virtual environment.

One thing differs from a reader's desk: ``pip install bitclass3 pytest`` installs this checkout, whose dependencies are those of the
environment that runs the tests, and pip asks no network.
"""

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest
from command import ROOT
from doc_blocks import blocks
from installing import OFFLINE

PAGE = ROOT / "docs" / "tutorials" / "first-plugin.md"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """(working folder with the repository's examples, environment) of a reader."""
    folder = tmp_path_factory.mktemp("desk")
    venv.create(folder / "venv", with_pip=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / "examples").symlink_to(ROOT / "examples")
    path = f"{folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    offline = {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return folder, {**env, **offline, "PATH": path, "PYTEST_ADDOPTS": "-p no:cacheprovider"}


@pytest.mark.slow
def test_word_for_word(desk: tuple[Path, dict[str, str]]) -> None:
    folder, env = desk
    said = []
    for block in blocks(PAGE):
        if block.mark.startswith("file: "):
            path = folder / block.mark.removeprefix("file: ")
            assert path.is_file(), f"the tutorial replaces {path.name}, which is not there yet"
            path.write_text(block.text)
            continue
        text = block.text
        if block.mark == "run: install":
            assert text.strip() == "pip install 'bitclass3[torch]' pytest"
            text = f"pip install {' '.join(OFFLINE)} --force-reinstall {ROOT}"
        shell = text if block.mark == "run: install" else text.replace("pytest ", "python -m pytest ")
        done = subprocess.run(["sh", "-euc", shell], cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        said.append(done.stdout + done.stderr)
    whole = "\n".join(said)
    assert "thrifty 0.1.0+" in whole
    assert " passed" in whole
    assert "solve: thrifty in " in whole
    assert "solve: ilp in " in whole
    assert "optimal" in whole


def test_every_block_of_the_tutorial_is_followed() -> None:
    assert all(block.mark for block in blocks(PAGE))
