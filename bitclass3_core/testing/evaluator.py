"""What every evaluator keeps: nothing between a model and itself, more for coarser types, figures that fit each other."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from bitclass3_core.corpus import Corpus
from bitclass3_core.evaluation import Evaluation
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.model import Architecture
from bitclass3_core.plugin.checks import check_evaluations
from bitclass3_core.testing.base import Conformance, Recorded
from bitclass3_core.testing.samples import sample_corpus, write_quantized


class EvaluatorConformance(Conformance):
    """Override the fixtures ``model``, ``architecture`` and ``corpus`` to test with a model that your engine can run.

    Switches: ``tolerance`` (how far the reference's KLD against itself may be from 0, for an engine that is not exact).
    """

    stage: ClassVar[str] = "evaluate"
    tolerance: ClassVar[float] = 1e-6

    @pytest.fixture
    def files(self, model: GgufModel, architecture: Architecture, tmp_path: Path) -> Mapping[str, GgufModel]:
        """The source once more (``same``), and quantized to ``fine`` (Q8_0) and ``coarse`` (Q2_K, Q4_0 where rows hold no 256)."""

        def all_at(q: str) -> dict[str, str]:
            wide = {name: model.tensors[name].n_in % 256 == 0 for name in architecture.quantizable}
            return {name: q if is_wide or q == "Q8_0" else "Q4_0" for name, is_wide in wide.items()}

        types = {"same": {}, "fine": all_at("Q8_0"), "coarse": all_at("Q2_K")}
        return {name: GgufModel(write_quantized(model, qtypes, tmp_path / f"{name}.gguf")) for name, qtypes in types.items()}

    @pytest.fixture
    def inputs(self, model: GgufModel, architecture: Architecture, corpus: Corpus) -> dict[str, Any]:
        """The hook's arguments but the candidates."""
        return {"reference": model, "architecture": architecture, "corpus": corpus}

    def evaluate(self, inputs: Mapping[str, Any], candidates: list[GgufModel], progress: Any = None) -> list[Evaluation]:
        """The plugin's answer, checked as a run does."""
        answer = self.call(**{**inputs, "candidates": candidates, "progress": progress or Recorded()})
        assert isinstance(answer, list), f"answered {type(answer).__name__}, expected a list of Evaluation, one for each candidate"
        check_evaluations(answer, [candidate.path.stem for candidate in candidates], self.loaded.name)
        return answer

    def test_a_model_does_not_differ_from_itself(self, inputs: dict[str, Any], files: Mapping[str, GgufModel]) -> None:
        """The zero of the scale: whatever the engine adds by itself would be charged to every candidate."""
        (same,) = self.evaluate(inputs, [files["same"]])
        assert abs(same.mean_kld) <= self.tolerance, (
            f"mean KLD of the source against itself is {same.mean_kld:.2e}, expected 0 within {self.tolerance:g}; both must run the same way"
        )
        assert same.same_top1 >= 1 - self.tolerance, f"same_top1 of the source against itself is {same.same_top1}, expected 1"
        assert same.ppl == pytest.approx(same.reference_ppl, rel=1e-4), "PPL of the source and of its copy differ"

    def test_coarser_types_diverge_more(self, inputs: dict[str, Any], files: Mapping[str, GgufModel]) -> None:
        """In the order of the candidates, whatever that is."""
        fine, coarse = self.evaluate(inputs, [files["fine"], files["coarse"]])
        assert fine.mean_kld < coarse.mean_kld, (
            f"mean KLD is {fine.mean_kld:.3g} at Q8_0 and {coarse.mean_kld:.3g} at Q2_K: are the candidates' own weights loaded?"
        )
        coarse_first, fine_second = self.evaluate(inputs, [files["coarse"], files["fine"]])
        assert (coarse_first.mean_kld, fine_second.mean_kld) == pytest.approx((coarse.mean_kld, fine.mean_kld), rel=1e-4), (
            "another order of the candidates gives other figures: something is left over from the candidate before"
        )

    def test_same_answer_twice(self, inputs: dict[str, Any], files: Mapping[str, GgufModel]) -> None:
        """To the digits that a table shows."""
        (first,), (second,) = self.evaluate(inputs, [files["coarse"]]), self.evaluate(inputs, [files["coarse"]])
        assert first.mean_kld == pytest.approx(second.mean_kld, rel=1e-4), (
            "two calls gave different KLD; take the text in a fixed order"
        )

    def test_calibration_text_is_not_read(self, inputs: dict[str, Any], files: Mapping[str, GgufModel]) -> None:
        """A file must be tested on text that has not shaped it."""
        other = replace(inputs["corpus"], calibration=sample_corpus(calibration_seed=98).calibration)
        (first,), (second,) = (self.evaluate({**inputs, "corpus": text}, [files["coarse"]]) for text in (inputs["corpus"], other))
        assert first.mean_kld == second.mean_kld, "another calibration text changes the figures; read corpus.evaluation only"

    def test_figures_fit_each_other(self, inputs: dict[str, Any], files: Mapping[str, GgufModel]) -> None:
        """Percentiles rise, shares are shares, errors are errors, tokens are as many as are said."""
        for each in self.evaluate(inputs, [files["fine"], files["coarse"]]):
            assert -1e-6 <= each.median_kld <= each.p99_kld <= each.p999_kld, (
                f"percentiles do not rise: {each.median_kld}, {each.p99_kld}, {each.p999_kld}"
            )
            assert 0 <= each.same_top1 <= 1, f"same_top1 is {each.same_top1}, expected a share between 0 and 1"
            assert min(each.ppl, each.reference_ppl) >= 1, f"PPL is {each.ppl}: exp(mean of -log p) is 1 or more"
            assert not each.se_kld < 0, f"standard error of the KLD is {each.se_kld}"
            if each.token_kld is not None:
                assert len(each.token_kld) == each.n_tokens, (
                    f"{len(each.token_kld)} tokens have a KLD, n_tokens says {each.n_tokens}"
                )
                mean = float(np.mean(each.token_kld, dtype=np.float64))
                assert mean == pytest.approx(each.mean_kld, rel=1e-3, abs=1e-7), (
                    f"the tokens' mean is {mean:.6g}, mean_kld {each.mean_kld:.6g}"
                )

    def test_progress_ends(self, inputs: dict[str, Any], files: Mapping[str, GgufModel]) -> None:
        """Progress that is begun is ended."""
        progress = Recorded()
        self.evaluate(inputs, [files["fine"]], progress)
        progress.check()
