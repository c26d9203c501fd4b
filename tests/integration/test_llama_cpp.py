"""The whole way with stock llama.cpp: from an HF folder, from a GGUF alone, from a split one."""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
from command import CALIBRATION, EXAMPLE, GGUF, TEXT, bitclass3

from bitclass3_core.gguf.model import GgufModel

pytestmark = pytest.mark.slow
LITTLE = ["--set", "estimate.options.n_tokens=2048", "--set", "evaluate.options.n_chunks=8", "--menu", "k"]
STOCK = ["--plugin", "llama-quantize", "--plugin", "llama-perplexity"]


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    """The example's HF folder as it comes from training: no GGUF in it."""
    folder = tmp_path / "my-fine-tune"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("*.gguf", "make", "held-out", "README.md"))
    return folder


def figures(out: Path) -> dict[str, dict[str, float]]:
    """Measured figures of a run's files, by kind."""
    return {
        "stock" if "stock" in path.stem else "ours": json.loads(str(np.load(path)["figures"]))
        for path in (out / "evaluation").glob("*.npz")
    }


def test_one_command_from_an_hf_folder(llama_cpp: Path, hf: Path, tmp_path: Path) -> None:
    """Converted, allocated, quantized, measured and run by stock llama.cpp."""
    reports = ["--plugin", "llama-completion", "--plugin", "model-card", "--set", "report.options.llama-completion.n_tokens=8"]
    command = ["run", "--model", hf, *TEXT, *STOCK, *reports, *LITTLE, "--match-stock", "Q4_K_M", "--llama-cpp", llama_cpp]
    environment = {"BITCLASS3_CACHE": str(tmp_path / "cache")}
    done = bitclass3(*command, "--out", tmp_path / "out", env=environment)
    assert done.code == 0, done.err
    assert "its rule is that of 'gpt-2'" in done.err
    ours, stock = (next((tmp_path / "out").glob(f"*{kind}-Q4_K_M.gguf")) for kind in ("bitclass3", "stock"))
    assert ours.stat().st_size <= stock.stat().st_size
    measured = figures(tmp_path / "out")
    assert 0 < measured["ours"]["mean_kld"] < measured["stock"]["mean_kld"] < 0.1
    assert measured["ours"]["evaluator"].startswith("llama-perplexity")
    assert len((tmp_path / "out" / "sample.txt").read_text().split()) > 8
    card = (tmp_path / "out" / "README.md").read_text()
    assert "measured against the source by llama-perplexity" in card
    (source,) = (tmp_path / "cache" / "converted").rglob("*.gguf")
    a, b = GgufModel(source), GgufModel(GGUF)  # the same but for the folder's name in the metadata
    assert all(np.array_equal(a.read_raw(name), b.read_raw(name)) for name in {*a.tensors, *b.tensors})
    again = bitclass3(*command, "--out", tmp_path / "out", env=environment)
    assert "was converted before" in again.err
    assert "evaluate: everything is up to date" in again.err


def test_gguf_alone(llama_cpp: Path, tmp_path: Path) -> None:
    """No HF folder, no torch: llama-imatrix, probes by llama-perplexity, and its verdict."""
    shutil.copy(GGUF, tmp_path / "alone-bf16.gguf")
    probes = ["--plugin", "kld-probe", "--set", "estimate.options.bands=1", "--set", "estimate.options.probe_tokens=2048"]
    command = ["run", "--model", tmp_path / "alone-bf16.gguf", *TEXT, *probes, *STOCK, *LITTLE, "--match-stock", "Q4_K_M"]
    done = bitclass3(
        *command, "--out", tmp_path / "out", "--llama-cpp", llama_cpp, env={"BITCLASS3_CACHE": str(tmp_path / "cache")}
    )
    assert done.code == 0, done.err
    assert "groups by llama-perplexity, noise floor" in done.err
    measured = figures(tmp_path / "out")
    assert 0 < measured["ours"]["mean_kld"] < measured["stock"]["mean_kld"] < 0.1
    allocation = json.loads((tmp_path / "out" / "allocation.json").read_text())
    assert allocation["cost_in_nats_per_token"]
    assert 0.3 < measured["ours"]["mean_kld"] / allocation["cost"] < 3  # predicted in the unit in which it is measured
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["probes"]


def split_example(folder: Path, n_tensors: int) -> Path:
    """The example's GGUF in files of at most that many tensors, by gguf's own writer; returns the first."""
    source = GgufModel(GGUF)
    writer = gguf.GGUFWriter(folder / "split.gguf", source.arch, split_max_tensors=n_tensors)
    for key, value in source.fields.items():
        if key != "general.architecture":
            sub_type = value.types[-1] if value.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, value.contents(), value.types[0], sub_type)
    for name, info in source.tensors.items():
        kind = gguf.GGMLQuantizationType[info.dtype]
        raw = source.read_raw(name)
        width = gguf.quant_shape_to_byte_shape(info.shape, kind)
        writer.add_tensor(name, raw.reshape(width), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return min(folder.glob("split-00001-of-*.gguf"))


def test_split_in_and_out(llama_cpp: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    first = split_example(tmp_path / "source", 40)
    assert len(GgufModel(first).files) == 3
    command = ["run", "--model", first, *TEXT, "--plugin", "uniform", *STOCK, "--target-bpw", 5, "--llama-cpp", llama_cpp]
    command += ["--set", "export.options.keep_split=true", "--set", "evaluate.options.n_chunks=4", "--menu", "k"]
    done = bitclass3(*command, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    written = sorted(path.name for path in (tmp_path / "out").glob("split-5.00bpw*.gguf"))
    assert written == [f"split-5.00bpw-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    asked = json.loads((tmp_path / "out" / "allocation.json").read_text())["qtypes"]
    model = GgufModel(tmp_path / "out" / written[0])
    assert {name: model.tensors[name].dtype for name in asked} == asked
    assert model.tensors.keys() == GgufModel(GGUF).tensors.keys()
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["artefacts"]["file split-5.00bpw"]["files"][:3] == written
    again = bitclass3(*command, "--out", tmp_path / "out", "--json")
    assert "is up to date" not in again.err  # --json is quiet
    sizes = [candidate["file_bytes"] for candidate in json.loads(again.out)["candidates"]]
    assert sizes[0] == sum((tmp_path / "out" / name).stat().st_size for name in written)


def test_whole_file_from_a_split_source(llama_cpp: Path, tmp_path: Path) -> None:
    """The same types give the same tensors, whether the source or the result is split."""
    (tmp_path / "source").mkdir()
    first = split_example(tmp_path / "source", 60)
    for name, source in (("whole", GGUF), ("split", first)):
        command = ["run", "--model", source, *TEXT, "--plugin", "uniform", "--plugin", "llama-quantize", "--menu", "k"]
        done = bitclass3(
            *command,
            "--target-bpw",
            5,
            "--until",
            "export",
            "--baseline",
            "none",
            "--out",
            tmp_path / name,
            "--llama-cpp",
            llama_cpp,
        )
        assert done.code == 0, done.err
    a, b = (GgufModel(next((tmp_path / name).glob("*5.00bpw.gguf"))) for name in ("whole", "split"))
    assert all(np.array_equal(a.read_raw(name), b.read_raw(name)) for name in a.tensors)


def test_imatrix_of_llama_cpp_agrees_with_torch(llama_cpp: Path, tmp_path: Path) -> None:
    """in_power by llama-imatrix and by torch's forward passes over the same text: the same means, within what chunking changes."""
    from bitclass3_core.sensitivity import load_sensitivity

    powers = {}
    for plugin in ("imatrix", "hessian-diag"):
        command = [
            "run",
            "--model",
            EXAMPLE,
            "--corpus",
            CALIBRATION,
            "--plugin",
            plugin,
            "--set",
            "estimate.options.n_tokens=8192",
        ]
        done = bitclass3(*command, "--target-bpw", 5, "--until", "estimate", "--out", tmp_path / plugin, "--llama-cpp", llama_cpp)
        assert done.code == 0, done.err
        powers[plugin] = load_sensitivity(tmp_path / plugin / f"sensitivity-{plugin}.safetensors").tensors
    ratios = [
        float(tensor.linear.in_power.mean() / powers["hessian-diag"][name].linear.in_power.mean())
        for name, tensor in powers["imatrix"].items()
        if tensor.linear is not None and name in powers["hessian-diag"] and powers["hessian-diag"][name].linear is not None
    ]
    assert len(ratios) > 60
    assert 0.9 < np.median(ratios) < 1.1
    assert min(ratios) > 0.5
    assert max(ratios) < 2
