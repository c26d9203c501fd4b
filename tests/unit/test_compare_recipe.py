"""The types of anyone's GGUF as a recipe that gives the same types again."""

import pytest
from gguf_files import TENSORS, write_gguf, write_split

from bitclass3_core.compare.files import recipe_text, types_of
from bitclass3_core.errors import ModelFileError
from bitclass3_core.gguf.recipe import types_in_recipe

CHOSEN = sorted(name for name, (shape, _) in TENSORS.items() if len(shape) > 1)


def test_types_are_those_of_tensors_that_llama_quantize_chooses_for(tmp_path):
    types = types_of(write_gguf(tmp_path / "a.gguf"))
    assert list(types) == CHOSEN
    assert types["blk.0.ffn_down.weight"] == "F16"


def test_any_file_of_a_split_tells_them_all(tmp_path):
    assert [list(types_of(path)) for path in write_split(tmp_path)] == [CHOSEN, CHOSEN]


def test_recipe_gives_the_same_types_again(tmp_path):
    types = types_of(write_gguf(tmp_path / "a.gguf"))
    recipe = tmp_path / "types.txt"
    recipe.write_text(recipe_text(types))
    read = types_in_recipe(recipe, TENSORS)
    assert {name: q.upper() for name, q in read.items()} == types
    assert recipe_text({}) == ""


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(ModelFileError, match=r"nothing\.gguf does not exist; give a GGUF, or any file of a split one"):
        types_of(tmp_path / "nothing.gguf")


def test_file_without_such_tensors(tmp_path):
    path = write_gguf(tmp_path / "norms.gguf", {"output_norm.weight": ((256,), "F32")})
    with pytest.raises(ModelFileError, match=r"norms\.gguf has no tensor that llama-quantize would choose a type for"):
        types_of(path)
