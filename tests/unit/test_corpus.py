"""Texts as documents, and their split."""

import json

import pytest

from bitclass3_core.corpus import MIN_DOCUMENT_CHARS, Corpus, document, load_corpus, read_documents
from bitclass3_core.errors import ModelFileError


def jsonl(path, *texts, **keys):
    path.write_text("".join(json.dumps({"text": text, **keys}) + "\n" for text in texts))
    return path


def test_json_lines(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"text": "a\\nb", "domain": "code"}\n\n{"text": "c"}\n')
    assert [(doc.text, doc.domain) for doc in read_documents(path)] == [("a\nb", "code"), ("c", "c")]


def test_unusual_line_separators_inside_a_text(tmp_path):
    """JSON may hold U+2028 as it is; a line ends only at a newline."""
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"text": "a\u2028b\x85c"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [doc.text for doc in read_documents(path)] == ["a\u2028b\x85c"]


def test_plain_text_is_cut_at_blank_lines(tmp_path):
    paragraph = "x" * 999 + "\n\n"
    text = paragraph * 10
    (tmp_path / "c.txt").write_text(text)
    documents = read_documents(tmp_path / "c.txt")
    assert "".join(doc.text for doc in documents) == text
    assert [len(doc.text) for doc in documents] == [4004, 6006]
    assert all(doc.text.endswith("\n\n") and len(doc.text) >= MIN_DOCUMENT_CHARS for doc in documents)


def test_blank_lines_may_hold_spaces_as_in_wikitext(tmp_path):
    text = ("x" * 2500 + " \n \n = Heading = \n\t\n") * 4
    (tmp_path / "c.raw").write_bytes(text.replace("\n", "\r\n").encode())
    documents = read_documents(tmp_path / "c.raw")
    assert "".join(doc.text for doc in documents) == text
    assert len(documents) == 2


def test_text_without_blank_lines_is_cut_at_line_ends(tmp_path):
    (tmp_path / "c.txt").write_text("line\n" * 5000)
    assert [len(doc.text) for doc in read_documents(tmp_path / "c.txt")] == [4005] * 5 + [4975]


def test_text_without_lines_is_one_document(tmp_path):
    (tmp_path / "c.txt").write_text("word " * 5000)
    assert len(read_documents(tmp_path / "c.txt")) == 1


def test_short_rest_goes_to_the_last_document(tmp_path):
    (tmp_path / "c.txt").write_text("x" * 4000 + "\n\nrest")
    assert len(read_documents(tmp_path / "c.txt")) == 1


@pytest.mark.parametrize(("name", "content"), [("c.txt", ""), ("c.txt", " \n\n \n"), ("c.jsonl", "\n\n")])
def test_empty_file(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelFileError, match=f"corpus file .*{name} is empty; give a file with text"):
        read_documents(tmp_path / name)


def test_missing_file(tmp_path):
    with pytest.raises(ModelFileError, match=r"corpus file .*c\.txt does not exist; check \[corpus\] or --corpus"):
        read_documents(tmp_path / "c.txt")


def test_folder(tmp_path):
    with pytest.raises(ModelFileError, match=r"corpus file .* cannot be read: Is a directory"):
        read_documents(tmp_path)


def test_no_utf8(tmp_path):
    (tmp_path / "c.txt").write_bytes(b"abc\xff")
    with pytest.raises(ModelFileError, match=r"c\.txt is no UTF-8 text \(byte 3\); convert it first"):
        read_documents(tmp_path / "c.txt")


@pytest.mark.parametrize("line", ["no json", "[1]", '"text"', '{"txt": "a"}', "null"])
def test_bad_line_is_named(tmp_path, line):
    (tmp_path / "c.jsonl").write_text('{"text": "a"}\n\n' + line + "\n")
    message = r"c\.jsonl line 3 is no JSON object with a 'text' key; write one document a line, or use a \.txt file"
    with pytest.raises(ModelFileError, match=message):
        read_documents(tmp_path / "c.jsonl")


def test_split_in_two_is_disjoint_complete_and_even(tmp_path):
    path = jsonl(tmp_path / "c.jsonl", *(f"document {i}" for i in range(21)))
    corpus = load_corpus([path])
    calibration, evaluation = ({doc.text for doc in part} for part in (corpus.calibration, corpus.evaluation))
    assert not calibration & evaluation
    assert len(calibration | evaluation) == 21
    assert abs(len(calibration) - len(evaluation)) == 1
    assert corpus.files == (str(path),)


def test_split_does_not_depend_on_the_order_of_the_file(tmp_path):
    texts = [f"document {i}" for i in range(10)]
    one = load_corpus([jsonl(tmp_path / "a.jsonl", *texts)])
    other = load_corpus([jsonl(tmp_path / "b.jsonl", *reversed(texts))])
    assert [doc.text for doc in one.calibration] == [doc.text for doc in other.calibration]
    assert Corpus.fingerprint(one.evaluation) == Corpus.fingerprint(other.evaluation)


def test_doubles_count_once(tmp_path):
    corpus = load_corpus([jsonl(tmp_path / "a.jsonl", "a", "a", "b")])
    assert sorted(doc.text for doc in (*corpus.calibration, *corpus.evaluation)) == ["a", "b"]


def test_two_parts_as_given(tmp_path):
    corpus = load_corpus([jsonl(tmp_path / "a.jsonl", "a", "b")], [jsonl(tmp_path / "b.jsonl", "c")])
    assert {doc.text for doc in corpus.calibration} == {"a", "b"}
    assert [doc.text for doc in corpus.evaluation] == ["c"]
    assert len(corpus.files) == 2


def test_document_in_both_parts(tmp_path):
    message = "1 documents are in the calibration and in the evaluation text; a model must not be tested on the text it was"
    with pytest.raises(ModelFileError, match=message):
        load_corpus([jsonl(tmp_path / "a.jsonl", "a", "b")], [jsonl(tmp_path / "b.jsonl", "b", "c")])


def test_one_document_cannot_be_split(tmp_path):
    with pytest.raises(ModelFileError, match=r"the corpus has only 1 document: too few to split; .* \(--eval-corpus FILE\)"):
        load_corpus([jsonl(tmp_path / "a.jsonl", "a")])


def test_no_text_at_all():
    with pytest.raises(ModelFileError, match=r"no calibration text; name one with \[corpus\] calibration or --corpus FILE"):
        load_corpus([])


def test_fingerprint_changes_with_text_and_order():
    a, b = document("a", "x"), document("b", "x")
    prints = {Corpus.fingerprint(part) for part in ((a, b), (b, a), (a,), ())}
    assert len(prints) == 4


def four(tmp_path, **files):
    """Files of ten documents each, by part."""
    return {part: [jsonl(tmp_path / f"{part}.jsonl", *(f"{text} {i}" for i in range(10)))] for part, text in files.items()}


def test_four_sets_share_no_document(tmp_path):
    files = four(tmp_path, calibration="a", evaluation="b")
    corpus = load_corpus(**files, split_selection=True, split_imatrix=True)
    parts = [corpus.imatrix, corpus.calibration, corpus.selection, corpus.evaluation]
    assert [len(part) for part in parts] == [5, 5, 5, 5]
    assert len({doc.sha256 for part in parts for doc in part}) == 20
    assert {doc.text[0] for doc in (*corpus.imatrix, *corpus.calibration)} == {"a"}
    assert corpus.for_selection().evaluation == corpus.selection
    assert corpus.for_imatrix().calibration == corpus.imatrix


def test_four_sets_from_one_list(tmp_path):
    corpus = load_corpus(**four(tmp_path, calibration="a"), split_selection=True, split_imatrix=True)
    assert sorted(len(part) for part in (corpus.imatrix, corpus.calibration, corpus.selection, corpus.evaluation)) == [2, 2, 3, 3]


def test_named_files_are_not_split(tmp_path):
    files = four(tmp_path, calibration="a", evaluation="b", selection="c", imatrix="d")
    corpus = load_corpus(**files, split_selection=True, split_imatrix=True)
    assert [len(part) for part in (corpus.imatrix, corpus.calibration, corpus.selection, corpus.evaluation)] == [10, 10, 10, 10]


@pytest.mark.parametrize(
    ("same", "words"),
    [
        (("calibration", "evaluation"), "a model must not be tested on the text it was calibrated on"),
        (("selection", "evaluation"), "the test would be one that the file was chosen for"),
        (("imatrix", "selection"), "every part needs text of its own"),
    ],
)
def test_document_in_two_sets(tmp_path, same, words):
    texts = {"calibration": "a", "evaluation": "b", "selection": "c", "imatrix": "d"}
    files = four(tmp_path, **{part: "same" if part in same else text for part, text in texts.items()})
    with pytest.raises(ModelFileError, match=f"10 documents are in the {same[0]} and in the {same[1]} text; {words}"):
        load_corpus(**files)


def test_too_few_documents_to_select_by(tmp_path):
    files = four(tmp_path, calibration="a") | {"evaluation": [jsonl(tmp_path / "one.jsonl", "only")]}
    with pytest.raises(ModelFileError, match=r"the evaluation text has only 1 document: .*--select-corpus FILE\), or --no-select"):
        load_corpus(**files, split_selection=True)
