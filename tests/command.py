"""Running the command as a user does, in a process of its own."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from warm import is_warm, run_warm

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "tiny-qwen35"
GGUF = EXAMPLE / "model-bf16.gguf"
CALIBRATION = EXAMPLE / "held-out" / "calibration.jsonl"
EVALUATION = EXAMPLE / "held-out" / "evaluation.jsonl"
# Small enough for tests: four chunks to estimate with, eight to evaluate on, eight types.
SMALL = ["--set", "estimate.options.n_tokens=2048", "--set", "evaluate.options.n_tokens=4096", "--menu", "k"]
TEXT = ["--corpus", str(CALIBRATION), "--eval-corpus", str(EVALUATION)]
MODEL = ["--model", str(EXAMPLE)]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that begins with ``error:``."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return lines[-1].removeprefix("error: ") if lines else ""


def bitclass3(
    *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 600, **options: object
) -> Done:
    """Run ``bitclass3`` with these arguments."""
    words, cwd, env = [str(argument) for argument in arguments], cwd or ROOT, {**os.environ, **(env or {})}
    if not options and is_warm(env):
        return Done(*run_warm(words, cwd, env, timeout))
    done = subprocess.run(
        [sys.executable, "-m", "bitclass3_core", *words],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        **options,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def run(out: Path, *arguments: object, **options: object) -> Done:
    """``bitclass3 run`` on the example model with little text, into ``out``."""
    return bitclass3("run", *MODEL, *TEXT, *SMALL, "--out", out, *arguments, **options)
