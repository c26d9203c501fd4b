"""The run's folder: what is made again and why, and one run at a time."""

import json
import subprocess
import sys

import pytest

from bitclass3_core.errors import Bitclass3Error
from bitclass3_core.runs.folder import RunFolder

PARTS = {"source": "a" * 64, "options": {"n_tokens": 4096, "seed": 0}, "plugin": "uniform 1"}


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def recorded(folder):
    file = folder.path / "s.bin"
    folder.path.mkdir()
    file.write_bytes(b"12345")
    folder.record("sensitivity", file, PARTS)
    return folder, file


def test_nothing_there(folder):
    assert folder.reason("sensitivity", folder.path / "s.bin", PARTS) == "not there"


def test_recorded_and_unchanged(recorded):
    folder, file = recorded
    assert folder.reason("sensitivity", file, PARTS) is None
    assert RunFolder(folder.path).reason("sensitivity", file, dict(reversed(PARTS.items()))) is None


def test_file_removed(recorded):
    folder, file = recorded
    file.unlink()
    assert folder.reason("sensitivity", file, PARTS) == "not there"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"options": {"n_tokens": 16384, "seed": 0}}, "options.n_tokens 4096 -> 16384"),
        ({"options": {"n_tokens": 16384, "seed": 1}}, "options.n_tokens 4096 -> 16384; options.seed 0 -> 1"),
        ({"options": {"n_tokens": 4096}}, "options.seed 0 -> -"),
        ({"plugin": "uniform 2"}, "plugin uniform 1 -> uniform 2"),
        ({"source": "b" * 64}, f"source {'a' * 12} -> {'b' * 12}"),
        ({"source": "a" * 63 + "b"}, "changed"),
        ({"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}, "a - -> 1; b - -> 1; c - -> 1; d - -> 1; ..."),
    ],
)
def test_reason_says_what_changed(recorded, change, reason):
    folder, file = recorded
    assert folder.reason("sensitivity", file, {**PARTS, **change}) == reason
    assert RunFolder(folder.path).reason("sensitivity", file, {**PARTS, **change}) == reason


def test_size_that_differs(recorded):
    folder, file = recorded
    file.write_bytes(b"12")
    assert folder.reason("sensitivity", file, PARTS) == "its size is 2 bytes, was 5"


def test_files_and_fingerprint_of_an_artefact(folder):
    folder.path.mkdir()
    file = folder.path / "a.gguf"
    file.touch()
    folder.record("file a", file, PARTS, [file, folder.path / "a.txt"])
    assert folder.files_of("file a") == [file, folder.path / "a.txt"]
    assert folder.files_of("file b") == []
    assert len(folder.fingerprint("file a")) == 64


def test_candidates_and_facts_survive(folder):
    folder.put_candidate("a", {"kind": "ours", "qtypes": {"t": "Q4_K"}})
    folder.put(command="bitclass3 run", timings={"solve": 0.1})
    again = RunFolder(folder.path)
    assert again.candidates == {"a": {"kind": "ours", "qtypes": {"t": "Q4_K"}}}
    again.put_candidate("b", {})
    assert json.loads((folder.path / "run.json").read_text())["command"] == "bitclass3 run"
    assert set(RunFolder(folder.path).candidates) == {"a", "b"}


@pytest.mark.parametrize(
    "content",
    [b"", b'{"artefacts": {', b"\xff\xfe", b"[1]", b'"text"', b"3", b'{"artefacts": []}', b'{"candidates": null}'],
    ids=str,
)
def test_damaged_manifest(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(
        Bitclass3Error, match=r"run\.json cannot be read \(.*\); delete it, what was measured is in the other files"
    ):
        RunFolder(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="no advisory locks")
def test_second_run_is_refused_until_the_first_is_over(folder):
    with folder.locked(), pytest.raises(Bitclass3Error, match=r"another run is at work in .*run; wait for it or use another --out"):
        RunFolder(folder.path).locked().__enter__()
    with RunFolder(folder.path).locked():
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="no advisory locks")
def test_run_of_another_process_is_refused(folder):
    code = "import sys, pathlib; from bitclass3_core.runs.folder import RunFolder\nwith RunFolder(pathlib.Path(sys.argv[1])).locked(): pass"
    with folder.locked():
        done = subprocess.run([sys.executable, "-c", code, str(folder.path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "another run is at work" in done.stderr
    assert subprocess.run([sys.executable, "-c", code, str(folder.path)], check=False).returncode == 0
