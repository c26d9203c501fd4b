"""What every wrapper keeps: it may look, time and remember, but the answer stays the plugin's, and so does its error."""

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from bitclass3_core import hookimpl, hookspecs
from bitclass3_core.corpus import Corpus
from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.errors import InfeasibleError
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.layout import budget_for_bpw
from bitclass3_core.model import Architecture, OneTensor
from bitclass3_core.plugin.call import OtherStages
from bitclass3_core.plugin.manager import GROUP, Plugin, PluginManager, plugin_of
from bitclass3_core.plugin.stage_table import STAGES
from bitclass3_core.problem import allocation_of
from bitclass3_core.qtypes import menu
from bitclass3_core.sensitivity import Sensitivity
from bitclass3_core.testing.base import Conformance, Recorded
from bitclass3_core.testing.report import sample_run
from bitclass3_core.testing.solver import sample_problem


class WrapperConformance(Conformance):
    """For plugins whose functions are all marked ``wrapper=True`` or ``tryfirst=True``.

    Switches: ``changes_answers`` (True for one that is meant to), ``hides_errors`` (True for one that tries again, say).
    """

    stage: ClassVar[str] = "wrapper"
    changes_answers: ClassVar[bool] = False
    hides_errors: ClassVar[bool] = False

    @pytest.fixture
    def calls(
        self, model: GgufModel, architecture: Architecture, sensitivity: Sensitivity, corpus: Corpus, tmp_path: Path
    ) -> Mapping[str, tuple[dict[str, Any], Any]]:
        """(arguments, answer of the plugin inside) for every stage."""
        problem, _ = sample_problem(1)
        allocation, run, out = allocation_of(problem, [0] * len(problem.groups), "inside"), sample_run(), tmp_path / "out"
        out.mkdir()
        name = "blk.0.attn_q.weight"
        given: dict[str, Any] = {"model": model, "architecture": architecture, "corpus": corpus, "sensitivity": sensitivity}
        given |= {"qtypes": menu(("Q4_K",)), "level": None, "problem": problem, "allocation": allocation, "run": run, "out": out}
        given |= {"stem": "sample", "reference": model, "candidates": [], "progress": Recorded(), "stages": OtherStages()}
        answers: dict[str, Any] = {
            "architecture": architecture,
            "estimate": sensitivity,
            "measure": CostTable({name: {"Q4_K": Cost(0.5, 0.0, 64)}}),
            "budget": budget_for_bpw(model, 4.8),
            "solve": allocation,
            "export": [out / "sample.gguf"],
            "evaluate": [],
            "report": [out / "sample.txt"],
        }
        arguments = {stage: signature(vars(hookspecs)[f"{GROUP}_{stage}"]).parameters.keys() - {"options"} for stage in answers}
        calls = {stage: ({key: given[key] for key in sorted(arguments[stage])}, answer) for stage, answer in answers.items()}
        calls["measure"][0]["model"] = OneTensor(model, name)
        return calls

    def around(self, stage: str, arguments: Mapping[str, Any], answer: Any) -> Any:
        """What comes out of the wrapper around a plugin that answers ``answer``, or raises it."""
        inside = _plugin_that(stage, answer)
        return PluginManager([inside, self.loaded]).call(stage, inside, None, **arguments)

    def test_implements_its_hook(self) -> None:
        """Every function of the module goes around or before a hook."""
        plugin = self.loaded
        assert plugin.wrapper, (
            f"a function for {', '.join(plugin.stages)} is marked neither wrapper=True nor tryfirst=True: it would answer instead of "
            "the plugins of the stage"
        )
        PluginManager([plugin])

    def test_refuses_unknown_options(self) -> None:
        """A wrapper has no options of its own: its ``options`` are those of the plugin inside."""
        assert all(self.loaded.options_class(stage) is None for stage in self.loaded.stages)

    def test_answer_passes_through(self, calls: Mapping[str, tuple[dict[str, Any], Any]]) -> None:
        """Also the second time, when a cache may know it."""
        if self.changes_answers:
            pytest.skip("changes_answers = True")
        for stage in self.loaded.stages:
            arguments, answer = calls[stage]
            for time in ("first", "second"):
                got = self.around(stage, arguments, answer)
                assert got == answer, (
                    f"bitclass3_{stage} answers {answer!r:.200}, through the wrapper comes {got!r:.200} the {time} time; return it"
                )

    def test_error_passes_through(self, calls: Mapping[str, tuple[dict[str, Any], Any]]) -> None:
        """An error for the user keeps its kind and words: exit codes depend on it."""
        if self.hides_errors:
            pytest.skip("hides_errors = True")
        for stage in self.loaded.stages:
            with pytest.raises(InfeasibleError, match=r"^too small$"):
                self.around(stage, calls[stage][0], InfeasibleError("too small"))


def _plugin_that(stage: str, answer: Any) -> Plugin:
    """A plugin of one stage that answers or raises what is given."""

    @hookimpl(specname=f"{GROUP}_{stage}")
    def function() -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    assert stage in STAGES
    module = ModuleType(f"inside_{stage}")
    vars(module)["function"] = function
    return plugin_of(module, "inside", "1")
