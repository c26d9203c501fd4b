"""Where the managed llama.cpp is: the cache folder, what is installed in it, and the lock of an installation.

Hashes of large files are kept there too, by path, size and time of change, so that a large model is read only once.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitclass3_core.errors import ToolchainError
from bitclass3_core.files import sha256_file, write_json
from bitclass3_core.progress import Progress

CONVERTER = "convert_hf_to_gguf.py"
FACTS = "toolchain.json"  # written last: a folder with it is complete
_SMALL = 1 << 20  # bytes; such a file is read each time


def cache_folder() -> Path:
    """``$BITCLASS3_CACHE``, else ``$XDG_CACHE_HOME/bitclass3``, else the system's cache folder of the user."""
    if given := os.environ.get("BITCLASS3_CACHE"):
        return Path(given).expanduser().absolute()
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if xdg.is_absolute():  # the XDG standard says that a relative path is ignored
        return xdg / "bitclass3"
    try:
        return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "bitclass3"
    except RuntimeError:
        raise ToolchainError("this user has no home folder; set BITCLASS3_CACHE to a folder that can be written") from None


def managed_folder() -> Path:
    """The folder of every managed llama.cpp: ``<cache>/llama.cpp``."""
    return cache_folder() / "llama.cpp"


@dataclass(frozen=True, slots=True)
class Toolchain:
    """An installed llama.cpp, as its ``toolchain.json`` says."""

    folder: Path
    version: str  # of the source release
    backend: str
    sha256: str  # of the source release
    ggml_version: str
    programs: tuple[str, ...]
    compiler: str
    installed_at: str  # UTC, ISO 8601

    def facts(self) -> dict[str, Any]:
        """What ``toolchain.json`` holds: everything but the folder, which may be moved."""
        return {name: value for name, value in asdict(self).items() if name != "folder"}

    def file(self, program: str) -> Path | None:
        """The path of a program or of the converter; None if this toolchain lacks it."""
        path = self.folder / program if program == CONVERTER else self.folder / "bin" / program
        return path if path.is_file() else None


def read_toolchain(folder: Path) -> Toolchain | None:
    """The toolchain in that folder; None if there is none or its facts cannot be read."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return Toolchain(folder, **{**facts, "programs": tuple(facts["programs"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def installed() -> list[Toolchain]:
    """Every managed toolchain, the latest first."""
    found = [read_toolchain(path.parent) for path in managed_folder().glob(f"*/{FACTS}") if not path.parent.name.startswith(".")]
    return sorted((one for one in found if one), key=lambda one: one.installed_at, reverse=True)


@contextmanager
def locked(path: Path, progress: Progress) -> Iterator[tuple[int, ...]]:
    """Hold a lock file; if another process holds it, say so and wait. Yields the descriptor that child processes must inherit."""
    import fcntl  # not on Windows, where nothing is built

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"another installation of {path.stem.lstrip('.')} is at work; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield (file.fileno(),)


def content_hash(path: Path) -> str:
    """SHA-256 of the file's content; that of a large file is computed once for each version of the file."""
    status = path.stat()
    if status.st_size <= _SMALL:
        return sha256_file(path)
    place = str(path.resolve())
    version = [place, status.st_size, status.st_mtime_ns, status.st_ino]
    memo = cache_folder() / "hashes" / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.json"
    try:
        known = json.loads(memo.read_text(encoding="utf-8"))
        if known["version"] == version:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    digest = sha256_file(path)
    with suppress(OSError):  # a cache that cannot be written costs time, no more
        write_json(memo, {"version": version, "sha256": digest})
    return digest
