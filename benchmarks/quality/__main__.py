"""Ours against llama.cpp's mixes on a real language model, size by size, and how stable our allocations are.

    python -m benchmarks.quality                 makes, measures, and writes docs/benchmarks.md: hours; a second call goes on
    python -m benchmarks.quality report          only writes the page, from what is measured so far
    python -m benchmarks.quality stability       the same for calibrations that differ

Needs llama.cpp (bitclass3 toolchain install), torch, pip, and a folder of public texts (see --data).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.quality.benchmark import ROOT, STABILITY_SIZES, Benchmark
from benchmarks.quality.making import RECIPES, SIZES
from benchmarks.quality.stability import VARIANTS
from benchmarks.quality.texts import DEFAULT_TEXTS, TEXT_NAMES
from bitclass3_core.errors import Bitclass3Error, InterruptedRunError
from bitclass3_core.progress import terminal_progress
from bitclass3_core.runs.folder import RunFolder


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("what", nargs="?", choices=("run", "report", "stability"), default="run")
    sizes = f"default {','.join(SIZES)}; stability: {','.join(STABILITY_SIZES)}"
    add("--sizes", type=_names, metavar="MIX,...", help=f"stock mixes whose sizes to take; {sizes}")
    add("--recipes", type=_names, default=RECIPES, metavar="NAME,...", help=f"files of each size; default {','.join(RECIPES)}")
    add(
        "--variants",
        type=_names,
        metavar="NAME,...",
        help=f"stability: which calibrations; default {', '.join(v.name for v in VARIANTS)}",
    )
    texts = f"of {', '.join(TEXT_NAMES)}; default {','.join(DEFAULT_TEXTS)}; stability: wiki"
    add("--texts", type=_names, metavar="NAME,...", help=f"texts to measure on, {texts}")
    add("--chunks", type=_positive, metavar="N", help="chunks of 512 tokens of each text; default 24 of wiki, 12 of the others")
    data = "wiki.test.raw, and wiki.utf8, c4.utf8, technical.utf8, code.utf8, multilingual.utf8"
    add("--data", type=Path, metavar="DIR", help=f"folder with the texts: {data}")
    add("--out", type=Path, default=Path("out/smol768"), help="folder of results, runs and files; default out/smol768")
    add(
        "--docs",
        type=Path,
        default=ROOT / "docs" / "benchmarks.md",
        metavar="PAGE",
        help="page to write into; default docs/benchmarks.md",
    )
    add(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="[RECIPE:]KEY=VALUE",
        help="setting of our runs, as of bitclass3 run, or of those of one recipe; repeatable",
    )
    add("--keep", action="store_true", help="keep the GGUF files and the base logits")
    return made


def main(given: Sequence[str] | None = None) -> None:
    """Run it: errors that a user can mend are one line on stderr, with the exit code of their kind."""
    arguments = parser().parse_args(given)
    progress = terminal_progress(quiet=False)
    try:
        with RunFolder(arguments.out).locked():
            benchmark = Benchmark(arguments, progress)
            if arguments.what != "report":
                benchmark.measure()
            benchmark.write()
    except KeyboardInterrupt:
        print("interrupted; what was measured is kept, run the same command again to go on", file=sys.stderr)
        sys.exit(InterruptedRunError.exit_code)
    except Bitclass3Error as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    finally:
        progress.end()
    print(f"written: {arguments.docs}; results: {arguments.out / 'results.json'}")


if __name__ == "__main__":
    main()
