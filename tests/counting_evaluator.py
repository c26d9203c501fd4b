"""An evaluator without a model, as a plugin's source: the KLD of a file is what its types would cost if all weights mattered alike.

It writes what it measured into ``calls.txt`` beside itself, so that tests see what was measured again, and fails for the candidate that
``fails`` names. ``favour`` makes files better whose name contains it; ``of_role`` says how much more the weights of a role matter.
"""

SOURCE = """
from pathlib import Path
import numpy as np
from pydantic import BaseModel
from bitclass3_core import hookimpl
from bitclass3_core.evaluation import summarize
from bitclass3_core.qtypes import qtype


class Options(BaseModel):
    favour: str = "nothing"
    fails: str = "nothing"
    of_role: dict[str, float] = {}


@hookimpl
def bitclass3_evaluate(reference, candidates, corpus, options: Options):
    answers = []
    for candidate in candidates:
        name = candidate.path.stem
        with (Path(__file__).parent / "calls.txt").open("a") as log:
            log.write(f"{name} {len(corpus.evaluation)}\\n")
        if options.fails in name:
            raise RuntimeError(f"no evaluation of {name}")
        infos = [info for info in candidate.tensors.values() if len(info.shape) > 1]
        weights = sum(info.n_params for info in infos)
        kld = sum(options.of_role.get(info.role, 1.0) * info.n_params * 4.0 ** -qtype(info.dtype).bpw for info in infos) / weights
        noise = np.random.default_rng(len(corpus.evaluation)).gamma(2, 0.5, 512)
        kld *= 0.01 if options.favour in name else 1.0
        tokens = (10 * kld * noise).astype(np.float32)
        nll = np.full(512, 2.0)
        answers.append(summarize(name, tokens, tokens < 1, nll + tokens, nll, np.full(512, "text"), 16, "counting"))
    return answers
"""
