"""The KL Hessian in two vectors, one forward and one backward pass: the row and column sums of the Fisher matrix's diagonal.

They are those of the squared gradient of -log p(label), the label drawn from the model's own distribution: the costs that follow are in
nats of KL divergence per token and can be compared across tensors. See ``bitclass3_torch/statistics.py``.
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
    """in_power and out_power of every tensor."""
    return estimate(model, architecture, corpus, options, progress, "kl-hessian", with_gradients=True)
