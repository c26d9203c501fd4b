"""Which HF parameter holds each ggml tensor: of the places that ``hf_layouts.py`` offers, the one whose values are the GGUF's.

The values decide, so nothing must be known of which half of a fused ``gate_up_proj`` is the gate, or whether it is transposed.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from bitclass3_core.errors import ModelFileError
from bitclass3_core.model import Architecture, FloatArray, IndexArray, Model, Place, TensorInfo
from bitclass3_torch.hf_layouts import Parameters, possible_places
from bitclass3_torch.places import TorchPlace

_ROWS_COMPARED = 4


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
    for cut in (told,) if told is not None else possible_places(info, architecture, parameters):
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
        if _agree(_in_gguf_order(place, name, rows, architecture), gguf):
            return place
    raise ModelFileError(
        f"{model.path.name} was not converted from {model.hf}: {name} differs; give the HF folder and the GGUF of one model"
    )


def _in_gguf_order(place: TorchPlace, name: str, rows: IndexArray, architecture: Architecture) -> FloatArray:
    order, columns = architecture.row_order.get(name), architecture.column_order.get(name)
    values = place.read(rows if order is None else order[rows])
    return values if columns is None else values[:, columns]


def _agree(hf: FloatArray, gguf: FloatArray) -> bool:
    return bool(np.allclose(hf, gguf, rtol=1e-2, atol=1e-2 * float(np.abs(gguf).max() or 1.0)))
