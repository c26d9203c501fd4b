"""Both wrappers pass answers and errors through, and do what they are for."""

from types import ModuleType

import bitclass3_cost_cache
import bitclass3_timing
import pytest

from bitclass3_core import hookimpl
from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.plugins import PluginManager, plugin_of
from bitclass3_core.testing import WrapperConformance


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BITCLASS3_COST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class TestTiming(WrapperConformance):
    plugin = bitclass3_timing

    def test_says_who_worked_in_which_hook(self, calls, capsys):
        arguments, answer = calls["solve"]
        self.around("solve", arguments, answer)
        assert "timing: bitclass3_solve by inside 1: 0." in capsys.readouterr().err


class TestCostCache(WrapperConformance):
    plugin = bitclass3_cost_cache

    def metric(self, cost, version="1"):
        """A metric that counts how often it is asked."""
        module = ModuleType("metric")
        module.asked = 0

        @hookimpl
        def bitclass3_measure(model, qtypes):
            module.asked += 1
            return CostTable({name: {q.name: Cost(cost, 0.0, 1) for q in qtypes} for name in model.tensors})

        module.bitclass3_measure = bitclass3_measure
        return plugin_of(module, "metric", version)

    def ask(self, metric, arguments):
        return PluginManager([metric, self.loaded]).call("measure", metric, None, **arguments)

    def test_a_known_cost_is_not_measured_again(self, calls):
        arguments, metric = calls["measure"][0], self.metric(0.25)
        first, second = self.ask(metric, arguments), self.ask(metric, arguments)
        assert first == second
        assert metric.module.asked == 1

    def test_another_version_of_the_metric_is_measured(self, calls):
        arguments = calls["measure"][0]
        self.ask(self.metric(0.25), arguments)
        changed = self.metric(0.5, version="2")
        assert self.ask(changed, arguments).costs["blk.0.attn_q.weight"]["Q4_K"].cost == 0.5

    def test_a_damaged_file_is_measured_again(self, calls, cache):
        arguments, metric = calls["measure"][0], self.metric(0.25)
        self.ask(metric, arguments)
        for path in cache.iterdir():
            path.write_text("{")
        assert self.ask(metric, arguments).costs
        assert metric.module.asked == 2
