"""What a run is given: its configuration, source, text and constraints, each read once, and the plugins that answer for it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from bitclass3_core.constraints.gpu import gpu_of
from bitclass3_core.constraints.limits import Limits, limits_of
from bitclass3_core.constraints.problem import Possible, possible_bytes
from bitclass3_core.constraints.rules import rules_of
from bitclass3_core.constraints.wanted import Cells, wanted_cells
from bitclass3_core.corpus import Corpus, load_corpus
from bitclass3_core.errors import ConfigError, did_you_mean
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.machine import default_threads
from bitclass3_core.model import Architecture
from bitclass3_core.plugin.stages import StageRunner
from bitclass3_core.progress import Progress
from bitclass3_core.qtypes import menu
from bitclass3_core.run_config import RunConfig
from bitclass3_core.runs.folder import RunFolder
from bitclass3_core.sources.open import open_source, source_fingerprint


class Inputs:
    """One run in one folder, before anything is computed for it; each input is a property, read when it is first asked for."""

    def __init__(
        self, config: RunConfig, progress: Progress, command: str, may_convert: bool = True, folder: RunFolder | None = None
    ) -> None:
        if config.out is None:
            raise ConfigError("no folder for the run; give --out DIR")
        self.config = config
        self.progress = progress
        self.command = command
        self.may_convert = may_convert
        self.stages = StageRunner(config)
        self.folder = folder or RunFolder(config.out)
        self.threads = default_threads(config.threads)
        self.timings: dict[str, float] = dict(self.folder.timings)
        self.warnings: list[str] = []

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Note the stage's seconds; where nothing had to be made, those of the run that made it stay."""
        begin = time.monotonic()
        yield
        seconds = round(time.monotonic() - begin, 3)
        if stage in self.stages.called or stage not in self.timings:
            self.timings[stage] = seconds

    def warn(self, line: str) -> None:
        """Say a warning and keep it for the run's record."""
        self.warnings.append(line)
        self.progress.warn(line)

    @cached_property
    def model(self) -> GgufModel:
        """The source."""
        return open_source(self.config.model, self.warn, self.progress, self.may_convert)

    @cached_property
    def source(self) -> str:
        """Fingerprint of the GGUF and the HF folder."""
        return source_fingerprint(self.model)

    @cached_property
    def architecture(self) -> Architecture:
        """Names, floors and permutations of the source's family."""
        return self.stages.architecture(self.model)

    @cached_property
    def corpus(self) -> Corpus:
        """The documents of both parts; empty if no text was given: not every estimator needs any."""
        section = self.config.corpus
        if not section.calibration and not section.evaluation:
            return Corpus((), ())
        split = {"split_selection": self.config.select.enabled, "split_imatrix": self.stages.wants_imatrix}
        return load_corpus(section.calibration, section.evaluation, section.selection, section.imatrix, **split)

    @cached_property
    def limits(self) -> Limits:
        """The constraints that were asked for, by tensor."""
        section, gpu = self.config.qtypes, self.config.gpu
        rules = rules_of(self.model, self.architecture, section.pins, section.floors, section.menus, section.groups)
        return limits_of(self.model, rules, gpu_of(self.model, gpu.budget, gpu.tensors))

    @property
    def roles(self) -> dict[str, str]:
        """The role of every quantizable tensor: attn_q, ffn_down, output."""
        return {name: self.model.tensors[name].role for name in sorted(self.architecture.quantizable)}

    @cached_property
    def cost_multipliers(self) -> dict[str, float]:
        """By tensor, those that were asked for. Raises ConfigError for a role that no quantizable tensor has."""
        asked, roles = self.config.cost_multipliers, self.roles
        for role in sorted(set(asked) - set(roles.values())):
            raise ConfigError(
                f"key 'cost_multipliers.{role}': no tensor to quantize is a {role}{did_you_mean(role, set(roles.values()))}"
            )
        return {name: asked[role] for name, role in roles.items() if role in asked}

    @property
    def described(self) -> list[str]:
        """The constraints and multipliers that were asked for, a line each."""
        asked = self.config.cost_multipliers
        multiplied = [f"costs of {role} times {factor:g}" for role, factor in sorted(asked.items())]
        return [*self.limits.described(), *multiplied]

    @property
    def sensitivity_path(self) -> Path:
        """Where this run's estimator keeps its answer; estimators lie side by side."""
        return self.folder.path / f"sensitivity-{self.stages.name('estimate')}.safetensors"

    @cached_property
    def wanted(self) -> Cells:
        """The types at which each tensor is measured."""
        return wanted_cells(self.model, self.architecture.quantizable, menu(self.config.qtypes.menu), self.limits)

    @property
    def possible_bytes(self) -> Possible:
        """Bytes that all tensors can take; needs no costs."""
        return possible_bytes(self.model, self.architecture, menu(self.config.qtypes.menu), self.limits)
