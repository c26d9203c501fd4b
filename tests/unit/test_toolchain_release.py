"""The source release: what is pinned is taken, and only files of llama.cpp are unpacked, inside the folder."""

import gzip
import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from bitclass3_core.errors import ConfigError, ToolchainError
from bitclass3_core.progress import Silent
from bitclass3_core.toolchain import release as module
from bitclass3_core.toolchain.release import DEFAULT_VERSION, RELEASES, Release, fetch, release_of, unpack

ROOT = "llama_cpp_python-1.0/vendor/llama.cpp"
CONTENT = b"the archive"
RELEASE = Release("1.0", hashlib.sha256(CONTENT).hexdigest(), "c" * 40)


def pip(monkeypatch, content: bytes | None, stderr: str = "", returncode: int = 0) -> list[list[str]]:
    """A pip that downloads ``content``; gives the commands that it got."""
    commands = []

    def run(command, **_):
        commands.append([*command, Path(command[command.index("--requirement") + 1]).read_text()])
        if content is not None:
            (Path(command[-1]) / RELEASE.file_name).write_bytes(content)
        return subprocess.CompletedProcess(command, returncode, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def member(name: str, content: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in (member(f"{ROOT}/CMakeLists.txt"), *members):
            tar.addfile(info, io.BytesIO(content))
    return path


def test_pins():
    assert release_of(DEFAULT_VERSION).file_name == f"llama_cpp_python-{DEFAULT_VERSION}.tar.gz"
    assert all(len(one.sha256) == 64 and len(one.commit) == 40 and one.version == key for key, one in RELEASES.items())
    with pytest.raises(ConfigError, match=r"no pinned release '0\.3\.37' of llama-cpp-python; did you mean '0\.3\.36'\? known: "):
        release_of("0.3.37")


def test_pip_is_given_version_and_hash_and_the_file_is_kept(tmp_path, monkeypatch):
    commands = pip(monkeypatch, CONTENT)
    path = fetch(RELEASE, tmp_path, Silent())
    assert path.read_bytes() == CONTENT
    assert commands[0][-1] == f"llama-cpp-python==1.0 --hash=sha256:{RELEASE.sha256}\n"
    assert {"--require-hashes", "--no-deps", "--no-binary"} <= {*commands[0]}
    assert fetch(RELEASE, tmp_path, Silent()) == path
    assert len(commands) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_other_content_is_refused(tmp_path, monkeypatch):
    pip(monkeypatch, b"another archive")
    with pytest.raises(ToolchainError, match=rf"has sha256 [0-9a-f]{{64}}, pinned is {RELEASE.sha256}; not used"):
        fetch(RELEASE, tmp_path, Silent())
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_lies_there_is_checked_too(tmp_path, monkeypatch):
    (tmp_path / RELEASE.file_name).write_bytes(b"half")
    pip(monkeypatch, CONTENT)
    assert fetch(RELEASE, tmp_path, Silent()).read_bytes() == CONTENT


def test_failed_download(tmp_path, monkeypatch):
    pip(monkeypatch, None, "WARNING: retrying\n\nERROR: no matching distribution\n", 1)
    with pytest.raises(ToolchainError) as caught:
        fetch(RELEASE, tmp_path, Silent())
    assert str(caught.value) == (
        "llama_cpp_python-1.0.tar.gz could not be downloaded; pip's last lines: WARNING: retrying | ERROR: no matching distribution; "
        f"offline, put the file into {tmp_path}"
    )
    assert list(tmp_path.iterdir()) == []


def test_no_pip(tmp_path, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ToolchainError, match=rf"pip is missing here.*put the file into {tmp_path}"):
        fetch(RELEASE, tmp_path, Silent())


def test_only_llama_cpp_is_unpacked(tmp_path):
    link = member("llama_cpp_python-1.0/docs/link", b"", type=tarfile.SYMTYPE, linkname="README.md")
    files = [
        member(f"{ROOT}/src/llama.cpp", b"int main;"),
        member(f"{ROOT}/run.sh", b"#!/bin/sh", mode=0o4777),
        member(f"{ROOT}/.git", b"gitdir: ../../.git"),
        member("llama_cpp_python-1.0/llama_cpp/__init__.py"),
        link,
    ]
    unpack(archive(tmp_path / "a.tar.gz", *files), tmp_path / "src")
    found = {str(path.relative_to(tmp_path / "src")) for path in (tmp_path / "src").rglob("*") if path.is_file()}
    assert found == {"CMakeLists.txt", "src/llama.cpp", "run.sh"}
    assert (tmp_path / "src" / "src" / "llama.cpp").read_bytes() == b"int main;"
    assert (tmp_path / "src" / "run.sh").stat().st_mode & 0o7777 == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "src"]


HOSTILE = {
    "absolute": member("/etc/cron.d/x"),
    "up": member(f"{ROOT}/../../../x"),
    "up, elsewhere": member("../x"),
    "backslash": member(f"{ROOT}/..\\x"),
    "drive": member(f"{ROOT}/C:x"),
    "symlink out": member(f"{ROOT}/link", b"", type=tarfile.SYMTYPE, linkname="/etc"),
    "symlink up": member(f"{ROOT}/link", b"", type=tarfile.SYMTYPE, linkname="../../../.."),
    "hard link out": member(f"{ROOT}/link", b"", type=tarfile.LNKTYPE, linkname="../../secret"),
    "symlink inside": member(f"{ROOT}/link", b"", type=tarfile.SYMTYPE, linkname="CMakeLists.txt"),
    "device": member(f"{ROOT}/null", b"", type=tarfile.CHRTYPE),
    "fifo": member(f"{ROOT}/pipe", b"", type=tarfile.FIFOTYPE),
    "same name twice": member(f"{ROOT}/CMakeLists.txt", b"another"),
}


@pytest.mark.parametrize("has_data_filter", [True, False])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_member_is_refused_and_nothing_kept(tmp_path, monkeypatch, name, has_data_filter):
    if not has_data_filter:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)
    path = archive(tmp_path / "a.tar.gz", HOSTILE[name])
    with pytest.raises(ToolchainError, match=r"a\.tar\.gz cannot be unpacked into .*folder"):
        unpack(path, folder / "src")
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["a.tar.gz", "deep", "folder"]


def test_huge_declared_size_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("llama_cpp_python-1.0/zeros")
    info.size = 1 << 50
    path.write_bytes(info.tobuf())
    with pytest.raises(ToolchainError, match=r"'llama_cpp_python-1.0/zeros' is 1024\.00 TiB, at most 64\.00 MiB is taken"):
        unpack(gzipped(path), tmp_path / "src")


def gzipped(path: Path) -> Path:
    target = path.with_suffix(".tar.gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    return target


@pytest.mark.parametrize("limit", ["_MAX_MEMBERS", "_MAX_TOTAL"])
def test_too_many_members_or_bytes(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(module, limit, 2)
    path = archive(tmp_path / "a.tar.gz", member(f"{ROOT}/a"), member(f"{ROOT}/b"))
    with pytest.raises(ToolchainError, match="more than"):
        unpack(path, tmp_path / "src")
    assert not (tmp_path / "src").exists()


def test_truncated_archive(tmp_path):
    path = archive(tmp_path / "a.tar.gz", member(f"{ROOT}/big", bytes(range(256)) * 4096))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ToolchainError, match="cannot be unpacked"):
        unpack(path, tmp_path / "src")
    assert [one.name for one in tmp_path.iterdir()] == ["a.tar.gz"]


def test_archive_without_llama_cpp(tmp_path):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(member("llama_cpp_python-1.0/setup.py")[0], io.BytesIO(b"x"))
    with pytest.raises(ToolchainError, match=r"has no vendor/llama\.cpp; it is no source release of llama-cpp-python"):
        unpack(path, tmp_path / "src")
