"""Texts as documents, and their split into parts: no document is in two parts."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from bitclass3_core.errors import ModelFileError

EVALUATION_SHARE = 0.5  # of the documents, in the order of their hashes, where one text is split in two
MIN_DOCUMENT_CHARS = 4000  # plain text is cut at blank lines into documents of at least this many characters
MAX_DOCUMENT_CHARS = 16_000  # a document that is longer is cut at the end of a line
_BLANK_LINE, _LINE_END = re.compile(r"\n[ \t]*\n"), re.compile(r"\n")


@dataclass(frozen=True, slots=True)
class Document:
    """One text, the domain that it stands for (``code``, ``wiki``) and its hash."""

    text: str
    domain: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents in parts; no document is in two of them. The order of each part mixes the domains.

    ``calibration`` is the text for the sensitivity, ``evaluation`` for the figures of the card, ``selection`` for choosing among
    candidates. ``imatrix`` is the text for the columns' weights that guide the rounding; if it is empty, ``calibration`` gives them.
    """

    calibration: tuple[Document, ...]
    evaluation: tuple[Document, ...]
    files: tuple[str, ...] = ()
    imatrix: tuple[Document, ...] = ()
    selection: tuple[Document, ...] = ()

    def for_imatrix(self) -> "Corpus":
        """This corpus with the imatrix text as its calibration text."""
        return replace(self, calibration=self.imatrix, imatrix=())

    def for_selection(self) -> "Corpus":
        """This corpus with the selection text as its evaluation text."""
        return replace(self, evaluation=self.selection, selection=())

    @staticmethod
    def fingerprint(documents: Iterable[Document]) -> str:
        """Hash over the documents' hashes, in order."""
        return hashlib.sha256(" ".join(doc.sha256 for doc in documents).encode()).hexdigest()


def document(text: str, domain: str) -> Document:
    """A document with its hash computed."""
    return Document(text, domain, hashlib.sha256(text.encode()).hexdigest())


def _from_json_lines(path: Path, text: str) -> list[Document]:
    documents = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            documents.append(document(str(entry["text"]), str(entry.get("domain", path.stem))))
        except (ValueError, KeyError, TypeError, AttributeError):
            message = f"corpus file {path} line {number} is no JSON object with a 'text' key; write one document a line, or use a .txt file"
            raise ModelFileError(message) from None
    return documents


def _from_plain_text(path: Path, text: str) -> list[Document]:
    """The pieces between blank lines (which may hold spaces), so that one big file has several documents; long pieces end with a line."""
    documents, begin = [], 0
    while begin < len(text):
        least, most = begin + MIN_DOCUMENT_CHARS, begin + MAX_DOCUMENT_CHARS
        cut = _BLANK_LINE.search(text, least, most) or _LINE_END.search(text, least)
        end = len(text) if cut is None or len(text) - cut.start() < MIN_DOCUMENT_CHARS else cut.end()
        if text[begin:end].strip():
            documents.append(document(text[begin:end], path.stem))
        begin = end
    return documents


def read_documents(path: Path) -> list[Document]:
    """The documents of one file: ``.jsonl`` has one a line (keys ``text`` and maybe ``domain``), anything else is plain text.

    Raises ModelFileError for a file that is missing, empty or no UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ModelFileError(f"corpus file {path} does not exist; check [corpus] or --corpus") from None
    except UnicodeDecodeError as error:
        raise ModelFileError(f"corpus file {path} is no UTF-8 text (byte {error.start}); convert it first") from None
    except OSError as error:
        raise ModelFileError(f"corpus file {path} cannot be read: {error.strerror}") from None
    documents = _from_json_lines(path, text) if path.suffix in {".jsonl", ".ndjson"} else _from_plain_text(path, text)
    if not documents:
        raise ModelFileError(f"corpus file {path} is empty; give a file with text")
    return documents


def _mixed(documents: Iterable[Document]) -> tuple[Document, ...]:
    """The documents without doubles, sorted by hash: an order that mixes the domains and is the same on every machine."""
    unique = {doc.sha256: doc for doc in documents}
    return tuple(unique[key] for key in sorted(unique))


def _halve(parts: dict[str, tuple[Document, ...]], whole: str, first: str, second: str, what: str, flag: str) -> None:
    """Split the part ``whole`` by document into two. Raises ModelFileError if there are too few documents."""
    documents = parts[whole]
    if len(documents) < 2:
        raise ModelFileError(f"{what} has only {len(documents)} document: too few to split; give {flag}")
    limit = max(1, min(len(documents) - 1, round(len(documents) * (1 - EVALUATION_SHARE))))
    parts[first], parts[second] = documents[:limit], documents[limit:]


_MEANS = {
    ("calibration", "evaluation"): "a model must not be tested on the text it was calibrated on",
    ("selection", "evaluation"): "the test would be one that the file was chosen for",
}


def _check_disjoint(parts: dict[str, tuple[Document, ...]]) -> None:
    hashes = {name: {doc.sha256 for doc in documents} for name, documents in parts.items()}
    for a, b in combinations(hashes, 2):
        if shared := hashes[a] & hashes[b]:
            why = _MEANS.get((a, b), "every part needs text of its own")
            raise ModelFileError(f"{len(shared)} documents are in the {a} and in the {b} text; {why}")


def load_corpus(
    calibration: Sequence[Path],
    evaluation: Sequence[Path] = (),
    selection: Sequence[Path] = (),
    imatrix: Sequence[Path] = (),
    split_selection: bool = False,
    split_imatrix: bool = False,
) -> Corpus:
    """The corpus of these files.

    Without ``evaluation`` half of the calibration documents are the evaluation text. Without ``calibration`` the corpus has no
    calibration text: an imatrix file may take its place. If no file is named for them, ``split_selection`` takes half of the
    evaluation documents as the selection text, and ``split_imatrix`` half of the calibration documents as the imatrix text.

    Raises ModelFileError for unusable files, for a document that stands in two parts, and for too few documents to split.
    """
    if not calibration and not evaluation:
        raise ModelFileError("no calibration text; name one with [corpus] calibration or --corpus FILE")
    named = {"imatrix": imatrix, "calibration": calibration, "selection": selection, "evaluation": evaluation}
    parts = {part: _mixed(doc for path in paths for doc in read_documents(path)) for part, paths in named.items()}
    _check_disjoint(parts)
    if not evaluation:
        _halve(parts, "calibration", "calibration", "evaluation", "the corpus", "evaluation text too (--eval-corpus FILE)")
    if split_selection and not selection:
        flag = "text to choose by (--select-corpus FILE), or --no-select"
        _halve(parts, "evaluation", "selection", "evaluation", "the evaluation text", flag)
    if split_imatrix and not imatrix and calibration:
        flag = "text for the imatrix (--imatrix-corpus FILE), or --no-select"
        _halve(parts, "calibration", "imatrix", "calibration", "the calibration text", flag)
    files = tuple(str(path) for path in (*calibration, *evaluation, *selection, *imatrix))
    return Corpus(files=files, **parts)
