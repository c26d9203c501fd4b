"""The plugins that a configuration names: loaded and checked before anything is computed, each with the options that are its own."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gguf_files import matrices, memory_model
from run_fixtures import HOOKS, LOG, Heard, SmallRun

from bitclass3_core.corpus import Corpus
from bitclass3_core.errors import ConfigError, CrashError, PluginError
from bitclass3_core.options import Work
from bitclass3_core.plugin.stages import StageRunner
from bitclass3_core.problem import Allocation, Choice, Group, Problem
from bitclass3_core.qtypes import qtype
from bitclass3_core.sensitivity import Sensitivity

MODEL = memory_model(blk__0__attn_q=(16, 256))
NOTHING = Sensitivity({}, "none", 0, 0, "")
WITH_OPTIONS = f"""{HOOKS}
from typing import ClassVar
from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.options import Demands, PluginOptions

class Options(PluginOptions):
    FIELDS

    def demands(self, work):
        return Demands(10.0 * work.n_files, 2.0, 100 * self.shared)

    def placed_in(self, folder):
        return self.model_copy(update={{"folder": folder}})

@hookimpl
def bitclass3_HOOK(ARGUMENTS options: Options):
    {LOG}
    return ANSWER
"""
FIELDS = "shared: int = 1"
# Options by themselves, not PluginOptions
BUDGET = f"""{HOOKS}
from pydantic import BaseModel
from bitclass3_core.layout import Budget

class Options(BaseModel):
    levels: tuple[str, ...] = LEVELS

@hookimpl
def bitclass3_budget(ARGUMENTS options: Options):
    return Budget(7, "seven")
"""
SOLVER = f"""{HOOKS}
from bitclass3_core.options import PluginOptions
from bitclass3_core.problem import allocation_of

class Options(PluginOptions):
    mix: str = "own"

    @classmethod
    def as_baseline(cls, ftype):
        return {{"mix": ftype or "near"}}

@hookimpl
def bitclass3_solve(problem, options: Options):
    {LOG}
    return allocation_of(problem, [0 for _ in problem.groups], options.mix)
"""
EXPORTER = f"""{HOOKS}
@hookimpl
def bitclass3_export(out, stem):
    {LOG}
    if "broken" in Path(__file__).stem:
        raise ValueError("no ink")
    path = out / (stem + ENDING)
    path.write_text("file")
    return [path]
"""


def plugin(small: SmallRun, name: str, hook: str = "estimate", fields: str = FIELDS, arguments: str = "", answer: str = "5") -> str:
    """A plugin with options of its own; what it is called by."""
    parts = {"FIELDS": fields.replace("; ", "\n    "), "HOOK": hook, "ARGUMENTS": arguments, "ANSWER": answer}
    source = WITH_OPTIONS
    for place, part in parts.items():
        source = source.replace(place, part)
    return small.plugin(name, source)


def runner(small: SmallRun, *settings: str) -> StageRunner:
    return StageRunner(small.config(*settings))


def problem() -> Problem:
    return Problem((Group("g", ("blk.0.attn_q.weight",), (Choice("Q4_K", 2304, 0.1), Choice("Q8_0", 4352, 0.0))),), 10_000)


# before anything is computed


def test_plugins_that_are_right_are_loaded(small):
    runner(small, "baseline.plugin=stock", "select.enabled=true").load_all()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("estimate.options.powr=1", "plugin 'uniform' takes no options, got powr"),
        ("measure.options.n_row=1", "plugin 'weighted-error' has no option 'n_row'"),
        ("budget.target_bpp=1", r"plugin 'fixed' has no option 'target_bpp'; did you mean 'target_bpw'\?"),
        ("solve.options.seconds=1", "plugin 'ilp' has no option 'seconds'"),
        ("export.options.round=1", "plugin 'gguf' has no option 'round'"),
        ("architecture.options.x=1", "plugin 'generic' takes no options, got x"),
    ],
)
def test_typo_in_an_option_is_found_first(small, setting, says):
    with pytest.raises(ConfigError, match=says):
        runner(small, setting).load_all()


@pytest.mark.parametrize(
    "setting",
    ["solve.plugin=ipl", "report.plugin=['ipl']", "baseline.plugin=ipl", "wrappers=['ipl']", "export.plugin=['gguf','ipl']"],
)
def test_plugin_that_there_is_not_is_found_first(small, setting):
    with pytest.raises(PluginError, match="no plugin named 'ipl'; did you mean 'ilp'"):
        runner(small, setting).load_all()


def test_plugin_of_the_imatrix_counts_where_it_is_wanted(small):
    runner(small, "imatrix.plugin=ipl").load_all()
    with pytest.raises(PluginError, match="no plugin named 'ipl'"):
        runner(small, "imatrix.plugin=ipl", "corpus.imatrix=['x.txt']").load_all()


def test_two_files_of_one_name_are_found_first(small):
    folder = small.folder / "other"
    folder.mkdir()
    (folder / "mine.py").write_text(SOLVER)
    mine = plugin(small, "mine")
    with pytest.raises(PluginError, match="two plugins are named 'mine'; rename the file of one"):
        runner(small, f"estimate.plugin={mine!r}", f"solve.plugin={str(folder / 'mine.py')!r}").load_all()


def test_unknown_level_is_found_first(small):
    with pytest.raises(ConfigError, match=r"unknown level 'Q4_K_N'; did you mean 'Q4_K_S'\?"):
        runner(small, "budget.level=Q4_K_N").load_all()
    runner(small, "budget.level=q4_k_m").load_all()


def test_budget_that_declares_no_levels_takes_any(small):
    free = small.plugin("free", BUDGET.replace("LEVELS", "()").replace("ARGUMENTS", "level,"))
    stages = runner(small, f"budget.plugin={free!r}", "budget.level=MINE")
    stages.load_all()
    assert stages.budget(MODEL, matrices(MODEL), None).label == "seven"


def test_budget_that_knows_no_levels_is_not_asked_for_one(small):
    fixed = small.plugin("fix", BUDGET.replace("LEVELS", "()").replace("ARGUMENTS", ""))
    stages = runner(small, f"budget.plugin={fixed!r}", "budget.level=Q4_K_M")
    with pytest.raises(ConfigError, match="budget plugin 'fix' knows no levels, got Q4_K_M; leave"):
        stages.budget(MODEL, matrices(MODEL), None)


@pytest.mark.parametrize(("argument", "needs"), [("", False), ("sensitivity,", True)])
def test_whether_the_budget_needs_the_sensitivity(small, argument, needs):
    budget = small.plugin("mine", BUDGET.replace("LEVELS", "()").replace("ARGUMENTS", argument))
    assert runner(small, f"budget.plugin={budget!r}").budget_needs_sensitivity() is needs


# options


def test_plugin_of_a_stage_gets_the_options_of_its_section(small):
    stages = runner(small, f"estimate.plugin={plugin(small, 'mine')!r}", "estimate.options.shared=4")
    assert stages.plugin("estimate").options.shared == 4
    assert stages.plugin("estimate") is stages.plugin("estimate")
    assert stages.plugin("estimate").name == "mine"


def test_second_plugin_of_a_stage_gets_shared_options_only(small):
    mine = plugin(small, "mine", fields="shared: int = 1; own: int = 1")
    second = plugin(small, "second", fields="shared: int = 1; other: int = 1")
    settings = (f"estimate.plugin={mine!r}", "estimate.options={shared=4, own=5}", f"imatrix.plugin={second!r}")
    options = runner(small, *settings).plugin("estimate", second).options
    assert (options.shared, options.other) == (4, 1)
    own = runner(small, *settings, "imatrix.options={other=6, shared=7}").plugin("estimate", second).options
    assert (own.shared, own.other) == (7, 6), "its own section wins"
    with pytest.raises(ConfigError, match="plugin 'second' has no option 'own'"):
        runner(small, *settings, "imatrix.options.own=1").plugin("estimate", second)


def test_plugins_of_a_list_get_options_by_their_names(small):
    one, two = plugin(small, "one", "export"), plugin(small, "two", "export")
    stages = runner(small, f"export.plugin={[one, two]!r}", f"export.options={{'{two}' = {{shared = 9}}}}")
    assert [stages.plugin("export", name).options.shared for name in (one, two)] == [1, 9]
    assert list(stages.export_identities()) == [one, two]
    alone = runner(small, f"export.plugin={[one]!r}", "export.options.shared=3")
    assert alone.plugin("export", one).options.shared == 3


@pytest.mark.parametrize(
    ("name", "arch", "found"),
    [("auto", "llama", "llama"), ("auto", "never-heard-of", "generic"), ("generic", "llama", "generic")],
)
def test_architecture_plugin_is_the_models_own_unless_one_is_named(small, name, arch, found):
    stages = runner(small, f"architecture.plugin={name}")
    assert stages.architecture_plugin(SimpleNamespace(arch=arch)) == found


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ((), False),
        (("corpus.imatrix=['x.txt']",), True),
        (("select.enabled=true",), False),
        (("select.enabled=true", "estimate.plugin=READER"), True),
        (("estimate.plugin=READER",), False),
    ],
)
def test_imatrix_of_its_own_is_wanted_where_candidates_are_compared_by_an_estimator_of_text(small, settings, wanted):
    reader = plugin(small, "reader", fields="reads_text: ClassVar[bool] = True; shared: int = 1")
    assert runner(small, *(setting.replace("READER", reader) for setting in settings)).wants_imatrix is wanted


def test_demands_are_added_up_and_memory_is_the_largest(small):
    one, two = plugin(small, "one"), plugin(small, "two", "measure")
    work = Work({}, n_files=3)
    base = runner(small).demands(work)
    demands = runner(small, f"estimate.plugin={one!r}", f"measure.plugin={two!r}", "estimate.options.shared=1000000").demands(work)
    assert demands.operations == 2 * 30.0 + base.operations
    assert demands.n_bytes == max(100_000_000, base.n_bytes)


# calls


def test_what_was_called_is_known(small):
    stages = runner(small)
    assert stages.called == set()
    stages.architecture(MODEL)
    stages.solve(problem(), MODEL, matrices(MODEL))
    assert stages.called == {"architecture", "solve"}


def test_another_configuration_of_the_same_run_shares_what_was_done(small):
    stages = runner(small)
    other = stages.of_same_run(small.config("budget.target_bpw=7.0"))
    other.solve(problem(), MODEL, matrices(MODEL))
    other.failed["notes"] = PluginError("no ink")
    assert stages.called == {"solve"}
    assert list(stages.failed) == ["notes"]
    assert other.plugin("budget").options.target_bpw == 7.0


def test_plugins_are_loaded_once_for_runs_that_share_them(small):
    loaded: dict[str, Any] = {}
    name = plugin(small, "mine")
    config = small.config(f"estimate.plugin={name!r}")
    first = StageRunner(config, loaded).plugin("estimate").plugin
    Path(name).write_text(Path(name).read_text() + "\nEDITED = True\n")
    assert StageRunner(config, loaded).plugin("estimate").plugin is first
    assert StageRunner(config).plugin("estimate").plugin is not first


def test_metric_is_called_with_sensitivity_and_options(small):
    answer = (
        "CostTable({name: {q.name: Cost(options.shared + sensitivity.n_tokens, 0.0, 1) for q in qtypes} for name in model.tensors})"
    )
    metric = plugin(small, "metric", "measure", arguments="model, qtypes, sensitivity,", answer=answer)
    stages = runner(small, f"measure.plugin={metric!r}")
    table = stages.measure_hook(replace(NOTHING, n_tokens=40))(MODEL, (qtype("Q4_K"),))
    assert table.costs["blk.0.attn_q.weight"]["Q4_K"].cost == 41.0
    assert stages.called == {"measure"}


@pytest.mark.parametrize(
    ("settings", "mix"),
    [
        ((), "near"),
        (("budget.match_stock=Q4_K_M",), "Q4_K_M"),
        (("baseline.options.mix=named",), "named"),
    ],
)
def test_baseline_is_asked_as_one_to_compare_with_unless_it_has_options(small, settings, mix):
    stages = runner(small, f"baseline.plugin={small.plugin('mixes', SOLVER)!r}", *settings)
    assert stages.baseline(problem(), MODEL, matrices(MODEL)).solver == mix


def test_no_baseline(small):
    assert runner(small, "baseline.plugin=none").baseline(problem(), MODEL, matrices(MODEL)) is None


def test_stock_mix_within_a_budget_is_the_largest_that_fits(small):
    source = small.inputs()
    stages = source.stages
    full = small.solution().problem
    mix = stages.stock_within(full, source.model, source.architecture)
    assert mix.solver == "stock"
    assert small.solution().quantizable_bytes(mix) <= full.budget_bytes


def exported(small: SmallRun, *names: str) -> tuple[StageRunner, Heard, list[Path]]:
    endings = {"whole": "'.gguf'", "notes": "'.txt'", "broken": "'.txt'"}
    plugins = [small.plugin(name, EXPORTER.replace("ENDING", endings[name])) for name in names]
    stages, progress = runner(small, f"export.plugin={plugins!r}"), Heard()
    asked = (MODEL, matrices(MODEL), Allocation({}), NOTHING, Corpus((), ()), small.folder, "x", progress)
    return stages, progress, stages.export(*asked)


def test_files_of_all_exporters_are_answered_in_their_order(small):
    _, _, files = exported(small, "notes", "whole")
    assert [path.name for path in files] == ["x.txt", "x.gguf"]


@pytest.mark.parametrize("names", [("broken", "whole"), ("whole", "broken")])
def test_run_goes_on_without_an_exporter_as_long_as_another_writes_the_gguf(small, names):
    stages, progress, files = exported(small, *names)
    assert [path.name for path in files] == ["x.gguf"]
    assert list(stages.failed) == [str(small.folder / "broken.py")]
    (line,) = progress.warned
    assert line.startswith("plugin 'broken' crashed in bitclass3_export")
    assert line.endswith("; the run goes on without its files")


@pytest.mark.parametrize("names", [("broken",), ("broken", "notes"), ("notes", "broken")])
def test_run_ends_where_no_other_exporter_writes_the_gguf(small, names):
    with pytest.raises(CrashError, match="plugin 'broken' crashed"):
        exported(small, *names)


def test_evaluator_is_told_where_large_files_go(small):
    evaluator = plugin(small, "judge", "evaluate", "shared: int = 1; folder: Path | None = None")
    stages = runner(small, f"evaluate.plugin={evaluator!r}", "evaluate.options.shared=3")
    stages.place_evaluation(small.out)
    assert (stages.plugin("evaluate").options.folder, stages.plugin("evaluate").options.shared) == (small.out, 3)


def test_evaluator_that_has_no_such_option_stays_as_it_is(small):
    stages = runner(small)
    before = stages.plugin("evaluate").options
    stages.place_evaluation(small.out)
    assert stages.plugin("evaluate").options == before
