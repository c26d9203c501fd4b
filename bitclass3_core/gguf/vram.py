"""What llama.cpp keeps on a GPU beside the weights: KV cache, recurrent state, compute buffers, from a GGUF's own metadata.

The caches are llama.cpp's own sums (``src/llama-kv-cache.cpp``, ``llama-kv-cache-iswa.cpp``, ``llama-memory-recurrent.cpp``,
``llama-hparams.cpp``) for one sequence with flash attention, as ``llama-cli`` and a ``llama-server`` with one slot have them. The
compute buffer depends on how ggml lays out a graph, so here it is an upper bound. Tests compare both with what llama.cpp reports.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitclass3_core.errors import ConfigError, did_you_mean
from bitclass3_core.gguf.names import metadata_int
from bitclass3_core.model import Model, padded
from bitclass3_core.qtypes import QType, qtype

KV_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")  # those that llama.cpp's -ctk takes
N_UBATCH = 512  # llama.cpp's default
CELLS = 256  # the tokens of a cache are a multiple of this
# In these families every n-th layer sees the whole context, if the file has no pattern of its own (llama.cpp's load_swa_pattern).
# In other families every layer is counted as one that does, so the sum is never too small.
_SWA_PATTERN = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "cohere2": 4, "exaone4": 4, "olmo2": 4, "afmoe": 4}
_F32 = 4


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that running a model takes beside its weights; ``n_cells`` is the number of tokens in a whole-context KV cache."""

    kv_bytes: int
    state_bytes: int
    compute_bytes: int
    n_cells: int

    @property
    def total(self) -> int:
        """The sum of the three."""
        return self.kv_bytes + self.state_bytes + self.compute_bytes


def kv_qtype(name: str) -> QType:
    """The type of a KV cache. Raises ConfigError for a type that llama.cpp has no cache of."""
    if name.upper() not in KV_TYPES:
        raise ConfigError(f"unknown KV cache type {name!r}{did_you_mean(name, [known.lower() for known in KV_TYPES])}")
    return qtype(name.upper())


def memory_of(model: Model, n_ctx: int, kv_type: str) -> Memory:
    """The memory for a context of ``n_ctx`` tokens. Raises ModelFileError if the metadata lack a number, ConfigError for a bad type."""
    q, n_cells = kv_qtype(kv_type), padded(n_ctx, CELLS)
    layers = _layers(model)
    cells = {layer: _cells(model, layer, n_cells) for layer, roles in layers.items() if _attends(roles)}
    kv = sum(_layer_kv_bytes(model, layer, n, q) for layer, n in cells.items())
    n_recurrent = sum(_recurs(roles) for roles in layers.values())
    state = n_recurrent * _F32 * _state_elements(model) if n_recurrent else 0
    caches = {(n, bool(_window(model, layer))) for layer, n in cells.items()}
    return Memory(kv, state, _compute_bytes(model, layers, [n for n, _ in caches], min(N_UBATCH, n_cells)), n_cells)


def _layers(model: Model) -> Mapping[int, set[str]]:
    """The roles of each layer's tensors, by layer; without layers that only draft tokens (MTP), which have no cache."""
    n_layers = metadata_int(model, "block_count") - metadata_int(model, "nextn_predict_layers", 0)
    found: dict[int, set[str]] = {}
    for info in model.tensors.values():
        if info.block is not None and info.block < n_layers:
            found.setdefault(info.block, set()).add(info.role)
    return found


def _recurs(roles: set[str]) -> bool:
    return any(role.startswith(("ssm_", "shortconv.", "time_mix_")) for role in roles)


def _attends(roles: set[str]) -> bool:
    """Whether a layer keeps keys; a fused attn_qkv does not show it: layers of linear attention have one too, and keep none."""
    return bool(roles & {"attn_k", "attn_kv_a_mqa"}) or ("attn_qkv" in roles and not _recurs(roles))


def _cells(model: Model, layer: int, n_cells: int) -> int:
    """The number of tokens that a layer's cache holds: the whole context, or its sliding window and one batch."""
    window = _window(model, layer)
    return min(n_cells, padded(min(n_cells, window + N_UBATCH), CELLS)) if window else n_cells


def _layer_kv_bytes(model: Model, layer: int, cells: int, q: QType) -> int:
    """Bytes of the keys and values of one layer; latent attention (MLA) keeps no values."""
    if layer >= metadata_int(model, "block_count") - metadata_int(model, "attention.shared_kv_layers", 0):
        return 0
    ending = "_swa" if _window(model, layer) else ""
    n_heads = metadata_int(model, "attention.head_count_kv", metadata_int(model, "attention.head_count", block=layer), layer)
    width = metadata_int(model, "embedding_length") // metadata_int(model, "attention.head_count", block=layer)
    sizes = []
    for kind in ("key", "value"):
        whole = metadata_int(model, f"attention.{kind}_length", width)
        sizes.append(n_heads * metadata_int(model, f"attention.{kind}_length{ending}", whole))
    if f"{model.arch}.attention.key_length_mla" in model.metadata:
        sizes = sizes[:1]
    return sum(cells * -(-size // q.block_size) * q.type_size for size in sizes)


def _window(model: Model, layer: int) -> int:
    """The number of tokens that a layer looks back; 0 for all."""
    window = metadata_int(model, "attention.sliding_window", 0)
    pattern = model.metadata.get(f"{model.arch}.attention.sliding_window_pattern", _SWA_PATTERN.get(model.arch))
    if not window or pattern is None or model.arch == "phi3":  # llama.cpp has phi3's window switched off
        return 0
    if isinstance(pattern, Sequence):
        return window if layer < len(pattern) and pattern[layer] else 0
    n_pattern = int(pattern)
    return window if n_pattern == 0 or layer % n_pattern < n_pattern - 1 else 0


def _state_elements(model: Model) -> int:
    """How many numbers a recurrent layer keeps of a sequence: the last inputs of its convolution, and its state."""
    width = metadata_int(model, "embedding_length")
    if head := metadata_int(model, "wkv.head_size", 0):  # RWKV
        return metadata_int(model, "token_shift_count", 2) * width + width * head
    if n_taps := metadata_int(model, "shortconv.l_cache", 0):  # LFM2
        return width * (n_taps - 1)
    n_taps = max(0, metadata_int(model, "ssm.conv_kernel", 0) - 1)
    if head := metadata_int(model, "kda.head_dim", 0):  # Kimi's delta attention
        inner = metadata_int(model, "attention.head_count") * head
        return 3 * (n_taps or 3) * inner + inner * head
    inner, state = metadata_int(model, "ssm.inner_size"), metadata_int(model, "ssm.state_size")
    return n_taps * (inner + 2 * metadata_int(model, "ssm.group_count", 0) * state) + state * inner


def _compute_bytes(model: Model, layers: Mapping[int, set[str]], caches: Sequence[int], n_tokens: int) -> int:
    """An upper bound of what ggml's graph takes for a batch: an F16 mask for each kind of cache, and the widest layer or the logits."""
    masks = sum(cells * n_tokens * 2 for cells in caches)
    widest = max(_layer_width(model, layer) for layer in layers)
    head = model.tensors.get("output.weight") or model.tensors["token_embd.weight"]
    return masks + n_tokens * _F32 * (max(widest, head.n_rows) + 4 * metadata_int(model, "embedding_length"))


def _layer_width(model: Model, layer: int) -> int:
    """How many numbers a layer holds of a token: the outputs of all its products, those of a stack once for each expert in use."""
    used = max(1, metadata_int(model, "expert_used_count", 1))
    infos = [info for info in model.tensors.values() if info.block == layer and len(info.shape) > 1]
    return sum(info.shape[-2] * (used if info.n_experts > 1 else 1) for info in infos)
