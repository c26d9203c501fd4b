"""The report that runs the file in llama.cpp, with programs that stand in for it."""

import sys
from types import SimpleNamespace

import bitclass3_llama_completion as completion
import pytest

from bitclass3_core.errors import ModelFileError, ToolchainError


@pytest.fixture
def report(tmp_path, monkeypatch):
    """A function that runs the report with a program of that code."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "m.gguf").touch()
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path / "bin"))

    def run(code: str, name: str = "llama-completion", path=tmp_path / "m.gguf", **options):
        program = tmp_path / "bin" / name
        program.write_text(f"#!{sys.executable}\nimport sys\n{code}\n")
        program.chmod(0o755)
        finished = SimpleNamespace(ours=SimpleNamespace(path=path))
        return completion.bitclass3_report(run=finished, out=tmp_path, options=completion.Options(**options))

    return run


SPEAKS = """
print("Once upon a time")
print("common_perf_print: prompt eval time = 4.44 ms / 3 tokens ( 1.48 ms per token, 676.13 tokens per second)", file=sys.stderr)
print("common_perf_print:        eval time = 10.94 ms / 23 runs ( 0.48 ms per token, 2102.95 tokens per second)", file=sys.stderr)
"""


def test_text_and_speed_are_kept(report, tmp_path):
    assert report(SPEAKS, prompt="Once upon", n_tokens=3) == [tmp_path / "sample.txt"]
    text = (tmp_path / "sample.txt").read_text()
    assert text.startswith(
        "$ llama-completion -m m.gguf -p 'Once upon' -n 3 -no-cnv --temp 0 -c 76\n\nOnce upon a time\n\n2102.95 tokens"
    )
    assert "676.13" not in text


def test_older_program_stands_in(report, tmp_path):
    assert report(SPEAKS, name="llama-cli") == [tmp_path / "sample.txt"]
    assert (tmp_path / "sample.txt").read_text().startswith("$ llama-cli ")


def test_file_that_does_not_load(report, tmp_path):
    code = 'print("error loading model: unknown architecture", file=sys.stderr); sys.exit(1)'
    with pytest.raises(
        ModelFileError, match=r"m\.gguf does not run in llama\.cpp: llama-completion failed with exit code 1; .*unknown arch"
    ):
        report(code)
    assert not (tmp_path / "sample.txt").exists()


def test_program_that_says_nothing(report):
    with pytest.raises(ToolchainError, match=r"llama-completion generated nothing from m\.gguf; its last lines: hm"):
        report('print("hm", file=sys.stderr)')


def test_run_without_a_file(report):
    assert report("sys.exit(1)", path=None) == []


def test_arguments(report, tmp_path):
    report("print(*sys.argv[1:])", threads=3, gpu_layers=0)
    assert "-t 3 -ngl 0" in (tmp_path / "sample.txt").read_text().splitlines()[2]
