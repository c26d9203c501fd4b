"""Hashes of large files, kept in the cache by path, size and time of change, so that a large model is read only once."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from bitclass3_core.files import sha256_file, write_json
from bitclass3_core.toolchain.places import cache_folder

_SMALL = 1 << 20  # bytes; such a file is read each time


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
