"""Make a result, or load it if nothing changed, and say why.

A result depends on its parts: source, text, plugins with versions and options. They are stated once, where the result is made. Their
digest is its fingerprint. Whoever asks for a result with the same fingerprint gets the same one: a run that is started again, another
level, another candidate, another run of the folder. What is asked with other parts is made for itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from bitclass3_core.files import digest_of
from bitclass3_core.runs.folder import RunFolder

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Artefact(Generic[T]):
    """A result in a file.

    In a ``folder`` of a run the parts are noted under ``name``. Elsewhere the file's own name holds the fingerprint: then the file is good
    if it is there. ``load`` answers None for a file that cannot be used.
    """

    name: str
    path: Path
    parts: Mapping[str, Any]
    save: Callable[[T, Path], object]
    load: Callable[[Path], T | None]
    folder: RunFolder | None = None

    def why(self) -> str | None:
        """Why it must be made: ``"not there"``, what changed; None if the file is good."""
        if self.folder is not None:
            return self.folder.reason(self.name, self.path, self.parts)
        return None if self.path.is_file() else "not there"

    def kept(self) -> T | None:
        """The result in the file; None if it must be made."""
        return self.load(self.path) if self.why() is None else None

    def put(self, value: T) -> T:
        """Save a result that was just made, and note its parts."""
        self.save(value, self.path)
        if self.folder is not None:
            self.folder.record(self.name, self.path, self.parts)
        return value

    def get(self, make: Callable[[str], T]) -> T:
        """The result in the file, else what ``make`` gives, which is told why and whose answer is put there."""
        why = self.why()
        if why is None and (value := self.load(self.path)) is not None:
            return value
        return self.put(make(why or "cannot be read"))


class Results:
    """Results in memory by name and fingerprint: what runs of one folder share."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], Any] = {}

    def get(self, name: str, parts: Mapping[str, Any], make: Callable[[], T]) -> T:
        """The result with these parts, made if nobody has asked for it yet."""
        key = name, digest_of(dict(parts))
        if key not in self._values:
            self._values[key] = make()
        value: T = self._values[key]
        return value
