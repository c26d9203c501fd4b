"""Single tensors measured alone by the torch evaluator: what a file with that tensor alone would give."""

from dataclasses import replace
from pathlib import Path

import bitclass3_gguf
import pytest
from bitclass3_qwen35 import bitclass3_architecture
from bitclass3_torch_evaluator import PROBED_CHUNKS, Options, bitclass3_evaluate
from command import EVALUATION, EXAMPLE, GGUF

from bitclass3_core.corpus import Corpus, read_documents
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.problem import Allocation
from bitclass3_core.progress import Silent
from bitclass3_core.sensitivity import Sensitivity

pytestmark = pytest.mark.slow
SOURCE = GgufModel(GGUF, EXAMPLE)
ARCHITECTURE = bitclass3_architecture(model=SOURCE)
CORPUS = Corpus((), tuple(read_documents(EVALUATION)))


def written(out: Path, stem: str, qtypes: dict[str, str]) -> GgufModel:
    nothing = Sensitivity({}, "none", 0, 0, "")
    options = bitclass3_gguf.Options.model_validate({})
    return GgufModel(bitclass3_gguf.write_file(SOURCE, Allocation(qtypes), nothing, out, stem, options, Silent())[0])


def test_a_probe_is_a_file_with_that_tensor_alone(tmp_path: Path) -> None:
    qtypes = {name: "Q4_0" if "ffn" in name else "Q5_0" for name in ARCHITECTURE.quantizable}
    options = Options(n_tokens=256 * PROBED_CHUNKS, n_ctx=256, device="cpu", n_probes=3)
    (whole,) = bitclass3_evaluate(SOURCE, [written(tmp_path, "whole", qtypes)], ARCHITECTURE, CORPUS, options, Silent())
    assert len(whole.tensor_kld) == 3
    assert all(0 < kld < whole.mean_kld for kld in whole.tensor_kld.values())
    files = [written(tmp_path, f"probe-{i}", {name: qtypes[name]}) for i, name in enumerate(whole.tensor_kld)]
    alone = bitclass3_evaluate(SOURCE, files, ARCHITECTURE, CORPUS, options.model_copy(update={"n_probes": 0}), Silent())
    assert list(whole.tensor_kld.values()) == pytest.approx([e.mean_kld for e in alone], rel=1e-3)
    assert all(e.tensor_kld == {} for e in alone)


def test_probes_leave_the_figures_as_they_are(tmp_path: Path) -> None:
    qtypes = dict.fromkeys(ARCHITECTURE.quantizable, "Q4_0")
    files = [written(tmp_path, name, qtypes) for name in ("one", "two")]
    options = Options(n_tokens=1024, n_ctx=256, device="cpu", n_probes=2)
    one, two = bitclass3_evaluate(SOURCE, files, ARCHITECTURE, CORPUS, options, Silent())
    (bare,) = bitclass3_evaluate(SOURCE, files[:1], ARCHITECTURE, CORPUS, options.model_copy(update={"n_probes": 0}), Silent())
    assert one.tensor_kld == two.tensor_kld, "the same tensors of each file"
    assert replace(one, token_kld=None, tensor_kld={}) == replace(bare, token_kld=None)
