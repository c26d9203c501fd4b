"""The pinned source releases of llama.cpp; the registry package llama-cpp-python has one in ``vendor/llama.cpp``."""

import importlib.util
import shutil
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bitclass3_core.errors import ConfigError, ToolchainError, did_you_mean
from bitclass3_core.files import human_bytes, sha256_file
from bitclass3_core.progress import Progress
from bitclass3_core.toolchain.running import last_lines, pip

_PACKAGE = "llama-cpp-python"
_ROOT = ("vendor", "llama.cpp")
_MAX_FILE, _MAX_TOTAL, _MAX_MEMBERS = 64 << 20, 1 << 30, 20_000  # 0.3.36: 36 MiB, 206 MiB, 3,884


@dataclass(frozen=True, slots=True)
class Release:
    """A source release: the package's version, its archive's hash, the commit of llama.cpp in it."""

    version: str
    sha256: str
    commit: str

    @property
    def file_name(self) -> str:
        """The archive's name."""
        return f"llama_cpp_python-{self.version}.tar.gz"


DEFAULT_VERSION = "0.3.36"
_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
RELEASES = {DEFAULT_VERSION: Release(DEFAULT_VERSION, _SHA256, "0c1e57098bba43ac29e6e3b677cdceebdd22334f")}


def release_of(version: str) -> Release:
    """The pinned release. Raises ConfigError for another version: only pinned releases are built."""
    if version not in RELEASES:
        raise ConfigError(f"no pinned release {version!r} of {_PACKAGE}{did_you_mean(version, RELEASES)}")
    return RELEASES[version]


def fetch(release: Release, folder: Path, progress: Progress) -> Path:
    """The archive in ``folder``, downloaded if it is not there. Raises ToolchainError if the pinned file cannot be had."""
    archive = folder / release.file_name
    if archive.is_file():
        if sha256_file(archive) == release.sha256:
            return archive
        progress.warn(f"{archive} is not the pinned file; downloading it again")
        archive.unlink()
    if importlib.util.find_spec("pip") is None:
        raise ToolchainError(
            f"pip is missing here, so {release.file_name} cannot be downloaded; run `python -m ensurepip`, or put the file into {folder}"
        )
    progress.say(f"download: {release.file_name}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
        downloaded = _download(release, Path(part), folder)
        digest = sha256_file(downloaded)
        if digest != release.sha256:
            raise ToolchainError(
                f"{release.file_name} has sha256 {digest}, pinned is {release.sha256}; not used; check the registry that pip is set to"
            )
        downloaded.replace(archive)
    return archive


def _download(release: Release, part: Path, folder: Path) -> Path:
    """Let pip download the archive. It checks the hash before it runs the package's build backend for the metadata."""
    wanted = part / "requirements.txt"
    wanted.write_text(f"{_PACKAGE}=={release.version} --hash=sha256:{release.sha256}\n", encoding="utf-8")
    options = ("--no-deps", "--require-hashes", "--progress-bar", "off", "--no-binary", _PACKAGE)
    done = pip("download", *options, "--requirement", str(wanted), "--dest", str(part))
    downloaded = part / release.file_name
    if done.returncode or not downloaded.is_file():
        raise ToolchainError(
            f"{release.file_name} could not be downloaded; pip's last lines: {last_lines(done.stderr or done.stdout, 4)}; "
            f"offline, put the file into {folder}"
        )
    return downloaded


def unpack(archive: Path, into: Path) -> None:
    """Write the archive's llama.cpp, and nothing else, as the new folder ``into``, which appears when it is complete.

    Raises ToolchainError for a member that does not belong in a source release: then nothing is kept.
    """
    part = into.with_name(f".{into.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            n_bytes = 0
            for n_members, member in enumerate(tar, 1):
                n_bytes += member.size
                _check(member, n_members, n_bytes)
                _write(tar, member, part)
        if not (part / "CMakeLists.txt").is_file():
            raise ToolchainError(f"{archive} has no {'/'.join(_ROOT)}; it is no source release of {_PACKAGE}")
        part.replace(into)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise ToolchainError(
            f"{archive} cannot be unpacked into {into.parent} ({error}); free some disk or delete the file"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check(member: tarfile.TarInfo, n_members: int, n_bytes: int) -> None:
    """Raise TarError for a name that leaves the folder and for sizes far beyond those of a source release."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or set(member.name) & {"\\", ":", "\0"}:
        raise tarfile.TarError(f"member {member.name!r} would leave the folder")
    if not 0 <= member.size <= _MAX_FILE:
        raise tarfile.TarError(f"member {member.name!r} is {human_bytes(member.size)}, at most {human_bytes(_MAX_FILE)} is taken")
    if n_members > _MAX_MEMBERS or n_bytes > _MAX_TOTAL:
        raise tarfile.TarError(f"more than {_MAX_MEMBERS} members or {human_bytes(_MAX_TOTAL)}")


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    """Write a regular file of llama.cpp; raises TarError for links and devices among its files."""
    parts = PurePosixPath(member.name).parts
    inner = parts[1 + len(_ROOT) :]
    if parts[1 : 1 + len(_ROOT)] != _ROOT or not inner or inner == (".git",) or member.isdir():
        return
    if not member.isreg():
        raise tarfile.TarError(f"member {member.name!r} is no regular file")
    if data_filter := getattr(tarfile, "data_filter", None):  # Python's own check, from 3.10.12, 3.11.4 and 3.12 on
        data_filter(member, str(root))
    target = root.joinpath(*inner)
    target.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    if source is None:
        raise tarfile.TarError(f"member {member.name!r} has no content")
    with source, target.open("xb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    target.chmod(0o755 if member.mode & 0o100 else 0o644)
