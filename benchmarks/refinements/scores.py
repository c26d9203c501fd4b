"""Token by token: what the error of a tensor does to the loss, g^T D x, without taking anything as independent.

The cost of a tensor at a type is 1/2 E[(g^T D x)^2], and that of a mix 1/2 E[(sum over tensors)^2]: the Gram matrix of these scores says
which errors add up and which cancel. The head's cost can be had exactly, from the last hidden states.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from bitclass3_torch.statistics import sampled_label_loss
from bitclass3_torch.watching import Product, Products
from numpy.typing import NDArray

from benchmarks.refinements.lab import N_CTX, Lab, Mix, Table

HEAD = "output.weight"
Scores = Mapping[str, Mapping[str, NDArray[np.float64]]]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of one tensor: inputs x [n_tokens, n_in] and gradients g [n_tokens, n_rows], in bfloat16."""

    x: torch.Tensor
    g: torch.Tensor


def captured(lab: Lab, seed: int = 1) -> dict[str, Tokens]:
    """Inputs and gradients of every tensor that the source multiplies, on ``lab.scored``, in the GGUF's order."""
    lab.put({})
    loaded = lab.loaded
    pairs: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def seen(product: Product) -> None:
        if not product.output.requires_grad:
            return
        x, of_output = product.inputs.detach(), product.of_output

        def on_gradient(gradient: torch.Tensor) -> None:
            own = pairs.setdefault(product.key, [])
            own.append((x.flatten(0, -2).bfloat16(), of_output(gradient).detach().flatten(0, -2).bfloat16()))

        product.output.register_hook(on_gradient)  # type: ignore[no-untyped-call]

    handle = loaded.net.get_input_embeddings().register_forward_hook(lambda _m, _i, rows: rows.requires_grad_(True))
    generator = torch.Generator(device=loaded.device).manual_seed(seed)
    lab.progress.begin("scores", len(lab.scored))
    try:
        for chunk in lab.scored:
            with Products({place.key: place.parameter for place in loaded.places.values()}, seen):
                logits = loaded.net(input_ids=torch.from_numpy(chunk)[None].to(loaded.device), use_cache=False).logits[0]
            sampled_label_loss(logits, generator).backward()  # type: ignore[no-untyped-call]
            lab.progress.advance()
    finally:
        handle.remove()
    joined = {key: Tokens(*(torch.cat(part) for part in zip(*own, strict=True))) for key, own in pairs.items()}
    return {name: _of_gguf(lab, name, joined[place.key]) for name, place in loaded.places.items() if place.key in joined}


def _of_gguf(lab: Lab, name: str, tokens: Tokens) -> Tokens:
    x, g = tokens.x, lab.loaded.places[name].output_rows(tokens.g)
    columns, rows = lab.architecture.column_order.get(name), lab.architecture.row_order.get(name)
    return Tokens(x if columns is None else x[:, columns], g if rows is None else g[:, rows])


def scores(lab: Lab, tokens: Mapping[str, Tokens]) -> Scores:
    """g^T D x of each token, by tensor and choice."""
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    lab.progress.begin("errors of every type", len(tokens))
    for name, own in tokens.items():
        source, x, g = torch.from_numpy(lab.model.read(name)), own.x.float(), own.g.float()
        found[name] = {}
        for q in lab.choices(name):
            outputs = x @ (torch.from_numpy(lab.weights(name, q)) - source).T
            found[name][q] = (outputs * g).sum(1).double().numpy()
        lab.progress.advance()
    return found


def token_shares(lab: Lab, tokens: Mapping[str, Tokens]) -> dict[str, float]:
    """1/2 sum_ij F_ij D_ij^2 with F squared token by token, E[g_i^2 x_j^2], over that with a chunk's whole gradient squared, as it is in
    the costs; by tensor, D that of its type in the two vectors' mix."""
    found = {}
    for name, own in tokens.items():
        squared = torch.from_numpy(lab.weights(name, lab.base[name]) - lab.model.read(name)).square()
        x, g = own.x.float(), own.g.float()
        alone = float(((x.square() @ squared.T) * g.square()).sum())
        parts = [slice(begin, begin + N_CTX) for begin in range(0, len(x), N_CTX)]
        together = sum(float(((g[part].T @ x[part]).square() * squared).sum()) for part in parts)
        if together > 0:
            found[name] = alone / together
    return found


def token_table(lab: Lab, shares: Mapping[str, float]) -> Table:
    """The two vectors' costs as they would be token by token; what the rounding of inputs costs stays."""
    table: Table = {}
    for name, cells in lab.table.items():
        rest = {q: min(cost, lab.activation(name, q)) for q, cost in cells.items()}
        table[name] = {q: (cost - rest[q]) * shares.get(name, 1.0) + rest[q] for q, cost in cells.items()}
    return table


def score_table(lab: Lab, found: Scores) -> Table:
    """1/2 E[(g^T D x)^2]; tensors without scores keep their cost."""
    table = {name: dict(cells) for name, cells in lab.table.items()}
    for name, cells in found.items():
        table[name] = {q: 0.5 * float(np.square(s).mean()) + lab.activation(name, q) for q, s in cells.items()}
    return table


def gram_table(lab: Lab, found: Scores, mix: Mix) -> Table:
    """What each choice costs with all other tensors as they are in ``mix``: its own square, and its product with the sum of the others."""
    table = score_table(lab, found)
    total = np.sum([cells[mix[name]] for name, cells in found.items()], axis=0)
    for name, cells in found.items():
        others = total - cells[mix[name]]
        for q, s in cells.items():
            table[name][q] += float((s * others).mean())
    return _from_zero(table)


def _from_zero(table: Table) -> Table:
    """Costs less the lowest of each tensor: the solver asks for none below zero, and the answer is the same."""
    return {name: {q: cost - min(0.0, *cells.values()) for q, cost in cells.items()} for name, cells in table.items()}


def gram_total(lab: Lab, found: Scores, mix: Mix) -> float:
    """1/2 E[(sum over tensors of g^T D x)^2], and what the rounding of inputs and tensors without scores cost."""
    total = np.sum([cells[mix[name]] for name, cells in found.items()], axis=0)
    rest = sum(lab.activation(name, q) if name in found else lab.table[name][q] for name, q in mix.items())
    return 0.5 * float(np.square(total).mean()) + rest


def head_table(lab: Lab, tokens: Mapping[str, Tokens]) -> Table:
    """The two vectors' table with the head's cost as the divergence itself, from its inputs."""
    table = {name: dict(cells) for name, cells in lab.table.items()}
    if HEAD not in tokens:
        return table
    x, source = tokens[HEAD].x.float(), torch.from_numpy(lab.model.read(HEAD))
    parts = [x[begin : begin + N_CTX] for begin in range(0, len(x), N_CTX)]
    log_p = [(part @ source.T).log_softmax(-1) for part in parts]
    for q in lab.choices(HEAD):
        weights = torch.from_numpy(lab.weights(HEAD, q))
        log_q = ((part @ weights.T).log_softmax(-1) for part in parts)
        klds = torch.cat([(p.exp() * (p - own)).sum(-1) for p, own in zip(log_p, log_q, strict=True)])
        table[HEAD][q] = float(klds.mean()) + lab.activation(HEAD, q)
    return table
