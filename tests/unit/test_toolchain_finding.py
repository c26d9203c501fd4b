"""Finding llama.cpp's programs: the order of the places, the layouts, folders that lack some, and the command line for it."""

import json
import os
import sys
from pathlib import Path

import pytest
from command import bitclass3

from bitclass3_core.cli.toolchain import list_programs
from bitclass3_core.cli.toolchain import path as path_command
from bitclass3_core.errors import ToolchainError
from bitclass3_core.toolchain import places
from bitclass3_core.toolchain.finding import PROGRAMS, Program, find_all, find_program

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the programs are shell scripts")
CONVERTER = "convert_hf_to_gguf.py"


@pytest.fixture(autouse=True)
def _nothing_found(tmp_path, monkeypatch):
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("BITCLASS3_CACHE", str(tmp_path / "cache"))


def program(folder: Path, name: str = "llama-quantize", script: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    return folder / name


def managed(tmp_path: Path, name: str = "0.3.36-cpu", installed_at: str = "2026-01-01T00:00:00+00:00", **facts: object) -> Path:
    """A managed toolchain with llama-quantize and the converter."""
    folder = tmp_path / "cache" / "llama.cpp" / name
    program(folder / "bin")
    program(folder, CONVERTER)
    version, backend = name.rsplit("-", 1)
    known = {"version": version, "backend": backend, "sha256": "0", "ggml_version": "0.25.3", "compiler": "c++ 12"}
    facts = {**known, "programs": ["llama-quantize"], "installed_at": installed_at, **facts}
    (folder / "toolchain.json").write_text(json.dumps(facts))
    return folder


def test_option_then_environment_then_path_then_managed(tmp_path, monkeypatch):
    found = [managed(tmp_path) / "bin" / "llama-quantize"]
    assert find_program("llama-quantize") == Program("llama-quantize", found[0], "managed")
    found.append(program(tmp_path / "path"))
    assert find_program("llama-quantize") == Program("llama-quantize", found[1], "PATH")
    found.append(program(tmp_path / "environment"))
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path / "environment"))
    assert find_program("llama-quantize") == Program("llama-quantize", found[2], "LLAMA_CPP_DIR")
    found.append(program(tmp_path / "given"))
    assert find_program("llama-quantize", tmp_path / "given") == Program("llama-quantize", found[3], "option")


@pytest.mark.parametrize("place", ["", "bin", "build/bin", "build/bin/Release", "app"])
@pytest.mark.parametrize("name", ["llama-quantize", CONVERTER])
def test_layouts(tmp_path, place, name):
    expected = program(tmp_path / "given" / place, name)
    assert find_program(name, tmp_path / "given").path == expected


def test_converter_of_a_build_folder_lies_at_the_root_of_the_source(tmp_path):
    expected = program(tmp_path / "source", CONVERTER)
    (tmp_path / "source" / "build" / "bin").mkdir(parents=True)
    assert find_program(CONVERTER, tmp_path / "source" / "build" / "bin").path == expected
    (tmp_path / "link").symlink_to(tmp_path / "source" / "build" / "bin")
    assert find_program(CONVERTER, tmp_path / "link").path == expected


def test_converter_need_not_be_executable_a_program_must_be(tmp_path):
    program(tmp_path / "given", CONVERTER).chmod(0o644)
    assert find_program(CONVERTER, tmp_path / "given").origin == "option"
    program(tmp_path / "given").chmod(0o644)
    with pytest.raises(ToolchainError):
        find_program("llama-quantize", tmp_path / "given")


def test_converter_behind_a_link_on_path_is_run_where_its_modules_are(tmp_path):
    expected = program(tmp_path / "opt", CONVERTER)
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / CONVERTER).symlink_to(expected)
    assert find_program(CONVERTER) == Program(CONVERTER, expected, "PATH")


def test_relative_folder_gives_an_absolute_path(tmp_path, monkeypatch):
    expected = program(tmp_path / "given" / "bin")
    monkeypatch.chdir(tmp_path)
    assert find_program("llama-quantize", Path("given")).path == expected


def test_a_folder_may_lack_a_program_that_another_place_has(tmp_path):
    program(tmp_path / "given")
    program(tmp_path / "path", "llama-perplexity")
    found = find_all(tmp_path / "given")
    assert tuple(found) == PROGRAMS
    assert {name: one.origin for name, one in found.items() if isinstance(one, Program)} == {
        "llama-quantize": "option",
        "llama-perplexity": "PATH",
    }
    assert "llama-imatrix was not found" in str(found["llama-imatrix"])


def test_stand_in_of_an_earlier_place_beats_the_name_at_a_later_one(tmp_path):
    expected = program(tmp_path / "given", "llama-cli")
    program(tmp_path / "path", "llama-completion")
    assert find_program("llama-completion", tmp_path / "given") == Program("llama-cli", expected, "option")
    assert find_program("llama-completion").name == "llama-completion"


def test_message_names_program_places_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path / "gone"))
    program(tmp_path / "given", "llama-perplexity")
    with pytest.raises(ToolchainError) as caught:
        find_program("llama-quantize", tmp_path / "given")
    assert str(caught.value) == (
        f"llama-quantize was not found; looked in {tmp_path}/given (option, has llama-perplexity), "
        f"{tmp_path}/gone (LLAMA_CPP_DIR, no such folder), PATH, {tmp_path}/cache/llama.cpp (managed); "
        "run `bitclass3 toolchain install`, or set LLAMA_CPP_DIR to a folder of llama.cpp that has it"
    )
    (tmp_path / "gone").mkdir()
    with pytest.raises(ToolchainError, match=r"^llama-cli or llama-completion was not .*gone \(LLAMA_CPP_DIR, has none of the"):
        find_program("llama-cli")


def test_version_is_asked_once_and_only_where_it_is_known(tmp_path):
    script = 'echo asked >> "$0.log"; echo "version: 5432 (abc1234)" >&2; echo "built with cc" >&2'
    perplexity, quantize = program(tmp_path / "path", "llama-perplexity", script), program(tmp_path / "path", script=script)
    found = find_program("llama-perplexity")
    assert not Path(f"{perplexity}.log").exists()
    assert [found.version, found.version] == ["5432 (abc1234)"] * 2
    assert Path(f"{perplexity}.log").read_text() == "asked\n"
    assert find_program("llama-quantize").version is None
    assert not Path(f"{quantize}.log").exists()


@pytest.mark.parametrize("script", ["exit 1", "sleep 5", "echo nothing"])
def test_version_of_a_program_that_does_not_say(tmp_path, monkeypatch, script):
    monkeypatch.setattr("bitclass3_core.toolchain.finding._VERSION_SECONDS", 0.2)
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:{os.defpath}")
    program(tmp_path / "path", "llama-imatrix", f"exec {script}" if "sleep" in script else script)
    assert find_program("llama-imatrix").version is None


def test_version_of_a_program_of_another_machine(tmp_path):
    program(tmp_path / "path", "llama-imatrix").write_bytes(b"\x7fELF" + bytes(60))
    assert find_program("llama-imatrix").version is None


def test_latest_managed_toolchain_counts_and_broken_ones_do_not(tmp_path):
    managed(tmp_path)
    latest = managed(tmp_path, "0.3.36-cuda", "2026-02-01T00:00:00+00:00")
    managed(tmp_path, ".0.3.36-vulkan.part", "2026-03-01T00:00:00+00:00")
    managed(tmp_path, "0.3.36-hip", programs=None)
    broken = managed(tmp_path, "0.3.36-sycl")
    (broken / "toolchain.json").write_text("{")
    (managed(tmp_path, "0.3.35-cpu") / "toolchain.json").unlink()
    assert [one.backend for one in places.installed()] == ["cuda", "cpu"]
    assert find_program("llama-quantize").path == latest / "bin" / "llama-quantize"


def test_cache_folder(tmp_path, monkeypatch):
    assert places.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("BITCLASS3_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert places.cache_folder() == tmp_path / "xdg" / "bitclass3"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert places.cache_folder() == tmp_path / ".cache" / "bitclass3"
    monkeypatch.setattr("sys.platform", "darwin")
    assert places.cache_folder() == tmp_path / "Library" / "Caches" / "bitclass3"


def test_no_home_folder(monkeypatch):
    def no_home():
        raise RuntimeError("no home")

    for name in ("BITCLASS3_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ToolchainError, match="set BITCLASS3_CACHE"):
        places.cache_folder()


def test_path_command(tmp_path, capsys):
    with pytest.raises(ToolchainError, match=r"no llama\.cpp is installed in .*; run `bitclass3 toolchain install`"):
        path_command()
    folder = managed(tmp_path)
    path_command()
    path_command("llama-quantize")
    path_command(CONVERTER)
    assert capsys.readouterr().out.splitlines() == [str(folder), f"{folder}/bin/llama-quantize", f"{folder}/{CONVERTER}"]
    with pytest.raises(ToolchainError, match="llama-imatrix was not found"):
        path_command("llama-imatrix")
    path_command(llama_cpp=tmp_path / "given")
    assert capsys.readouterr().out == f"{tmp_path}/given\n"


def test_list_command(tmp_path, capsys):
    list_programs()
    assert capsys.readouterr().out.startswith(f"installed  none in {tmp_path}/cache/llama.cpp\nmissing    llama-quantize: ")
    folder = managed(tmp_path)
    program(tmp_path / "path", "llama-perplexity", 'echo "version: 1 (a)"')
    list_programs()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        f"installed  0.3.36-cpu: ggml 0.25.3, c++ 12 ({folder})",
        f"found      llama-quantize: {folder}/bin/llama-quantize (managed)",
    ]
    assert f"found      llama-perplexity: {tmp_path}/path/llama-perplexity (PATH, 1 (a))" in lines


def test_list_as_json(tmp_path, capsys):
    folder = managed(tmp_path)
    program(tmp_path / "given", "llama-perplexity", 'echo "version: 1 (a)"')
    list_programs(llama_cpp=tmp_path / "given", json=True)
    shown = json.loads(capsys.readouterr().out)
    assert [(one["version"], one["backend"], one["folder"]) for one in shown["installed"]] == [("0.3.36", "cpu", str(folder))]
    assert tuple(shown["programs"]) == PROGRAMS
    assert shown["programs"]["llama-perplexity"] == {
        "path": f"{tmp_path}/given/llama-perplexity",
        "name": "llama-perplexity",
        "origin": "option",
        "version": "1 (a)",
    }
    assert shown["programs"]["llama-imatrix"]["path"] is None
    assert "llama-imatrix was not found" in shown["programs"]["llama-imatrix"]["error"]


def test_command_line(tmp_path):
    done = bitclass3("toolchain", "path", "llama-quantize")
    assert (done.code, done.out) == (1, "")
    assert done.error.startswith("llama-quantize was not found; looked in PATH, ")
    folder = managed(tmp_path)
    assert bitclass3("toolchain", "path").out == f"{folder}\n"
    shown = json.loads(bitclass3("toolchain", "list", "--json").out)
    assert shown["programs"]["llama-quantize"]["origin"] == "managed"
    done = bitclass3("toolchain", "install", "--backend", "gpu")
    assert done.code == 2
    assert done.error == "no back end 'gpu'; did you mean 'cpu'? known: cpu, cuda, hip, metal, sycl, vulkan"
    checks = json.loads(bitclass3("doctor", "--json").out)["checks"]
    assert checks["llama-quantize"] == {"ok": True, "detail": f"{folder}/bin/llama-quantize (managed)"}
    assert not checks["llama-imatrix"]["ok"]
    assert "not needed" in checks["llama-imatrix"]["detail"]
