"""What every report keeps: it writes what it says, from any run, and measures nothing."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.evaluation import Evaluation, paired_difference, summarize
from bitclass3_core.gguf.names import quantizable_tensors
from bitclass3_core.layout import bpw
from bitclass3_core.model import Architecture
from bitclass3_core.problem import Allocation, Proof
from bitclass3_core.qtypes import menu
from bitclass3_core.results import Candidate, Run
from bitclass3_core.testing.base import Conformance
from bitclass3_core.testing.exporter import hashes
from bitclass3_core.testing.samples import Shapes, sample_corpus, sample_sensitivity, sample_shapes


def _evaluation(name: str, level: float) -> Evaluation:
    rng = np.random.default_rng(7)
    n = 16 * 64
    kld = (level * rng.lognormal(-0.5, 1, n)).astype(np.float32)
    nll = rng.gamma(2, 1.2, n)
    domains = np.repeat(np.array(["prose", "code"]), n // 2)
    return summarize(name, kld, rng.random(n) > level, nll + level, nll, domains, 16, "sample")


def sample_run() -> Run:
    """A finished run of a model without weights: ours and a stock mix beside it, measured."""
    model = Shapes(sample_shapes(4))
    quantizable = quantizable_tensors(model)
    rng = np.random.default_rng(3)
    costs = {
        name: {**{q.name: Cost(float(rng.lognormal(-6, 1) * 4.0**-q.bpw), 0.0, 64) for q in menu("k")}, "BF16": Cost(0.0, 0.0, 0)}
        for name in sorted(quantizable)
    }
    evaluations = _evaluation("Sample-1B-4.80bpw", 0.01), _evaluation("Sample-1B-stock-Q4_K_M", 0.02)
    candidates = []
    for evaluation, kind, q, level in zip(evaluations, ("ours", "stock"), ("Q4_K", "Q5_K"), (0.01, 0.02), strict=True):
        types = {tensor: "Q6_K" if i % 3 else q for i, tensor in enumerate(sorted(quantizable))}
        allocation = Allocation(types, "ilp" if kind == "ours" else "stock", Proof(1e-3, 0.0, True, 0.1), note=f"{kind} Q4_K_M")
        name = evaluation.candidate
        candidates.append(Candidate(name, kind, allocation, Path(f"{name}.gguf"), 4_000_000, bpw(model, types), level, evaluation))
    difference = paired_difference(*evaluations)
    return Run(
        model=model,
        architecture=Architecture("llama", quantizable),
        corpus=sample_corpus(),
        sensitivity=sample_sensitivity(model, quantizable),
        costs=CostTable(costs),
        candidates=tuple(candidates),
        command="bitclass3 run pipeline.toml",
        versions={"bitclass3": "0.1.0", "python": "3.10", "ggml kernels": "sample"},
        timings={"estimate": 12.0, "measure": 3.0, "solve": 0.1, "export": 2.0, "evaluate": 9.0},
        differences={candidates[1].name: difference} if difference else {},
    )


class ReportConformance(Conformance):
    """Override the fixture ``run`` to report on a run of your own."""

    stage: ClassVar[str] = "report"

    @pytest.fixture
    def run(self) -> Run:
        """A finished run."""
        return sample_run()

    def report(self, run: Run, out: Path) -> list[Path]:
        """The files that the plugin says it wrote into ``out``."""
        out.mkdir(exist_ok=True)
        answer = self.call(run=run, out=out)
        assert isinstance(answer, list), f"answered {type(answer).__name__}, expected a list of paths"
        return answer

    def test_returns_the_files_that_it_wrote(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """All of them and no other, in ``out`` or below it, nothing anywhere else. Weights are not read."""
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        files = self.report(run, tmp_path / "out")
        written = {tmp_path / "out" / name for name in hashes(tmp_path / "out")}
        assert set(files) == written, (
            f"returned {sorted(map(str, files))}, wrote {sorted(map(str, written))}: what is not named is lost"
        )
        assert files, "no file was written; a report for people is a file"
        assert not hashes(tmp_path / "here"), "wrote into the current folder; write into out only"

    def test_same_bytes_twice(self, run: Run, tmp_path: Path) -> None:
        """No time of day in it: a card that changes by itself cannot be reviewed."""
        self.report(run, tmp_path / "one")
        self.report(run, tmp_path / "two")
        one, two = hashes(tmp_path / "one"), hashes(tmp_path / "two")
        assert one == two, f"two reports of one run differ in {sorted(name for name in one if one[name] != two.get(name))}"

    def test_replaces_its_own_files(self, run: Run, tmp_path: Path) -> None:
        """The report of the next target takes the place of this one's."""
        for path in self.report(run, tmp_path / "fresh"):
            older = tmp_path / "out" / path.relative_to(tmp_path / "fresh")
            older.parent.mkdir(parents=True, exist_ok=True)
            older.write_bytes(b"older" * 5000)
        self.report(run, tmp_path / "out")
        assert hashes(tmp_path / "out") == hashes(tmp_path / "fresh"), (
            "an older report shines through; write anew (files.write_text)"
        )

    def test_run_without_measurements(self, run: Run, tmp_path: Path) -> None:
        """Without evaluation text every ``evaluation`` is None and ``differences`` is empty: say less, and make nothing up."""
        bare = tuple(replace(candidate, evaluation=None) for candidate in run.candidates)
        self.report(replace(run, candidates=bare, differences={}), tmp_path / "out")

    def test_run_without_a_stock_mix(self, run: Run, tmp_path: Path) -> None:
        """``--baseline none``: our own file is the only candidate."""
        self.report(replace(run, candidates=run.candidates[:1], differences={}), tmp_path / "out")

    def test_run_whose_costs_are_no_nats(self, run: Run, tmp_path: Path) -> None:
        """An imatrix alone: ``predicted_cost`` is None, and no number may pass for a predicted KLD."""
        candidates = tuple(replace(candidate, predicted_cost=None) for candidate in run.candidates)
        sensitivity = sample_sensitivity(run.model, run.architecture.quantizable, out_powers=False)
        self.report(
            replace(run, candidates=candidates, costs=replace(run.costs, in_nats=False), sensitivity=sensitivity), tmp_path / "out"
        )
