"""The run's folder: one run at a time, artefacts with the fingerprint of all that they were made from, and why one is made again."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bitclass3_core.errors import Bitclass3Error
from bitclass3_core.files import digest_of, write_json


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two sets of parts, in words: ``options.n_tokens 4096 -> 16384``."""
    flat_old, flat_new = _flat(old), _flat(new)
    changes = []
    for key in sorted({*flat_old, *flat_new}):
        before, after = str(flat_old.get(key, "-"))[:40], str(flat_new.get(key, "-"))[:40]
        if before != after:
            changes.append(
                f"{key} {before[:12]} -> {after[:12]}" if len(before) == len(after) == 40 else f"{key} {before} -> {after}"
            )
    return "; ".join(changes[:4]) + ("; ..." if len(changes) > 4 else "")


def _flat(parts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in parts.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


class RunFolder:
    """``out/<run>``: paths, and the manifest ``run.json`` that says what every artefact was made from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._manifest_path = path / "run.json"
        self._manifest: dict[str, Any] = {"artefacts": {}, "candidates": {}}
        if self._manifest_path.is_file():
            try:
                self._manifest.update(json.loads(self._manifest_path.read_text(encoding="utf-8")))
                if not all(isinstance(self._manifest[key], dict) for key in ("artefacts", "candidates")):
                    raise ValueError("artefacts and candidates are no tables")
            except (ValueError, TypeError, OSError) as error:
                raise Bitclass3Error(
                    f"{self._manifest_path} cannot be read ({error}); delete it, what was measured is in the other files"
                ) from None

    @property
    def candidates(self) -> dict[str, Any]:
        """Files made in this folder, by name: kind, types, sizes, fingerprints."""
        return dict(self._manifest["candidates"])

    @property
    def timings(self) -> dict[str, float]:
        """Seconds of each stage, as the last run noted them."""
        return dict(self._manifest.get("timings", {}))

    def reason(self, artefact: str, file: Path, parts: Mapping[str, Any]) -> str | None:
        """Why an artefact must be made (again): ``"not there"``, what changed; None if it can be used as it is."""
        entry = self._manifest["artefacts"].get(artefact)
        if entry is None or not file.exists():
            return "not there"
        if entry["fingerprint"] != digest_of(dict(parts)):
            return _changed(entry["parts"], json.loads(json.dumps(dict(parts), default=str))) or "changed"
        if "n_bytes" in entry and file.is_file() and file.stat().st_size != entry["n_bytes"]:
            return f"its size is {file.stat().st_size:,} bytes, was {entry['n_bytes']:,}"
        return None

    def record(self, artefact: str, file: Path, parts: Mapping[str, Any], files: list[Path] | None = None) -> None:
        """Note that an artefact is complete, and what it was made from."""
        entry: dict[str, Any] = {"file": file.name, "fingerprint": digest_of(dict(parts)), "parts": dict(parts)}
        if file.is_file():
            entry["n_bytes"] = file.stat().st_size
        if files:
            entry["files"] = [path.name for path in files]
        self._manifest["artefacts"][artefact] = entry
        self._save()

    def drop(self, artefact: str, all_files: bool = False) -> None:
        """Delete an artefact's GGUF (all files of a split), and remember that it was made: what was measured of it stays good.

        With ``all_files`` its recipes go too.
        """
        entry = self._manifest["artefacts"].get(artefact)
        if entry is None:
            return
        for path in self.files_of(artefact):
            if all_files or path.suffix == ".gguf":
                path.unlink(missing_ok=True)
        entry["dropped"] = True
        self._save()

    def is_dropped(self, artefact: str, parts: Mapping[str, Any]) -> bool:
        """Whether the artefact was made from just these parts and its GGUF deleted on purpose."""
        entry = self._manifest["artefacts"].get(artefact, {})
        return bool(entry.get("dropped")) and entry["fingerprint"] == digest_of(dict(parts))

    def selection(self, name: str, parts: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was noted of the selection of that name, if it was made from just these parts."""
        noted = self._manifest.get("selections", {}).get(name)
        return noted["values"] if noted and noted["fingerprint"] == digest_of(dict(parts)) else None

    def put_selection(self, name: str, parts: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Note a selection."""
        self._manifest.setdefault("selections", {})[name] = {"fingerprint": digest_of(dict(parts)), "values": dict(values)}
        self._save()

    def files_of(self, artefact: str) -> list[Path]:
        """The files that were recorded for an artefact."""
        entry = self._manifest["artefacts"].get(artefact, {})
        return [self.path / name for name in entry.get("files", [])]

    def fingerprint(self, artefact: str) -> str:
        """Fingerprint of a recorded artefact."""
        return str(self._manifest["artefacts"][artefact]["fingerprint"])

    def put_candidate(self, name: str, values: Mapping[str, Any]) -> None:
        """Note a file made in this folder."""
        self._manifest["candidates"][name] = dict(values)
        self._save()

    def unusable(self, source: str) -> dict[tuple[str, str], str]:
        """Pairs of tensor and type that failed when they were written, with the reason; of this source alone."""
        noted = self._manifest.get("unusable", {})
        return {(entry["tensor"], entry["qtype"]): entry["reason"] for entry in noted.get(source, [])}

    def put_unusable(self, source: str, tensor: str, qtype: str, reason: str) -> None:
        """Note that a tensor cannot have a type."""
        noted = self._manifest.setdefault("unusable", {})
        noted.setdefault(source, []).append({"tensor": tensor, "qtype": qtype, "reason": reason})
        self._save()

    def put(self, **values: Any) -> None:
        """Note facts of the last run: command, versions, timings."""
        self._manifest.update(values)
        self._save()

    def _save(self) -> None:
        write_json(self._manifest_path, json.loads(json.dumps(self._manifest, default=str)))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; raises Bitclass3Error if another run holds it."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            _lock(file, self.path)
            yield


def _lock(file: Any, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: no advisory locks of this kind
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Bitclass3Error(f"another run is at work in {folder}; wait for it or use another --out") from None
    file.write(str(os.getpid()))
    file.flush()
