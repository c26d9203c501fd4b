"""Candidates' files: written once, read back, measured once, deleted with their figures kept."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fake_runs import evaluation
from run_fixtures import HOOKS, LOG, MATRICES, SmallRun, said, write_documents

from bitclass3_core.errors import ContractError
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.progress import Silent
from bitclass3_core.runs.candidates import (
    SELECTION,
    TEST,
    CandidateFile,
    CandidateStore,
    differences,
    load_evaluation,
    save_evaluation,
)
from bitclass3_core.runs.folder import RunFolder

OURS = "small-6.00bpw"
RECIPE = 'export.plugin=["gguf","recipe"]'
COPIER = f"""{HOOKS}
import shutil

@hookimpl
def bitclass3_export(model, out, stem):
    {LOG}
    return [Path(shutil.copy(model.path, out / (stem + ".gguf")))]
"""
LACKING = f"""{HOOKS}
from run_fixtures import TENSORS, write_model

@hookimpl
def bitclass3_export(out, stem):
    return [write_model(out / (stem + ".gguf"), tensors={{"output_norm.weight": TENSORS["output_norm.weight"]}})]
"""
NOTES = f"""{HOOKS}
@hookimpl
def bitclass3_export(out, stem):
    {LOG}
    if BROKEN:
        raise ValueError("no ink")
    path = out / (stem + ".notes.txt")
    path.write_text("notes")
    return [path]
"""


def store_of(small: SmallRun, *settings: str) -> tuple[CandidateStore, CandidateFile]:
    """The store of a run that is started again, and our file, still to be written."""
    solution = small.solution(*settings)
    return solution.store, solution.planned("", "ours")


def make(small: SmallRun, *settings: str, figures: str | None = None) -> CandidateFile:
    store, planned = store_of(small, *settings)
    return store.make(planned, small.progress, figures)


def measured_and_dropped(small: SmallRun, *settings: str, part: str = TEST) -> CandidateFile:
    store, planned = store_of(small, *settings)
    made = store.make(planned, Silent())
    store.evaluate([made], Silent(), part)
    store.drop(made)
    return made


def exports(small: SmallRun) -> list[str]:
    return said(small.progress.said, "export")


def test_file_is_written_once(small):
    first = make(small)
    written = first.path.stat().st_mtime_ns
    again = make(small)
    assert replace(again, allocation=first.allocation) == first
    assert again.path.stat().st_mtime_ns == written
    assert exports(small) == [f"{OURS}.gguf (not there)", f"{OURS}.gguf is up to date"]
    types = {name: info.dtype for name, info in GgufModel(first.path).tensors.items() if name in MATRICES}
    assert types == first.allocation.qtypes
    assert first.n_bytes == first.n_file_bytes == first.path.stat().st_size


def test_other_types_write_it_again(small):
    store, planned = store_of(small)
    store.make(planned, small.progress)
    other = replace(planned, allocation=replace(planned.allocation, qtypes=dict.fromkeys(MATRICES, "Q8_0")))
    made = store.make(other, small.progress)
    assert exports(small)[-1].startswith(f"{OURS}.gguf (types ")
    assert {GgufModel(made.path).tensors[name].dtype for name in MATRICES} == {"Q8_0"}


def test_file_that_is_damaged_or_gone_is_written_again(small):
    path = make(small).path
    path.write_bytes(path.read_bytes()[:-1])
    make(small)
    assert exports(small)[-1].startswith(f"{OURS}.gguf (its size is ")
    path.unlink()
    make(small)
    assert exports(small)[-1] == f"{OURS}.gguf (not there)"
    assert path.is_file()


def test_recipe_that_is_gone_is_written_again(small):
    make(small, RECIPE)
    (recipe,) = small.out.glob("*.tensor_types.txt")
    recipe.unlink()
    make(small, RECIPE)
    assert exports(small)[-1] == f"{OURS}.gguf (files are missing)"
    assert recipe.is_file()


@pytest.mark.parametrize("part", [TEST, SELECTION])
def test_deleted_file_is_not_made_again_for_figures_that_are_kept(small, part):
    settings = ("select.enabled=true",)
    dropped = measured_and_dropped(small, *settings, part=part)
    assert small.files(".gguf") == set()
    made = make(small, *settings, figures=part)
    assert (made.path, made.n_bytes) == (None, dropped.n_file_bytes)
    assert small.files(".gguf") == set()
    store, _ = store_of(small, *settings)
    assert store.evaluate([made], Silent(), part)[OURS].mean_kld > 0
    assert small.measured == [OURS]


@pytest.mark.parametrize(
    ("settings", "figures"),
    [
        ((), None),
        ((), SELECTION),
        (("evaluate.options.favour=x",), TEST),
        (("budget.target_bpw=7.0",), TEST),
    ],
    ids=["the file is wanted", "figures of another part", "figures of another evaluator", "another file"],
)
def test_deleted_file_is_made_again_for_anything_else(small, settings, figures):
    measured_and_dropped(small)
    assert make(small, *settings, figures=figures).path.is_file()


def test_deleted_file_is_not_taken_for_one_of_that_name_with_other_types(small):
    store, planned = store_of(small)
    made = store.make(planned, Silent())
    store.evaluate([made], Silent())
    store.drop(made)
    other = replace(planned, allocation=replace(planned.allocation, qtypes=dict.fromkeys(MATRICES, "Q8_0")))
    assert store.make(other, Silent(), TEST).path.is_file()


def test_recipe_of_ours_stays_and_that_of_a_variation_goes(small):
    solution = small.solution(RECIPE)
    for ending, kind in (("", "ours"), ("-k", "variation")):
        solution.store.drop(solution.store.make(solution.planned(ending, kind), Silent()))
    assert small.files(".gguf", ".txt", ".sh") == {f"{OURS}.tensor_types.txt", f"{OURS}.llama-quantize.sh"}


def test_earlier_files_of_another_exporter_are_removed(small):
    make(small, RECIPE)
    assert len(small.files(".txt", ".sh")) == 2
    make(small)
    assert small.files(".txt", ".sh") == set()
    assert small.files(".gguf") == {f"{OURS}.gguf"}


def test_earlier_files_of_a_split_are_removed(small):
    first, second = (small.out / f"{OURS}-0000{number}-of-00002.gguf" for number in (1, 2))
    small.out.mkdir()
    for path in (first, second):
        path.write_bytes(b"part")
    RunFolder(small.out).record(f"file {OURS}", first, {"options": "split"}, [first, second])
    assert make(small).path.name == f"{OURS}.gguf"
    assert small.files(".gguf") == {f"{OURS}.gguf"}


def test_file_with_other_types_than_asked_is_refused_and_not_noted(small):
    copier = f"export.plugin=[{small.plugin('copier', COPIER)!r}]"
    for _ in range(2):
        with pytest.raises(ContractError, match=rf"^{OURS}.gguf: \S+ was written as BF16, asked Q"):
            make(small, copier)
    assert small.logged == ["copier", "copier"]


def test_file_that_lacks_a_tensor_is_refused(small):
    with pytest.raises(ContractError, match="was written as nothing, asked"):
        make(small, f"export.plugin=[{small.plugin('lacking', LACKING)!r}]")


def test_exporters_that_write_no_gguf_are_refused(small):
    with pytest.raises(ContractError, match=rf"no export plugin wrote {OURS}\.gguf, which evaluation needs"):
        make(small, 'export.plugin=["recipe"]')


def test_exporter_that_failed_is_tried_again_by_the_next_run(small):
    settings = f"export.plugin=['gguf',{small.plugin('notes', NOTES.replace('BROKEN', 'True'))!r}]"
    make(small, settings)
    assert small.progress.warned == [
        "plugin 'notes' crashed in bitclass3_export (notes.py line 9): ValueError: no ink; what was measured is kept, "
        "tell its author or name another plugin; the run goes on without its files"
    ]
    make(small, settings)
    assert small.logged == ["notes", "notes"]
    small.plugin("notes", NOTES.replace("BROKEN", "False"))
    make(small, settings)
    make(small, settings)
    assert small.logged == ["notes"] * 3, "and no more once it has worked"
    assert small.files(".notes.txt") == {f"{OURS}.notes.txt"}


def test_files_are_measured_once(small):
    for _ in range(2):
        store, planned = store_of(small)
        found = store.evaluate([store.make(planned, Silent())], small.progress)
        assert list(found) == [OURS]
    assert small.measured == [OURS]
    assert said(small.progress.said, "evaluate")[-1] == "everything is up to date"


def test_only_what_is_missing_is_measured(small):
    solution = small.solution()
    ours = solution.store.make(solution.planned("", "ours"), Silent())
    solution.store.evaluate([ours], Silent())
    variation = solution.store.make(solution.planned("-k", "variation"), Silent())
    assert set(solution.store.evaluate([ours, variation], Silent())) == {OURS, f"{OURS}-k"}
    assert small.measured == [OURS, f"{OURS}-k"]


def evaluated(small: SmallRun, *settings: str) -> dict:
    store, planned = store_of(small, *settings)
    return store.evaluate([store.make(planned, Silent())], Silent())


def test_evaluations_of_earlier_files_that_can_be_compared_are_found(small):
    first = evaluated(small)
    both = evaluated(small, "budget.target_bpw=7.0")
    assert list(both) == [OURS, "small-7.00bpw"]
    assert both[OURS].mean_kld == first[OURS].mean_kld > both["small-7.00bpw"].mean_kld
    assert small.measured == [OURS, "small-7.00bpw"], "not measured again"


def test_earlier_files_that_were_measured_otherwise_are_left_out(small):
    evaluated(small)
    assert list(evaluated(small, "budget.target_bpw=7.0", "evaluate.options.favour=x")) == ["small-7.00bpw"]
    write_documents(small.folder / "evaluation.jsonl", "other", "text")
    assert list(evaluated(small, "budget.target_bpw=5.0")) == ["small-5.00bpw"]


def test_earlier_files_are_ours_and_stock_mixes_that_are_still_there(small):
    solution = small.solution()
    for ending, kind in (("", "ours"), ("-k", "variation"), ("-other", "stock")):
        solution.store.make(solution.planned(ending, kind), Silent())
    store, _ = store_of(small)
    assert [(made.name, made.kind) for made in store.earlier()] == [(OURS, "ours"), (f"{OURS}-other", "stock")]
    (small.out / f"{OURS}.gguf").unlink()
    assert [made.name for made in store.earlier()] == [f"{OURS}-other"]


def test_selection_is_measured_on_its_own_text_and_finds_no_earlier_files(small):
    settings = ("select.enabled=true",)
    earlier, planned = store_of(small, *settings)
    earlier.evaluate([earlier.make(planned, Silent())], Silent(), SELECTION)
    store, planned = store_of(small, "budget.target_bpw=7.0", *settings)
    made = store.make(planned, Silent())
    chosen = store.evaluate([made], small.progress, SELECTION)
    assert list(chosen) == ["small-7.00bpw"]
    assert said(small.progress.said, "evaluate") == ["counting on small-7.00bpw, selection text"]
    assert (small.out / SELECTION / "small-7.00bpw.npz").is_file()
    assert not (small.out / TEST / "small-7.00bpw.npz").exists()


def test_evaluation_is_kept_with_the_kld_of_every_token(tmp_path):
    figures = evaluation("x", 0.02)
    save_evaluation(figures, tmp_path / "x.npz")
    loaded = load_evaluation(tmp_path / "x.npz")
    np.testing.assert_array_equal(loaded.token_kld, figures.token_kld)
    assert loaded.to_json() == json.loads(json.dumps(figures.to_json()))
    save_evaluation(replace(figures, token_kld=None), tmp_path / "x.npz")
    assert load_evaluation(tmp_path / "x.npz").token_kld is None


def test_differences_are_ours_minus_each_other():
    found = differences("a", {"a": evaluation("a", 0.02), "b": evaluation("b", 0.03)})
    assert list(found) == ["b"]
    assert found["b"][0] < 0 < found["b"][1]
    assert differences("a", {"b": evaluation("b", 0.03)}) == {}
    unpaired = replace(evaluation("b", 0.03), token_kld=None)
    assert differences("a", {"a": evaluation("a", 0.02), "b": unpaired}) == {}


def test_what_reports_see(small):
    made = make(small)
    model = GgufModel(small.gguf)
    candidate = made.as_candidate(model, 0.5, None)
    assert (candidate.name, candidate.kind, candidate.predicted_cost) == (OURS, "ours", 0.5)
    assert candidate.file_bytes == made.path.stat().st_size
    assert candidate.bpw <= 6.0
    made.path.unlink()
    gone = made.as_candidate(model, None, None)
    assert (gone.path, gone.file_bytes) == (None, candidate.file_bytes)
    unwritten = CandidateFile.planned("x", "ours", made.allocation, model)
    assert (unwritten.n_bytes, unwritten.as_candidate(model, None, None).file_bytes) == (0, 0)


def test_mix_is_called_after_its_model(small):
    mix = replace(make(small).allocation, solver="stock", note="stock Q4_K_M")
    assert CandidateFile.of_mix(mix, GgufModel(small.gguf)).name == "small-stock-Q4_K_M"
    assert CandidateFile.of_mix(replace(mix, note=""), GgufModel(small.gguf)).name == "small-stock"
