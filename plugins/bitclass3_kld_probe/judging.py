"""Who measures the probes: any evaluator plugin, with as much text as a probe is worth."""

import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from bitclass3_core.corpus import Corpus
from bitclass3_core.errors import PluginError
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.model import Architecture, Model
from bitclass3_core.plugin.manager import Plugin, PluginManager, load_plugin, parse_options
from bitclass3_core.progress import Progress


@dataclass(frozen=True, slots=True)
class Judge:
    """An evaluator plugin with its options."""

    plugin: Plugin
    options: BaseModel | None

    @classmethod
    def of(cls, name: str, values: dict[str, object], model: Model, n_ctx: int, n_tokens: int) -> "Judge":
        """The named evaluator; ``auto`` is torch where there is an HF folder to load, else llama-perplexity.

        Raises PluginError for a plugin that evaluates nothing, ConfigError for options that it does not have.
        """
        if name == "auto":
            name = "torch" if model.hf is not None else "llama-perplexity"
        plugin = load_plugin(name)
        if "evaluate" not in plugin.stages:
            raise PluginError(
                f"plugin {name!r} does not implement bitclass3_evaluate; name another with estimate.options.evaluator"
            )
        return cls(plugin, parse_options(plugin, "evaluate", {**_little_text(plugin, n_ctx, n_tokens), **values}))

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self.plugin.name

    @property
    def identity(self) -> str:
        """What its answers depend on besides model and text."""
        options = json.dumps(self.options.model_dump(mode="json"), sort_keys=True) if self.options else ""
        return f"{self.plugin.name} {self.plugin.version} {options}"

    def __call__(
        self, reference: Model, candidates: list[Model], architecture: Architecture, corpus: Corpus, progress: Progress
    ) -> list[Evaluation]:
        """Evaluations of the candidates, in their order."""
        answer: list[Evaluation] = PluginManager([self.plugin]).call(
            "evaluate",
            self.plugin,
            self.options,
            reference=reference,
            candidates=candidates,
            architecture=architecture,
            corpus=corpus,
            progress=progress,
        )
        return answer


def _little_text(plugin: Plugin, n_ctx: int, n_tokens: int) -> dict[str, Any]:
    """The amount of text under whichever names the evaluator has for it; the reference's logits are kept between probes."""
    options = plugin.options_class("evaluate")
    fields = options.model_fields if options else {}
    wanted = {"n_ctx": n_ctx, "n_tokens": n_tokens, "n_chunks": max(2, n_tokens // n_ctx), "keep_base": True}
    return {key: value for key, value in wanted.items() if key in fields}
