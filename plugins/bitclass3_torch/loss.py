"""The loss whose gradients make the Fisher matrix: cross-entropy to labels that are sampled from the model's own predictions.

The Fisher matrix E[grad grad^T] of this loss is the Hessian of the KL divergence. Labels from the text would give the "empirical"
Fisher, which is another matrix (Kunstner et al. 2019, "Limitations of the empirical Fisher approximation").
"""

import torch


def sampled_label_loss(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Sum over the positions of logits [n, n_vocab] of the cross-entropy to a label that is drawn from softmax(logits)."""
    logits = logits.float()
    return torch.nn.functional.cross_entropy(logits, _drawn(logits.detach().softmax(-1), generator), reduction="sum")


def _drawn(probabilities: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One index for each row of [n, n_vocab], drawn by its distribution.

    It takes one random number a row; torch.multinomial would take one for every token of the vocabulary.
    """
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:]
    heights = torch.rand(total.shape, generator=generator, device=total.device) * total
    return torch.searchsorted(cumulative, heights, right=True)[:, 0].clamp(max=probabilities.shape[1] - 1)
