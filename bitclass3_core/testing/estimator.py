"""What every estimator keeps: powers of each quantizable tensor, from calibration text alone, the same each time."""

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from bitclass3_core.corpus import Corpus
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.model import Architecture
from bitclass3_core.plugin.checks import check_sensitivity
from bitclass3_core.sensitivity import Sensitivity, load_sensitivity, save_sensitivity
from bitclass3_core.testing.base import Conformance, Recorded
from bitclass3_core.testing.samples import sample_corpus


def differing(one: Sensitivity, other: Sensitivity) -> str:
    """The first tensor whose powers differ; empty if none does."""
    for name, tensor in one.tensors.items():
        for mine, theirs in zip(tensor.roles, other.tensors[name].roles, strict=True):
            if not all(np.array_equal(getattr(mine, which), getattr(theirs, which)) for which in ("in_power", "out_power")):
                return name
    return ""


class EstimatorConformance(Conformance):
    """Switches: ``reads_text`` (False for one that needs no text), ``in_nats`` (gives out_power = E[g^2] for every tensor).

    Override the fixtures ``model``, ``architecture`` and ``corpus`` to test with a model that your engine can run.
    """

    stage: ClassVar[str] = "estimate"
    reads_text: ClassVar[bool] = True
    in_nats: ClassVar[bool] = False

    def estimate(self, model: GgufModel, architecture: Architecture, corpus: Corpus, progress: Any = None) -> Sensitivity:
        """The plugin's answer, checked as a run does."""
        answer = self.call(model=model, architecture=architecture, corpus=corpus, progress=progress or Recorded())
        assert isinstance(answer, Sensitivity), f"answered {type(answer).__name__}, expected Sensitivity"
        check_sensitivity(answer, model, architecture.quantizable, self.loaded.name)
        return answer

    def test_every_quantizable_tensor_has_powers(self, model: GgufModel, architecture: Architecture, corpus: Corpus) -> None:
        """And not all of them zero: a tensor that costs nothing gets the smallest type."""
        answer = self.estimate(model, architecture, corpus)
        dead = [name for name, tensor in answer.tensors.items() if not any(powers.in_power.any() for powers in tensor.roles)]
        assert not dead, f"in_power of {', '.join(dead[:3])} is zero throughout; for what saw no text see sensitivity.fill_missing"

    def test_same_answer_twice(self, model: GgufModel, architecture: Architecture, corpus: Corpus) -> None:
        """A run that goes on must not come to other statistics."""
        name = differing(self.estimate(model, architecture, corpus), self.estimate(model, architecture, corpus))
        assert not name, f"two calls gave different powers of {name}; seed every random generator from an option"

    def test_evaluation_text_is_not_read(self, model: GgufModel, architecture: Architecture, corpus: Corpus) -> None:
        """What a file is tested on must not have shaped it."""
        other = replace(corpus, evaluation=sample_corpus(evaluation_seed=99).evaluation)
        name = differing(self.estimate(model, architecture, corpus), self.estimate(model, architecture, other))
        assert not name, (
            f"another evaluation text changes the powers of {name}: the test would be no test; read corpus.calibration only"
        )

    def test_calibration_text_matters(self, model: GgufModel, architecture: Architecture, corpus: Corpus) -> None:
        """Where text is read, another text gives other powers."""
        self._needs("reads_text")
        other = replace(corpus, calibration=corpus.evaluation, evaluation=corpus.calibration)
        assert differing(self.estimate(model, architecture, corpus), self.estimate(model, architecture, other)), (
            "another calibration text gives the very same powers: is corpus.calibration read? if none is needed: reads_text = False"
        )

    def test_says_whether_it_knows_nats(self, model: GgufModel, architecture: Architecture, corpus: Corpus) -> None:
        """An out_power that is not E[g^2] needs ``only_ranks=True``."""
        answer = self.estimate(model, architecture, corpus)
        assert answer.in_nats == self.in_nats, (
            f"Sensitivity.in_nats is {answer.in_nats}, the suite's switch says {self.in_nats}: out_power = E[g^2] for every tensor makes nats, "
            "None or only_ranks=True does not"
        )

    def test_survives_its_file(self, model: GgufModel, architecture: Architecture, corpus: Corpus, tmp_path: Any) -> None:
        """The run keeps it as safetensors, float32."""
        answer = self.estimate(model, architecture, corpus)
        assert answer.estimator, "Sensitivity.estimator is empty; name yourself, the card does"
        save_sensitivity(answer, tmp_path / "sensitivity.safetensors")
        name = differing(answer, load_sensitivity(tmp_path / "sensitivity.safetensors"))
        assert not name, f"powers of {name} change when they are saved and loaded; answer float32 arrays"

    def test_progress_ends(self, model: GgufModel, architecture: Architecture, corpus: Corpus) -> None:
        """Progress that is begun is ended."""
        progress = Recorded()
        self.estimate(model, architecture, corpus, progress)
        progress.check()
