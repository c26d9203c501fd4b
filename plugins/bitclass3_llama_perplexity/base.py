"""The reference's log-probabilities on disk: llama-perplexity writes them, a file that exists is complete, and it is kept or deleted."""

import os
import re
import shutil
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bitclass3_core.errors import Bitclass3Error, ModelFileError, ToolchainError
from bitclass3_core.files import atomic_path, digest_of, human_bytes, require_room, write_text
from bitclass3_core.model import Model
from bitclass3_core.progress import Progress
from bitclass3_core.runs.artefact import Artefact
from bitclass3_core.toolchain.running import Steps, last_lines
from bitclass3_llama_perplexity.planning import base_bytes, chunk_bytes
from bitclass3_llama_perplexity.program import Perplexity

_HEADER = struct.Struct("<8siii")
_MAGIC = b"_logits_"
_PIECE = r"\[\d+\]-?[\d.a-z]+,"
_TOO_SHORT = re.compile(r"tokenizes to only (\d+) tokens")
_TOO_SHORT_BYTES = 12  # magic and n_ctx are written before the text is counted, the rest of the header after
_PART = re.compile(r"^\.(?:base|text)-[0-9a-f]+\.\w+\.(\d+)\.part$")
_SLACK = 1 << 16  # bytes that may still be in the program's buffer


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a base file, and the file size that follows from it."""

    n_ctx: int
    n_vocab: int
    n_chunks: int

    @property
    def n_bytes(self) -> int:
        """Bytes of the complete file."""
        return base_bytes(self.n_ctx, self.n_vocab, self.n_chunks)


def read_header(path: Path) -> Header | None:
    """The header; None if there is no file, if it is too short for a header, or if it is no base file."""
    try:
        with path.open("rb") as file:
            magic, *counts = _HEADER.unpack(file.read(_HEADER.size))
    except (OSError, struct.error):
        return None
    return Header(*counts) if magic == _MAGIC and min(counts) > 0 else None


@dataclass(frozen=True, slots=True)
class BaseFile:
    """A file of base logits: of a model, on a text, by a program, in a folder."""

    reference: Model
    text: str
    header: Header  # of the complete file
    program: Perplexity
    folder: Path
    digest: str  # of all that the file's content depends on

    @classmethod
    def planned(cls, reference: Model, text: str, header: Header, program: Perplexity, folder: Path) -> "BaseFile":
        """The file, with a name by what it will be made from."""
        counts = {"n_ctx": header.n_ctx, "n_chunks": header.n_chunks}
        parts = {"reference": reference.fingerprint, "text": text, **counts, **program.identity}
        return cls(reference, text, header, program, folder, digest_of(parts)[:16])

    @property
    def path(self) -> Path:
        """The path of the complete file."""
        return self.folder / f"base-{self.digest}.logits"

    @property
    def _artefact(self) -> Artefact[Header]:
        """The file as the program leaves it, under the digest of all that it depends on."""
        return Artefact("base logits", self.path, {"digest": self.digest}, lambda _header, _path: None, self._load)

    def _load(self, path: Path) -> Header | None:
        """The header of a complete file for this vocabulary; None for any other."""
        found = read_header(path)
        if found is None or (found.n_ctx, found.n_vocab) != (self.header.n_ctx, self.header.n_vocab):
            return None
        return found if path.stat().st_size == found.n_bytes else None

    @property
    def is_there(self) -> bool:
        """Whether a complete one was kept."""
        return self._artefact.kept() is not None

    @contextmanager
    def opened(self, keep: bool, progress: Progress) -> Iterator[tuple[Path, Header]]:
        """The file and its header, written unless an earlier call kept it; what was written here is deleted unless ``keep``."""
        is_there = self.is_there
        try:
            yield self.path, self._artefact.get(lambda _: self._written(progress))
        finally:
            if not (keep or is_there):
                self.path.unlink(missing_ok=True)
            with suppress(OSError):  # not ours to remove if anything is in it
                self.folder.rmdir()

    def _written(self, progress: Progress) -> Header:
        """Let llama-perplexity write the file. Raises Bitclass3Error if the disk is full, ModelFileError if the text is too short."""
        _remove_stale(self.folder)
        require_room(self.folder, self.header.n_bytes, "the base logits")
        text = self.folder / f"text-{self.digest}.txt"
        progress.begin(f"base logits of {self.reference.path.name}", self.header.n_chunks)
        try:
            write_text(text, self.text)
            with atomic_path(self.path) as temporary:
                arguments = ["-f", text.name, "--chunks", str(self.header.n_chunks), "--kl-divergence-base", temporary.name]
                steps = Steps(_PIECE, _Watch(temporary, progress))
                output = self.program.run(self.reference, arguments, self.folder, steps)
                # the line that says so may be lost at the program's end
                if _is_too_short(temporary) and not _TOO_SHORT.search(output):
                    output = self.program.run(self.reference, arguments, self.folder)
                _check_written(temporary, output, self.header.n_ctx)
        finally:
            progress.end()
            text.unlink(missing_ok=True)
        if (header := read_header(self.path)) is None:
            raise ToolchainError(f"{self.path} was removed while it was in use; run again")
        return header


class _Watch:
    """Counts the chunks that the program reports, and stops it when one is not on the disk: on a full disk it would go on."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self._path, self._progress, self._done = path, progress, 0

    def __call__(self) -> None:
        self._done += 1
        self._progress.advance()
        header = read_header(self._path)
        if header is None:
            return
        n_to_come = header.n_chunks - self._done + 1  # one more, which may be on its way
        if self._path.stat().st_size < header.n_bytes - n_to_come * chunk_bytes(header.n_ctx, header.n_vocab) - _SLACK:
            raise _no_room(self._path, header)


def _check_written(path: Path, output: str, n_ctx: int) -> None:
    """Raise an error if the file is not complete: the program ends with exit code 0 all the same."""
    if _is_too_short(path):
        found = _TOO_SHORT.search(output)
        raise ModelFileError(
            f"the evaluation text has {'too few' if found is None else f'{int(found[1]):,}'} tokens, llama-perplexity needs "
            f"{2 * n_ctx:,} (twice n_ctx); give more with --eval-corpus, or lower evaluate.options.n_ctx"
        )
    header = read_header(path)
    full = path.exists() and shutil.disk_usage(path.parent).free < _SLACK
    if header is None and not full:
        raise ToolchainError(f"llama-perplexity wrote no base logits; its last lines: {last_lines(output)}")
    if header is None or path.stat().st_size != header.n_bytes:
        raise _no_room(path, header)


def _is_too_short(path: Path) -> bool:
    """Whether the program ended after the beginning of the header: it does so if the text is too short."""
    return path.exists() and path.stat().st_size == _TOO_SHORT_BYTES


def _no_room(path: Path, header: Header | None) -> Bitclass3Error:
    whole = f" of {human_bytes(header.n_bytes)}" if header else ""
    free = human_bytes(shutil.disk_usage(path.parent).free)
    return Bitclass3Error(
        f"no room on disk for the base logits: {human_bytes(path.stat().st_size)}{whole} were written, {path.parent} has {free} free; "
        "free some, use another --out, or lower evaluate.options.n_chunks"
    )


def _remove_stale(folder: Path) -> None:
    """Remove files that a killed process left half-written: they may be gigabytes, and their names are hidden."""
    for path in folder.glob(".*.part"):
        match = _PART.match(path.name)
        if match and not _is_alive(int(match[1])):
            path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":  # there signal 0 ends the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True
