"""The HF model in torch, and where each GGUF tensor lives in it."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bitclass3_core.errors import ConfigError, ModelFileError, PluginError
from bitclass3_core.model import Architecture, FloatArray, Model

if TYPE_CHECKING:
    import torch

_ROWS_COMPARED = 4


@dataclass(frozen=True, slots=True)
class TorchModel:
    """A loaded HF model: ``modules[ggml name]`` is the module whose ``weight`` is that tensor."""

    net: Any
    tokenizer: Any
    device: "torch.device"
    modules: dict[str, Any]
    head: Any | None  # the tied head, whose products count for token_embd.weight

    def set_weight(self, name: str, values: FloatArray, architecture: Architecture) -> None:
        """Put GGUF rows [n_rows, n_in] into the model's parameter, rows and columns back in HF's order."""
        import torch

        weight = self.modules[name].weight
        source = torch.from_numpy(to_hf_order(values, name, architecture)).reshape(weight.shape)
        with torch.no_grad():
            weight.copy_(source.to(weight.dtype))


def to_hf_order(values: FloatArray, name: str, architecture: Architecture) -> FloatArray:
    """Undo the conversion's permutations of a tensor's rows and columns."""
    if (rows := architecture.row_order.get(name)) is not None:
        ordered = np.empty_like(values)
        ordered[rows] = values
        values = ordered
    if (columns := architecture.column_order.get(name)) is not None:
        ordered = np.empty_like(values)
        ordered[:, columns] = values
        values = ordered
    return values


def vector_to_gguf_order(vector: FloatArray, name: str, architecture: Architecture, axis: str) -> FloatArray:
    """A vector over HF's rows (``axis="row"``) or columns, in the GGUF's order."""
    orders = architecture.row_order if axis == "row" else architecture.column_order
    order = orders.get(name)
    return vector if order is None else vector[order]


def pick_device(name: str) -> "torch.device":
    """``auto``: CUDA, then Apple's GPU, then the CPU. Raises ConfigError for a device that torch does not have."""
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used ({str(error).splitlines()[0]}); use auto or cpu") from None
    return device


def pick_dtype(name: str, device: "torch.device") -> "torch.dtype":
    """``auto``: float32 on the CPU, bfloat16 on a GPU."""
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in known:
        raise ConfigError(f"dtype {name!r} is unknown; use auto, {', '.join(known)}")
    return known[name]


def _require_transformers() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise PluginError(
            f"this plugin needs torch and transformers ({error.name} is missing); pip install 'bitclass3[torch]'"
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _load_hf(model: Model, device: "torch.device", dtype: "torch.dtype") -> tuple[Any, Any]:
    """(net, tokenizer) of the HF folder, safetensors only, no code of the model's."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if model.hf is None:
        raise ModelFileError(
            f"{model.path.name} has no HF folder beside it, which torch needs; give the folder with --model, or estimate with --plugin imatrix and leave out the evaluation text"
        )
    if not (model.hf / "config.json").is_file():
        raise ModelFileError(f"{model.hf} is no HF model folder (no config.json); give the folder that the GGUF was converted from")
    try:
        net = AutoModelForCausalLM.from_pretrained(
            model.hf, dtype=dtype, trust_remote_code=False, use_safetensors=True, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(model.hf, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises whatever its parts raise
        line = str(error).strip().splitlines()
        raise ModelFileError(f"{model.hf} cannot be loaded by transformers: {line[0] if line else type(error).__name__}") from error
    net.requires_grad_(False)
    return net.to(device).eval(), tokenizer


def _find_modules(net: Any, model: Model, architecture: Architecture) -> dict[str, Any]:
    """The module of each quantizable tensor, by the architecture's HF names; multimodal wrappers' prefixes are ignored."""
    owners = {}
    for name, module in net.named_modules():
        if getattr(module, "weight", None) is not None:
            owners[name.replace("language_model.", "")] = module
    modules = {}
    for name in architecture.quantizable:
        found = next((owners[stem] for stem in architecture.hf_stems.get(name, ()) if stem in owners), None)
        if found is not None and tuple(found.weight.shape) == model.tensors[name].shape:
            modules[name] = found
    return modules


def _check_same_model(loaded: TorchModel, model: Model, architecture: Architecture) -> None:
    """Raise ModelFileError if the GGUF was not converted from this HF folder: a few rows of every tensor are compared."""
    for name, module in loaded.modules.items():
        n_rows = model.tensors[name].n_rows
        rows = np.unique(np.linspace(0, n_rows - 1, _ROWS_COMPARED).astype(np.int64))
        order = architecture.row_order.get(name)
        hf = module.weight.detach()[rows if order is None else order[rows]].float().cpu().numpy()
        columns = architecture.column_order.get(name)
        hf = hf if columns is None else hf[:, columns]
        gguf = model.read(name, rows)
        if not np.allclose(hf, gguf, rtol=1e-2, atol=1e-2 * float(np.abs(gguf).max() or 1.0)):
            raise ModelFileError(
                f"{model.path.name} was not converted from {model.hf}: {name} differs; give the HF folder and the GGUF of one model"
            )


def load_torch_model(model: Model, architecture: Architecture, device: str, dtype: str) -> TorchModel:
    """The HF model on its device with the place of every quantizable tensor.

    Raises ModelFileError if there is no usable HF folder or if it is another model than the GGUF, PluginError without torch.
    """
    _require_transformers()
    where = pick_device(device)
    net, tokenizer = _load_hf(model, where, pick_dtype(dtype, where))
    modules = _find_modules(net, model, architecture)
    if not modules:
        raise ModelFileError(
            f"no tensor of {model.path.name} ({model.arch}) was found in {model.hf}; is it the same model? else use --plugin imatrix"
        )
    head = net.get_output_embeddings() if "output.weight" not in model.tensors else None
    loaded = TorchModel(net, tokenizer, where, modules, head)
    _check_same_model(loaded, model, architecture)
    return loaded
