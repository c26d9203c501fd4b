"""From what the user names to the source model."""

import pytest
from gguf_files import write_gguf, write_split

from bitclass3_core.errors import ConfigError, ModelFileError
from bitclass3_core.progress import Silent
from bitclass3_core.run_config import ModelSection
from bitclass3_core.sources.open import open_source, source_fingerprint


def opened(warnings=None, **section):
    return open_source(ModelSection(**section), (warnings if warnings is not None else []).append, Silent())


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "Tiny-HF"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_file_alone(tmp_path):
    model = opened(gguf=write_gguf(tmp_path / "tiny.gguf"))
    assert (model.name, model.hf) == ("tiny", None)


def test_folder_with_its_file(folder):
    path = write_gguf(folder / "model-bf16.gguf")
    model = opened(hf=folder)
    assert (model.name, model.hf, model.path) == ("Tiny-HF", folder, path)


def test_folder_with_a_split_file(folder):
    first, _ = write_split(folder)
    assert opened(hf=folder).path == first


def test_nothing_named():
    with pytest.raises(ConfigError, match="no model; give --model with an HF folder or a BF16 GGUF"):
        opened()


def test_folder_that_is_none(tmp_path):
    with pytest.raises(ModelFileError, match=r"some/where/model is no folder; give --model with an HF folder, a name on the hub"):
        opened(hf="some/where/model")


def test_folder_without_a_file(folder):
    with pytest.raises(ModelFileError, match=r"Tiny-HF has no \*\.safetensors; save the model with save_pretrained"):
        opened(hf=folder)
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(ModelFileError, match=r"it has pytorch_model\.bin: pickled weights run code and are not loaded"):
        opened(hf=folder)


def test_plan_does_not_convert(folder):
    (folder / "model.safetensors").touch()
    with pytest.raises(ModelFileError, match=r"Tiny-HF has no GGUF in it yet; `bitclass3 run` converts it"):
        open_source(ModelSection(hf=folder), print, Silent(), may_convert=False)


def test_folder_without_a_file_is_converted(folder, tmp_path, monkeypatch):
    (folder / "model.safetensors").touch()
    path = write_gguf(tmp_path / "converted.gguf")
    monkeypatch.setattr("bitclass3_core.sources.open.converted", lambda hf, progress, pre: path if pre == "qwen2" else None)
    model = opened(hf=folder, pre_tokenizer="qwen2")
    assert (model.path, model.hf, model.name) == (path, folder, "Tiny-HF")


def test_name_on_the_hub_is_the_models_name(folder, tmp_path, monkeypatch):
    write_gguf(folder / "model.gguf")
    monkeypatch.setattr("bitclass3_core.sources.open.download", lambda name, progress: folder)
    model = opened(hf="org/Model-1B")
    assert (model.name, model.hf) == ("Model-1B", folder)


def test_projector_beside_the_model_is_not_it(folder):
    write_gguf(folder / "mmproj-model.gguf")
    path = write_gguf(folder / "model.gguf")
    assert opened(hf=folder).path == path


def test_folder_with_two_files(folder):
    write_gguf(folder / "a.gguf")
    other = write_gguf(folder / "b.gguf")
    with pytest.raises(ConfigError, match=r"has 2 GGUF files \(a\.gguf, b\.gguf\); name one with --gguf"):
        opened(hf=folder)
    assert opened(hf=folder, gguf=other).path == other


def test_file_without_an_architecture(tmp_path):
    path = write_gguf(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes().replace(b"general.architecture", b"general.archidecture"))
    with pytest.raises(ModelFileError, match="does not name its architecture; convert the model again"):
        opened(gguf=path)


def test_source_that_is_already_quantized(tmp_path):
    path = write_gguf(tmp_path / "q.gguf", {"blk.0.a.weight": ((3, 64), "Q8_0"), "b.weight": ((1, 64), "BF16")})
    with pytest.raises(ModelFileError, match=r"q\.gguf is already quantized \(75% of its weights\).*--allow-quantized-source"):
        opened(gguf=path)
    warnings = []
    assert opened(warnings, gguf=path, allow_quantized_source=True).path == path
    assert len(warnings) == 1


def test_fingerprint_covers_the_folder(folder):
    write_gguf(folder / "m.gguf")
    before = source_fingerprint(opened(hf=folder))
    assert source_fingerprint(opened(hf=folder)) == before
    (folder / "config.json").write_text('{"a": 1}')
    assert source_fingerprint(opened(hf=folder)) != before
