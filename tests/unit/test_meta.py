"""What every hook, flag, key and error must have: a spec, a built-in, a suite, a heading with its exact signature, help, a test."""

import inspect
import json
import re
from pathlib import Path

import jsonschema
import pytest
import reference
import tomli
from command import ROOT

import bitclass3_core
from bitclass3_core import hookspecs
from bitclass3_core.plugin.manager import GROUP
from bitclass3_core.plugin.stage_table import STAGES
from bitclass3_core.runs.schema import schema_json
from bitclass3_core.testing import SUITES

DOCS = ROOT / "docs"
PATH = re.compile(r"(?<![\w./-])(?:bitclass3_core|plugins|tests|benchmarks|examples|docs)/[\w./-]*[\w/]")
MARK = re.compile(r"<!-- from the code: ([a-z-]+) -->")


def filled(page: str) -> str:
    return MARK.sub(lambda match: reference.PARTS[match[1]](), (DOCS / page).read_text())


@pytest.fixture(scope="module")
def hooks_page() -> str:
    return filled("reference/hooks.md")


def test_every_stage_has_a_spec_and_every_spec_a_stage() -> None:
    specs = {name for name, value in vars(hookspecs).items() if hasattr(value, f"{GROUP}_spec")}
    assert specs == {f"{GROUP}_{stage}" for stage in STAGES}
    for name in specs:
        assert getattr(hookspecs, name).__doc__, name


@pytest.mark.parametrize("stage", STAGES)
def test_every_hook_has_a_suite_a_built_in_and_a_heading(stage: str, hooks_page: str) -> None:
    assert any(stage in plugin.stages for plugin in reference.built_ins())
    assert SUITES[stage].stage == stage
    arguments = ", ".join(inspect.signature(getattr(hookspecs, f"{GROUP}_{stage}")).parameters)
    assert f"## `{GROUP}_{stage}({arguments})`\n" in hooks_page


def test_the_api_version_has_a_line_in_the_docs(hooks_page: str) -> None:
    assert re.search(rf"^\| {hookspecs.API_VERSION} \|", hooks_page, re.MULTILINE)


def test_every_flag_is_documented() -> None:
    page = filled("reference/cli.md")
    for name, command in reference.commands():
        assert command.help, f"{name} has no help"
        assert f"## `bitclass3 {name}`" in page
        for parameter in command.params:
            assert getattr(parameter, "help", None) or parameter.name == "help", f"{name} {parameter.name} has no help"
            flags = parameter.opts if parameter.param_type_name == "option" else [parameter.name.upper()]
            assert all(f"`{flag}`" in page for flag in flags if flag != "--help"), f"{name} {flags}"


def test_every_key_is_documented() -> None:
    page = filled("reference/pipeline-file.md")
    for key, about, _ in reference.pipeline_keys():
        assert about, f"{key} has no description in run_config.py"
        assert f"| `{key.rpartition('.')[2]}` | {about} |" in page


def test_every_built_in_plugin_is_documented() -> None:
    page = filled("reference/plugins.md")
    for plugin in reference.built_ins():
        assert f"### `{plugin.name}`\n\n" in page
        assert plugin.module.__doc__, f"{plugin.name} has no docstring"


def test_every_page_is_filled_by_a_part_that_there_is() -> None:
    used = {mark for page in DOCS.rglob("*.md") for mark in MARK.findall(page.read_text())}
    assert used == set(reference.PARTS)


@pytest.mark.parametrize("page", [*DOCS.rglob("*.md"), *ROOT.glob("*.md"), ROOT / "mkdocs.yml"], ids=lambda page: page.name)
def test_every_path_in_a_page_is_there(page: Path) -> None:
    missing = [path for path in PATH.findall(page.read_text(encoding="utf-8")) if not (ROOT / path).exists()]
    assert not missing, f"{page.relative_to(ROOT)} names what is not there"


def test_a_path_that_is_gone_would_be_found() -> None:
    text = "see `bitclass3_core/gone.py`, docs/gone.md, and https://example.org/docs/elsewhere"
    assert PATH.findall(text) == ["bitclass3_core/gone.py", "docs/gone.md"]


def test_the_page_of_rooms_names_every_room_and_no_other() -> None:
    named = set(re.findall(r"^\| `(\w+)/` \|", (DOCS / "onboarding.md").read_text(), re.MULTILINE))
    rooms = {folder.name for folder in (ROOT / "bitclass3_core").iterdir() if folder.is_dir() and not folder.name.startswith("_")}
    assert named == rooms | {"plugins", "tests"}


def test_every_error_class_is_documented_and_has_a_test_with_its_message() -> None:
    page = filled("reference/errors.md")
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for cls in reference.error_classes():
        assert f"| `{cls.__name__}` | {cls.exit_code} |" in page
        # a class is raised with words that a test knows
        assert re.search(rf"pytest\.raises\(\s*{cls.__name__},\s*match=", tests), f"no test has a message of {cls.__name__}"


def test_public_names() -> None:
    assert set(bitclass3_core.__all__) == {"__version__", "hookimpl", "hookspec", "open_run", "run"}
    assert callable(bitclass3_core.run)
    with pytest.raises(AttributeError, match="has no attribute 'walk'"):
        _ = bitclass3_core.walk


SCHEMA = json.loads(schema_json())
PIPELINES = sorted((ROOT / "examples").glob("*.toml"))


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_pipelines_fit_the_schema(path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(tomli.loads(path.read_text()), SCHEMA)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("thread = 2", "thread"),
        ("[modl]\nhf = 'x'", "modl"),
        ("[solve]\nplugin = 'ilp'\noptions.gapp = 1", "gapp"),
        ("[solve]\noptions.gapp = 1", "gapp"),
        ("[solve]\nplugin = 'ilp'\noptions.gap = 'small'", "small"),
        ("[budget]\ntarget_bwp = 4.8", "target_bwp"),
    ],
)
def test_schema_refuses_what_a_run_would_refuse(text: str, part: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=part):
        jsonschema.validate(tomli.loads(text), SCHEMA)


def test_schema_takes_a_plugin_file_and_short_targets() -> None:
    text = "[solve]\nplugin = './mine.py'\noptions.anything = 1\n[budget]\ntarget_bpw = 4.8\n[baseline]\nplugin = 'none'\n[export]\nplugin = 'gguf'"
    jsonschema.validate(tomli.loads(text), SCHEMA)
