"""Atomic files, room on the disk, hashes."""

import errno
import hashlib
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest

from bitclass3_core.errors import Bitclass3Error
from bitclass3_core.files import atomic_path, digest_of, human_bytes, require_room, sha256_file, write_json, write_text


def test_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("a")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "a"
    assert list(path.parent.iterdir()) == [path]


def test_old_file_stays_when_the_block_raises(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        write_and_raise(path, ZeroDivisionError())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError(errno.EFBIG, "File too large"),
    OSError("4096 requested and 1024 written"),  # numpy's tofile
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_full_disk(tmp_path, error):
    path = tmp_path / "a.txt"
    with pytest.raises(Bitclass3Error, match=r"no room on disk to write .*a\.txt; free some and run again") as caught:
        write_and_raise(path, error)
    assert caught.value.__cause__ is error
    assert not list(tmp_path.iterdir())


def write_and_raise(path, error):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), OSError("no errno")], ids=str)
def test_other_errors_stay_what_they_are(tmp_path, error):
    with pytest.raises(OSError, match=r"Input/output error|no errno") as caught:
        write_and_raise(tmp_path / "a.txt", error)
    assert caught.value is error


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from bitclass3_core.errors import Bitclass3Error
from bitclass3_core.files import atomic_path
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
def by_numpy(path):
    with path.open("wb") as file:
        np.zeros(1 << 16, np.uint8).tofile(file)
def by_python(path):
    path.write_bytes(bytes(1 << 16))
try:
    with atomic_path(Path(sys.argv[1])) as temporary:
        {"numpy": by_numpy, "python": by_python}[sys.argv[2]](temporary)
except Bitclass3Error as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of this kind")
@pytest.mark.parametrize("how", ["numpy", "python"])
def test_write_that_really_does_not_fit(tmp_path, how):
    path = tmp_path / "a.bin"
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path), how], capture_output=True, text=True, check=False)
    assert done.stdout == f"no room on disk to write {path}; free some and run again, what is measured is kept\n", done.stderr
    assert not list(tmp_path.iterdir())


def test_room_is_checked_before_writing(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 0, 1 << 20))
    require_room(tmp_path, 1 << 20, "a.gguf")
    message = r"no room on disk for a\.gguf: it takes 2\.00 MiB, .* has 1\.00 MiB free; free some or use another --out"
    with pytest.raises(Bitclass3Error, match=message):
        require_room(tmp_path, 2 << 20, "a.gguf")


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (4_414_504, "4.21 MiB"), (15.3 * 2**30, "15.30 GiB"), (2**41, "2.00 TiB")],
)
def test_human_bytes(n_bytes, text):
    assert human_bytes(n_bytes) == text


def test_json_and_text(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [2]})
    write_text(tmp_path / "a.txt", "é\n")
    assert (tmp_path / "a.json").read_text() == '{\n "a": [\n  2\n ],\n "b": 1\n}\n'
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n"


def test_sha256(tmp_path):
    content = bytes(range(256)) * 9000
    (tmp_path / "a.bin").write_bytes(content)
    assert sha256_file(tmp_path / "a.bin") == hashlib.sha256(content).hexdigest()


def test_digest_depends_on_values_and_not_on_order():
    assert digest_of({"a": 1, "b": {"c": 2}}) == digest_of({"b": {"c": 2}, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
