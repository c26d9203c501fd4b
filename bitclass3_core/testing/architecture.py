"""What every architecture keeps: names that the model has, matrices only, orders that are the conversion's."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.gguf.names import quantizable_tensors
from bitclass3_core.model import Architecture, FloatArray, Model
from bitclass3_core.plugin.checks import check_architecture
from bitclass3_core.qtypes import menu, qtype
from bitclass3_core.testing.base import Conformance
from bitclass3_core.testing.samples import Shapes


class ArchitectureConformance(Conformance):
    """Override the fixture ``model`` with a small GGUF of the family (``samples.write_gguf`` makes one), and ``hf_weights`` with what it
    was converted from, where the conversion reorders rows or columns.

    Switches: ``knows_hf`` (names every quantizable tensor in HF's model), ``keeps`` (roles that llama.cpp would quantize and you do not).
    """

    stage: ClassVar[str] = "architecture"
    knows_hf: ClassVar[bool] = True
    keeps: ClassVar[frozenset[str]] = frozenset()

    @pytest.fixture
    def hf_weights(self) -> Mapping[str, FloatArray] | None:
        """HF's parameters by name without ``.weight``, each [n_out, n_in]; None: orders are not compared."""
        return None

    def architecture_of(self, model: Model) -> Architecture:
        """The plugin's answer, checked as a run does."""
        answer = self.call(model=model)
        assert isinstance(answer, Architecture), f"answered {type(answer).__name__}, expected Architecture"
        check_architecture(answer, model, self.loaded.name)
        return answer

    def test_names_tensors_of_the_model(self, model: GgufModel) -> None:
        """Every name in the answer is a tensor's, every order a permutation of its rows or columns; the family has a name."""
        assert self.architecture_of(model).name, "Architecture.name is empty; it stands in the card"

    def test_only_matrices_are_quantizable(self, model: GgufModel) -> None:
        """Vectors stay as they are, and a matrix must be able to hold the blocks of some type."""
        for name in self.architecture_of(model).quantizable:
            info = model.tensors[name]
            assert len(info.shape) > 1, (
                f"{name} is a vector {info.shape}: its bytes are nothing, its error is everything; leave it out"
            )
            assert any(info.accepts(q) and not q.is_float for q in menu("all")), (
                f"rows of {name} are {info.n_in} wide and hold no block of any type; leave it out"
            )

    def test_no_matrix_is_forgotten(self, model: GgufModel) -> None:
        """What llama-quantize quantizes gets a type here too: a forgotten matrix stays at 16 bits, and the others pay for it."""
        left_out = {
            name
            for name in quantizable_tensors(model) - self.architecture_of(model).quantizable
            if model.tensors[name].role not in self.keeps
        }
        assert not left_out, (
            f"{', '.join(sorted(left_out)[:3])} would be quantized by llama.cpp and get no type; if that is meant: keeps = {{roles}}"
        )

    def test_floors_can_be_had(self, model: GgufModel) -> None:
        """A floor is a type that the tensor's rows accept, for a tensor that gets a type at all."""
        answer = self.architecture_of(model)
        for name, floor in answer.floors.items():
            assert name in answer.quantizable, f"{name} has the floor {floor} and is not quantizable"
            assert model.tensors[name].accepts(qtype(floor)), (
                f"{name} has the floor {floor}, which its rows of {model.tensors[name].n_in} cannot hold"
            )

    def test_weights_are_not_read(self, model: GgufModel) -> None:
        """The answer comes from names, shapes and metadata: ``bitclass3 plan`` asks for it and must take no time."""
        shapes = {name: info.shape for name, info in model.tensors.items()}
        self.architecture_of(Shapes(shapes, arch=model.arch, metadata=model.metadata, fields=model.fields))

    def test_same_answer_twice(self, model: GgufModel) -> None:
        """The same names, floors and orders."""
        assert _plain(self.architecture_of(model)) == _plain(self.architecture_of(model)), "two calls gave different answers"

    def test_every_quantizable_tensor_has_an_hf_name(self, model: GgufModel) -> None:
        """Without it torch cannot find the tensor: neither the KL Hessian nor torch's evaluation would work."""
        self._needs("knows_hf")
        answer = self.architecture_of(model)
        nameless = sorted(name for name in answer.quantizable if not answer.hf_stems.get(name) and name not in answer.places)
        assert not nameless, f"{', '.join(nameless[:3])} have no name in HF's model; see naming.hf_stems, or knows_hf = False"

    def test_orders_are_the_conversions(self, model: GgufModel, hf_weights: Mapping[str, FloatArray] | None) -> None:
        """``gguf[i, j] == hf[row_order[i], column_order[j]]``: else statistics and evaluation belong to other rows."""
        if hf_weights is None:
            pytest.skip("no hf_weights were given")
        answer = self.architecture_of(model)
        compared = 0
        for name in sorted(answer.quantizable):
            stem = next((stem for stem in answer.hf_stems.get(name, ()) if stem in hf_weights), None)
            if stem is None or name in answer.places:
                continue
            info, theirs = model.tensors[name], hf_weights[stem]
            rows = answer.row_order.get(name, np.arange(info.n_rows))
            columns = answer.column_order.get(name, np.arange(info.n_in))
            there = theirs.reshape(info.n_rows, info.n_in)[np.ix_(rows, columns)]
            assert np.allclose(model.read(name), there, rtol=1e-2, atol=1e-6), (
                f"{name} is not {stem} in the order given: gguf[i, j] == hf[row_order[i], column_order[j]] must hold"
            )
            compared += 1
        assert compared, "none of hf_weights was found by the names in hf_stems"


def _plain(answer: Architecture) -> tuple[Any, ...]:
    orders = [{name: order.tolist() for name, order in part.items()} for part in (answer.row_order, answer.column_order)]
    return answer.quantizable, answer.floors, dict(answer.hf_stems), orders
