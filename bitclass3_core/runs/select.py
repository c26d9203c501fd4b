"""Choosing the file that ships: candidates of one size, measured on text that neither calibrated nor tests them.

Prediction picks the candidates (the solver's answer, variations of it, what it answers to costs fitted on measured mixes, the largest stock mix that fits),
measurement picks the winner.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bitclass3_core.corpus import Corpus
from bitclass3_core.errors import InfeasibleError
from bitclass3_core.evaluation import Evaluation, paired_difference
from bitclass3_core.files import digest_of, sha256_file
from bitclass3_core.results import Contender, Selection
from bitclass3_core.run_config import RunConfig
from bitclass3_core.runs.candidates import SELECTION, MadeFile
from bitclass3_core.runs.config_file import with_settings
from bitclass3_core.runs.fit_costs import AT_ONCE, fitted_run
from bitclass3_core.runs.solution import Solution

FITTED = "fitted"  # how the candidate is called that was solved with multipliers from measured mixes


@dataclass(frozen=True, slots=True)
class Offer:
    """A candidate that might ship: its file, what it is, and the run that makes it."""

    planned: MadeFile
    how: str
    maker: Solution

    @property
    def parts(self) -> dict[str, Any]:
        """All that its file is made from."""
        return self.maker.store.parts_of(self.planned, sha256_file(self.maker.sensitivity_path))


@dataclass(frozen=True, slots=True)
class Choice:
    """The file that ships, still under its plan, who makes it, what was measured to choose it, and the files that stood for it."""

    winner: MadeFile
    maker: Solution
    selection: Selection | None = None
    candidates: tuple[MadeFile, ...] = ()


def files_beside(config: RunConfig) -> int:
    """How many files lie beside ours at the same time, at most: what it is chosen from, mixes that are being measured, the stock mix."""
    select = config.select
    chosen_from = len(select.variations) + select.stock + (select.mixes > 0)
    measured = AT_ONCE if select.mixes else 0
    return (max(chosen_from, measured) if select.enabled else 0) + (config.baseline.plugin != "none")


def choose(run: Solution) -> Choice:
    """The best of all offers on the selection text; our own where there is nothing to choose from or by."""
    ours = Offer(run.planned("", "ours"), "ours", run)
    if not run.config.select.enabled:
        return Choice(ours.planned, run)
    if not run.corpus.selection:
        run.warn("no text to choose by: our own file ships; give --eval-corpus or --select-corpus")
        return Choice(ours.planned, run)
    offers = _different([ours, *_variations(run), *_fitted(run), *_stock(run)])
    selection = _selection(run, offers)
    winner = next(offer for offer in offers if offer.planned.name == selection.winner.name)
    candidates = tuple(offer.planned for offer in offers if offer is not ours)
    return Choice(replace(winner.planned, name=ours.planned.name, kind="ours"), winner.maker, selection, candidates)


def _variations(run: Solution) -> list[Offer]:
    """What other settings make of the same size; a variation that cannot reach it is left out."""
    offers = []
    for name, settings in run.config.select.variations.items():
        sibling = run.sibling(with_settings(run.config, settings))
        try:
            planned = sibling.planned(f"-{name}", "variation")
        except InfeasibleError as error:
            run.progress.say(f"select: no variation {name}: {error}")
            continue
        offers.append(Offer(planned, name, sibling))
    return offers


def _fitted(run: Solution) -> list[Offer]:
    """What the solver answers with costs that were put right by measured mixes of the same size."""
    fitted = fitted_run(run) if run.config.select.mixes else None
    return [Offer(fitted.planned("-fitted", "variation"), FITTED, fitted)] if fitted else []


def _stock(run: Solution) -> list[Offer]:
    """The largest stock mix within the budget, if there is one and it keeps the constraints."""
    if not run.config.select.stock:
        return []
    try:
        mix = run.usable(run.stages.stock_within(run.problem, run.model, run.architecture))
    except InfeasibleError as error:
        run.progress.say(f"select: no stock mix: {error}")
        return []
    if broken := run.limits.broken_by(run.model, mix.qtypes):
        run.progress.say(f"select: {mix.note} is no candidate, it {broken}")
        return []
    return [Offer(MadeFile.of_mix(mix, run.model), mix.note, run)]


def _different(offers: Sequence[Offer]) -> list[Offer]:
    """Without those whose file would be made from the same parts as an earlier one's."""
    found: dict[str, Offer] = {}
    for offer in offers:
        found.setdefault(digest_of(offer.parts), offer)
    return list(found.values())


def _selection(run: Solution, offers: Sequence[Offer]) -> Selection:
    """Measured, or as it was noted if nothing that it depends on has changed."""
    name = offers[0].planned.name
    parts = {
        "offers": {offer.planned.name: offer.parts for offer in offers},
        "text": Corpus.fingerprint(run.corpus.selection),
        **run.stages.identity("evaluate"),
    }
    if known := run.folder.selection(name, parts):
        run.progress.say(f"select: {name} is up to date")
        return selection_of(known)
    made = [
        offer.maker.store.make(
            offer.planned, offer.maker.sensitivity, sha256_file(offer.maker.sensitivity_path), run.progress, SELECTION
        )
        for offer in offers
    ]
    found = run.store.evaluate(made, run.progress, SELECTION)
    sizes = {file.name: run.store.size_of(file) for file in made}
    fitted = next((offer.maker.config.cost_multipliers for offer in offers if offer.how == FITTED), {})
    selection = replace(_judged({offer.planned.name: offer.how for offer in offers}, sizes, found), multipliers=fitted)
    run.folder.put_selection(name, parts, asdict(selection))
    run.progress.say(f"select: {sentence(selection)}")
    return selection


def _judged(how: Mapping[str, str], sizes: Mapping[str, int], found: Mapping[str, Evaluation]) -> Selection:
    """The lowest mean KLD wins; of equal ones the first."""
    best = min(how, key=lambda name: found[name].mean_kld)
    order = [best, *(name for name in how if name != best)]
    contenders = [
        Contender(
            name,
            how[name],
            sizes[name],
            found[name].mean_kld,
            found[name].se_kld,
            None if name == best else paired_difference(found[name], found[best]),
        )
        for name in order
    ]
    return Selection(tuple(contenders), found[best].n_tokens)


def selection_of(values: Mapping[str, Any]) -> Selection:
    """A selection from JSON."""
    contenders = [
        Contender(**{**entry, "difference": tuple(entry["difference"]) if entry["difference"] else None})
        for entry in values["contenders"]
    ]
    return Selection(tuple(contenders), values["n_tokens"], values.get("multipliers", {}))


def sentence(selection: Selection) -> str:
    """Who ships, with the paired differences of the others."""
    winner = selection.winner
    others = []
    for other in selection.contenders[1:]:
        paired = other.difference
        others.append(
            f"{other.how} {paired[0]:+.4f} ± {paired[1]:.4f}" if paired else f"{other.how} {other.mean_kld - winner.mean_kld:+.4f}"
        )
    against = f"; mean KLD of the others against it: {', '.join(others)}" if others else ""
    what = f"the {winner.how} mix" if selection.stock_won else winner.how
    return f"{what} ships: mean KLD {winner.mean_kld:.4f} ± {winner.se_kld:.4f} over {selection.n_tokens:,} tokens{against}"
