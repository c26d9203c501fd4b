"""Finding, loading and calling plugins."""

import sys
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest
from pydantic import BaseModel

from bitclass3_core.errors import ConfigError, ContractError, CrashError, InfeasibleError, PluginError
from bitclass3_core.plugin import manager as plugins
from bitclass3_core.plugin.manager import PluginManager, installed, load_plugin, parse_options
from bitclass3_core.plugin.stages import StageRunner

HEAD = "from pydantic import BaseModel, ConfigDict, Field\nfrom bitclass3_core import hookimpl\n"
OPTIONS = "class Options(BaseModel):\n    model_config = ConfigDict(extra='forbid')\n    n_tokens: int = Field(3, ge=1)\n"


@pytest.fixture
def plugin_file(tmp_path):
    def write(source: str, name: str = "mine") -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(HEAD + source)
        return str(path)

    return write


@pytest.fixture
def entry_points(monkeypatch, tmp_path):
    """Lets a test install plugins: ``entry_points(name, module source)``."""
    points = installed()
    monkeypatch.setattr(plugins, "installed", lambda: points)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def install(name: str, source: str) -> str:
        (tmp_path / f"fake_{name}.py").write_text(HEAD + source)
        points[name] = EntryPoint(name, f"fake_{name}", "bitclass3")
        return f"fake_{name}"

    yield install
    for module in set(sys.modules) - before:
        if module.startswith("fake_"):
            del sys.modules[module]


def solver(body: str = "return 42", arguments: str = "problem", mark: str = "@hookimpl") -> str:
    return f"{mark}\ndef bitclass3_solve({arguments}):\n    {body}\n"


def solve(*loaded, options=None):
    return PluginManager(loaded).call("solve", loaded[0], options, problem=1, model=None, architecture=None)


def test_installed_plugin_by_name():
    plugin = load_plugin("greedy")
    assert (plugin.name, plugin.stages, plugin.wrapper) == ("greedy", ("solve",), False)
    assert plugin.module.__name__ == "bitclass3_greedy"
    assert plugin.version.startswith("0.1.0+")


def test_every_built_in_plugin_is_installed():
    assert {"qwen35", "kl-hessian", "weighted-error", "fixed", "ilp", "stock", "gguf", "torch", "model-card"} <= set(installed())


def test_file(plugin_file):
    plugin = load_plugin(plugin_file(solver()))
    assert (plugin.name, plugin.stages) == ("mine", ("solve",))
    assert plugin.version.startswith("file+")
    assert solve(plugin) == 42


def test_version_changes_with_the_source(plugin_file):
    before = load_plugin(plugin_file(solver("return 1")))
    after = load_plugin(plugin_file(solver("return 2")))
    assert before.version != after.version
    assert (solve(before), solve(after)) == (1, 2)


def test_file_is_imported_once_however_often_it_is_named(plugin_file):
    path = plugin_file(solver())
    assert load_plugin(path).module is load_plugin(path).module


def test_unknown_name():
    with pytest.raises(PluginError, match=r"no plugin named 'gredy'; did you mean 'greedy'\? known: .*ilp"):
        load_plugin("gredy")


def test_missing_file():
    with pytest.raises(PluginError, match=r"plugin file nowhere/mine\.py does not exist; give the path of a \.py file"):
        load_plugin("nowhere/mine.py")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def (", "SyntaxError: invalid syntax"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_import_error_is_named(plugin_file, source, message):
    path = plugin_file(source)
    for _ in range(2):  # a module that failed is not kept half-made
        with pytest.raises(PluginError, match=f"plugin '.*mine.py' cannot be imported: {message}"):
            load_plugin(path)


@pytest.mark.parametrize(
    "source",
    ["", "def bitclass3_solve(problem): ...\n", "@hookimpl\ndef bitclass3_slove(problem): ...\n"],
    ids=["empty", "not marked", "misspelt"],
)
def test_no_hook(plugin_file, source):
    with pytest.raises(PluginError, match=r"implements no hook; mark one of bitclass3_architecture, .* with @hookimpl"):
        load_plugin(plugin_file(source))


def test_misspelt_hook_beside_a_good_one(plugin_file):
    plugin = load_plugin(plugin_file(solver() + "@hookimpl\ndef bitclass3_repport(run): ...\n"))
    with pytest.raises(PluginError, match=r"plugin 'mine' does not fit its hook: .*bitclass3_repport.*mine"):
        PluginManager([plugin])


def test_wrong_argument_name(plugin_file):
    plugin = load_plugin(plugin_file(solver(arguments="problem, modle")))
    with pytest.raises(PluginError, match=r"plugin 'mine' does not fit its hook: .*bitclass3_solve.*'modle'"):
        PluginManager([plugin])


def test_two_files_of_one_name(plugin_file, tmp_path):
    (tmp_path / "sub").mkdir()
    one, other = load_plugin(plugin_file(solver())), load_plugin(plugin_file(solver("return 1"), "sub/mine"))
    with pytest.raises(PluginError, match="two plugins are named 'mine'; rename the file of one"):
        PluginManager([one, other])


def test_module_under_two_names(entry_points):
    entry_points("one", solver())
    plugins.installed()["two"] = EntryPoint("two", "fake_one", "bitclass3")
    with pytest.raises(PluginError, match=r"plugin 'two' does not fit its hook: .*already registered"):
        PluginManager([load_plugin("one"), load_plugin("two")])


def test_options_have_defaults_and_are_checked(plugin_file):
    plugin = load_plugin(plugin_file(OPTIONS + solver("return options.n_tokens", "problem, options: Options")))
    assert solve(plugin, options=parse_options(plugin, "solve", {})) == 3
    assert solve(plugin, options=parse_options(plugin, "solve", {"n_tokens": 5})) == 5
    with pytest.raises(ConfigError, match=r"plugin 'mine' has no option 'n_token'; did you mean 'n_tokens'\? known: n_tokens"):
        parse_options(plugin, "solve", {"n_token": 5})
    with pytest.raises(ConfigError, match="option 'n_tokens' of plugin 'mine': input should be greater than or equal to 1, got 0"):
        parse_options(plugin, "solve", {"n_tokens": 0})


def test_an_effort_sets_what_the_user_did_not(plugin_file):
    options = "from typing import ClassVar\n" + OPTIONS + "    efforts: ClassVar[dict] = {'high': {'n_tokens': 9}}\n"
    plugin = load_plugin(plugin_file(options + solver("return options.n_tokens", "problem, options: Options")))
    found = [parse_options(plugin, "solve", {}, effort).n_tokens for effort in ("fast", "normal", "high")]
    assert found == [3, 3, 9]
    assert parse_options(plugin, "solve", {"n_tokens": 5}, "high").n_tokens == 5
    assert "efforts" not in parse_options(plugin, "solve", {}).model_dump()


def test_rule_over_several_options():
    values = {"target_bpw": 4.0, "match_stock": "Q4_K_M"}
    message = r"^options of plugin 'fixed': give one target, not 2 \(target_bpw, match_stock\)$"
    with pytest.raises(ConfigError, match=message):
        parse_options(load_plugin("fixed"), "budget", values)


def test_options_for_a_plugin_without_any(plugin_file):
    plugin = load_plugin(plugin_file(solver()))
    assert parse_options(plugin, "solve", {}) is None
    with pytest.raises(ConfigError, match="plugin 'mine' takes no options, got n_tokens, seed"):
        parse_options(plugin, "solve", {"seed": 1, "n_tokens": 5})


@pytest.mark.parametrize("annotation", ["options", "options: dict"])
def test_options_must_be_a_pydantic_class(plugin_file, annotation):
    plugin = load_plugin(plugin_file(solver(arguments=f"problem, {annotation}")))
    with pytest.raises(PluginError, match="options of bitclass3_solve must be annotated with a pydantic class, got"):
        plugin.options_class("solve")


def test_options_class_of_a_built_in():
    options = load_plugin("fixed").options_class("budget")
    assert options is not None
    assert issubclass(options, BaseModel)
    assert "target_bpw" in options.model_fields


def test_answer_of_nothing(plugin_file):
    with pytest.raises(ContractError, match=r"plugin 'mine' answered nothing to bitclass3_solve; return what hookspecs\.py says"):
        solve(load_plugin(plugin_file(solver("pass"))))


def test_crash_names_plugin_hook_and_line_and_keeps_its_cause(plugin_file):
    plugin = load_plugin(plugin_file(solver("return {}['missing']")))
    message = (
        r"^plugin 'mine' crashed in bitclass3_solve \(mine.py line 5\): KeyError: 'missing'; "
        "what was measured is kept, tell its author or name another plugin$"
    )
    with pytest.raises(CrashError, match=message) as caught:
        solve(plugin)
    assert isinstance(caught.value.__cause__, KeyError)


def test_sys_exit_in_a_hook_is_a_crash(plugin_file):
    with pytest.raises(CrashError, match=r"plugin 'mine' crashed in bitclass3_solve .*: SystemExit: 0"):
        solve(load_plugin(plugin_file("import sys\n" + solver("sys.exit(0)"))))


def test_crash_of_a_wrapper_names_the_wrapper(plugin_file):
    plugin = load_plugin(plugin_file(solver()))
    around = load_plugin(plugin_file(solver("return (yield) / 0", "problem", "@hookimpl(wrapper=True)"), "around"))
    with pytest.raises(CrashError, match=r"plugin 'around' crashed in bitclass3_solve \(around.py line 5\): ZeroDivisionError"):
        solve(plugin, around)


def test_error_for_the_user_is_passed_on(plugin_file):
    source = "from bitclass3_core.errors import InfeasibleError\n" + solver("raise InfeasibleError('too small')")
    with pytest.raises(InfeasibleError, match=r"^too small$") as caught:
        solve(load_plugin(plugin_file(source)))
    assert not getattr(caught.value, "__notes__", [])


def test_only_the_named_plugin_answers(plugin_file):
    one = load_plugin(plugin_file(solver("return 1"), "one"))
    other = load_plugin(plugin_file(solver("return 2"), "other"))
    assert (solve(one, other), solve(other, one)) == (1, 2)


def test_wrapper_goes_around_the_plugin(plugin_file):
    plugin = load_plugin(plugin_file(solver("return 20")))
    around = load_plugin(plugin_file(solver("return 2 * (yield) + problem", "problem", "@hookimpl(wrapper=True)"), "around"))
    assert around.wrapper
    assert solve(plugin, around) == 41


def test_plugin_of_a_wrapper_and_a_hook_is_no_wrapper(plugin_file):
    both = solver("return (yield)", mark="@hookimpl(wrapper=True)") + "@hookimpl\ndef bitclass3_report(run): return []\n"
    assert not load_plugin(plugin_file(both)).wrapper


def test_tryfirst_is_asked_before_the_plugin_and_may_pass(plugin_file):
    plugin = load_plugin(plugin_file(solver("return 20")))
    first = load_plugin(plugin_file(solver("return 3 if problem == 1 else None", mark="@hookimpl(tryfirst=True)"), "first"))
    assert first.wrapper
    assert solve(plugin, first) == 3
    manager = PluginManager([plugin, first])
    assert manager.call("solve", plugin, None, problem=2, model=None, architecture=None) == 20


def test_wrapper_that_answers_nothing_is_named(plugin_file):
    plugin = load_plugin(plugin_file(solver()))
    around = load_plugin(plugin_file(solver("yield", mark="@hookimpl(wrapper=True)"), "around"))
    with pytest.raises(ContractError, match=r"plugin 'mine' \(inside around\) answered nothing to bitclass3_solve"):
        solve(plugin, around)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (
            "2",
            r"is written for plugin API 2, this bitclass3 has 1; upgrade bitclass3, or install a release of the plugin for API 1",
        ),
        ("0", r"is written for plugin API 0, this bitclass3 has 1; ask its author for a release for API 1; what changed: docs/ref"),
        ("'1'", r"BITCLASS3_API is '1', expected a whole number; write BITCLASS3_API = 1"),
        ("True", r"BITCLASS3_API is True, expected a whole number"),
    ],
)
def test_plugin_for_another_api(plugin_file, declared, message):
    with pytest.raises(PluginError, match=rf"^plugin '.*mine.py'(:)? {message}"):
        load_plugin(plugin_file(f"BITCLASS3_API = {declared}\n" + solver()))


def test_plugin_for_this_api(plugin_file):
    assert solve(load_plugin(plugin_file("BITCLASS3_API = 1\n" + solver()))) == 42


def test_newer_api_is_named_where_its_names_cannot_be_imported(plugin_file, entry_points):
    source = "BITCLASS3_API: int = 7\nfrom bitclass3_core.problem import Portfolio\n" + solver()
    entry_points("newer", source)
    for name in (plugin_file(source), "newer"):
        with pytest.raises(PluginError, match="is written for plugin API 7, this bitclass3 has 1; upgrade bitclass3"):
            load_plugin(name)


def test_prints_go_to_stderr_with_the_plugins_name(plugin_file, capsys):
    loud = "print('at import')\n" + solver("print('half', end=''); print(' a line'); print('no end', end=''); return 42")
    assert solve(load_plugin(plugin_file(loud))) == 42
    print("ours")
    out, err = capsys.readouterr()
    assert out == "ours\n"
    assert err.splitlines()[0].endswith("mine.py] at import")
    assert err.splitlines()[1:] == ["[mine] half a line", "[mine] no end"]


def test_two_packages_that_offer_one_name(tmp_path, monkeypatch):
    for package in ("first", "second"):
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[bitclass3]\nsame = {package}_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        PluginError, match=r"plugin 'same' is offered by 2 packages \(first 1.0, second 1.0\); uninstall all but one"
    ):
        load_plugin("same")


def test_only_named_plugins_are_imported(entry_points):
    broken = entry_points("broken", "raise RuntimeError('broken')\n")
    other = entry_points("other", solver())
    entry_points("good", solver("return 7"))
    assert solve(load_plugin("good")) == 7
    assert not {broken, other} & set(sys.modules)
    with pytest.raises(PluginError, match="plugin 'broken' cannot be imported: RuntimeError: broken"):
        load_plugin("broken")


def test_version_of_an_installed_plugin_without_a_distribution(entry_points):
    entry_points("good", solver())
    assert load_plugin("good").version.startswith("file+")


def reloaded(name, source, entry_points):
    sys.modules.pop(entry_points(name, source), None)
    return load_plugin(name)


@pytest.mark.parametrize(("answers", "same"), [('BITCLASS3_ANSWERS = "a1"\n', True), ("", False)])
def test_an_edit_counts_unless_the_plugin_says_which_answers_it_gives(entry_points, answers, same):
    before = reloaded("said", answers + solver("return 1"), entry_points)
    after = reloaded("said", answers + "# edited\n" + solver("return 1"), entry_points)
    assert (before.version == after.version) is same


def test_version_of_the_answers_changes_the_version(entry_points):
    versions = [reloaded("said", f"BITCLASS3_ANSWERS = '{n}'\n" + solver(), entry_points).version for n in ("1", "2.b-c_d")]
    assert versions == ["file+1", "file+2.b-c_d"]


def test_an_edit_of_a_file_counts_whatever_it_says(plugin_file):
    versions = [load_plugin(plugin_file('BITCLASS3_ANSWERS = "1"\n' + solver(f"return {n}"))).version for n in range(2)]
    assert versions[0] != versions[1]
    assert "file+1" not in versions


@pytest.mark.parametrize("answers", ["1", "''", "'two words'", "'é'", "'a\\n'", "'a' * 41"])
def test_version_of_the_answers_is_a_short_text(entry_points, answers):
    with pytest.raises(
        PluginError, match=r"plugin 'said': BITCLASS3_ANSWERS is .*, expected a text of 1 to 40 letters.*; write"
    ) as error:
        reloaded("said", f"BITCLASS3_ANSWERS = {answers}\n" + solver(), entry_points)
    assert "\n" not in str(error.value)


def test_every_built_in_plugin_says_which_answers_it_gives():
    ours = [name for name, point in installed().items() if point.dist and point.dist.name == "bitclass3"]
    assert len(ours) > 25
    assert [name for name in ours if not hasattr(load_plugin(name).module, "BITCLASS3_ANSWERS")] == []


def test_one_file_may_do_two_stages(plugin_file):
    from bitclass3_core.runs.config_file import load_config

    source = (
        "from bitclass3_core.layout import Budget\nfrom bitclass3_core.problem import Allocation\n"
        "@hookimpl\ndef bitclass3_solve(problem): return Allocation({}, 'mine')\n"
        "@hookimpl\ndef bitclass3_budget(model): return Budget(5, 'five')\n"
    )
    path = plugin_file(source)
    stages = StageRunner(load_config(settings=[f"solve.plugin={path}", f"budget.plugin={path}", "estimate.plugin=uniform"]))
    assert stages.budget(None, None, None).label == "five"
    assert stages.solve(None, SimpleNamespace(tensors={}), SimpleNamespace(quantizable=frozenset())).solver == "mine"


def test_plugin_of_another_stage():
    from bitclass3_core.runs.config_file import load_config

    with pytest.raises(
        PluginError, match=r"plugin 'uniform' does not implement bitclass3_solve, only estimate; name another for \[solve\]"
    ):
        StageRunner(load_config(settings=["solve.plugin=uniform"])).load_all()


def test_answer_of_the_wrong_kind(plugin_file):
    from bitclass3_core.runs.config_file import load_config

    stages = StageRunner(load_config(plugins=[plugin_file(solver("return {}"))]))
    with pytest.raises(ContractError, match=r"plugin 'mine' answered dict to bitclass3_solve, expected Allocation"):
        stages.solve(None, None, None)
