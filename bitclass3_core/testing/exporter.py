"""What every exporter keeps: it writes what it says, where it was told, whole or not at all."""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from bitclass3_core.corpus import Corpus
from bitclass3_core.errors import Bitclass3Error, ModelFileError
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.model import Architecture, Model
from bitclass3_core.problem import Allocation
from bitclass3_core.sensitivity import Sensitivity
from bitclass3_core.testing.base import Conformance, Recorded

_TYPES = ("Q4_K", "Q6_K", "Q8_0", "Q5_K")
_SET_BY_WRITERS = ("general.file_type", "general.quantization_version", "quantize.", "GGUF.", "general.alignment")


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class FailingModel:
    """A model whose last tensor cannot be read, as on a broken disk."""

    def __init__(self, model: Model, quantizable: frozenset[str]) -> None:
        self._model, self._broken = model, max(quantizable)

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self._model, attribute)
        return partial(self._reading, found) if attribute in ("read", "read_raw") else found

    def _reading(self, read: Callable[..., Any], name: str, *rows: Any, **others: Any) -> Any:
        if name == self._broken:
            raise ModelFileError(f"{name} cannot be read: input/output error")
        return read(name, *rows, **others)


class ExporterConformance(Conformance):
    """Switches: ``writes_gguf`` (its first file is a GGUF with the asked types), ``reads_weights`` (False for a recipe)."""

    stage: ClassVar[str] = "export"
    writes_gguf: ClassVar[bool] = True
    reads_weights: ClassVar[bool] = True

    @pytest.fixture
    def allocation(self, model: GgufModel, architecture: Architecture) -> Allocation:
        """A type for each quantizable tensor, all of them of some kind, one kept as it is."""
        names = sorted(architecture.quantizable)
        types = {name: _TYPES[i % len(_TYPES)] if model.tensors[name].n_in % 256 == 0 else "Q5_0" for i, name in enumerate(names)}
        return Allocation({**types, names[0]: model.tensors[names[0]].dtype}, "sample")

    @pytest.fixture
    def inputs(
        self,
        model: GgufModel,
        architecture: Architecture,
        allocation: Allocation,
        sensitivity: Sensitivity,
        corpus: Corpus,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> dict[str, Any]:
        """The hook's arguments but the folder; the process stands in an empty folder."""
        here = tmp_path / "here"
        here.mkdir()
        monkeypatch.chdir(here)
        values = {"model": model, "architecture": architecture, "allocation": allocation, "sensitivity": sensitivity}
        return {**values, "corpus": corpus, "stem": "sample-4.80bpw"}

    def export(self, inputs: Mapping[str, Any], out: Path, progress: Any = None) -> list[Path]:
        """The files that the plugin says it wrote into ``out``."""
        out.mkdir(exist_ok=True)
        answer = self.call(**{**inputs, "out": out, "progress": progress or Recorded()})
        assert isinstance(answer, list), f"answered {type(answer).__name__}, expected a list of paths"
        return answer

    def test_returns_the_files_that_it_wrote(self, inputs: dict[str, Any], tmp_path: Path) -> None:
        """All of them and no other, in ``out``, under names that begin with the stem; nothing anywhere else."""
        source = hashes(inputs["model"].path.parent)
        files = self.export(inputs, tmp_path / "out")
        written = {tmp_path / "out" / name for name in hashes(tmp_path / "out")}
        assert set(files) == written, (
            f"returned {sorted(map(str, files))}, wrote {sorted(map(str, written))}: what is not named is lost"
        )
        strange = [path.name for path in files if not path.name.startswith(inputs["stem"])]
        assert not strange, (
            f"{strange} do not begin with the stem {inputs['stem']!r}: another target in this folder would overwrite them"
        )
        assert not hashes(Path.cwd()), f"wrote {sorted(hashes(Path.cwd()))} into the current folder; write into out only"
        assert hashes(inputs["model"].path.parent) == source, "changed the source model's folder; write into out only"

    def test_same_bytes_twice(self, inputs: dict[str, Any], tmp_path: Path) -> None:
        """No times, paths or random numbers in the files: a hash says whether they are the same."""
        self.export(inputs, tmp_path / "one")
        self.export(inputs, tmp_path / "two")
        one, two = hashes(tmp_path / "one"), hashes(tmp_path / "two")
        assert one == two, f"two exports differ in {sorted(name for name in one if one[name] != two.get(name))}"

    def test_replaces_an_older_file(self, inputs: dict[str, Any], tmp_path: Path) -> None:
        """The same target again, after a change of options, say."""
        files = self.export(inputs, tmp_path / "out")
        fresh = hashes(tmp_path / "out")
        for path in files:
            path.write_bytes(b"older" * 1000)
        self.export(inputs, tmp_path / "out")
        assert hashes(tmp_path / "out") == fresh, "an older file under the same name shines through; write anew (files.atomic_path)"

    def test_leaves_other_targets_alone(self, inputs: dict[str, Any], tmp_path: Path) -> None:
        """Files of several targets lie in one folder."""
        self.export(inputs, tmp_path / "out")
        first = hashes(tmp_path / "out")
        self.export({**inputs, "stem": "sample-5.40bpw"}, tmp_path / "out")
        after = hashes(tmp_path / "out")
        assert all(after.get(name) == value for name, value in first.items()), "a second stem changed the files of the first"

    def test_a_failure_leaves_no_file(self, inputs: dict[str, Any], tmp_path: Path) -> None:
        """Half a file under a final name looks like a whole one: write with files.atomic_path."""
        self._needs("reads_weights")
        failing = FailingModel(inputs["model"], inputs["architecture"].quantizable)
        with pytest.raises(Bitclass3Error) as caught:
            self.export({**inputs, "model": failing}, tmp_path / "out")
        assert "cannot be read" in str(caught.value), f"the reason got lost: {caught.value}"
        left = [name for name in hashes(tmp_path / "out") if not Path(name).name.startswith(".")]
        assert not left, f"the export failed and left {left}; write under a temporary name (files.atomic_path)"

    def test_gguf_has_the_asked_types(self, inputs: dict[str, Any], tmp_path: Path) -> None:
        """The file comes first, loads, and each tensor has its type and its weights, but for rounding."""
        self._needs("writes_gguf")
        path = self.export(inputs, tmp_path / "out")[0]
        assert path.suffix == ".gguf", f"the first file is {path.name}; put the GGUF first: it is what gets evaluated"
        source, written = inputs["model"], GgufModel(path)
        assert set(written.tensors) == set(source.tensors), "tensors are missing or new"
        for name, info in source.tensors.items():
            asked = inputs["allocation"].qtypes.get(name, info.dtype)
            assert written.tensors[name].dtype == asked, f"{name} was written as {written.tensors[name].dtype}, asked {asked}"
            before, after = source.read(name), written.read(name)
            error = float(np.sqrt(np.square(after - before).sum() / max(np.square(before).sum(), 1e-30)))
            assert error < 0.2, (
                f"{name} at {asked} differs from the source by {error:.0%} (root mean square): rows or scales are mixed up"
            )

    def test_gguf_keeps_the_metadata(self, inputs: dict[str, Any], tmp_path: Path) -> None:
        """Every key of the source, but those that a quantizer sets."""
        self._needs("writes_gguf")
        written, source = GgufModel(self.export(inputs, tmp_path / "out")[0]).metadata, inputs["model"].metadata
        lost = [
            key
            for key, value in source.items()
            if not key.startswith(_SET_BY_WRITERS) and not (key in written and np.array_equal(written[key], value))
        ]
        assert not lost, f"metadata {lost[:3]} is lost or changed: the file may not load, or write nonsense"

    def test_progress_ends(self, inputs: dict[str, Any], tmp_path: Path) -> None:
        """Progress that is begun is ended."""
        progress = Recorded()
        self.export(inputs, tmp_path / "out", progress)
        progress.check()
