"""What the tests of the exporter's ways to round share: a target, and what a run at it made."""

import json
from pathlib import Path

import numpy as np

from bitclass3_core.qtypes import qtype

TARGET = ["--target-bpw", 3.6, "--plugin", "gguf", "--plugin", "recipe"]


def ours(out: Path) -> Path:
    """Our file."""
    return next(out.glob("*3.60bpw.gguf"))


def n_quantized(out: Path) -> int:
    """Tensors of our file that do not keep the source's type: the solver may leave it to a small one."""
    qtypes = json.loads((out / "allocation.json").read_text())["qtypes"].values()
    return sum(not qtype(q).is_float for q in qtypes)


def mean_kld(out: Path) -> float:
    """What our file was measured at."""
    path = next(path for path in (out / "evaluation").glob("*.npz") if "stock" not in path.stem)
    return float(json.loads(str(np.load(path)["figures"]))["mean_kld"])
