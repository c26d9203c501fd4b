"""Choosing the file that ships: candidates of one size, measured on text that neither calibrated nor tests them.

Prediction picks the candidates: the solver's answer, variations of it, its answer to costs that were fitted on measured mixes, the
largest stock mix that fits. Measurement picks the winner.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bitclass3_core.corpus import Corpus
from bitclass3_core.errors import InfeasibleError
from bitclass3_core.evaluation import Evaluation, paired_difference
from bitclass3_core.files import digest_of
from bitclass3_core.results import Contender, Selection
from bitclass3_core.run_config import NONE, RunConfig
from bitclass3_core.runs.candidates import SELECTION, CandidateFile, CandidateStore
from bitclass3_core.runs.config_file import with_settings
from bitclass3_core.runs.fit_costs import AT_ONCE, fit_costs
from bitclass3_core.runs.solution import Solution, solution_of

FITTED = "fitted"  # how the candidate is called that was solved with multipliers from measured mixes


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file that might ship: what it would be, how it came about, the store that writes it, and the multipliers of its costs."""

    file: CandidateFile
    how: str
    store: CandidateStore
    multipliers: Mapping[str, float]

    @classmethod
    def of(cls, solution: Solution, ending: str, kind: str, how: str) -> "PlannedFile":
        """The file of a solution."""
        return cls(solution.planned(ending, kind), how, solution.store, solution.inputs.config.cost_multipliers)


@dataclass(frozen=True, slots=True)
class Choice:
    """The file that ships, still under its plan, what writes it, what was measured to choose it, and the files that stood for it."""

    winner: CandidateFile
    store: CandidateStore
    selection: Selection | None = None
    candidates: tuple[CandidateFile, ...] = ()


def files_beside(config: RunConfig) -> int:
    """How many files lie beside ours at the same time, at most: what it is chosen from, mixes that are being measured, the stock mix."""
    select = config.select
    chosen_from = len(select.variations) + select.stock + (select.mixes > 0)
    measured = AT_ONCE if select.mixes else 0
    return (max(chosen_from, measured) if select.enabled else 0) + (config.baseline.plugin != NONE)


def choose(solution: Solution) -> Choice:
    """The best of all that might ship, on the selection text; our own where there is nothing to choose from or by."""
    config, context = solution.inputs.config, solution.inputs.context
    ours = PlannedFile.of(solution, "", "ours", "ours")
    if not config.select.enabled:
        return Choice(ours.file, ours.store)
    if not solution.inputs.corpus.selection:
        context.warn("no text to choose by: our own file ships; give --eval-corpus or --select-corpus")
        return Choice(ours.file, ours.store)
    planned = _different([ours, *_variations(solution), *_fitted(solution), *_stock(solution)])
    selection = _selection(solution, planned)
    winner = next(one for one in planned if one.file.name == selection.winner.name)
    candidates = tuple(one.file for one in planned if one is not ours)
    return Choice(replace(winner.file, name=ours.file.name, kind="ours"), winner.store, selection, candidates)


def _variations(solution: Solution) -> list[PlannedFile]:
    """What other settings make of the same size; a variation that cannot reach it is left out."""
    config, context = solution.inputs.config, solution.inputs.context
    found = []
    for name, settings in config.select.variations.items():
        try:
            found.append(PlannedFile.of(solution_of(with_settings(config, settings), context), f"-{name}", "variation", name))
        except InfeasibleError as error:
            context.progress.say(f"select: no variation {name}: {error}")
    return found


def _fitted(solution: Solution) -> list[PlannedFile]:
    fitted = fit_costs(solution) if solution.inputs.config.select.mixes else None
    return [PlannedFile.of(fitted, f"-{FITTED}", "variation", FITTED)] if fitted else []


def _stock(solution: Solution) -> list[PlannedFile]:
    """The largest stock mix within the budget, if there is one and it keeps the constraints."""
    inputs = solution.inputs
    if not inputs.config.select.stock:
        return []
    progress = inputs.context.progress
    try:
        mix = solution.usable(inputs.stages.stock_within(solution.problem, inputs.model, inputs.architecture))
    except InfeasibleError as error:
        progress.say(f"select: no stock mix: {error}")
        return []
    if broken := inputs.limits.broken_by(inputs.model, mix.qtypes):
        progress.say(f"select: {mix.note} is no candidate, it {broken}")
        return []
    return [PlannedFile(CandidateFile.of_mix(mix, inputs.model), mix.note, solution.store, {})]


def _different(planned: Sequence[PlannedFile]) -> list[PlannedFile]:
    """Without those whose file would be made from the same parts as an earlier one's."""
    found: dict[str, PlannedFile] = {}
    for one in planned:
        found.setdefault(digest_of(one.store.parts_of(one.file)), one)
    return list(found.values())


def _selection(solution: Solution, planned: Sequence[PlannedFile]) -> Selection:
    """Measured, or as it was noted if nothing that it depends on has changed."""
    inputs, name = solution.inputs, planned[0].file.name
    folder, progress = inputs.context.folder, inputs.context.progress
    parts = {
        "offers": {one.file.name: one.store.parts_of(one.file) for one in planned},
        "text": Corpus.fingerprint(inputs.corpus.selection),
        **inputs.stages.identity("evaluate"),
    }
    if known := folder.selection(name, parts):
        progress.say(f"select: {name} is up to date")
        return selection_of(known)
    made = [one.store.make(one.file, progress, SELECTION) for one in planned]
    found = solution.store.evaluate(made, progress, SELECTION)
    sizes = {file.name: file.n_bytes for file in made}
    fitted = next((one.multipliers for one in planned if one.how == FITTED), {})
    selection = replace(_judged({one.file.name: one.how for one in planned}, sizes, found), multipliers=fitted)
    folder.put_selection(name, parts, asdict(selection))
    progress.say(f"select: {sentence(selection)}")
    return selection


def _judged(how: Mapping[str, str], sizes: Mapping[str, int], found: Mapping[str, Evaluation]) -> Selection:
    """The lowest mean KLD wins; of equal ones the first."""
    best = min(how, key=lambda name: found[name].mean_kld)
    order = [best, *(name for name in how if name != best)]
    pairs = {name: None if name == best else paired_difference(found[name], found[best]) for name in order}
    contenders = (Contender(n, how[n], sizes[n], found[n].mean_kld, found[n].se_kld, pairs[n]) for n in order)
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
    others = [
        f"{c.how} {c.difference[0]:+.4f} ± {c.difference[1]:.4f}"
        if c.difference
        else f"{c.how} {c.mean_kld - winner.mean_kld:+.4f}"
        for c in selection.contenders[1:]
    ]
    against = f"; mean KLD of the others against it: {', '.join(others)}" if others else ""
    what = f"the {winner.how} mix" if selection.stock_won else winner.how
    return f"{what} ships: mean KLD {winner.mean_kld:.4f} ± {winner.se_kld:.4f} over {selection.n_tokens:,} tokens{against}"
