"""The texts: what is calibrated on, what is measured on, and that the two share nothing.

Both come from a folder of public files. Calibration takes the beginning of each, as the trial did whose figures stand beside ours; of
the files that are also measured on, the second half is kept for that.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitclass3_core.corpus import Document, document
from bitclass3_core.errors import ConfigError, ModelFileError, did_you_mean
from bitclass3_core.files import write_text

WIKITEXT = "wiki.test.raw"
CALIBRATION_CHARS = {"wiki": 250_000, "c4": 250_000, "technical": 60_000, "code": 60_000, "multilingual": 20_000}
MOST_CHARS = 250_000  # of one file, where it is calibrated on alone
_EVALUATION = {
    "wiki": (WIKITEXT, "WikiText-2 test", 24),
    "code": ("code", "Code", 12),
    "technical": ("technical", "Technical text", 12),
    "multilingual": ("multilingual", "Text in many languages", 12),
}
TEXT_NAMES = tuple(_EVALUATION)
DEFAULT_TEXTS = ("wiki", "code", "technical")
STABILITY_TEXTS = ("wiki",)
_DOCUMENT_CHARS = 4000  # documents are cut at the next line's end after so many
_PARAGRAPH_CHARS = 200  # lines at least this long do not occur twice by chance
_SOURCES = (
    f"{WIKITEXT} is in https://huggingface.co/datasets/ggml-org/ci/resolve/main/wikitext-2-raw-v1.zip, the .utf8 files are "
    "exllamav3/conversion/standard_cal_data in https://github.com/turboderp-org/exllamav3"
)


@dataclass(frozen=True, slots=True)
class EvaluationText:
    """A text to measure on: its name and title, and how many chunks of it."""

    name: str
    title: str
    text: str
    n_chunks: int

    @property
    def sha256(self) -> str:
        """Hash of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def usual_chunks() -> dict[str, int]:
    """Chunks of each text, unless told."""
    return {name: n_chunks for name, (_, _, n_chunks) in _EVALUATION.items()}


def shared_folder(root: Path) -> Path | None:
    """A folder ``shared`` beside the repository or one level higher, if there is one with data in it."""
    places = (folder / "shared" for folder in (root.parent, root.parent.parent))
    return next((place for place in places if (place / "data").is_dir()), None)


class Texts:
    """The files of one folder, each read when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, str] = {}

    @classmethod
    def found(cls, given: Path | None, root: Path) -> "Texts":
        """The texts in the folder that the user names, else in ``shared/data``. Raises ConfigError if files are missing."""
        shared = shared_folder(root)
        folder = given or (shared / "data" if shared else None)
        if folder is None:
            raise ConfigError(f"no texts; give --data DIR with {WIKITEXT} and {', '.join(_file_names())}: {_SOURCES}")
        texts = cls(folder)
        missing = [name for name in (WIKITEXT, *CALIBRATION_CHARS) if texts._path(name) is None]
        if missing:
            listed = ", ".join(name if name == WIKITEXT else f"{name}.utf8" for name in missing)
            raise ConfigError(f"{folder} lacks {listed}; {_SOURCES}")
        return texts

    def _path(self, name: str) -> Path | None:
        names = (name,) if name == WIKITEXT else (f"{name}.utf8", f"cal_{name}.utf8")
        return next((self._folder / file for file in names if (self._folder / file).is_file()), None)

    def _whole(self, name: str) -> str:
        if name not in self._read:
            path = self._path(name)
            if path is None:
                raise ConfigError(f"{self._folder} lacks {name}; {_SOURCES}")
            try:
                self._read[name] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ModelFileError(f"{path} is no UTF-8 text (byte {error.start}); download it again") from None
        return self._read[name]

    def calibration(self, domain: str = "mixed") -> list[Document]:
        """The documents to calibrate on: of all files, or more of one alone."""
        if domain == "mixed":
            return [doc for name, n_chars in CALIBRATION_CHARS.items() for doc in _documents(self._whole(name)[:n_chars], name)]
        if domain not in CALIBRATION_CHARS:
            raise ConfigError(f"unknown calibration text {domain!r}{did_you_mean(domain, CALIBRATION_CHARS)}")
        whole = self._whole(domain)
        return _documents(whole[: min(MOST_CHARS, len(whole) // 2)], domain)

    def evaluation(self, names: Sequence[str], n_chunks: int | None = None) -> list[EvaluationText]:
        """The texts of these names, ``n_chunks`` of each or as many as it has by default. Raises ConfigError for an unknown name."""
        found = []
        for name in names:
            if name not in _EVALUATION:
                raise ConfigError(f"unknown text {name!r}{did_you_mean(name, _EVALUATION)}")
            file, title, usual = _EVALUATION[name]
            whole = self._whole(file)
            text = whole if file == WIKITEXT else _after_line(whole, len(whole) // 2)
            found.append(EvaluationText(name, title, text, n_chunks or usual))
        return found


def _file_names() -> list[str]:
    return [f"{name}.utf8" for name in CALIBRATION_CHARS]


def _after_line(text: str, place: int) -> str:
    """The text from the first line that begins after ``place``."""
    return text[text.find("\n", place) + 1 :]


def _documents(text: str, domain: str) -> list[Document]:
    """Cut at the ends of lines, so that a file without paragraphs is no single document that fills the whole calibration."""
    documents, begin = [], 0
    while begin < len(text):
        cut = text.find("\n", begin + _DOCUMENT_CHARS)
        end = len(text) if cut < 0 else cut + 1
        if text[begin:end].strip():
            documents.append(document(text[begin:end], domain))
        begin = end
    return documents


def check_disjoint(calibration: Sequence[Document], texts: Sequence[EvaluationText]) -> None:
    """Raise ModelFileError if a long line of a text that is measured on was calibrated on."""
    known = {line.strip() for doc in calibration for line in doc.text.split("\n") if len(line.strip()) >= _PARAGRAPH_CHARS}
    for text in texts:
        if twice := next((line for line in text.text.split("\n") if line.strip() in known), None):
            raise ModelFileError(
                f"the text {text.name!r} has a paragraph that was calibrated on ({twice.strip()[:60]!r}); give other files"
            )


def write_documents(documents: Sequence[Document], path: Path) -> Path:
    """Documents as the ``.jsonl`` file that a pipeline reads."""
    write_text(path, "".join(json.dumps({"text": doc.text, "domain": doc.domain}, ensure_ascii=False) + "\n" for doc in documents))
    return path
