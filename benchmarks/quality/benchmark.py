"""One call of the benchmark: every file that is asked for is made and measured unless that was done, and the page written after each."""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.quality import report, stability
from benchmarks.quality.making import RECIPES, SIZES, Planned, Setup, kept, made, planned
from benchmarks.quality.measuring import Meter
from benchmarks.quality.peers import Peers
from benchmarks.quality.results import Results
from benchmarks.quality.smol768 import built
from benchmarks.quality.texts import DEFAULT_TEXTS, STABILITY_TEXTS, Texts, check_disjoint, shared_folder
from bitclass3_core.errors import ConfigError, did_you_mean
from bitclass3_core.progress import Progress

ROOT = Path(__file__).resolve().parents[2]
STABILITY_SIZES = ("Q3_K_M",)


def check_names(names: Sequence[str], known: Sequence[str], what: str) -> None:
    """Raise ConfigError for a name that is not known."""
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown {what} {name!r}{did_you_mean(name, known)}")


class Benchmark:
    """What a call was asked for, and the results so far."""

    def __init__(self, arguments: argparse.Namespace, progress: Progress, root: Path = ROOT) -> None:
        self._arguments, self._progress, self._root = arguments, progress, root
        self._is_stability = arguments.what == "stability"
        self._sizes = arguments.sizes or (STABILITY_SIZES if self._is_stability else SIZES)
        check_names(self._sizes, SIZES, "size")
        check_names(arguments.recipes, RECIPES, "recipe")
        variants = {variant.name: variant for variant in stability.VARIANTS}
        check_names(arguments.variants or (), list(variants), "variant")
        self._variants = [variants[name] for name in arguments.variants or variants]
        shared = shared_folder(root)
        self._peers = Peers(shared / "peers" / "smol768" if shared else None)
        self._results = Results(arguments.out / "results.json")

    def measure(self) -> None:
        """Make and measure all that is asked for and not there yet; write the page after each file."""
        self._check_settings()
        texts = Texts.found(self._arguments.data, self._root)
        usual = STABILITY_TEXTS if self._is_stability else DEFAULT_TEXTS
        measured_on = texts.evaluation(self._arguments.texts or usual, self._arguments.chunks)
        model, group = built(self._progress), stability.GROUP if self._is_stability else report.GROUP
        setup = Setup(model, texts.calibration(), measured_on, self._arguments.out, self._progress, self._arguments.settings)
        n_params = {name: info.n_params for name, info in model.tensors.items()}
        self._results.put_facts(n_params=n_params, cpu=f"{os.cpu_count()} cores", settings=list(self._arguments.settings))
        meter = Meter(model, measured_on, self._results, self._progress, group)
        for plan in self._stability_plans(setup, texts) if self._is_stability else self._plans(setup):
            self._do(plan, setup, meter)
            self.write()
        if not self._arguments.keep:
            meter.close()

    def _check_settings(self) -> None:
        """Raise ConfigError if what lies in the folder was made with other settings: tables would mix the two."""
        before, now = self._results.facts.get("settings"), list(self._arguments.settings)
        if before is not None and before != now:
            raise ConfigError(
                f"{self._arguments.out} holds results with --set {before or 'nothing'}, now it is {now or 'nothing'}; use another --out"
            )

    def _plans(self, setup: Setup) -> Iterator[Planned]:
        for size in self._sizes:
            for recipe in self._arguments.recipes:
                if plan := planned(setup, self._peers, size, recipe):
                    yield plan

    def _stability_plans(self, setup: Setup, texts: Texts) -> Iterator[Planned]:
        for variant in self._variants:
            calibration = texts.calibration(variant.domain)
            check_disjoint(calibration, setup.texts)
            for size in self._sizes:
                yield stability.planned_variant(setup, calibration, variant, size)

    def _do(self, plan: Planned, setup: Setup, meter: Meter) -> None:
        if not self._is_stability:
            self._results.put_facts(seconds={**self._results.facts.get("seconds", {}), **plan.seconds})
        known = self._results.file(plan.name)
        if known and known.made_from == plan.made_from and not meter.missing(known.sha256):
            self._progress.say(f"{plan.name}: measured before")
            return
        path = self._arguments.out / "files" / f"{plan.name.replace('/', '-')}.gguf"
        facts = kept(plan, path, self._results) or made(plan, setup.model, path, self._results)
        meter.measure(path, facts.sha256)
        if not self._arguments.keep:
            path.unlink()

    def write(self) -> None:
        """Write the page and the plot from the results so far."""
        if self._is_stability:
            stability.write_stability(self._results, SIZES, self._arguments.docs)
        else:
            report.write_quality(self._results, self._peers.published(), self._arguments.docs)
