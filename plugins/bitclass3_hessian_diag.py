"""The Hessian diagonal of every layer's output error: in_power = E[x^2] by forward passes. It is what an imatrix holds.

Its normalised score says which tensors see large inputs; it cannot say what an error in their outputs costs (``kl-hessian`` can).
"""

from bitclass3_torch.estimate import EstimateOptions, estimate

from bitclass3_core import hookimpl
from bitclass3_core.corpus import Corpus
from bitclass3_core.model import Architecture, Model
from bitclass3_core.progress import Progress
from bitclass3_core.sensitivity import Sensitivity


@hookimpl
def bitclass3_estimate(
    model: Model, architecture: Architecture, corpus: Corpus, options: EstimateOptions, progress: Progress
) -> Sensitivity:
    """in_power of every tensor; no out_power, so costs only rank."""
    return estimate(model, architecture, corpus, options, progress, "hessian-diag", with_gradients=False)
