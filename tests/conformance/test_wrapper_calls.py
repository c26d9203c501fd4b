"""A wrapper around every hook, called with every argument that the hook has."""

import inspect
from types import ModuleType

from bitclass3_core import hookimpl, hookspecs
from bitclass3_core.plugin.manager import GROUP
from bitclass3_core.plugin.stage_table import STAGES
from bitclass3_core.testing import WrapperConformance

around = ModuleType("around")
around.BITCLASS3_API = hookspecs.API_VERSION


def _through(hook):
    @hookimpl(wrapper=True, specname=hook)
    def through():
        return (yield)

    return through


for _stage in STAGES:
    setattr(around, f"through_{_stage}", _through(f"{GROUP}_{_stage}"))


class TestAround(WrapperConformance):
    plugin = around

    def test_the_suite_gives_every_argument_of_every_hook(self, calls):
        for stage in STAGES:
            wanted = set(inspect.signature(getattr(hookspecs, f"{GROUP}_{stage}")).parameters) - {"options"}
            assert set(calls[stage][0]) == wanted, stage
