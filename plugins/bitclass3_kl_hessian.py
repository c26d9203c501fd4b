"""The KL Hessian as two vectors, by one forward and one backward pass: the row and column sums of the Fisher matrix's diagonal.

The diagonal is the mean squared gradient of -log p(label), where the label is drawn from the model's own distribution. So costs are in
nats of KL divergence per token and can be compared across tensors. See ``bitclass3_torch/statistics.py``.
"""

from typing import ClassVar

from bitclass3_torch.estimate import EstimateOptions, estimate

from bitclass3_core import hookimpl
from bitclass3_core.corpus import Corpus
from bitclass3_core.model import Architecture, Model
from bitclass3_core.progress import Progress
from bitclass3_core.sensitivity import Sensitivity

BITCLASS3_ANSWERS = "97b4a94ee538"  # changes when the answers do


class Options(EstimateOptions):
    """How much calibration text, and where torch runs."""

    reads_text: ClassVar[bool] = True


@hookimpl
def bitclass3_estimate(
    model: Model, architecture: Architecture, corpus: Corpus, options: Options, progress: Progress
) -> Sensitivity:
    """in_power and out_power of every tensor."""
    return estimate(model, architecture, corpus, options, progress, "kl-hessian", with_gradients=True)
