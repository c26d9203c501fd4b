"""What ``hessian-diag`` and ``kl-hessian`` share: options, and a calibration text turned into a sensitivity."""

from pydantic import Field

from bitclass3_core.corpus import Corpus
from bitclass3_core.model import Architecture, Model
from bitclass3_core.options import Demands, PluginOptions, Work
from bitclass3_core.progress import Progress
from bitclass3_core.sensitivity import Sensitivity, fill_missing
from bitclass3_torch import WEIGHT_BYTES
from bitclass3_torch.model import load_torch_model
from bitclass3_torch.tokens import token_chunks


class EstimateOptions(PluginOptions):
    """How much calibration text, and where torch runs."""

    n_tokens: int = Field(16384, gt=0, description="calibration tokens")
    n_ctx: int = Field(512, gt=1, description="tokens a chunk")
    seed: int = Field(0, description="of the sampled labels")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    dtype: str = Field("auto", description="auto (float32 on the CPU, bfloat16 on a GPU), float32, bfloat16, float16")

    def demands(self, work: Work) -> Demands:
        """6 operations a weight and token: 2 forward and 4 backward."""
        return Demands(6 * self.n_tokens * work.n_params, n_bytes=WEIGHT_BYTES * work.n_params)


def estimate(
    model: Model,
    architecture: Architecture,
    corpus: Corpus,
    options: EstimateOptions,
    progress: Progress,
    estimator: str,
    with_gradients: bool,
) -> Sensitivity:
    """The sensitivity of a model on ``corpus.calibration``, named after ``estimator``; without gradients it has no out_power.

    A tensor that torch cannot see gets the mean of its neighbours, and a note. Raises ModelFileError for too little text, and the errors
    of ``load_torch_model``.
    """
    loaded = load_torch_model(model, architecture, options.device, options.dtype)
    chunks, _ = token_chunks(loaded.tokenizer, corpus.calibration, options.n_tokens, options.n_ctx, "calibration")
    from bitclass3_torch.statistics import collect

    tensors = collect(loaded, model, architecture, chunks, with_gradients, options.seed, progress)
    filled, notes = fill_missing(model, architecture.quantizable, tensors)
    return Sensitivity(filled, estimator, int(chunks.size), options.n_ctx, Corpus.fingerprint(corpus.calibration), notes)
