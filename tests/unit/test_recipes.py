"""An allocation as text for llama-quantize."""

import re
import shlex

import bitclass3_recipe
import pytest
from gguf_files import memory_model

from bitclass3_core.gguf.recipe import nearest_ftype, quantize_arguments, recipe_lines, with_kept, write_recipe
from bitclass3_core.problem import Allocation

MODEL = memory_model(token_embd=(16, 256), output=(8, 256), blk__0__attn_q=(4, 256), blk__0__ffn_down=(4, 512))
QTYPES = {
    "blk.0.ffn_down.weight": "Q4_K",
    "blk.0.attn_q.weight": "IQ4_XS",
    "token_embd.weight": "Q6_K",
    "output.weight": "Q8_0",
}


def test_lines_are_anchored_escaped_and_sorted():
    assert recipe_lines(QTYPES) == [
        r"^blk\.0\.attn_q\.weight$=iq4_xs",
        r"^blk\.0\.ffn_down\.weight$=q4_k",
        r"^output\.weight$=q8_0",
        r"^token_embd\.weight$=q6_k",
    ]


def test_each_line_finds_its_tensor_alone():
    """llama-quantize searches each pattern in turn, the first that matches wins."""
    names = [f"blk.{i}.attn_q.weight" for i in (1, 10, 11)] + ["blk.1.attn_q_norm.weight", "attn_q.weight", "output.weight"]
    for line in recipe_lines(dict.fromkeys(names, "Q4_K")):
        pattern = line.partition("=")[0]
        assert sum(bool(re.search(pattern, name)) for name in [*names, "blk.1xattn_q.weight", "per_layer_output.weight"]) == 1


def test_arguments():
    assert quantize_arguments(MODEL, QTYPES, "src.gguf", "types.txt", "imatrix.gguf", "out.gguf", 4) == [
        *("--tensor-type-file", "types.txt", "--imatrix", "imatrix.gguf"),
        *("--token-embedding-type", "q6_k", "--output-tensor-type", "q8_0"),
        *("src.gguf", "out.gguf", "Q6_K", "4"),
    ]


def test_arguments_without_imatrix_threads_and_head():
    qtypes = {"blk.0.attn_q.weight": "Q4_K"}
    assert quantize_arguments(MODEL, qtypes, "s", "r", None, "o") == ["--tensor-type-file", "r", "s", "o", "Q4_K_M"]


@pytest.mark.parametrize(
    ("qtypes", "ftype"),
    [
        ({}, "F16"),
        ({"blk.0.attn_q.weight": "Q8_0", "blk.0.ffn_down.weight": "Q4_K"}, "Q4_K_M"),
        ({"blk.0.attn_q.weight": "Q2_K", "blk.0.ffn_down.weight": "Q3_K"}, "Q3_K_M"),
        ({"token_embd.weight": "IQ4_XS", "output.weight": "BF16", "blk.0.attn_q.weight": "IQ4_XS"}, "IQ4_XS"),
        ({"token_embd.weight": "Q5_K", "output.weight": "BF16"}, "Q5_K_M"),
        ({"output.weight": "BF16"}, "BF16"),
        ({"token_embd.weight": "BF16", "blk.0.attn_q.weight": "Q4_K"}, "Q4_K_M"),  # a float mix would undo the other types
    ],
)
def test_file_type_is_that_of_most_weights(qtypes, ftype):
    assert nearest_ftype(MODEL, qtypes) == ftype


def test_recipe_file(tmp_path):
    path = write_recipe(tmp_path, "m-4.80bpw", QTYPES)
    assert path == tmp_path / "m-4.80bpw.tensor_types.txt"
    assert path.read_text().splitlines() == recipe_lines(QTYPES)


def test_plugin_writes_a_script_that_can_be_run_from_anywhere(tmp_path, monkeypatch):
    out = tmp_path / "it's out"
    out.mkdir()
    (out / "imatrix.gguf").touch()
    monkeypatch.setattr(MODEL, "path", tmp_path / "model 1" / "src.gguf")
    recipe, script = bitclass3_recipe.bitclass3_export(model=MODEL, allocation=Allocation(QTYPES), out=out, stem="m")
    assert recipe.name == "m.tensor_types.txt"
    assert script.stat().st_mode & 0o111
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/bin/sh"
    expected = quantize_arguments(MODEL, QTYPES, "../model 1/src.gguf", recipe.name, "imatrix.gguf", "m.gguf")
    assert shlex.split(lines[1])[4:] == ["llama-quantize", *expected]


def test_plugin_without_an_imatrix(tmp_path):
    _, script = bitclass3_recipe.bitclass3_export(model=MODEL, allocation=Allocation(QTYPES), out=tmp_path, stem="m")
    assert "--imatrix" not in script.read_text()


def test_tensors_whose_rows_hold_no_block_are_asked_to_stay():
    model = memory_model(blk__0__ssm_dt=(512, 16), blk__0__ssm_x=(48, 512), blk__0__attn_norm=(64,), blk__0__ssm_conv1d=(512, 4))
    assert with_kept(model, {"blk.0.ssm_x.weight": "Q4_K"}) == {
        "blk.0.ssm_x.weight": "Q4_K",
        "blk.0.ssm_dt.weight": model.tensors["blk.0.ssm_dt.weight"].dtype,
    }
