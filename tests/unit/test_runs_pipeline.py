"""A run from top to bottom: how far it goes, what it calls again, what it notes, and how it goes on after a failure."""

import json
from pathlib import Path

import pytest
from run_fixtures import HOOKS, LOG, SmallRun

from bitclass3_core.errors import Bitclass3Error, ConfigError, CrashError, InfeasibleError
from bitclass3_core.runs.folder import RunFolder
from bitclass3_core.runs.pipeline import STAGES, Pipeline

OURS = "small-6.00bpw"
REPORT = f"""{HOOKS}
@hookimpl
def bitclass3_report(run, out):
    {LOG}
    if "broken" in Path(__file__).stem:
        raise ValueError("no ink")
    path = out / (Path(__file__).stem + ".md")
    path.write_text(" ".join(candidate.name for candidate in run.candidates))
    return [path]
"""
FILES = {
    "estimate": "sensitivity-uniform.safetensors",
    "measure": "costs.sqlite",
    "solve": "allocation.json",
    "export": f"{OURS}.gguf",
    "evaluate": "evaluation",
    "report": "report.md",
}


def reports(small: SmallRun, *names: str) -> str:
    return f"report.plugin={[small.plugin(name, REPORT) for name in names]!r}"


def ran(small: SmallRun, *settings: str, until: str = "report") -> Pipeline:
    pipeline = small.pipeline(*settings)
    pipeline.run(until)
    return pipeline


@pytest.mark.parametrize("until", STAGES)
def test_run_makes_what_its_stages_need_and_no_more(small, until):
    pipeline = ran(small, reports(small, "report"), until=until)
    n_stages = STAGES.index(until) + 1
    assert {stage for stage, name in FILES.items() if (small.out / name).exists()} == set(STAGES[:n_stages])
    assert pipeline.stages.called == {"architecture", "budget", *STAGES[:n_stages]}
    assert set(pipeline.context.timings) == set(STAGES[:n_stages])


def test_run_that_is_started_again_calls_no_stage_that_is_done(small):
    ran(small, reports(small, "report"))
    again = ran(small, reports(small, "report"))
    assert again.stages.called == {"architecture", "budget", "solve", "report"}, "what is not kept in files"


def test_run_goes_on_where_an_earlier_one_stopped(small):
    ran(small, until="measure")
    later = ran(small, until="evaluate")
    assert later.stages.called == {"architecture", "budget", "solve", "export", "evaluate"}


def test_report_that_fails_is_noted_and_raised_at_the_end(small):
    pipeline = ran(small, reports(small, "broken", "report"))
    assert small.logged == ["broken", "report"], "the others run"
    assert (small.out / "report.md").read_text() == OURS
    assert list(pipeline.stages.failed) == [str(small.folder / "broken.py")]
    (line,) = pipeline.context.warnings
    assert line.startswith("plugin 'broken' crashed in bitclass3_report (broken.py line ")
    assert line.endswith("; the run goes on without its files")
    with pytest.raises(CrashError, match="plugin 'broken' crashed"):
        pipeline.raise_failures()
    assert json.loads((small.out / "run.json").read_text())["warnings"] == [line]


def test_run_without_failures_raises_none(small):
    assert ran(small, reports(small, "report")).raise_failures() is None


def test_report_answers_the_files_of_all_plugins(small):
    pipeline = small.pipeline(reports(small, "one", "two"))
    assert pipeline.report() == [small.out / "one.md", small.out / "two.md"]


def test_how_the_run_was_made_is_noted(small):
    pipeline = ran(small, 'qtypes.pins={"ffn_down" = "Q8_0"}', until="solve")
    noted = json.loads((small.out / "run.json").read_text())
    assert noted["command"] == "bitclass3 run"
    assert noted["timings"] == pipeline.context.timings
    assert noted["versions"]["bitclass3"]
    assert noted["constraints"] == pipeline.inputs.constraints
    assert len(noted["constraints"]) == 1
    assert noted["warnings"] == []


def test_folder_is_held_by_one_run(small):
    with RunFolder(small.out).locked(), pytest.raises(Bitclass3Error, match="another run is at work in"):
        small.pipeline().run()
    ran(small, until="estimate")


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        (("budget.target_bpw=2.0",), InfeasibleError, "smallest possible"),
        (("cost_multipliers.attn_k=2.0",), ConfigError, "no tensor to quantize is a attn_k"),
        (("estimate.options.n_tokens=5",), ConfigError, "takes no options, got n_tokens"),
        (("budget.target_kld=0.1", "corpus.evaluation=[]", "corpus.calibration=[]"), ConfigError, "needs held-out text"),
        (("budget.target_kld=0.1", "select.enabled=true"), ConfigError, "contradict each other"),
    ],
)
def test_what_is_wrong_is_found_before_anything_is_computed(small, settings, error, says):
    with pytest.raises(error, match=says):
        ran(small, *settings)
    assert small.files() <= {".lock", "run.json"}


def test_source_is_told_first(small):
    ran(small, until="estimate")
    assert small.progress.said[0] == "source: small.gguf, llama, 5 tensors (4 quantizable), 73.00 KiB"


def test_sibling_shares_all_but_what_its_configuration_changes(small):
    pipeline = small.pipeline()
    sibling = pipeline.sibling(small.config("budget.target_bpw=7.0"))
    assert sibling.model is pipeline.model
    assert sibling.sensitivity is pipeline.sensitivity
    assert sibling.costs is pipeline.costs
    assert sibling.context.timings is pipeline.context.timings
    assert (pipeline.budget.label, sibling.budget.label) == ("6.00bpw", "7.00bpw")
    assert pipeline.allocation.qtypes != sibling.allocation.qtypes


def test_properties_belong_to_one_answer(small):
    pipeline = small.pipeline()
    assert not pipeline.is_measured
    assert pipeline.allocation is pipeline.solution.allocation
    assert pipeline.is_measured
    assert [made.allocation for made in pipeline.files] == [pipeline.allocation]
    assert pipeline.context.folder.path == small.out


def test_result_has_our_file_the_stock_mix_and_earlier_targets(small):
    ran(small, "budget.target_bpw=7.0", until="evaluate")
    pipeline = small.pipeline("baseline.plugin=stock")
    run = pipeline.result
    ours, stock, earlier = run.candidates
    assert (ours.name, stock.kind, earlier.name) == (OURS, "stock", "small-7.00bpw")
    assert earlier.evaluation.mean_kld < ours.evaluation.mean_kld
    assert set(run.differences) == {stock.name, "small-7.00bpw"}
    assert run.differences["small-7.00bpw"][0] > 0
    assert run.timings == pipeline.context.timings
    assert run.config["budget"]["options"] == {"target_bpw": 6.0}
    assert ours.predicted_cost is None, "uniform's costs are no nats"
    assert run.selections == {}


def test_earlier_target_that_was_measured_otherwise_is_no_candidate(small):
    ran(small, "budget.target_bpw=7.0", until="evaluate")
    run = small.pipeline("evaluate.options.favour=x").result
    assert [candidate.name for candidate in run.candidates] == [OURS]


def test_selection_is_in_the_result_under_the_name_of_the_file(small):
    run = small.pipeline("select.enabled=true", "select.stock=false").result
    assert list(run.selections) == [OURS]
    assert {contender.how for contender in run.selections[OURS].contenders} == {"ours", "k-types"}


def test_result_is_one_that_loses_no_figures_with_its_file(small):
    pipeline = small.pipeline("keep=none")
    (ours,) = pipeline.result.candidates
    assert small.files(".gguf") == set()
    assert ours.path is None
    assert ours.file_bytes > 0
    assert ours.evaluation.mean_kld > 0


def test_without_text_nothing_is_measured_and_that_is_said(small):
    pipeline = small.pipeline(corpus={})
    pipeline.run()
    assert pipeline.evaluations == {}
    assert pipeline.context.warnings == [
        "no evaluation text: nothing was measured; give --corpus or --eval-corpus to get KLD and PPL"
    ]
    assert small.files(".gguf") == {f"{OURS}.gguf"}


def test_target_kld_becomes_the_smallest_size_that_keeps_it(small):
    pipeline = small.pipeline("budget.target_kld=0.01", "baseline.plugin=stock")
    target = pipeline.sized.budget.options["target_bpw"]
    assert pipeline.sized.budget.target_kld is None
    assert pipeline.budget.label == f"{target:.2f}bpw"
    assert small.files(".gguf") == set(), "what was only tried is not kept"
    run = pipeline.result
    assert run.ours.evaluation.mean_kld <= 0.01
    assert small.measured.count(run.ours.name) == 1, "its figures are those of the search"
    assert len(run.candidates) == 2, "sizes that were tried are no candidates"
    assert {path.stem for path in small.out.glob("*.gguf")} == {*(candidate.name for candidate in run.candidates), "imatrix"}


def test_ladder_prepares_once_and_finishes_each_level(small):
    pipeline = small.pipeline()
    assert pipeline.prepare() is pipeline.costs
    run = pipeline.sibling(small.config("budget.target_bpw=7.0")).finish()
    assert run.ours.name == "small-7.00bpw"
    assert json.loads((small.out / "allocation.json").read_text())["qtypes"] == dict(run.ours.allocation.qtypes)
    with pytest.raises(InfeasibleError):
        pipeline.sibling(small.config("budget.target_bpw=2.0")).finish()


@pytest.mark.parametrize(
    ("settings", "known"),
    [((), True), (("budget.target_kld=0.1",), False), (("budget.level=Q6_K", "budget.plugin=bit-classes"), False)],
)
def test_whether_the_target_is_known_beforehand(small, settings, known):
    assert small.pipeline(*settings).has_known_target is known


def test_exporter_that_failed_is_raised_at_the_end(small):
    exporter = f"{HOOKS}\n@hookimpl\ndef bitclass3_export(out):\n    raise ValueError('no ink')\n"
    pipeline = ran(small, f"export.plugin=['gguf', {small.plugin('notes', exporter)!r}]", until="evaluate")
    assert Path(pipeline.files[0].path).is_file()
    with pytest.raises(CrashError, match="plugin 'notes' crashed in bitclass3_export"):
        pipeline.raise_failures()
