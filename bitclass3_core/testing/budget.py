"""What every budget plugin keeps: a whole number of bytes under a name of its own."""

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from bitclass3_core.errors import ConfigError, InfeasibleError
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.layout import Budget
from bitclass3_core.model import Architecture
from bitclass3_core.plugin.checks import check_budget_answer
from bitclass3_core.sensitivity import Sensitivity
from bitclass3_core.testing.base import Conformance


class BudgetConformance(Conformance):
    """Switches: ``options`` (a target that fits the sample), ``larger`` (options of a larger one), ``needs_options`` (refuses none).

    For a plugin that knows levels, ``level`` is one and ``larger_level`` a larger one.
    """

    stage: ClassVar[str] = "budget"
    larger: ClassVar[Mapping[str, Any] | None] = None
    needs_options: ClassVar[bool] = False
    level: ClassVar[str | None] = None
    larger_level: ClassVar[str | None] = None

    @pytest.fixture
    def inputs(self, model: GgufModel, architecture: Architecture, sensitivity: Sensitivity) -> Mapping[str, Any]:
        """The hook's arguments."""
        return {"model": model, "architecture": architecture, "sensitivity": sensitivity, "level": self.level}

    def budget(self, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> Budget:
        """The plugin's answer, checked as a run does."""
        answer = self.call(options, **inputs)
        assert isinstance(answer, Budget), f"answered {type(answer).__name__}, expected Budget; see layout.budget_for_bpw"
        check_budget_answer(answer, self.loaded.name)
        return answer

    def test_is_a_number_of_bytes(self, inputs: Mapping[str, Any]) -> None:
        """More than none, for the tensors with their alignment; what the whole file may take is no less."""
        answer = self.budget(inputs)
        assert answer.data_bytes > 0, f"the budget is {answer.data_bytes} bytes; nothing fits into that"
        assert answer.file_bytes is None or answer.file_bytes >= answer.data_bytes, (
            f"file_bytes {answer.file_bytes:,} is less than data_bytes {answer.data_bytes:,}: the file holds the tensors and its metadata"
        )

    def test_same_answer_twice(self, inputs: Mapping[str, Any]) -> None:
        """A run that goes on must not come to another size."""
        assert self.budget(inputs) == self.budget(inputs), "two calls with the same input gave different budgets"

    def test_larger_target_gives_more_bytes(self, inputs: Mapping[str, Any]) -> None:
        """And another label: files of two targets lie in one folder."""
        if self.larger is None and self.larger_level is None:
            pytest.skip("no larger options and no larger_level were given")
        one = self.budget(inputs)
        more = self.budget({**inputs, "level": self.larger_level or self.level}, self.larger)
        larger = self.larger_level or dict(self.larger or {})
        assert more.data_bytes > one.data_bytes, f"{larger} gives {more.data_bytes:,} bytes, no more than {one.data_bytes:,}"
        assert more.label != one.label, (
            f"both budgets are called {one.label!r}: the second run would overwrite the first one's file"
        )

    def test_says_so_where_there_is_no_target(self, inputs: Mapping[str, Any]) -> None:
        """A default that nobody asked for would be found out only after hours."""
        self._needs("needs_options")
        try:
            self.call({}, **{**inputs, "level": None})
        except (ConfigError, InfeasibleError):
            return
        pytest.fail("without options the plugin answers all the same; raise ConfigError that says which target to give")
