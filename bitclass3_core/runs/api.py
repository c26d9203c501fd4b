"""The Python API: a whole run in one call, or a run whose stages are asked for one by one."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from bitclass3_core.progress import Progress, Silent
from bitclass3_core.results import Run
from bitclass3_core.run_config import BudgetSection
from bitclass3_core.runs.config_file import load_config
from bitclass3_core.runs.context import Context
from bitclass3_core.runs.pipeline import Pipeline


def open_run(
    pipeline: str | PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    plugins: Sequence[str] = (),
    progress: Progress | None = None,
) -> Pipeline:
    """A run whose stages are properties, each computed once, when it is first asked for, and kept in the run's folder.

    ``pipeline`` is a TOML file. ``settings`` are its keys, dotted, and win over it: ``{"budget.target_bpw": 4.8, "out": "out/x"}``.
    ``plugins`` are names or ``.py`` files, as with ``--plugin``. From now on the process uses the llama.cpp and the threads that this
    run names.

    Raises ConfigError for unknown keys and bad values, PluginError for unknown plugins.
    """
    values = {_path(key): value for key, value in (settings or {}).items()}
    config = load_config(Path(pipeline) if pipeline is not None else None, values, plugins)
    return Pipeline(config, Context.of(config, progress or Silent(), "bitclass3_core.run"))


def run(
    pipeline: str | PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    plugins: Sequence[str] = (),
    progress: Progress | None = None,
) -> Run:
    """Do all stages, as ``bitclass3 run`` does; returns what reports see. The arguments are those of ``open_run``.

    Raises Bitclass3Error subclasses for everything that a user can mend; what was measured is kept.
    """
    opened = open_run(pipeline, settings, plugins=plugins, progress=progress)
    opened.run()
    opened.raise_failures()
    return opened.result


def _path(key: str) -> tuple[str, ...]:
    """The path of a key; ``budget.target_bpw`` is short for ``budget.options.target_bpw``, and replaces the file's target."""
    parts = tuple(key.split("."))
    is_short = parts[0] == "budget" and len(parts) == 2 and parts[1] not in BudgetSection.model_fields
    return ("budget", "options", parts[1]) if is_short else parts
