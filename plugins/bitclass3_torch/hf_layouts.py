"""The layouts of HF: which parameters may hold a ggml tensor, by name and shape, and which part of each.

``parameters.py`` compares the values of these places with the GGUF's, so a layout need not be told apart from its like here: a fused
``gate_up_proj`` is offered with the gate first, with the up first, and row about. A new layout of experts is a new name in ``_EXPERTS``, or a
new place that ``_among_experts`` yields.
"""

import re
from collections.abc import Iterator, Mapping

from bitclass3_core.model import Architecture, Place, TensorInfo
from bitclass3_torch.places import TorchPlace

_TRIMMED_ROLES = frozenset({"token_embd", "output"})
_EXPERTS = {
    "ffn_gate_exps": ("gate_proj", "gate_up_proj", "input_linear"),
    "ffn_up_exps": ("up_proj", "gate_up_proj", "input_linear"),
    "ffn_gate_up_exps": ("gate_up_proj", "input_linear"),
    "ffn_down_exps": ("down_proj", "output_linear"),
}
_LATENT = frozenset({"attn_k_b", "attn_v_b"})

Parameters = Mapping[str, TorchPlace]  # every parameter by its HF name, as the place of a tensor that is the whole of it


def possible_places(info: TensorInfo, architecture: Architecture, parameters: Parameters) -> Iterator[Place]:
    """Places that may hold the tensor, the likeliest first; not all of them have a parameter or the tensor's shape."""
    yield from _by_name(info, architecture)
    if info.role in _EXPERTS and len(info.shape) == 3:
        yield from _among_experts(info, parameters)
    if info.role in _LATENT and len(info.shape) == 3:
        yield from _by_head(info, parameters)


def _by_name(info: TensorInfo, architecture: Architecture) -> Iterator[Place]:
    """Under the names of gguf's tables: as it is, transposed, or with more rows in HF (a padded vocabulary)."""
    for stem in architecture.hf_stems.get(info.name, ()):
        yield Place((stem,))
        yield Place((stem,), transposed=True)
        if info.role in _TRIMMED_ROLES:
            yield Place((stem,), rows=slice(0, info.n_rows))


def _among_experts(info: TensorInfo, parameters: Parameters) -> Iterator[Place]:
    """In the block's stacked experts: alone, or a half of gate and up fused, one after the other or row about."""
    n = info.shape[1]
    halves = [slice(0, n), slice(0, None, 2), slice(n, None), slice(1, None, 2)]
    if info.role == "ffn_up_exps":
        halves = [*halves[2:], *halves[:2]]
    for name in _of_block(info, _EXPERTS[info.role], parameters, n_dims=3):
        for transposed in (False, True):
            yield Place((name,), transposed=transposed)
            yield from (Place((name,), transposed=transposed, rows=rows) for rows in halves)


def _by_head(info: TensorInfo, parameters: Parameters) -> Iterator[Place]:
    """In ``kv_b_proj`` of latent attention, whose rows are each head's keys and then its values; GGUF transposes the keys."""
    for name in _of_block(info, ("kv_b_proj",), parameters, n_dims=2):
        n_rows, n_latent = parameters[name].parameter.shape
        n_heads = info.shape[0]
        if n_rows % n_heads:
            continue
        shape = (n_heads, n_rows // n_heads, n_latent)
        if info.role == "attn_k_b":
            yield Place((name,), shape, transposed=True, columns=slice(0, info.n_in))
        else:
            yield Place((name,), shape, rows=slice(shape[1] - info.shape[1], None))


def _of_block(info: TensorInfo, endings: tuple[str, ...], parameters: Parameters, n_dims: int) -> list[str]:
    """Names of the parameters of the tensor's block that end so."""
    wanted = re.compile(rf"\.{info.block}\.(?:.+\.)?(?:{'|'.join(endings)})(?:\.weight)?$")
    return [name for name, whole in parameters.items() if whole.parameter.ndim == n_dims and wanted.search(name)]
