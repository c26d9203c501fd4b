"""imatrix files: written as llama.cpp reads them, read in both formats, and the plugin that takes one."""

import struct
import sys

import bitclass3_imatrix
import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from gguf_files import matrices, memory_model, write_gguf

from bitclass3_core.corpus import Corpus, document
from bitclass3_core.errors import ConfigError, ModelFileError, ToolchainError
from bitclass3_core.gguf.imatrix import read_imatrix, write_imatrix
from bitclass3_core.plugin.checks import check_sensitivity
from bitclass3_core.progress import Silent
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity, load_sensitivity, save_sensitivity

Q, EXPERTS = "blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"
RNG = np.random.default_rng(1)
POWERS = {Q: RNG.random(32, np.float32), EXPERTS: RNG.random((3, 32), np.float32)}
LEGACY = {Q: (7, POWERS[Q]), EXPERTS: (7, POWERS[EXPERTS].reshape(-1))}


def sensitivity(n_tokens: int = 4096) -> Sensitivity:
    return Sensitivity({name: TensorSensitivity(Powers(p)) for name, p in POWERS.items()}, "test", n_tokens, 512, "c0ffee")


def legacy(entries=LEGACY, tail: bytes = b"") -> bytes:
    """A .dat as older llama-imatrix wrote it: sums of squares scaled to the number of calls."""
    content = struct.pack("<i", len(entries))
    for name, (n_calls, values) in entries.items():
        content += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", n_calls, len(values))
        content += (values * np.float32(max(1, n_calls))).astype("<f4").tobytes()
    return content + tail


def write_tensors(path, tensors, kind="imatrix"):
    """An imatrix.gguf made of these arrays."""
    writer = GGUFWriter(path, "imatrix")
    writer.add_type(kind)
    for name, values in tensors.items():
        writer.add_tensor(name, np.asarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_reader_gives_back_what_was_written(tmp_path):
    write_imatrix(tmp_path / "i.gguf", sensitivity(), "a corpus")
    found = read_imatrix(tmp_path / "i.gguf")
    assert (found.n_tokens, found.datasets, set(found.in_power)) == (4096, ("a corpus",), set(POWERS))
    for name, values in POWERS.items():
        np.testing.assert_allclose(found.in_power[name], values, rtol=1e-6)


def test_layout_is_llama_cpp_s(tmp_path):
    """The keys and tensors that llama.cpp's common_imatrix_load and quantize's load_imatrix ask for."""
    write_imatrix(tmp_path / "i.gguf", sensitivity(), "a corpus")
    reader = GGUFReader(tmp_path / "i.gguf")
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert fields == {
        "general.type": "imatrix",
        "imatrix.datasets": ["a corpus"],
        "imatrix.chunk_count": 8,
        "imatrix.chunk_size": 512,
    }
    shapes = {tensor.name: (tensor.tensor_type.name, tensor.shape.tolist()) for tensor in reader.tensors}
    assert shapes == {
        f"{Q}.in_sum2": ("F32", [32]),
        f"{Q}.counts": ("F32", [1]),
        f"{EXPERTS}.in_sum2": ("F32", [32, 3]),
        f"{EXPERTS}.counts": ("F32", [1, 3]),
    }
    values = {tensor.name: tensor.data for tensor in reader.tensors}
    np.testing.assert_array_equal(values[f"{EXPERTS}.counts"].reshape(-1), [4096] * 3)
    np.testing.assert_allclose(values[f"{Q}.in_sum2"], POWERS[Q] * 4096, rtol=1e-6)


def test_sensitivity_without_tokens(tmp_path):
    write_imatrix(tmp_path / "i.gguf", sensitivity(n_tokens=0), "none")
    np.testing.assert_allclose(read_imatrix(tmp_path / "i.gguf").in_power[Q], POWERS[Q], rtol=1e-6)


def test_expert_that_no_token_reached(tmp_path):
    path = write_tensors(tmp_path / "i.gguf", {"a.in_sum2": [[2, 4], [0, 0], [9, 3]], "a.counts": [[2], [0], [3]]})
    np.testing.assert_array_equal(read_imatrix(path).in_power["a"], [[1, 2], [np.nan] * 2, [3, 1]])


def test_gguf_that_is_no_imatrix(tmp_path):
    with pytest.raises(ModelFileError, match=r"m\.gguf is a GGUF but no imatrix \(general\.type is 'missing'\)"):
        read_imatrix(write_gguf(tmp_path / "m.gguf"))
    with pytest.raises(ModelFileError, match=r"is a GGUF but no imatrix \(general\.type is 'adapter'\)"):
        read_imatrix(write_tensors(tmp_path / "a.gguf", {"a": [1.0]}, kind="adapter"))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a.in_sum2": [1.0, 2.0]}, "has no usable counts for a; make it again with llama-imatrix"),
        ({"a.in_sum2": [1.0, 2.0, 3.0], "a.counts": [1.0, 1.0]}, "has no usable counts for a"),
        ({"a.counts": [1.0]}, "has no entries; make it again with llama-imatrix"),
        ({"a.in_sum2": [1.0, -2.0], "a.counts": [1.0]}, "has NaN, Inf or negative values for a"),
        ({"a.in_sum2": [1.0, np.inf], "a.counts": [1.0]}, "has NaN, Inf or negative values for a"),
        ({"a.in_sum2": [1.0, np.nan], "a.counts": [1.0]}, "has NaN, Inf or negative values for a"),
        ({"a.in_sum2": [[1.0, np.nan], [1.0, 1.0]], "a.counts": [[1.0], [1.0]]}, "has NaN, Inf or negative values for a"),
    ],
)
def test_unusable_values(tmp_path, tensors, message):
    with pytest.raises(ModelFileError, match=message):
        read_imatrix(write_tensors(tmp_path / "i.gguf", tensors))


def test_truncated_gguf(tmp_path):
    write_imatrix(tmp_path / "i.gguf", sensitivity(), "a corpus")
    content = (tmp_path / "i.gguf").read_bytes()
    for n_bytes in range(4, len(content), 37):
        (tmp_path / "i.gguf").write_bytes(content[:n_bytes])
        with pytest.raises(ModelFileError, match=r"damaged or truncated|is no GGUF"):
            read_imatrix(tmp_path / "i.gguf")


def test_gguf_that_the_reader_refuses(tmp_path):
    path = write_gguf(tmp_path / "i.gguf", metadata={"general.type": "imatrix", "general.typo": "imatrix"})
    path.write_bytes(path.read_bytes().replace(b"general.typo", b"general.type"))
    with pytest.raises(ModelFileError, match=r"is no readable GGUF \('Duplicate general\.type already"):
        read_imatrix(path)


@pytest.mark.parametrize(
    ("tail", "datasets"),
    [(b"", ()), (struct.pack("<i", 8), ()), (struct.pack("<ii", 8, 4) + b"wiki", ("wiki",))],
    ids=["oldest", "with chunks", "with dataset"],
)
def test_legacy_file(tmp_path, tail, datasets):
    (tmp_path / "i.dat").write_bytes(legacy(tail=tail))
    found = read_imatrix(tmp_path / "i.dat")
    assert (found.n_tokens, found.datasets) == (0, datasets)
    np.testing.assert_allclose(found.in_power[Q], POWERS[Q], rtol=1e-6)
    np.testing.assert_allclose(found.in_power[EXPERTS], POWERS[EXPERTS].reshape(-1), rtol=1e-6)


def test_legacy_file_cut_at_every_byte(tmp_path):
    """It opens only where an older llama-imatrix would have ended the file."""
    content, path = legacy(tail=struct.pack("<ii", 8, 4) + b"wiki"), tmp_path / "i.dat"
    whole = {len(content) - 12, len(content) - 8}
    for n_bytes in range(len(content)):
        path.write_bytes(content[:n_bytes])
        if n_bytes in whole:
            assert set(read_imatrix(path).in_power) == set(POWERS)
        else:
            with pytest.raises(ModelFileError, match=rf"damaged, truncated or no imatrix \(byte \d+ of {n_bytes}\)"):
                read_imatrix(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack("<i", 0), "has no entries"),
        (struct.pack("<i", -1), "has no entries"),
        (struct.pack("<ii", 1, -5), "damaged, truncated or no imatrix"),
        (struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii", 1, -1), "damaged, truncated or no imatrix"),
        (struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii", 1, 1 << 30), "damaged, truncated or no imatrix"),
        (b"a text that is no imatrix at all", "damaged, truncated or no imatrix"),
        (legacy({"a": (1, np.array([1.0, -1.0], np.float32))}), "has NaN, Inf or negative values for a"),
    ],
)
def test_legacy_file_with_wrong_numbers(tmp_path, content, message):
    (tmp_path / "i.dat").write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        read_imatrix(tmp_path / "i.dat")


def test_missing_file(tmp_path):
    with pytest.raises(
        ModelFileError, match=r"imatrix .*nothing\.gguf cannot be read: No such file.*; check \[estimate\] options\.path"
    ):
        read_imatrix(tmp_path / "nothing.gguf")


NO_TEXT = Corpus((), ())


def estimate(model, path=None, corpus=NO_TEXT, **options):
    answer = bitclass3_imatrix.bitclass3_estimate(
        model=model,
        architecture=matrices(model),
        corpus=corpus,
        options=bitclass3_imatrix.Options(path=path, **options),
        progress=Silent(),
    )
    check_sensitivity(answer, model, matrices(model).quantizable, "imatrix")
    return answer


def model_of(**more):
    return memory_model(blk__0__attn_q=(4, 32), blk__0__ffn_up_exps=(3, 4, 32), **more)


def test_plugin_takes_the_file_s_values(tmp_path):
    write_imatrix(tmp_path / "i.gguf", sensitivity(), "a corpus")
    answer = estimate(model_of(), tmp_path / "i.gguf")
    for name, values in POWERS.items():
        np.testing.assert_allclose(answer.tensors[name].imatrix, values, rtol=1e-6)
    assert (answer.n_tokens, answer.notes, answer.in_nats) == (4096, (), False)
    assert answer.corpus.endswith(" a corpus")


def test_plugin_takes_a_legacy_stack_by_expert(tmp_path):
    (tmp_path / "i.dat").write_bytes(legacy())
    np.testing.assert_allclose(estimate(model_of(), tmp_path / "i.dat").tensors[EXPERTS].imatrix, POWERS[EXPERTS], rtol=1e-6)


def test_plugin_gives_unreached_experts_the_mean_of_the_others(tmp_path):
    sums = {
        f"{EXPERTS}.in_sum2": np.stack([np.full(32, 2.0), np.zeros(32), np.full(32, 4.0)]),
        f"{EXPERTS}.counts": [[1], [0], [1]],
    }
    path = write_tensors(tmp_path / "i.gguf", {f"{Q}.in_sum2": np.ones(32), f"{Q}.counts": [1], **sums})
    assert estimate(model_of(), path).tensors[EXPERTS].imatrix.mean(axis=1).tolist() == [2, 3, 4]


def test_plugin_with_a_stack_that_no_token_reached(tmp_path):
    sums = {f"{EXPERTS}.in_sum2": np.zeros((3, 32)), f"{EXPERTS}.counts": np.zeros((3, 1))}
    path = write_tensors(tmp_path / "i.gguf", {f"{Q}.in_sum2": np.full(32, 5.0), f"{Q}.counts": [1], **sums})
    assert estimate(model_of(), path).tensors[EXPERTS].imatrix.tolist() == [1.0] * 32


def test_partial_coverage_is_filled_and_named(tmp_path):
    write_imatrix(tmp_path / "i.gguf", sensitivity(), "a corpus")
    answer = estimate(model_of(blk__1__attn_q=(4, 32)), tmp_path / "i.gguf")
    assert answer.notes == ("1 tensors have no statistics of their own and got their neighbours' mean: blk.1.attn_q.weight",)
    np.testing.assert_allclose(answer.tensors["blk.1.attn_q.weight"].imatrix, POWERS[Q], rtol=1e-6)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"blk__0__attn_k": (4, 32)}, rf"is of another model: none of its 2 tensors \({Q}\) is to be quantized in memory\.gguf"),
        (
            {"blk__0__attn_q": (4, 64), "blk__0__ffn_up_exps": (3, 4, 32)},
            f"is of another model: {Q} has 32 values there, 64 columns",
        ),
        ({"blk__0__ffn_up_exps": (4, 4, 32)}, f"is of another model: {EXPERTS} has 96 values there, 32 columns here"),
    ],
)
def test_imatrix_of_another_model(tmp_path, shapes, message):
    write_imatrix(tmp_path / "i.gguf", sensitivity(), "a corpus")
    with pytest.raises(ModelFileError, match=message):
        estimate(memory_model(**shapes), tmp_path / "i.gguf")


def test_imatrix_of_a_larger_model(tmp_path):
    entries = {f"blk.{i}.attn_q.weight": (1, POWERS[Q]) for i in range(5)}
    (tmp_path / "i.dat").write_bytes(legacy(entries))
    message = r"is of another model: 4 of its 5 tensors \(blk\.1\.attn_q\.weight\) are not in memory\.gguf"
    with pytest.raises(ModelFileError, match=message):
        estimate(memory_model(blk__0__attn_q=(4, 32)), tmp_path / "i.dat")


def test_imatrix_of_tensors_that_are_not_quantized(tmp_path):
    (tmp_path / "i.dat").write_bytes(legacy({"output_norm.weight": (1, POWERS[Q])}))
    model = memory_model(output_norm=(32,), blk__0__attn_q=(4, 32))
    with pytest.raises(ModelFileError, match=r"none of its 1 tensors \(output_norm\.weight\) is to be quantized"):
        estimate(model, tmp_path / "i.dat")


def test_experts_count_with_the_share_of_tokens_that_reach_them(tmp_path):
    """100 tokens, two experts each: 60, 40 and 98 of 198 counts; each expert is counted once more."""
    sums = {f"{EXPERTS}.in_sum2": np.ones((3, 32)), f"{EXPERTS}.counts": [[60], [40], [98]]}
    path = write_tensors(tmp_path / "i.gguf", {f"{Q}.in_sum2": np.ones(32), f"{Q}.counts": [100], **sums})
    answer = estimate(model_of(), path)
    np.testing.assert_allclose(answer.tensors[EXPERTS].linear.out_power, np.repeat([61 / 103, 41 / 103, 99 / 103], 4), rtol=1e-6)
    assert not answer.in_nats


def test_shares_survive_the_file(tmp_path):
    sums = {f"{EXPERTS}.in_sum2": np.ones((3, 32)), f"{EXPERTS}.counts": [[6], [4], [9]]}
    answer = estimate(memory_model(blk__0__ffn_up_exps=(3, 4, 32)), write_tensors(tmp_path / "i.gguf", sums))
    save_sensitivity(answer, tmp_path / "s.safetensors")
    again = load_sensitivity(tmp_path / "s.safetensors")
    assert again.only_ranks
    assert not again.in_nats
    np.testing.assert_array_equal(again.tensors[EXPERTS].linear.out_power, answer.tensors[EXPERTS].linear.out_power)


TEXT = Corpus((document("one two three", "a"), document("four", "b")), ())


def stand_in(tmp_path, monkeypatch, code):
    """A llama-imatrix in a folder of its own that LLAMA_CPP_DIR names."""
    program = tmp_path / "bin" / "llama-imatrix"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport shutil, sys\narguments = sys.argv[1:]\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("LLAMA_CPP_DIR", str(program.parent))


def test_program_makes_one_of_the_calibration_text(tmp_path, monkeypatch):
    write_imatrix(tmp_path / "i.gguf", sensitivity(), "text")
    copy = f"""
shutil.copy({str(tmp_path / "i.gguf")!r}, arguments[arguments.index("-o") + 1])
text = open(arguments[arguments.index("-f") + 1]).read()
open({str(tmp_path / "seen.txt")!r}, "w").write(" ".join(arguments) + "|" + text)
"""
    stand_in(tmp_path, monkeypatch, copy)
    answer = estimate(model_of(), corpus=TEXT, n_tokens=2048, n_ctx=256, threads=3, gpu_layers=0)
    np.testing.assert_allclose(answer.tensors[Q].imatrix, POWERS[Q], rtol=1e-6)
    assert answer.corpus == Corpus.fingerprint(TEXT.calibration)
    arguments, text = (tmp_path / "seen.txt").read_text().split("|")
    assert text == "one two three\n\nfour"
    assert arguments.endswith("--process-output -c 256 --chunks 8 -t 3 -ngl 0")


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ('print("you need at least 1024 tokens")', ModelFileError, r"text is too short for llama-imatrix \(you need at least 1024"),
        ('print("all is well")', ToolchainError, "llama-imatrix wrote no imatrix; its last lines: all is well"),
        (
            "print(\"unknown model architecture: 'new'\"); sys.exit(1)",
            ModelFileError,
            "does not know the architecture 'llama' of mem",
        ),
        ('print("out of luck"); sys.exit(1)', ToolchainError, "llama-imatrix failed with exit code 1; its last lines: out of luck"),
        ('open(arguments[arguments.index("-o") + 1], "w").write("no")', ModelFileError, "is damaged, truncated or no imatrix"),
    ],
)
def test_program_that_fails(tmp_path, monkeypatch, code, error, message):
    stand_in(tmp_path, monkeypatch, code)
    with pytest.raises(error, match=message):
        estimate(model_of(), corpus=TEXT)


def test_neither_file_nor_text():
    with pytest.raises(
        ConfigError, match=r"no calibration text; give --corpus FILE, or an imatrix with --set estimate\.options\.path"
    ):
        estimate(model_of())
