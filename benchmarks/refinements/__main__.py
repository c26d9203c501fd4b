"""What would make the two vectors' allocation better, tried on a real language model of 229 M weights, one size after the other.

    python -m benchmarks.refinements --sizes Q3_K_M                            half an hour on 2 cores
    python -m benchmarks.refinements --sizes Q2_K --only "token by token"      one step alone

Each refinement changes the costs or the mix, the solver answers at the same size, and the mix is measured in torch, weights rounded as
llama-quantize rounds them, activations as llama.cpp rounds them on a CPU: on calibration text that no cost was made from ("judged"), which
would decide in a run, and on WikiText-2 test, which decides here. Differences are paired, chunk by chunk. Prints Markdown.
"""

import argparse
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.benchmark import ROOT, check_names
from benchmarks.quality.making import SIZES, Setup
from benchmarks.quality.smol768 import built
from benchmarks.quality.texts import Texts
from benchmarks.refinements.fitted import class_of, drawn_mixes, fitted, multiplied, relinearised_table
from benchmarks.refinements.lab import Lab, Mix, Table
from benchmarks.refinements.scores import (
    Scores,
    Tokens,
    captured,
    gram_table,
    gram_total,
    head_table,
    score_table,
    scores,
    token_shares,
    token_table,
)
from benchmarks.refinements.searching import probes, swap_search
from bitclass3_core.corpus import Document
from bitclass3_core.progress import terminal_progress

N_MIXES = 20
N_SWAPS = 24
N_PROBES = 30


@dataclass(frozen=True, slots=True)
class Tried:
    """A mix, what it was predicted to cost, the minutes that finding it took, and its divergence on ``lab.judged``, chunk by chunk."""

    label: str
    mix: Mix
    predicted: float | None
    minutes: float
    judged: NDArray[np.float64]


def _timed(lab: Lab, label: str, found: Callable[[], tuple[Mix, float | None]]) -> Tried:
    begin = time.monotonic()
    mix, predicted = found()
    return Tried(label, mix, predicted, (time.monotonic() - begin) / 60, lab.divergences(mix, lab.judged))


STEPS: Mapping[str, Callable[[Lab, "Seen"], tuple[Mix, float]]] = {
    "token by token": lambda lab, seen: _by(lab, token_table(lab, _shares(lab, seen.tokens))),  # takes a refinement back
    "head's exact cost": lambda lab, seen: _by(lab, head_table(lab, seen.tokens)),
    "scores": lambda lab, seen: _by(lab, score_table(lab, seen.scores)),
    "Gram matrix": lambda lab, seen: _gram(lab, seen.scores),
    "class multipliers": lambda lab, _: _by(lab, multiplied(lab, _multipliers(lab))),
    "Hessian of the mix": lambda lab, _: _by(lab, relinearised_table(lab, lab.base), near=lab.base),
}
SWAPS, SINGLE = "swaps", "single tensors"
ALL = (*STEPS, SWAPS, SINGLE)


def refinements(lab: Lab, only: Collection[str] = ALL) -> Iterator[Tried]:
    """The base and every refinement of it; the swaps begin with the one that is best on ``lab.judged``."""
    yield (best := _timed(lab, "two vectors", lambda: (lab.base, lab.total(lab.table, lab.base))))
    seen = Seen(lab)
    for label in (label for label in STEPS if label in only):
        yield (tried := _timed(lab, label, partial(STEPS[label], lab, seen)))
        best = min(best, tried, key=lambda one: float(one.judged.mean()))
    if SWAPS not in only:
        return
    kept = 0

    def swaps() -> tuple[Mix, None]:
        nonlocal kept
        mix, kept = swap_search(lab, best.mix, N_SWAPS)
        return mix, None

    tried = _timed(lab, "", swaps)
    yield replace(tried, label=f"{kept} swaps after {best.label}")


class Seen:
    """What the source does with ``lab.scored``, each part computed when it is first asked for: a later step does not pay for it again."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    @cached_property
    def tokens(self) -> dict[str, Tokens]:
        """Inputs and gradients."""
        return captured(self._lab)

    @cached_property
    def scores(self) -> Scores:
        """g^T D x of every choice."""
        return scores(self._lab, self.tokens)


def _by(lab: Lab, table: Table, near: Mix | None = None) -> tuple[Mix, float]:
    return (mix := lab.solved(table, near)), lab.total(table, mix)


def _gram(lab: Lab, found: Scores) -> tuple[Mix, float]:
    """Solved with the others' errors as they are, a choice away at most, as long as the whole sum falls."""
    mix = lab.solved(score_table(lab, found))
    total = gram_total(lab, found, mix)
    for _ in range(8):
        changed = lab.solved(gram_table(lab, found, mix), near=mix)
        if (now := gram_total(lab, found, changed)) >= total:
            break
        mix, total = changed, now
    return mix, total


def _multipliers(lab: Lab) -> dict[str, float]:
    mixes = drawn_mixes(lab, N_MIXES)
    lab.progress.begin("mixes", len(mixes))
    measured = []
    for mix in mixes:
        measured.append(float(lab.divergences(mix, lab.judged).mean()))
        lab.progress.advance()
    factors = fitted(lab, mixes, np.array(measured))
    lab.progress.say(", ".join(f"{name} {factor:.2f}" for name, factor in factors.items()))
    return factors


def _shares(lab: Lab, tokens: Mapping[str, Tokens]) -> dict[str, float]:
    shares = token_shares(lab, tokens)
    classes = sorted({class_of(lab, name) for name in shares})
    means = ((wanted, [share for name, share in shares.items() if class_of(lab, name) == wanted]) for wanted in classes)
    lab.progress.say("token by token, share of the diagonal: " + ", ".join(f"{name} {np.mean(own):.2f}" for name, own in means))
    return shares


def _mean(values: NDArray[np.float64], signed: bool = False) -> str:
    error = values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():+.4f} ± {error:.4f}" if signed else f"{values.mean():.4f} ± {error:.4f}"


HEADINGS = ("refinement", "predicted", "judged", "test", "test less two vectors'", "tensors changed", "minutes")


def rows(lab: Lab, only: Collection[str] = ALL) -> Iterator[str]:
    """The table's lines, each as soon as it is known."""
    yield "| " + " | ".join(HEADINGS) + " |"
    yield "|---" * len(HEADINGS) + "|"
    before: NDArray[np.float64] | None = None
    for tried in refinements(lab, only):
        test = lab.divergences(tried.mix, lab.test)
        less = "" if before is None else _mean(test - before, signed=True)
        before = test if before is None else before
        n_changed = sum(q != lab.base[name] for name, q in tried.mix.items())
        predicted = "" if tried.predicted is None else f"{tried.predicted:.4f}"
        figures = (tried.label, predicted, _mean(tried.judged), _mean(test), less, str(n_changed), f"{tried.minutes:.1f}")
        yield "| " + " | ".join(figures) + " |"


def probe_line(lab: Lab) -> str:
    """Predicted against measured, tensor by tensor."""
    found = probes(lab, N_PROBES)
    if found is None:
        return "Too few tensors to hold predictions against."
    return (
        f"{found.n} tensors, each alone at the type that it has in the two vectors' mix: rank correlation of predicted and measured "
        f"{found.rank_correlation:.2f}, measured {found.ratio:.2f} times predicted in the geometric mean, scattered by a factor of {found.factor:.2f}."
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.refinements", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="Q3_K_M", metavar="MIX,...", help=f"of {', '.join(SIZES)}; default Q3_K_M")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with the texts, as for python -m benchmarks.quality")
    parser.add_argument("--out", type=Path, default=Path("out/smol768"), help="folder of runs; default out/smol768")
    parser.add_argument("--chunks", type=int, default=24, help="chunks of 512 tokens of WikiText-2 test; default 24")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=ALL, metavar="STEP,...", help=f"of {', '.join(ALL)}; default all"
    )
    arguments = parser.parse_args()
    check_names(arguments.only, ALL, "step")
    progress = terminal_progress(quiet=False)
    texts = Texts.found(arguments.data, ROOT)
    measured_on = texts.evaluation(["wiki"], arguments.chunks)
    setup = Setup(built(progress), texts.calibration(), measured_on, arguments.out, progress)
    test = Document(measured_on[0].text, "wiki", measured_on[0].sha256)
    for size in arguments.sizes.split(","):
        lab = Lab(setup.pipeline("run", size, ['export.plugin="gguf"']), test, arguments.chunks, progress)
        print(f"\n### The size of {size}\n", flush=True)
        for line in rows(lab, arguments.only):
            print(line, flush=True)
        if SINGLE in arguments.only:
            print(f"\n{probe_line(lab)}", flush=True)


if __name__ == "__main__":
    main()
