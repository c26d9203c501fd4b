"""Runs llama.cpp's converter in a process of its own. Its source stays as it is; three things are changed from outside.

* The pre-tokenizer. The converter knows a BPE tokenizer by a hash of what it does to a test text, and refuses tokenizers that it does
  not know, such as retrained ones. The method that asks for the name gets the user's, or that of the tokenizer's splitting rule.
* Multi-token prediction. A checkpoint without such layers is converted without them, even if its family has them.
* The model's own code. ``trust_remote_code`` is always off.

usage: python convert_runner.py CONVERTER PRE_TOKENIZER MODEL [arguments of the converter]     (PRE_TOKENIZER may be empty)
"""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Splitting rules as they stand in tokenizer.json, and llama.cpp's name for each (src/llama-vocab.cpp gives the same rules).
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?"
_SPACES = r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_RULES = {
    _CONTRACTIONS + r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+" + _SPACES: "llama-bpe",
    _CONTRACTIONS + r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+" + _SPACES: "qwen2",
    _CONTRACTIONS + r"[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+" + _SPACES: "qwen35",
}
_MAX_HEADER = 100 << 20


def pre_tokenizer_of(model: Path) -> str:
    """llama.cpp's name of the splitting rule in ``tokenizer.json``; empty if the rule is unknown here."""
    try:
        rule = json.loads((model / "tokenizer.json").read_text(encoding="utf-8")).get("pre_tokenizer") or {}
    except (OSError, ValueError):
        return ""
    steps = rule.get("pretokenizers", [rule])
    if [step.get("type") for step in steps] == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    patterns = [step.get("pattern", {}).get("Regex") for step in steps if step.get("type") == "Split"]
    others = {step.get("type") for step in steps} - {"Split", "ByteLevel"}
    return _RULES.get(str(patterns[0]), "") if len(patterns) == 1 and not others else ""


def _tensor_names(model: Path) -> Iterator[str]:
    """Names of the tensors in the folder's safetensors files, from their headers."""
    for path in model.glob("*.safetensors"):
        with path.open("rb") as file:
            (n_bytes,) = struct.unpack("<Q", file.read(8))
            if n_bytes <= _MAX_HEADER:
                yield from json.loads(file.read(n_bytes))


def _lacks_prediction_layers(model: Path, config: dict[str, Any]) -> bool:
    """Whether the checkpoint has no layers of multi-token prediction, by its config and its tensors' names."""
    text = config.get("text_config") or config
    if text.get("num_nextn_predict_layers"):
        return False
    return not any(name.startswith(("mtp.", "model.mtp.")) for name in _tensor_names(model))


def _classes(main: Any) -> list[Any]:
    """The class that asks for the pre-tokenizer; since 2025 it is in a module of its own, before that in the converter."""
    try:
        from conversion.base import TextModel  # type: ignore[import-not-found]  # the converter's own module
    except ImportError:
        return [getattr(main, name) for name in ("TextModel", "Model") if hasattr(main, name)][:1]
    return [TextModel]


def _answer_pre_tokenizer(main: Any, model: Path, given: str) -> None:
    for owner in _classes(main):
        asked = owner.get_vocab_base_pre

        def answer(self: Any, tokenizer: Any, asked: Any = asked) -> str:
            if given:
                return given
            try:
                return str(asked(self, tokenizer))
            except NotImplementedError:
                if not (name := pre_tokenizer_of(model)):
                    raise
                print(f"bitclass3: the tokenizer is new to the converter; its rule is that of {name!r}", file=sys.stderr)
                return name

        owner.get_vocab_base_pre = answer


def _refuse_remote_code() -> None:
    import transformers

    for auto in (transformers.AutoTokenizer, transformers.AutoConfig, transformers.AutoModel):
        original = auto.from_pretrained.__func__

        def from_pretrained(cls: Any, /, *args: Any, original: Any = original, **kwargs: Any) -> Any:
            return original(cls, *args, **{**kwargs, "trust_remote_code": False})

        setattr(auto, "from_pretrained", classmethod(from_pretrained))  # noqa: B010 (a plain assignment is no method to mypy)


def _skips_prediction_layers(main: Any, model: Path, config: dict[str, Any]) -> bool:
    """Whether the conversion of this family expects layers of multi-token prediction that the checkpoint lacks."""
    if not hasattr(main, "get_model_architecture") or not _lacks_prediction_layers(model, config):
        return False
    hparams = main.ModelBase.load_hparams(model, False)
    try:
        family = main.get_model_class(main.get_model_architecture(hparams, main.ModelType.TEXT), mmproj=False)
    except (NotImplementedError, KeyError):
        return False  # the converter says so itself
    return bool(getattr(family, "supports_mtp_export", False))


def main() -> None:
    """Run the converter."""
    converter, pre_tokenizer, model = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    sys.path[0] = str(converter.parent)  # its own modules, not ours
    import convert_hf_to_gguf as converter_main  # type: ignore[import-not-found]

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    _refuse_remote_code()
    _answer_pre_tokenizer(converter_main, model, pre_tokenizer)
    extra = ["--no-mtp"] if _skips_prediction_layers(converter_main, model, config) else []
    sys.argv = [str(converter), str(model), *sys.argv[4:], *extra]
    converter_main.main()


if __name__ == "__main__":
    main()
