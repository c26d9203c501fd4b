"""A ladder: several levels of one model from one calibration and one cost table, each built, chosen, measured, and kept or deleted."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitclass3_core.errors import Bitclass3Error, ConfigError
from bitclass3_core.files import write_json
from bitclass3_core.layout import parse_size
from bitclass3_core.progress import Progress
from bitclass3_core.release.record import ladder_json, release
from bitclass3_core.results import Level, Run
from bitclass3_core.run_config import FIXED_BUDGET, LEVEL_BUDGET, BudgetSection, Keep, RunConfig
from bitclass3_core.runs.context import Context
from bitclass3_core.runs.pipeline import Pipeline

KEEP: tuple[Keep, ...] = ("shipped", "all", "none", "stock")


def parse_levels(text: str, config: RunConfig) -> dict[str, RunConfig]:
    """The configuration of each level, by the name that was given: ``Q4_K_M``, bits per weight (``4.2``), a file size (``3.5GiB``).

    Raises ConfigError for no level, for one that is given twice, and for bad numbers.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("no levels; give --levels Q8_0,Q4_K_M or bits per weight or sizes")
    found: dict[str, RunConfig] = {}
    for name in names:
        section = _section(name, config.budget)
        key = section.level or name
        if key in found:
            raise ConfigError(f"level {name} is given twice in --levels {text}")
        found[key] = config.model_copy(update={"budget": section})
    return found


def _section(name: str, base: BudgetSection) -> BudgetSection:
    if name[0].isalpha():
        plugin = base.plugin if base.plugin != FIXED_BUDGET else LEVEL_BUDGET
        options = base.options if base.plugin != FIXED_BUDGET else {}
        return BudgetSection(plugin=plugin, level=name.upper(), options=options)
    number = name.lower().removesuffix("bpw")
    if number.replace(".", "", 1).isdigit():
        if not 0 < float(number) <= 32:
            raise ConfigError(f"level {name} asks for {float(number):g} bits per weight; give a number above 0 and at most 32")
        return BudgetSection(options={"target_bpw": float(number)})
    parse_size(name)
    return BudgetSection(options={"target_size": name})


class Ladder:
    """All levels in one folder. A level that fails is noted, and the others are made."""

    def __init__(
        self, config: RunConfig, levels: str, keep: str | None, progress: Progress, command: str, may_convert: bool = True
    ) -> None:
        """``keep`` says which files stay, else the configuration does if it says so; else ours alone."""
        budget = config.budget
        if budget.level is not None or budget.target_kld is not None or (budget.plugin == FIXED_BUDGET and budget.options):
            raise ConfigError("a ladder takes its targets from --levels; take the target out of [budget]")
        self.configs = parse_levels(levels, _as_release(config, keep))
        first = next(iter(self.configs.values()))
        self.base = Pipeline(first, Context.of(first, progress, command, may_convert))
        self.levels: list[Level] = []
        self._runs: dict[str, Run] = {}

    @property
    def folder(self) -> Path:
        """Where the files of all levels lie."""
        return self.base.context.folder.path

    def check(self) -> None:
        """Load every plugin, and raise ConfigError for a level that none knows, before anything is computed."""
        for config in self.configs.values():
            self.base.sibling(config).stages.load_all()

    def run(self) -> Run | None:
        """Make all levels and the card over them; None if every level failed. ``ladder.json`` is written anew after each level."""
        base, context = self.base, self.base.context
        with context.folder.locked():
            self.check()
            base.open()
            if base.config.keep == "none" and not base.corpus.evaluation:
                raise ConfigError(
                    "--keep none deletes what it measured, and there is no text to measure on; give --eval-corpus FILE"
                )
            base.prepare()
            for name, config in self.configs.items():
                self.levels.append(self._level(name, config))
                write_json(self.folder / "ladder.json", self.summary())
            done = release(self.levels, self._runs, context.command, context.timings)
            if done is not None:
                for plugin in base.config.report.plugin:
                    base.stages.report(plugin, done, self.folder)
            base.note()
        return done

    def summary(self) -> dict[str, Any]:
        """What ``ladder.json`` holds."""
        selections = {name: chosen for run in self._runs.values() for name, chosen in run.selections.items()}
        return ladder_json(self.base.model.name, self.folder, self.base.context.command, self.levels, selections)

    def _level(self, name: str, config: RunConfig) -> Level:
        """One level; whatever goes wrong in it is its own affair."""
        progress, begin = self.base.context.progress, time.monotonic()
        progress.say(f"level {name}")
        try:
            pipeline = self.base.sibling(config)
            run = pipeline.finish()
        except Exception as error:  # a crash in a plugin must not cost the other levels
            line = str(error) if isinstance(error, Bitclass3Error) else f"{type(error).__name__}: {error}"
            progress.warn(f"level {name} failed: {line}")
            return Level(name, error=line, exit_code=getattr(error, "exit_code", 1))
        finally:
            progress.end()
        self._runs[name] = run
        baseline = next((c.name for c in run.candidates[1:2] if c.kind == "stock"), "")
        seconds = round(time.monotonic() - begin, 1)
        return Level(name, run.ours, pipeline.budget.data_bytes, baseline, run.differences.get(baseline), seconds=seconds)


def _as_release(config: RunConfig, keep: str | None) -> RunConfig:
    """The configuration of a release: candidates are compared, and ours alone stay, where it does not say otherwise."""
    if keep is not None and keep not in KEEP:
        raise ConfigError(f"unknown --keep {keep!r}; known: {', '.join(KEEP)}")
    kept = keep or (config.keep if "keep" in config.model_fields_set else "shipped")
    said = "select" in config.model_fields_set and "enabled" in config.select.model_fields_set
    select = config.select if said else config.select.model_copy(update={"enabled": True})
    return config.model_copy(update={"keep": kept, "select": select})


def exit_code(levels: Sequence[Level]) -> int:
    """0 if every level was made, 4 if some were, else the code of the first error."""
    failed = [level.exit_code or 1 for level in levels if level.error]
    return 0 if not failed else 4 if len(failed) < len(levels) else failed[0]
