"""What all suites share: the plugin, its options, one way to call it, and the rule that no test is overridden in silence."""

import contextlib
import inspect
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from bitclass3_core.corpus import Corpus
from bitclass3_core.errors import ConfigError, did_you_mean
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.names import quantizable_tensors
from bitclass3_core.hookspecs import API_VERSION, OLDEST_API
from bitclass3_core.model import Architecture
from bitclass3_core.plugin.call import with_stages
from bitclass3_core.plugin.manager import GROUP, Plugin, PluginManager, installed, load_plugin, parse_options, plugin_of
from bitclass3_core.plugin.source_hash import source_hash
from bitclass3_core.sensitivity import Sensitivity
from bitclass3_core.testing import samples

_SUITES = "bitclass3_core.testing."


@dataclass
class Recorded:
    """A progress that remembers what it was told."""

    total: float | None = None
    done: float = 0.0
    open: bool = False
    lines: list[str] = field(default_factory=list)

    def begin(self, label: str, total: float) -> None:
        """A stage starts."""
        self.total, self.done, self.open = total, 0.0, True
        self.lines.append(label)

    def advance(self, units: float = 1.0) -> None:
        """Some units are done."""
        self.done += units

    def end(self) -> None:
        """The stage is over."""
        self.open = False

    def say(self, line: str) -> None:
        """A line worth keeping."""
        self.lines.append(line)

    def warn(self, line: str) -> None:
        """A line that must be seen."""
        self.lines.append(line)

    def check(self) -> None:
        """What was begun was ended, and no more was done than was announced."""
        assert not self.open, (
            "progress.begin() was called and progress.end() was not: the bar would stay on the screen; put end() last"
        )
        if self.total is not None:
            assert self.done <= self.total * (1 + 1e-6), (
                f"progress.advance() came to {self.done:g} of {self.total:g} units: the ETA would be wrong; give begin() the real total"
            )


class Conformance:
    """The base of the suites: subclass one of those, not this."""

    stage: ClassVar[str]
    plugin: ClassVar[ModuleType | Path | str]
    options: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        """Refuse a class that overrides a test in silence, or sets a switch that there is not."""
        super().__init_subclass__()
        if not cls.__module__.startswith(_SUITES):
            for name, value in vars(cls).items():
                _check_attribute(cls, name, value)

    @cached_property
    def loaded(self) -> Plugin:
        """The plugin under test, found once a test: finding it costs more than most hooks do."""
        given = getattr(type(self), "plugin", None)
        assert given is not None, f"{type(self).__name__} names no plugin; write: plugin = my_module"
        return plugin_of(given, *_name_and_version(given)) if isinstance(given, ModuleType) else load_plugin(str(given))

    def call(self, options: Mapping[str, Any] | None = None, **arguments: Any) -> Any:
        """The hook's answer, as a run gets it. Fails if the plugin prints to stdout."""
        plugin = self.loaded
        values = self.options if options is None else options
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            asked = with_stages(self.stage, arguments)
            answer = PluginManager([plugin]).call(self.stage, plugin, parse_options(plugin, self.stage, values), **asked)
        printed = [line for line in said.getvalue().splitlines() if line.startswith(f"[{plugin.name}] ")]
        assert not printed, f"the plugin prints to stdout, which belongs to --json ({printed[0]!r}); use progress.say() or logging"
        return answer

    def _needs(self, switch: str) -> None:
        """Skip the test where the switch is off."""
        if not getattr(self, switch):
            pytest.skip(f"{switch} = False")

    def test_implements_its_hook(self) -> None:
        """The module has a function of the hook's name, marked with ``hookimpl``, whose arguments the hook has."""
        plugin = self.loaded
        assert self.stage in plugin.stages, (
            f"the plugin implements {', '.join(plugin.stages)}, not {GROUP}_{self.stage}; take the suite of its own stage"
        )
        assert not plugin.wrapper, "every function is a wrapper or tryfirst: nothing would answer; test it with WrapperConformance"
        PluginManager([plugin])  # raises PluginError for a wrong argument or a misspelt hook

    def test_says_which_api_it_is_written_for(self) -> None:
        """A user of another bitclass3 then reads what does not fit, not a traceback. Built-ins ship with their API."""
        plugin = self.loaded
        point = next((point for point in installed().values() if point.value == plugin.module.__name__), None)
        if point is not None and point.dist is not None and point.dist.name == "bitclass3":
            pytest.skip("a built-in")
        declared = getattr(plugin.module, "BITCLASS3_API", None)
        assert declared is not None, (
            f"the module does not say which plugin API it is written for; add: BITCLASS3_API = {API_VERSION}"
        )
        assert OLDEST_API <= declared <= API_VERSION

    def test_refuses_unknown_options(self) -> None:
        """A misspelt option must not be ignored: the run would take the default, and nobody would know."""
        plugin = self.loaded
        parse_options(plugin, self.stage, self.options)
        try:
            parse_options(plugin, self.stage, {**self.options, "no_such_option": 1})
        except ConfigError:
            return
        pytest.fail(
            "the options class takes keys that it does not know; give it model_config = ConfigDict(extra='forbid', frozen=True)"
        )

    @pytest.fixture
    def model(self, tmp_path_factory: pytest.TempPathFactory) -> GgufModel:
        """The source model: a small random one of llama's shape, with a stack of experts and a matrix of odd rows."""
        return GgufModel(samples.write_sample(tmp_path_factory.mktemp("model") / "sample.gguf"))

    @pytest.fixture
    def architecture(self, model: GgufModel) -> Architecture:
        """Names and quantizable tensors of the model."""
        return Architecture(model.arch, quantizable_tensors(model))

    @pytest.fixture
    def corpus(self) -> Corpus:
        """Text of two domains, calibration and evaluation apart."""
        return samples.sample_corpus()

    @pytest.fixture
    def sensitivity(self, model: GgufModel, architecture: Architecture) -> Sensitivity:
        """Random powers of every quantizable tensor, in nats; a stack has a row for each expert, the embedding is looked up."""
        return samples.sample_sensitivity(model, architecture.quantizable)


@cache
def _name_and_version(module: ModuleType) -> tuple[str, str]:
    """Its entry point's name, or its own, and the hash of its source."""
    names = {point.value: name for name, point in installed().items()}
    return names.get(module.__name__, module.__name__), source_hash(module)


def _check_attribute(cls: type, name: str, value: object) -> None:
    suites = [base for base in cls.__mro__[1:] if base.__module__.startswith(_SUITES)]
    switches = {key for suite in suites for key in inspect.get_annotations(suite)} - {"stage"}
    of_suite = next((vars(suite)[name] for suite in suites if name in vars(suite)), None)
    is_fixture = type(value).__name__ == "FixtureFunctionDefinition" or hasattr(value, "_pytestfixturefunction")
    if name.startswith("test_") and of_suite is not None:
        if not any(mark.name == "xfail" and mark.kwargs.get("reason") for mark in getattr(value, "pytestmark", [])):
            raise TypeError(
                f"{cls.__name__} overrides {name}, a promise that every plugin of its hook makes; if yours cannot keep it, say why: "
                f"@pytest.mark.xfail(reason='...') above a {name} that calls super().{name}(...)"
            )
    elif name in switches or name.startswith(("_", "test_")) or is_fixture:
        return
    elif of_suite is not None:
        raise TypeError(
            f"{cls.__name__} overrides {name}, which the suite's tests stand on; switches are {', '.join(sorted(switches))}"
        )
    elif not callable(value) and not isinstance(value, (property, staticmethod, classmethod)):
        raise TypeError(f"{cls.__name__} sets {name}, which is no switch of its suite{did_you_mean(name, switches)}")
