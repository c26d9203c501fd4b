"""GGUF files that are no language model."""

import pytest
from gguf_files import METADATA, write_gguf

from bitclass3_core.errors import ModelFileError
from bitclass3_core.gguf.kinds import check_is_model
from bitclass3_core.gguf.model import GgufModel


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("adapter", "is a LoRA adapter; merge it into its base model and give that"),
        ("mmproj", "is a multimodal projector; give the GGUF of the language model"),
        ("imatrix", "is an importance matrix; give the model with --model"),
    ],
)
def test_kind_is_named(tmp_path, kind, says):
    path = write_gguf(tmp_path / "m.gguf", metadata={**METADATA, "general.type": kind})
    with pytest.raises(ModelFileError, match=says):
        check_is_model(GgufModel(path))


def test_projector_by_its_architecture(tmp_path):
    with pytest.raises(ModelFileError, match="is a multimodal projector"):
        check_is_model(GgufModel(write_gguf(tmp_path / "m.gguf", arch="clip")))


def test_no_layers(tmp_path):
    with pytest.raises(ModelFileError, match=r"has no layers \(blk\.0\.\.\.\)"):
        check_is_model(GgufModel(write_gguf(tmp_path / "m.gguf", {"a.weight": ((4, 32), "BF16")})))


def test_vocabulary(tmp_path):
    with pytest.raises(ModelFileError, match=r"has no tensors \(a vocabulary-only GGUF\?\)"):
        GgufModel(write_gguf(tmp_path / "m.gguf", {}))


@pytest.mark.parametrize("metadata", [METADATA, {**METADATA, "general.type": "model"}])
def test_model(tmp_path, metadata):
    check_is_model(GgufModel(write_gguf(tmp_path / "m.gguf", metadata=metadata)))
