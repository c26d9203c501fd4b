"""The Hessian diagonal of every layer's output error: in_power = E[x^2] by forward passes, as in an imatrix.

Its normalised score says which tensors have large inputs. It cannot say what an error in their outputs costs; ``kl-hessian`` can.
"""

from bitclass3_torch.estimate import EstimateOptions, estimate

from bitclass3_core import hookimpl
from bitclass3_core.corpus import Corpus
from bitclass3_core.model import Architecture, Model
from bitclass3_core.progress import Progress
from bitclass3_core.sensitivity import Sensitivity

BITCLASS3_ANSWERS = "1817fb60eba5"  # changes when the answers do


@hookimpl
def bitclass3_estimate(
    model: Model, architecture: Architecture, corpus: Corpus, options: EstimateOptions, progress: Progress
) -> Sensitivity:
    """in_power of every tensor; there is no out_power, so costs say only which is larger."""
    return estimate(model, architecture, corpus, options, progress, "hessian-diag", with_gradients=False)
