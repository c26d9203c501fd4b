"""The benchmark's texts: found or asked for, cut into documents, held apart."""

import json
from pathlib import Path

import pytest

from benchmarks.quality.texts import CALIBRATION_CHARS, EvaluationText, Texts, check_disjoint, shared_folder, write_documents
from bitclass3_core.corpus import document, read_documents
from bitclass3_core.errors import ConfigError, ModelFileError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """All files, each line with its own number."""
    data = tmp_path / "data"
    data.mkdir()
    for name in CALIBRATION_CHARS:
        (data / f"{name}.utf8").write_text("".join(f"{name} {i:04} {'word ' * 40}\n" for i in range(2200)))
    (data / "wiki.test.raw").write_text("".join(f"test {i:04} {'word ' * 40}\n" for i in range(2200)))
    return data


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give --data DIR with wiki\.test\.raw and wiki\.utf8, .*wikitext-2-raw-v1\.zip"):
        Texts.found(None, tmp_path / "a" / "b")


def test_a_folder_that_lacks_files(folder: Path) -> None:
    (folder / "code.utf8").unlink()
    (folder / "wiki.test.raw").unlink()
    with pytest.raises(ConfigError, match=r"data lacks wiki\.test\.raw, code\.utf8; wiki\.test\.raw is in https://"):
        Texts.found(folder, folder)


def test_files_may_be_called_as_in_a_shared_folder(folder: Path) -> None:
    root = folder.parent / "clone"
    root.mkdir()
    folder.rename(folder.parent / "data2")
    (folder.parent / "shared").mkdir()
    (folder.parent / "data2").rename(folder.parent / "shared" / "data")
    place = folder.parent / "shared" / "data" / "code.utf8"
    place.rename(place.with_name("cal_code.utf8"))
    assert shared_folder(root) == folder.parent / "shared"
    assert Texts.found(None, root).evaluation(["code"])[0].text.startswith("code 1101 ")


def test_calibration_is_the_beginning_of_each_file_and_no_document_fills_it(folder: Path) -> None:
    documents = Texts.found(folder, folder).calibration()
    by_domain = {name: sum(len(doc.text) for doc in documents if doc.domain == name) for name in CALIBRATION_CHARS}
    assert by_domain == CALIBRATION_CHARS
    assert max(len(doc.text) for doc in documents) < 4500
    assert documents[0].text.startswith("wiki 0000 ")


def test_one_domain_alone_keeps_to_the_first_half(folder: Path) -> None:
    texts = Texts.found(folder, folder)
    alone = texts.calibration("multilingual")
    assert {doc.domain for doc in alone} == {"multilingual"}
    assert sum(len(doc.text) for doc in alone) == len((folder / "multilingual.utf8").read_text()) // 2
    check_disjoint(alone, texts.evaluation(["multilingual", "code"]))
    with pytest.raises(ConfigError, match=r"unknown calibration text 'cod'; did you mean 'code'\?"):
        texts.calibration("cod")


def test_evaluation_is_the_second_half_or_wikitext_as_it_is(folder: Path) -> None:
    wiki, code = Texts.found(folder, folder).evaluation(["wiki", "code"])
    assert wiki.text == (folder / "wiki.test.raw").read_text()
    assert (wiki.n_chunks, code.n_chunks) == (24, 12)
    assert code.text.startswith("code 1101 ")
    assert [text.n_chunks for text in Texts.found(folder, folder).evaluation(["wiki", "code"], 3)] == [3, 3]
    with pytest.raises(ConfigError, match=r"unknown text 'wik'; did you mean 'wiki'\?"):
        Texts.found(folder, folder).evaluation(["wik"])


def test_a_text_that_was_calibrated_on_is_refused() -> None:
    paragraph = "a paragraph that stands in both " * 10
    text = EvaluationText("code", "Code", f"something\n{paragraph}\n", 1)
    with pytest.raises(ModelFileError, match=r"the text 'code' has a paragraph that was calibrated on \('a paragraph"):
        check_disjoint([document(f"{paragraph}\nmore", "wiki")], [text])
    check_disjoint([document("something\nshort in both", "wiki")], [text])


def test_a_file_that_is_no_text(folder: Path) -> None:
    (folder / "wiki.utf8").write_bytes(b"ab\xff")
    with pytest.raises(ModelFileError, match=r"wiki\.utf8 is no UTF-8 text \(byte 2\); download it again"):
        Texts.found(folder, folder).calibration()


def test_documents_are_read_back_by_the_product(tmp_path: Path) -> None:
    documents = [document("line\none \N{GREEK SMALL LETTER ALPHA}\n", "wiki"), document("two", "code")]
    path = write_documents(documents, tmp_path / "calibration.jsonl")
    assert read_documents(path) == documents
    assert json.loads(path.read_text().splitlines()[1]) == {"text": "two", "domain": "code"}
