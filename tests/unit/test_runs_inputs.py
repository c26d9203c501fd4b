"""Inputs are read when they are asked for, and once for all runs whose parts are equal."""

import pytest
from run_fixtures import MATRICES, SmallRun, write_documents, write_model

from bitclass3_core.errors import ConfigError, ModelFileError
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.layout import data_bytes
from bitclass3_core.runs.inputs import Inputs

PIN = 'qtypes.pins={"token_embd" = "Q8_0"}'


@pytest.fixture
def siblings(small: SmallRun):
    """Inputs of configurations in one folder."""
    context = small.context()
    return lambda *settings, **flags: small.inputs(*settings, context=context, **flags)


def test_equal_parts_are_read_once_for_all_runs_of_a_folder(siblings):
    one, other = siblings("budget.target_bpw=5.0"), siblings("budget.target_bpw=7.0", PIN)
    assert one.model is other.model
    assert one.architecture is other.architecture
    assert one.corpus is other.corpus


def test_other_parts_are_read_for_themselves(small, siblings):
    one = siblings()
    assert siblings("model.allow_quantized_source=true").model is not one.model
    assert siblings("select.enabled=true").corpus is not one.corpus
    assert siblings(corpus={"calibration": [small.folder / "evaluation.jsonl"]}).corpus is not one.corpus
    assert siblings("architecture.plugin=llama").architecture is not one.architecture


def test_run_that_is_started_again_reads_again(small):
    assert small.inputs().model is not small.inputs().model


def test_nothing_is_read_before_it_is_asked_for(small, tmp_path):
    inputs = small.inputs(f"model.gguf={str(tmp_path / 'nothing.gguf')!r}", "corpus.calibration=['nothing.txt']")
    assert [q.name for q in inputs.menu] == ["Q4_K", "Q8_0"]
    with pytest.raises(ModelFileError, match=r"nothing\.gguf"):
        _ = inputs.model
    with pytest.raises(ModelFileError, match=r"nothing\.txt"):
        _ = inputs.corpus


def test_source_changes_with_the_weights(small, tmp_path):
    values = {"blk.0.attn_q.weight": GgufModel(small.gguf).read("blk.1.attn_q.weight")}
    other = write_model(tmp_path / "other.gguf", values=values)
    same = write_model(tmp_path / "same.gguf")
    assert small.inputs(f"model.gguf={str(other)!r}").source != small.inputs().source
    assert small.inputs(f"model.gguf={str(same)!r}").source == small.inputs().source


def test_run_without_text_has_an_empty_corpus(small):
    corpus = small.inputs(corpus={}).corpus
    assert (corpus.calibration, corpus.evaluation, corpus.files) == ((), (), ())


def test_selection_takes_half_of_the_evaluation_text(small):
    plain, chosen = small.inputs().corpus, small.inputs("select.enabled=true").corpus
    assert (len(plain.evaluation), len(plain.selection)) == (4, 0)
    assert {*chosen.evaluation, *chosen.selection} == set(plain.evaluation)
    assert len(chosen.evaluation) == len(chosen.selection) == 2


def test_text_that_is_named_for_selection_is_taken_whole(small, tmp_path):
    text = write_documents(tmp_path / "chosen.jsonl", "x", "y", "z")
    corpus = small.inputs("select.enabled=true", f"corpus.selection=[{str(text)!r}]").corpus
    assert (len(corpus.evaluation), len(corpus.selection)) == (4, 3)


def test_roles_are_those_of_tensors_that_have_a_choice(small):
    assert small.inputs().roles == {name: name.split(".")[-2] for name in MATRICES}


def test_multipliers_go_to_every_tensor_of_their_role(small):
    inputs = small.inputs("cost_multipliers={attn_q = 2.0}")
    assert inputs.cost_multipliers == {"blk.0.attn_q.weight": 2.0, "blk.1.attn_q.weight": 2.0}


@pytest.mark.parametrize("ask", [Inputs.check_roles, lambda inputs: inputs.cost_multipliers])
def test_multiplier_of_an_unknown_role_is_refused_with_the_nearest(small, ask):
    says = r"key 'cost_multipliers.attn_k': no tensor to quantize is a attn_k; did you mean 'attn_q'\? known: attn_q, ffn_down, token_embd"
    with pytest.raises(ConfigError, match=says):
        ask(small.inputs("cost_multipliers={attn_k = 2.0, attn_q = 1.5}"))


def test_constraints_and_multipliers_are_told_in_words(small):
    lines = small.inputs(PIN, "cost_multipliers={attn_q = 0.5}").constraints
    assert len(lines) == 2
    assert "token_embd" in lines[0]
    assert lines[1] == "costs of attn_q times 0.5"


def test_tensor_is_measured_at_its_pin_or_its_own_menu_too(small):
    inputs = small.inputs('qtypes.pins={"token_embd" = "Q6_K"}', 'qtypes.menus={"ffn_down" = ["Q5_K"]}')
    wanted = {name: [q.name for q in types] for name, types in inputs.wanted.items()}
    assert wanted.pop("token_embd.weight") == ["Q4_K", "Q8_0", "Q6_K"]
    assert wanted.pop("blk.0.ffn_down.weight") == ["Q5_K"]
    assert set(map(tuple, wanted.values())) == {("Q4_K", "Q8_0")}


def test_possible_bytes_run_from_the_smallest_type_to_the_source(small):
    inputs = small.inputs()
    possible = inputs.possible_bytes
    assert possible.smallest == data_bytes(inputs.model, dict.fromkeys(MATRICES, "Q4_K"))
    assert possible.largest == data_bytes(inputs.model, {})
    assert small.inputs(PIN).possible_bytes.smallest > possible.smallest
