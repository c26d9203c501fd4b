"""The KL Hessian in two vectors: in_power = E[x^2] and out_power = E[g^2], one forward and one backward pass.

g is the gradient of -log p(label) at the layer's output, the label drawn from the model's own distribution: the costs that follow
are in nats of KL divergence per token and can be compared across tensors. Tokens of little input count less in the mean of g^2: see
``bitclass3_torch/statistics.py``.
"""

from bitclass3_torch.estimating import EstimateOptions, estimate

from bitclass3_core import hookimpl
from bitclass3_core.corpus import Corpus
from bitclass3_core.model import Architecture, Model
from bitclass3_core.progress import Progress
from bitclass3_core.sensitivity import Sensitivity


@hookimpl
def bitclass3_estimate(
    model: Model, architecture: Architecture, corpus: Corpus, options: EstimateOptions, progress: Progress
) -> Sensitivity:
    """in_power and out_power of every tensor."""
    return estimate(model, architecture, corpus, options, progress, "kl-hessian", with_gradients=True)
