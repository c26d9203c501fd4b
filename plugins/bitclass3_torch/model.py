"""The HF model in torch, with the place of each GGUF tensor in it."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitclass3_core.errors import ConfigError, ModelFileError, PluginError
from bitclass3_core.model import Architecture, FloatArray, Model
from bitclass3_core.sensitivity import Powers

if TYPE_CHECKING:
    import torch

    from bitclass3_torch.places import TorchPlace

EMBEDDING = "token_embd.weight"


@dataclass(frozen=True, slots=True)
class TorchModel:
    """A loaded HF model. ``places[ggml name]`` says which of its parameters holds that tensor, and where."""

    net: Any
    tokenizer: Any
    device: "torch.device"
    places: "dict[str, TorchPlace]"
    head: Any | None  # the tied head, whose products count for token_embd.weight

    def logits(self, chunk: "NDArray[np.int64]") -> "torch.Tensor":
        """Logits [n_ctx, n_vocab] of one chunk [n_ctx]."""
        import torch

        answer: torch.Tensor = self.net(input_ids=torch.from_numpy(chunk)[None].to(self.device), use_cache=False).logits[0]
        return answer

    def set_weight(self, name: str, values: "FloatArray | torch.Tensor", architecture: Architecture) -> None:
        """Put rows [n_rows, n_in] in the GGUF's order into the model's parameter, in HF's order."""
        self.places[name].write(to_hf_order(values, name, architecture))

    def load_weight(self, name: str, source: Model, architecture: Architecture) -> None:
        """Put a tensor of ``source`` into the model's parameter. Experts are put one at a time, because a stack can be large."""
        info = source.tensors[name]
        if info.n_experts == 1 or name in architecture.row_order:
            self.set_weight(name, source.read(name), architecture)
            return
        n_rows = info.n_rows // info.n_experts
        for expert in range(info.n_experts):
            values = source.read(name, slice(expert * n_rows, (expert + 1) * n_rows))
            self.places[name].write(to_hf_order(values, name, architecture), expert)


def to_hf_order(values: "FloatArray | torch.Tensor", name: str, architecture: Architecture) -> "FloatArray | torch.Tensor":
    """Rows [n_rows, n_in] in HF's order: the conversion's permutations of rows and columns undone."""
    if (rows := architecture.row_order.get(name)) is not None:
        values = values[np.argsort(rows)]
    if (columns := architecture.column_order.get(name)) is not None:
        values = values[:, np.argsort(columns)]
    return values


def in_gguf_order(powers: Powers | None, name: str, architecture: Architecture) -> Powers | None:
    """Powers in the GGUF's order of columns and rows, out of powers in HF's order."""
    if powers is None:
        return None
    in_power, out_power, in_fisher = powers.in_power, powers.out_power, powers.in_fisher
    if (columns := architecture.column_order.get(name)) is not None:
        in_power = in_power[..., columns]
        in_fisher = None if in_fisher is None else in_fisher[..., columns]
    if out_power is not None and (rows := architecture.row_order.get(name)) is not None:
        out_power = out_power[rows]
    return Powers(in_power, out_power, in_fisher)


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
    """``auto``: float32 on the CPU, bfloat16 on a GPU. Raises ConfigError for an unknown name."""
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
            f"{model.path.name} has no HF folder beside it, which torch needs; give the folder with --model, or use llama.cpp instead: --plugin kld-probe --plugin llama-perplexity"
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


def load_torch_model(model: Model, architecture: Architecture, device: str, dtype: str) -> TorchModel:
    """Load the HF model to its device, and find the place of every quantizable tensor in it.

    Raises ModelFileError if there is no usable HF folder or if it is another model than the GGUF, ConfigError for a device or dtype that
    cannot be used, PluginError without torch and transformers.
    """
    _require_transformers()
    where = pick_device(device)
    net, tokenizer = _load_hf(model, where, pick_dtype(dtype, where))
    from bitclass3_torch.hf_layouts import find_places

    places = find_places(net, model, architecture)
    if not places:
        raise ModelFileError(
            f"no tensor of {model.path.name} ({model.arch}) was found in {model.hf}; is it the same model? else use --plugin kld-probe --plugin llama-perplexity"
        )
    head = net.get_output_embeddings() if "output.weight" not in model.tensors else None
    return TorchModel(net, tokenizer, where, places, head)
