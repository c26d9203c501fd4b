"""Ours against stock mixes on the example model, at 3.6, 4.8 and 5.4 bpw: two estimators, files of equal size, one evaluation text.

For each level the K or IQ mix of llama.cpp nearest to it in bpw sets the size in bytes; `kl-hessian` + `ilp` (rounded plainly, with error
feedback, and solved again with what that left of each tensor's error) and `hessian-diag` + `ilp` get that budget. Both are also solved at
the level's own bpw. Prints Markdown tables; a second call uses everything measured again.

usage: python benchmarks/example_quality.py [OUT_DIR]
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bitclass3_core.gguf.rounding_gains import SUFFIX

ROOT = Path(__file__).resolve().parents[1]
LEVELS = (3.6, 4.8, 5.4)
# Mixes that are published; the legacy ones (Q4_0, Q4_1, IQ4_NL, Q5_0, Q5_1) diverge more at their sizes and would be easy to beat.
MIXES = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ3_XXS", "IQ3_M", "IQ4_XS", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K")
ESTIMATORS = ("kl-hessian", "hessian-diag")


def bitclass3(*arguments: object) -> dict[str, Any]:
    """The JSON of a command that must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "bitclass3_core", *map(str, arguments), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout))


def nearest_mixes() -> dict[float, str]:
    """The stock mix nearest to each level, in bpw of the whole model."""
    from bitclass3_qwen35 import bitclass3_architecture
    from bitclass3_stock import stock_qtypes

    from bitclass3_core.gguf.model import GgufModel
    from bitclass3_core.layout import bpw

    model = GgufModel(ROOT / "examples" / "tiny-qwen35" / "model-bf16.gguf")
    quantizable = bitclass3_architecture(model=model).quantizable
    sizes = {ftype: bpw(model, stock_qtypes(model, quantizable, ftype)) for ftype in MIXES}
    return {level: min(sizes, key=lambda ftype: abs(sizes[ftype] - level)) for level in LEVELS}


def run(out: Path, estimator: str, *target: object, rounding: str = "plain", gains: Path | None = None) -> dict[str, Any]:
    """One run; returns its candidates and paired differences. With ``gains`` of an earlier feedback, the costs count on them."""
    parts = [estimator, *([rounding] if rounding != "plain" else []), *(["priced"] if gains else [])]
    how = ["--set", f"export.options.gguf.rounding={rounding}"]
    how += ["--set", f"measure.options.rounding={gains}"] if gains else []
    return bitclass3("run", "examples/quickstart.toml", "--plugin", estimator, *target, *how, "--out", out / "-".join(parts))


def row(label: str, candidate: dict[str, Any], difference: dict[str, float] | None) -> str:
    """One line of the table."""
    figures = candidate["evaluation"]
    pair = f"{difference['mean']:+.4f} ± {difference['se']:.4f}" if difference else ""
    return (
        f"| {label} | {candidate['file_bytes']:,} | {candidate['bpw']:.3f} | {figures['mean_kld']:.4f} ± {figures['se_kld']:.4f} | {pair} "
        f"| {figures['median_kld']:.4f} | {figures['p999_kld']:.2f} | {figures['same_top1']:.1%} | {figures['ppl']:.2f} |"
    )


def table(level: float, ftype: str, out: Path) -> list[str]:
    """The table of one level."""
    heading = "| allocation | bytes | bpw | mean KLD | against stock (paired) | median | 99.9 % | same top-1 | PPL |"
    lines = [f"\n### {level} bpw: the size of stock {ftype}\n", heading, "|---|---|---|---|---|---|---|---|---|"]
    for estimator in ESTIMATORS:
        matched = run(out, estimator, "--match-stock", ftype)
        ours, stock = matched["candidates"][:2]
        if estimator == ESTIMATORS[0]:
            lines.append(row(f"stock {ftype}", stock, None))
            better = run(out, estimator, "--match-stock", ftype, rounding="feedback")
            gains = Path(better["candidates"][0]["file"]).with_suffix(SUFFIX)
            again = run(out, estimator, "--match-stock", ftype, rounding="feedback", gains=gains)
            for label, found in (("feedback", better), ("feedback, priced by its gains", again)):
                difference = found["paired_differences"].get(found["candidates"][1]["name"])
                lines.append(row(f"{estimator} + ilp + {label}, same bytes", found["candidates"][0], difference))
        lines.append(row(f"{estimator} + ilp, same bytes", ours, matched["paired_differences"].get(stock["name"])))
        exact = run(out, estimator, "--target-bpw", level, "--baseline", ftype)
        lines.append(row(f"{estimator} + ilp, {level} bpw", exact["candidates"][0], exact["paired_differences"].get(stock["name"])))
    return lines


def main() -> None:
    """Print all levels."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "out" / "quality"
    for level, ftype in nearest_mixes().items():
        print("\n".join(table(level, ftype, out)), flush=True)


if __name__ == "__main__":
    main()
