"""A result is made once, and again where it must be, with the reason told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bitclass3_core.runs.artefact import Artefact, Results
from bitclass3_core.runs.folder import RunFolder

PARTS = {"source": "abc", "options": {"n": 1}}


def artefact(folder: Path, parts: dict = PARTS, load: Callable = Path.read_text, noted: bool = True) -> Artefact[str]:
    """A text in a folder that is opened again."""
    run_folder = RunFolder(folder) if noted else None
    return Artefact("text", folder / "text.txt", parts, lambda value, path: path.write_text(value), load, run_folder)


class Maker:
    """Makes a text, and keeps the reasons."""

    def __init__(self, text: str = "made") -> None:
        self.text, self.reasons = text, []

    def __call__(self, why: str) -> str:
        self.reasons.append(why)
        return self.text


def test_it_is_made_once_and_loaded_from_then_on(tmp_path):
    make = Maker()
    assert artefact(tmp_path).get(make) == artefact(tmp_path).get(make) == "made"
    assert make.reasons == ["not there"]


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"source": "abd", "options": {"n": 1}}, "source abc -> abd"),
        ({"source": "abc", "options": {"n": 2}}, "options.n 1 -> 2"),
        ({"source": "abc", "options": {"n": 1}, "wrappers": ["loud 1"]}, "wrappers - -> ['loud 1']"),
    ],
)
def test_other_parts_make_it_again_and_say_what_changed(tmp_path, parts, reason):
    artefact(tmp_path).get(Maker("old"))
    make = Maker("new")
    assert artefact(tmp_path, parts).get(make) == "new"
    assert make.reasons == [reason]
    assert artefact(tmp_path, parts).kept() == "new"
    assert artefact(tmp_path).kept() is None, "the old one is gone"


def test_file_that_cannot_be_used_is_made_again(tmp_path):
    artefact(tmp_path).get(Maker("damaged"))
    make = Maker("whole")

    def load(path: Path) -> str | None:
        return None if path.read_text() == "damaged" else path.read_text()

    assert artefact(tmp_path, load=load).get(make) == "whole"
    assert make.reasons == ["cannot be read"]
    assert artefact(tmp_path, load=load).kept() == "whole"


def test_nothing_is_noted_if_making_fails(tmp_path):
    def fail(why: str) -> str:
        raise RuntimeError(why)

    with pytest.raises(RuntimeError, match="not there"):
        artefact(tmp_path).get(fail)
    assert artefact(tmp_path).why() == "not there"
    assert not (tmp_path / "run.json").exists()


def test_nothing_is_noted_if_saving_fails(tmp_path):
    (tmp_path / "text.txt").mkdir()
    with pytest.raises(IsADirectoryError):
        artefact(tmp_path).put("made")
    assert artefact(tmp_path).why() == "not there"


def test_what_is_kept_is_asked_for_without_making_it(tmp_path):
    assert artefact(tmp_path).kept() is None
    artefact(tmp_path).put("made")
    assert artefact(tmp_path).kept() == "made"


def test_file_without_a_folder_is_good_if_it_is_there(tmp_path):
    make = Maker()
    assert artefact(tmp_path, noted=False).why() == "not there"
    artefact(tmp_path, noted=False).get(make)
    assert artefact(tmp_path, {"source": "other"}, noted=False).get(make) == "made", "the name holds the fingerprint"
    assert make.reasons == ["not there"]
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_results_are_shared_by_name_and_equal_parts_alone():
    results, made = Results(), []

    def get(name: str, parts: dict) -> int:
        return results.get(name, parts, lambda: made.append(name) or len(made))

    first = get("costs", {"a": 1, "b": {"c": Path("x")}})
    assert get("costs", {"b": {"c": Path("x")}, "a": 1}) == first, "the order of parts says nothing"
    assert len({first, get("costs", {"a": 2}), get("model", {"a": 1, "b": {"c": Path("x")}})}) == len(made) == 3


def test_result_that_could_not_be_made_is_tried_again():
    results = Results()
    with pytest.raises(ZeroDivisionError):
        results.get("costs", {}, lambda: 1 // 0)
    assert results.get("costs", {}, lambda: 7) == 7


def test_result_of_none_is_made_once():
    results, made = Results(), []
    for _ in range(2):
        assert results.get("nothing", {}, lambda: made.append(1)) is None
    assert made == [1]
