"""Everything measured, in one JSON file that is written after each measurement: what stands in it is never measured again."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitclass3_core.errors import Bitclass3Error
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.files import digest_of, write_json


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file that was made: the fingerprint of all that it was made from, its content's hash, sizes, types, and the time it took.

    ``predicted`` is the mean KLD that the costs promise; ``seconds`` are those of its making alone.
    """

    made_from: str
    sha256: str
    n_bytes: int
    bpw: float
    qtypes: Mapping[str, str]
    predicted: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One file on one text."""

    evaluation: Evaluation
    seconds: float


class Results:
    """The results of one output folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, Any] = {"files": {}, "cells": {}, "facts": {}}
        if path.is_file():
            try:
                self._values.update(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError) as error:
                raise Bitclass3Error(f"{path} cannot be read ({error}); mend or delete it") from None

    @property
    def facts(self) -> dict[str, Any]:
        """What else is worth saying: versions, seconds of shared steps, weights of each tensor."""
        return dict(self._values["facts"])

    def put_facts(self, **facts: Any) -> None:
        """Note facts."""
        self._values["facts"].update(facts)
        write_json(self._path, self._values)

    def file(self, name: str) -> FileFacts | None:
        """The file last made under a name (``Q4_K_M/plain``)."""
        entry = self._values["files"].get(name)
        return FileFacts(**entry) if entry else None

    def put_file(self, name: str, facts: FileFacts) -> None:
        """Note a file."""
        self._values["files"][name] = {**asdict(facts), "qtypes": dict(facts.qtypes)}
        write_json(self._path, self._values)

    def names(self) -> Iterator[str]:
        """Names of all files."""
        yield from sorted(self._values["files"])

    def cell(self, sha256: str, measured_on: str) -> Cell | None:
        """What was measured of a file's content on a text; ``measured_on`` is that text's ``cell_key``."""
        entry = self._values["cells"].get(f"{sha256}/{measured_on}")
        return Cell(Evaluation(**entry["evaluation"]), entry["seconds"]) if entry else None

    def put_cell(self, sha256: str, measured_on: str, cell: Cell) -> None:
        """Note a measurement."""
        entry = {"evaluation": cell.evaluation.to_json(), "seconds": cell.seconds}
        self._values["cells"][f"{sha256}/{measured_on}"] = entry
        write_json(self._path, self._values)

    def put_text(self, group: str, name: str, title: str, n_chunks: int, measured_on: str) -> None:
        """Note under which key a text is measured for a group of tables, so that they can be written from the results alone."""
        known = self.facts.get(group, {})
        self.put_facts(**{group: {**known, name: {"title": title, "n_chunks": n_chunks, "key": measured_on}}})


def cell_key(source: str, text_sha256: str, n_chunks: int, n_ctx: int, engine: Mapping[str, Any]) -> str:
    """Fingerprint of all that a measurement depends on besides the file."""
    parts = {"source": source, "text": text_sha256, "n_chunks": n_chunks, "n_ctx": n_ctx, **engine}
    return digest_of(parts)[:24]
