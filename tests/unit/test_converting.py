"""Conversion by a converter that stands in for llama.cpp's, and the runner around it."""

import json
import shutil
import sys

import pytest
from command import ROOT
from gguf_files import write_gguf

from bitclass3_core.errors import ModelFileError, ToolchainError
from bitclass3_core.progress import Silent
from bitclass3_core.toolchain.convert_runner import pre_tokenizer_of
from bitclass3_core.toolchain.converting import convert, converted

# What the runner asks of the real converter: main(), and the method of a class that names the pre-tokenizer.
CONVERTER = """
import sys, shutil, pathlib
HERE = pathlib.Path(__file__).parent
class TextModel:
    def get_vocab_base_pre(self, tokenizer):
        raise NotImplementedError("BPE pre-tokenizer was not recognized - update get_vocab_base_pre()")
def main():
    arguments = sys.argv[1:]
    with (HERE / "calls.txt").open("a") as file:
        file.write(" ".join(arguments[1:]).replace(arguments[-1], "OUT") + "\\n")
    {body}
    shutil.copy(HERE / "made.gguf", arguments[-1])
"""


# What the runner asks of transformers, where it takes seconds to import; found before it, beside the converter.
TRANSFORMERS = """
class AutoConfig:
    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        raise NotImplementedError
AutoModel = AutoTokenizer = AutoConfig
"""


@pytest.fixture
def hf(tmp_path):
    folder = tmp_path / "My-Model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    shutil.copy(ROOT / "tests" / "data" / "llama-tiny" / "model.safetensors", folder)
    return folder


@pytest.fixture
def converter(tmp_path, monkeypatch):
    """Writes a converter whose main() runs ``body`` first; it is found by LLAMA_CPP_DIR."""
    home = tmp_path / "llama.cpp"
    home.mkdir()
    (home / "transformers.py").write_text(TRANSFORMERS)
    write_gguf(home / "made.gguf")
    monkeypatch.setenv("LLAMA_CPP_DIR", str(home))
    monkeypatch.setenv("BITCLASS3_CACHE", str(tmp_path / "cache"))

    def write(body: str = "pass"):
        (home / "convert_hf_to_gguf.py").write_text(CONVERTER.format(body=body))
        return home

    return write


class Told(Silent):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)

    warn = say


def test_folder_is_converted_once_for_each_content(hf, converter):
    home = converter()
    path = converted(hf, Silent())
    assert path.name == "My-Model-BF16.gguf"
    assert path.read_bytes() == (home / "made.gguf").read_bytes()
    assert (home / "calls.txt").read_text() == "--outtype bf16 --outfile OUT\n"
    assert converted(hf, Silent()) == path
    assert len((home / "calls.txt").read_text().splitlines()) == 1
    (hf / "config.json").write_text('{"a": 1}')
    assert converted(hf, Silent()) != path


def test_another_pre_tokenizer_is_another_conversion(hf, converter):
    home = converter()
    assert converted(hf, Silent(), "gpt-2") != converted(hf, Silent(), "qwen2")
    assert len((home / "calls.txt").read_text().splitlines()) == 2


ASK = 'print("pre-tokenizer:", TextModel().get_vocab_base_pre(None), file=sys.stderr); sys.exit(9)'
BYTE_LEVEL = {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}}


def test_given_pre_tokenizer_is_the_answer(hf, converter, tmp_path):
    converter(ASK)
    with pytest.raises(ModelFileError, match="pre-tokenizer: falcon"):
        convert(hf, tmp_path / "out.gguf", Silent(), pre_tokenizer="falcon")


def test_pre_tokenizer_by_the_tokenizers_own_rule(hf, converter, tmp_path):
    (hf / "tokenizer.json").write_text(json.dumps(BYTE_LEVEL))
    converter(ASK)
    with pytest.raises(ModelFileError, match="pre-tokenizer: gpt-2"):
        convert(hf, tmp_path / "out.gguf", Silent())


def test_pre_tokenizer_that_was_guessed_is_told(hf, converter, tmp_path):
    (hf / "tokenizer.json").write_text(json.dumps(BYTE_LEVEL))
    converter("TextModel().get_vocab_base_pre(None)")
    told = Told()
    convert(hf, tmp_path / "out.gguf", told)
    assert "the tokenizer is new to the converter; its rule is that of 'gpt-2'; name another with --pre-tokenizer" in told.lines[-1]


def split(*patterns: str) -> dict:
    steps = [{"type": "Split", "pattern": {"Regex": pattern}} for pattern in patterns]
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps, {"type": "ByteLevel", "use_regex": False}]}}


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (BYTE_LEVEL, "gpt-2"),
        ({"pre_tokenizer": {"type": "ByteLevel", "use_regex": False}}, ""),
        (split(LLAMA3), "llama-bpe"),
        (split(LLAMA3.replace("{1,3}", "")), "qwen2"),
        (split(LLAMA3, "x"), ""),
        (split("x"), ""),
        ({"pre_tokenizer": None}, ""),
        ({}, ""),
    ],
)
def test_rules(tmp_path, rule, name):
    (tmp_path / "tokenizer.json").write_text(json.dumps(rule))
    assert pre_tokenizer_of(tmp_path) == name


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("TextModel().get_vocab_base_pre(None)", ModelFileError, r"tokenizer of .* is unknown to llama\.cpp's converter; name one .*--pre-"),
        ('print("ERROR:hf-to-gguf:Model NewForCausalLM is not supported"); sys.exit(1)', ModelFileError, "not support NewForCausalLM"),
        ("import a_package_that_is_missing", ToolchainError, "needs the Python package a_package_that_is_missing .*pip install a_pack"),
        ('print("one"); print("two"); sys.exit(1)', ModelFileError, r"could not be converted; the converter's last lines: one \| two"),
        ("return", ToolchainError, "the converter wrote no file"),
        ('(HERE / "made.gguf").write_bytes(b"GGUF" + bytes(30))', ModelFileError, "is damaged or truncated"),
    ],
)  # fmt: skip
def test_conversion_that_fails_leaves_nothing(hf, converter, tmp_path, body, error, message):
    converter(body)
    with pytest.raises(error, match=message) as caught:
        convert(hf, tmp_path / "out" / "m.gguf", Silent())
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow  # transformers itself
def test_remote_code_stays_off(hf, converter, tmp_path):
    """A tokenizer that names code of its own is not run, although the converter asks for it."""
    home = converter("import transformers; transformers.AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)")
    (home / "transformers.py").unlink()
    (hf / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"}))
    (hf / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\n")
    with pytest.raises(ModelFileError, match="could not be converted"):
        convert(hf, tmp_path / "out.gguf", Silent())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("config", "extra"),
    [({}, " --no-mtp"), ({"num_nextn_predict_layers": 1}, ""), ({"text_config": {"num_nextn_predict_layers": 1}}, "")],
)
def test_checkpoint_without_prediction_layers(hf, converter, tmp_path, config, extra):
    (hf / "config.json").write_text(json.dumps(config))
    home = converter()
    with (home / "convert_hf_to_gguf.py").open("a") as file:
        file.write("""
class ModelType:
    TEXT = 1
class ModelBase:
    load_hparams = staticmethod(lambda model, mistral: {})
def get_model_architecture(hparams, kind): return "X"
def get_model_class(name, mmproj): return type("X", (), {"supports_mtp_export": True})
""")
    (home / "convert_hf_to_gguf.py").write_text(
        (home / "convert_hf_to_gguf.py").read_text().replace("arguments[-1]", "arguments[4]")
    )
    convert(hf, tmp_path / "out.gguf", Silent())
    assert (home / "calls.txt").read_text() == f"--outtype bf16 --outfile OUT{extra}\n"


def test_converter_runs_in_this_python(hf, converter, tmp_path):
    converter("(HERE / 'python.txt').write_text(sys.executable)")
    convert(hf, tmp_path / "out.gguf", Silent())
    assert (tmp_path / "llama.cpp" / "python.txt").read_text() == sys.executable
