"""Which HF parameter holds each ggml tensor: of the places that may hold it by name and shape, the one whose values are the GGUF's.

The values decide, so nothing must be known of which half of a fused ``gate_up_proj`` is the gate, or whether it is transposed: it is
offered with the gate first, with the up first, and row about. A new layout of experts is a new name in ``_EXPERTS``, or a new place that
``_among_experts`` yields.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bitclass3_core.errors import ModelFileError
from bitclass3_core.model import Architecture, FloatArray, IndexArray, Model, Place, TensorInfo
from bitclass3_torch.places import TorchPlace

_ROWS_COMPARED = 4
_TRIMMED_ROLES = frozenset({"token_embd", "output"})
_EXPERTS = {
    "ffn_gate_exps": ("gate_proj", "gate_up_proj", "input_linear"),
    "ffn_up_exps": ("up_proj", "gate_up_proj", "input_linear"),
    "ffn_gate_up_exps": ("gate_up_proj", "input_linear"),
    "ffn_down_exps": ("down_proj", "output_linear"),
}
_LATENT = frozenset({"attn_k_b", "attn_v_b"})

Parameters = Mapping[str, TorchPlace]  # every parameter by its HF name, as the place of a tensor that is the whole of it


def find_places(net: Any, model: Model, architecture: Architecture) -> dict[str, TorchPlace]:
    """The place of each quantizable tensor; those that no parameter can hold are left out.

    Raises ModelFileError if a parameter of the right name and shape has other values than the GGUF.
    """
    parameters = _parameters(net)
    places = {}
    for name in sorted(architecture.quantizable):
        fitting = list(_fitting(model.tensors[name], architecture, parameters))
        if fitting:
            places[name] = _of_same_values(fitting, name, model, architecture)
    return places


def _parameters(net: Any) -> dict[str, TorchPlace]:
    """Every parameter by name, without multimodal wrappers' prefixes; a tied one has both names and one key."""
    keys: dict[int, str] = {}
    found = {}
    for owner, module in net.named_modules(remove_duplicate=False):
        for own_name, parameter in module.named_parameters(recurse=False):
            name = f"{owner}.{own_name}".replace("language_model.", "")
            key = keys.setdefault(id(parameter), name)
            found[name] = TorchPlace(key, module, parameter, Place((name,)))
    return found


def _fitting(info: TensorInfo, architecture: Architecture, parameters: Parameters) -> Iterator[TorchPlace]:
    """Places of the tensor's shape, likeliest first."""
    told = architecture.places.get(info.name)
    for cut in (told,) if told is not None else _possible_places(info, architecture, parameters):
        stem = next((found for stem in cut.stems for found in (f"{stem}.weight", stem) if found in parameters), None)
        if stem is None or parameters[stem].parameter.ndim not in (2, 3):
            continue
        whole = parameters[stem]
        if cut.shape is not None and not _reshapes(whole.parameter, cut.shape):
            continue
        place = TorchPlace(whole.key, whole.module, whole.parameter, cut)
        if place.shape == info.shape:
            yield place


def _reshapes(parameter: Any, shape: tuple[int, ...]) -> bool:
    """Whether the parameter's rows can be dealt out into matrices of that shape."""
    return bool(parameter.ndim == 2 and shape[-1] == parameter.shape[-1] and math.prod(shape) == parameter.numel())


def _of_same_values(fitting: list[TorchPlace], name: str, model: Model, architecture: Architecture) -> TorchPlace:
    """The first place whose values are the GGUF's, by a few rows of the tensor, of a stack at least as many as it has experts."""
    info = model.tensors[name]
    rows = np.unique(np.linspace(0, info.n_rows - 1, max(_ROWS_COMPARED, info.n_experts)).astype(np.int64))
    gguf = model.read(name, rows)
    for place in fitting:
        hf = _in_gguf_order(place, name, rows, architecture)
        if np.allclose(hf, gguf, rtol=1e-2, atol=1e-2 * float(np.abs(gguf).max() or 1.0)):
            return place
    raise ModelFileError(
        f"{model.path.name} was not converted from {model.hf}: {name} differs; give the HF folder and the GGUF of one model"
    )


def _in_gguf_order(place: TorchPlace, name: str, rows: IndexArray, architecture: Architecture) -> FloatArray:
    order, columns = architecture.row_order.get(name), architecture.column_order.get(name)
    values = place.read(rows if order is None else order[rows])
    return values if columns is None else values[:, columns]


def _possible_places(info: TensorInfo, architecture: Architecture, parameters: Parameters) -> Iterator[Place]:
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
