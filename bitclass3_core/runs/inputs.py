"""What a run is given: source, text and constraints, each read when it is first asked for, once for all runs of a folder."""

from functools import cached_property
from typing import Any

from bitclass3_core.constraints.gpu import gpu_of
from bitclass3_core.constraints.limits import Limits, limits_of
from bitclass3_core.constraints.problem import Possible, possible_bytes
from bitclass3_core.constraints.rules import rules_of
from bitclass3_core.constraints.wanted import Cells, wanted_cells
from bitclass3_core.corpus import Corpus, load_corpus
from bitclass3_core.errors import ConfigError, did_you_mean
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.model import Architecture
from bitclass3_core.plugin.stages import StageRunner
from bitclass3_core.qtypes import QType, menu
from bitclass3_core.run_config import RunConfig
from bitclass3_core.runs.context import Context
from bitclass3_core.sources.open import open_source, source_fingerprint


class Inputs:
    """The inputs of one configuration."""

    def __init__(self, config: RunConfig, stages: StageRunner, context: Context) -> None:
        self.config = config
        self.stages = stages
        self.context = context

    @cached_property
    def model(self) -> GgufModel:
        """The source."""
        section, context = self.config.model, self.context
        parts = section.model_dump(mode="json")
        return context.results.get(
            "model", parts, lambda: open_source(section, context.warn, context.progress, context.may_convert)
        )

    @cached_property
    def source(self) -> str:
        """Fingerprint of the GGUF and the HF folder."""
        parts = {"gguf": self.model.fingerprint, "hf": self.model.hf}
        return self.context.results.get("source", parts, lambda: source_fingerprint(self.model))

    @property
    def architecture_identity(self) -> dict[str, Any]:
        """The architecture plugin, its version and options."""
        return self.stages.identity("architecture", self.stages.architecture_plugin(self.model))

    @cached_property
    def architecture(self) -> Architecture:
        """Names, floors and permutations of the source's family."""
        parts = {"source": self.model.fingerprint, **self.architecture_identity}
        return self.context.results.get("architecture", parts, lambda: self.stages.architecture(self.model))

    @cached_property
    def corpus(self) -> Corpus:
        """The documents of all parts; empty if no text was given: not every estimator needs any."""
        section = self.config.corpus
        if not section.calibration and not section.evaluation:
            return Corpus((), ())
        split = {"split_selection": self.config.select.enabled, "split_imatrix": self.stages.wants_imatrix}
        return self.context.results.get(
            "corpus",
            {**section.model_dump(mode="json"), **split},
            lambda: load_corpus(section.calibration, section.evaluation, section.selection, section.imatrix, **split),
        )

    @property
    def menu(self) -> tuple[QType, ...]:
        """The types to choose from."""
        return menu(self.config.qtypes.menu)

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

    def check_roles(self) -> None:
        """Raise ConfigError for a multiplier of a role that no quantizable tensor has."""
        known = set(self.roles.values())
        for role in sorted(set(self.config.cost_multipliers) - known):
            raise ConfigError(f"key 'cost_multipliers.{role}': no tensor to quantize is a {role}{did_you_mean(role, known)}")

    @cached_property
    def cost_multipliers(self) -> dict[str, float]:
        """Those that were asked for, by tensor. Raises ConfigError as ``check_roles``."""
        self.check_roles()
        asked = self.config.cost_multipliers
        return {name: asked[role] for name, role in self.roles.items() if role in asked}

    @property
    def constraints(self) -> list[str]:
        """The constraints and multipliers that were asked for, in words, a line each."""
        asked = self.config.cost_multipliers
        multiplied = [f"costs of {role} times {factor:g}" for role, factor in sorted(asked.items())]
        return [*self.limits.described(), *multiplied]

    @cached_property
    def wanted(self) -> Cells:
        """The types at which each tensor is measured."""
        return wanted_cells(self.model, self.architecture.quantizable, self.menu, self.limits)

    @property
    def possible_bytes(self) -> Possible:
        """Bytes that all tensors can take; needs no costs."""
        return possible_bytes(self.model, self.architecture, self.menu, self.limits)
