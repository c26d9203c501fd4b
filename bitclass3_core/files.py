"""Files that appear under their final name only when complete, hashes, and room on the disk."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bitclass3_core.errors import Bitclass3Error


def human_bytes(n_bytes: float) -> str:
    """``4.21 MiB``: binary units, three significant digits."""
    size = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} TiB"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``; at the end of the block it is synced and renamed to ``path``, after an error removed.

    Raises Bitclass3Error when the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if _is_full_disk(error):
            raise Bitclass3Error(f"no room on disk to write {path}; free some and run again, what is measured is kept") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _is_full_disk(error: OSError) -> bool:
    """Whether the disk, the quota or the file itself is full; numpy's ``tofile`` says so in words, without errno."""
    short_write = error.errno is None and "requested and" in str(error)
    return short_write or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def require_room(folder: Path, n_bytes: int, what: str) -> None:
    """Raise Bitclass3Error before anything is written if the disk that holds ``folder`` has fewer than ``n_bytes`` free."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        message = f"no room on disk for {what}: it takes {human_bytes(n_bytes)}, {folder} has {human_bytes(free)} free; free some or use another --out"
        raise Bitclass3Error(message)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content; the file is read in pieces."""
    digest = hashlib.sha256()  # Python 3.10 has no file_digest
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of(parts: dict[str, Any]) -> str:
    """A fingerprint: hash of the parts as canonical JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
