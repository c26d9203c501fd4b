"""Who measures the probes: any evaluator plugin, with as much text as a probe is worth."""

from collections.abc import Mapping
from typing import Any

from bitclass3_core.errors import PluginError
from bitclass3_core.model import Model
from bitclass3_core.stages import StagePlugin, Stages


def judge_of(stages: Stages, name: str, values: Mapping[str, object], model: Model, n_ctx: int, n_tokens: int) -> StagePlugin:
    """The named evaluator; ``auto`` is torch where there is an HF folder to load, else llama-perplexity.

    Raises PluginError for a plugin that evaluates nothing, ConfigError for options that it does not have.
    """
    if name == "auto":
        name = "torch" if model.hf is not None else "llama-perplexity"
    try:
        known = stages.option_names("evaluate", name)
    except PluginError as error:
        raise PluginError(f"{str(error).rpartition(';')[0] or error}; name another with estimate.options.evaluator") from None
    return stages.plugin("evaluate", name, {**_little_text(known, n_ctx, n_tokens), **values})


def _little_text(known: Any, n_ctx: int, n_tokens: int) -> dict[str, Any]:
    """The amount of text under whichever names the evaluator has for it; the reference's logits are kept between probes."""
    wanted = {"n_ctx": n_ctx, "n_tokens": n_tokens, "n_chunks": max(2, n_tokens // n_ctx), "keep_base": True}
    return {key: value for key, value in wanted.items() if key in known}
