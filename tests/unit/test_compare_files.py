"""Anyone's GGUFs, opened under short names."""

import pytest
from gguf_files import write_gguf, write_split
from run_fixtures import write_model

from bitclass3_core.compare.files import check_comparable, opened, unique_names
from bitclass3_core.errors import ConfigError, ModelFileError
from bitclass3_core.gguf.model import GgufModel


@pytest.fixture
def folders(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    return tmp_path / "x", tmp_path / "y"


def test_files_are_opened_under_their_names_in_order(tmp_path):
    paths = [write_gguf(tmp_path / f"{name}.gguf") for name in ("b", "a")]
    assert {name: model.path for name, model in opened(paths).items()} == dict(zip(("b", "a"), paths, strict=True))
    assert list(opened(paths)) == ["b", "a"]


def test_files_of_one_name_are_told_apart_by_their_folders(folders):
    paths = [write_gguf(folder / "same.gguf") for folder in folders]
    other = write_gguf(folders[0] / "other.gguf")
    assert list(opened([*paths, other])) == ["x/same", "y/same", "other"]


def test_split_file_is_named_by_its_first(tmp_path):
    first, _ = write_split(tmp_path)
    (model,) = opened([first]).values()
    assert list(opened([first])) == ["model"]
    assert "output_norm.weight" in model.tensors, "all files of the split are read"


def test_file_that_is_named_twice(folders):
    path = write_gguf(folders[0] / "a.gguf")
    for again in (path, folders[1] / ".." / "x" / "a.gguf"):
        with pytest.raises(ConfigError, match=r"^file x/a is named twice; name each file once$"):
            opened([path, again])


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(ModelFileError, match=r"nothing\.gguf does not exist; give GGUF files, of a split one the first"):
        opened([write_gguf(tmp_path / "a.gguf"), tmp_path / "nothing.gguf"])


def test_file_without_the_ending_keeps_its_name(tmp_path):
    assert unique_names([tmp_path / "a.bin", tmp_path / "b.Q4_K.gguf"]) == ["a.bin", "b.Q4_K"]


def test_many_differences_are_counted(tmp_path):
    reference = GgufModel(write_gguf(tmp_path / "reference.gguf"))
    other = GgufModel(write_model(tmp_path / "other.gguf"))
    with pytest.raises(
        ModelFileError, match=r"it lacks .*blk\.0\.ffn_up_exps\.weight; shape of .* is .*; compare files of one model"
    ):
        check_comparable(reference, other)
    check_comparable(reference, reference)
