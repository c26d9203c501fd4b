"""Installed plugins and what they take, as plain values."""

import json
import sys

import pytest
from run_fixtures import HOOKS, SmallRun

from bitclass3_core.errors import PluginError
from bitclass3_core.plugin.manager import installed, load_plugin
from bitclass3_core.runs.plugin_list import installed_plugins, plugin_values

MINE = f'''"""Solves what others cannot."""
{HOOKS}
from pydantic import BaseModel, Field

class Options(BaseModel):
    depth: int = Field(3, description="how deep to look")
    name: str | None = None

@hookimpl
def bitclass3_solve(problem, options: Options): ...

@hookimpl
def bitclass3_report(out): ...
'''


def test_every_installed_plugin_is_listed_with_its_package():
    found = {plugin["name"]: plugin for plugin in installed_plugins()}
    assert list(found) == sorted(installed())
    assert found["uniform"]["module"] == "bitclass3_uniform"
    assert found["uniform"]["package"].startswith("bitclass3 ")


def test_listing_imports_no_plugin(monkeypatch):
    monkeypatch.delitem(sys.modules, "bitclass3_uniform", raising=False)
    installed_plugins()
    assert "bitclass3_uniform" not in sys.modules


def test_plugin_says_what_it_takes_at_each_stage(small: SmallRun):
    values = plugin_values(small.plugin("mine", MINE))
    assert (values["name"], values["about"]) == ("mine", "Solves what others cannot.")
    assert values["version"].startswith("file+")
    assert values["stages"] == {
        "solve": {
            "depth": {"default": 3, "type": "int", "help": "how deep to look"},
            "name": {"default": None, "type": "str | None", "help": ""},
        },
        "report": {},
    }


@pytest.mark.parametrize("name", ["bit-classes", "ilp", "llama-perplexity", "recipe", "stock"])
def test_values_of_built_ins_can_be_printed_as_json(name: str):
    values = plugin_values(name)
    assert json.loads(json.dumps(values, default=str))["version"] == load_plugin(name).version
    assert values["about"]
    assert values["stages"]


def test_plugin_that_there_is_not():
    with pytest.raises(PluginError, match=r"no plugin named 'unifrom'; did you mean 'uniform'\?"):
        plugin_values("unifrom")
