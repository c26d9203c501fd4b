"""What the tests of the exporter's ways to round share: a target, and what a run at it made."""

import json
from pathlib import Path

import numpy as np

TARGET = ["--target-bpw", 3.6, "--plugin", "gguf", "--plugin", "recipe"]


def ours(out: Path) -> Path:
    """Our file."""
    return next(out.glob("*3.60bpw.gguf"))


def mean_kld(out: Path) -> float:
    """What our file was measured at."""
    path = next(path for path in (out / "evaluation").glob("*.npz") if "stock" not in path.stem)
    return float(json.loads(str(np.load(path)["figures"]))["mean_kld"])
