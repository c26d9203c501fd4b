"""A tensor that cannot have its type: the run says so, gives it another and goes on, within the size that was asked."""

import json
from pathlib import Path

from command import CALIBRATION, EVALUATION, GGUF, bitclass3

from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.qtypes import qtype

# An exporter that fails as llama-quantize does where a block comes out as NaN: the tensor below cannot be smaller than Q5_K.
EXPORTER = """
from pathlib import Path
import bitclass3_gguf
from bitclass3_core import hookimpl
from bitclass3_core.errors import UnusableTypeError
from bitclass3_core.qtypes import qtype

TENSOR = "blk.0.ffn_down.weight"

@hookimpl
def bitclass3_export(model, allocation, sensitivity, out, stem, progress):
    if qtype(allocation.qtypes[TENSOR]).bpw < qtype("Q5_K").bpw:
        raise UnusableTypeError(TENSOR, allocation.qtypes[TENSOR], "found nan value at block 0")
    options = bitclass3_gguf.Options.model_validate({})
    arguments = dict(model=model, allocation=allocation, sensitivity=sensitivity, out=out, stem=stem, progress=progress)
    return bitclass3_gguf.write_file(options=options, **arguments)
"""
TENSOR = "blk.0.ffn_down.weight"
ARGUMENTS = ["--model", GGUF, "--corpus", CALIBRATION, "--eval-corpus", EVALUATION, "--plugin", "uniform", "--menu", "k"]


def test_run_goes_on_with_a_larger_type(tmp_path: Path) -> None:
    (tmp_path / "fussy.py").write_text(EXPORTER)
    asked = 3_600_000
    target = ["--target-size", asked, "--until", "export", "--out", tmp_path / "out"]
    done = bitclass3("run", *ARGUMENTS, *target, "--plugin", tmp_path / "fussy.py")
    assert done.code == 0, done.err
    assert f"warning: {TENSOR} cannot be " in done.err
    assert "found nan value at block 0; it gets the next larger type that works, and the rest is solved again" in done.err
    assert f"{TENSOR} is Q5_" in done.err  # the stock mix, which is no solution that could be solved again
    files = {path.name: path for path in (tmp_path / "out").glob("model-*.gguf")}
    assert len(files) == 2
    for path in files.values():
        assert qtype(GgufModel(path).tensors[TENSOR].dtype).bpw >= qtype("Q5_K").bpw
    ours = next(path for name, path in files.items() if "stock" not in name)
    assert ours.stat().st_size <= asked
    (noted,) = json.loads((tmp_path / "out" / "run.json").read_text())["unusable"].values()
    assert {entry["tensor"] for entry in noted} == {TENSOR}
    assert json.loads((tmp_path / "out" / "allocation.json").read_text())["qtypes"][TENSOR] == GgufModel(ours).tensors[TENSOR].dtype


def test_what_failed_once_is_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "fussy.py").write_text(EXPORTER)
    command = [
        "run",
        *ARGUMENTS,
        "--until",
        "export",
        "--out",
        tmp_path / "out",
        "--plugin",
        tmp_path / "fussy.py",
        "--baseline",
        "none",
    ]
    assert "cannot be" in bitclass3(*command, "--target-size", 3_600_000).err
    again = bitclass3(*command, "--target-size", 3_700_000)
    assert again.code == 0, again.err
    assert "cannot be" not in again.err


def test_exporter_that_fails_for_ever_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(EXPORTER.replace('< qtype("Q5_K").bpw', "> 0"))
    command = ["run", *ARGUMENTS, "--until", "export", "--out", tmp_path / "out", "--plugin", tmp_path / "broken.py"]
    done = bitclass3(*command, "--baseline", "none", "--target-bpw", 5)
    assert done.code == 1
    assert f"{TENSOR} cannot be BF16: found nan value at block 0" in done.error
