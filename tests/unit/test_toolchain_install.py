"""Installing llama.cpp with a cmake that stands in for the real one: what is built, kept, resumed, refused."""

import io
import json
import shutil
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from bitclass3_core.cli.toolchain import install as install_command
from bitclass3_core.errors import ConfigError, InterruptedRunError, ToolchainError
from bitclass3_core.files import sha256_file
from bitclass3_core.progress import Silent
from bitclass3_core.toolchain import installing, release, requirements
from bitclass3_core.toolchain.building import default_jobs, parse_step
from bitclass3_core.toolchain.finding import find_program
from bitclass3_core.toolchain.installing import install, make_order
from bitclass3_core.toolchain.places import read_toolchain

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the programs are shell scripts")
BUILT = ("llama-quantize", "llama-imatrix", "llama-perplexity", "llama-completion")
SOURCE = {
    "CMakeLists.txt": "project",
    "convert_hf_to_gguf.py": "import gguf",
    "conversion/__init__.py": "",
    "gguf-py/gguf/__init__.py": "",
    "gguf-py/tests/test.py": "",
    "models/templates/a.jinja": "",
    "LICENSE": "MIT",
    "ggml/CMakeLists.txt": "set(GGML_VERSION_MAJOR 0)\nset(GGML_VERSION_MINOR 25)\nset(GGML_VERSION_PATCH 3)\n",
}
# It answers the three calls: configure, list the targets, build. Files in $STAND tell it how to fail and keep what it was told.
CMAKE = """#!/bin/sh
echo "$*" >> "$STAND/calls"
case "$*" in
  *"--target help"*)
    echo "all: phony"
    for name in llama-quantize llama-imatrix llama-perplexity llama-completion llama-gguf-split; do echo "$name: phony"; done ;;
  --build*)
    folder="$2"; shift 5; total=$(($# + 1)); done=1
    echo "[1/$total] Building CXX object src/llama.o"
    if [ -e "$STAND/fail" ]; then echo "llama.cpp:7:1: error: bad"; echo ""; echo "ninja: build stopped"; exit 1; fi
    if [ -e "$STAND/slow" ]; then sleep "$(cat "$STAND/slow")"; fi
    mkdir -p "$folder/bin"; echo library > "$folder/bin/libggml-base.so.0"; ln -sf libggml-base.so.0 "$folder/bin/libggml-base.so"
    for name in "$@"; do
      done=$((done + 1)); echo "[$done/$total] Linking CXX executable bin/$name"
      cp "$STAND/program" "$folder/bin/$name"
    done ;;
  *)
    if [ -e "$4/damaged" ]; then echo "CMake Error: generator does not match"; exit 1; fi
    if [ -e "$STAND/misconfigured" ]; then echo "CMake Error: no compiler"; exit 1; fi
    mkdir -p "$4"; echo "-- Configuring done" ;;
esac
"""


class Record(Silent):
    """Progress that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.total, self.done = 0.0, 0.0

    def begin(self, label: str, total: float) -> None:
        self.total = total

    def advance(self, units: float = 1.0) -> None:
        self.done += units

    def say(self, line: str) -> None:
        self.lines.append(line)

    def warn(self, line: str) -> None:
        self.warnings.append(line)


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def stand(tmp_path, monkeypatch):
    """The folder that steers the false cmake; the cache holds a small archive that counts as the pinned release."""
    stand = tmp_path / "stand"
    for name in ("cmake", "ninja", "cc", "c++"):
        script(tmp_path / "tools" / name, CMAKE if name == "cmake" else f'#!/bin/sh\necho "{name} 1.2.3"\n')
    script(stand / "program", '#!/bin/sh\necho "version: 7 (abc)"\n')
    monkeypatch.setenv("STAND", str(stand))
    monkeypatch.setenv("PATH", f"{tmp_path / 'tools'}:/usr/bin:/bin")
    monkeypatch.setenv("BITCLASS3_CACHE", str(tmp_path / "cache"))
    for name in ("LLAMA_CPP_DIR", "CC", "CXX", "CUDACXX"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "cache" / "llama.cpp" / "downloads" / "llama_cpp_python-1.0.tar.gz"
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, text in SOURCE.items():
            info = tarfile.TarInfo(f"llama_cpp_python-1.0/vendor/llama.cpp/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    monkeypatch.setitem(release.RELEASES, "1.0", release.Release("1.0", sha256_file(path), "c" * 40))
    monkeypatch.setattr(installing, "provide_build_tools", lambda *_: None)
    monkeypatch.setattr(release, "_download", lambda *_: pytest.fail("nothing is to be downloaded"))
    return stand


def order(*programs: str, backend: str = "cpu", jobs: int = 1):
    return make_order("1.0", backend, programs, jobs)


def calls(stand: Path) -> list[str]:
    return (stand / "calls").read_text().splitlines()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("[12/143] Building CXX object a.o", (12, 143)),
        ("[ 12%] Building CXX object a.o", (12, 100)),
        ("[100%] Built target llama", (100, 100)),
        ("-- Configuring done", None),
        ("warning: [3/4] is not at the start", None),
        ("", None),
    ],
)
def test_steps_are_read_from_lines_of_ninja_and_of_make(line, step):
    assert parse_step(line) == step


def test_installed_folder_is_whole_and_found(stand, tmp_path):
    progress = Record()
    toolchain = install(order(), progress)
    folder = tmp_path / "cache" / "llama.cpp" / "1.0-cpu"
    assert toolchain == read_toolchain(folder)
    assert (toolchain.ggml_version, toolchain.programs, toolchain.compiler) == ("0.25.3", BUILT, "c++ 1.2.3")
    assert json.loads((folder / "toolchain.json").read_text())["sha256"] == release.RELEASES["1.0"].sha256
    assert names(folder) == sorted(["LICENSE", "bin", "conversion", "convert_hf_to_gguf.py", "gguf-py", "models", "toolchain.json"])
    assert names(folder / "gguf-py") == ["gguf"]
    assert names(folder / "bin") == sorted([*BUILT, "libggml-base.so", "libggml-base.so.0"])
    assert (folder / "bin" / "libggml-base.so").is_symlink()
    found = find_program("llama-perplexity")
    assert (found.path, found.origin, found.version) == (folder / "bin" / "llama-perplexity", "managed", "7 (abc)")
    assert find_program("convert_hf_to_gguf.py").path == folder / "convert_hf_to_gguf.py"
    assert (progress.done, progress.total) == (5, 5)
    assert progress.lines[0] == "configure: Ninja, c++ 1.2.3, back end cpu"
    assert names(folder.parent) == [".1.0-cpu.lock", ".work", "1.0-cpu", "downloads", "logs"]
    assert names(folder.parent / ".work") == []
    assert "[5/5] Linking CXX executable bin/llama-completion" in (folder.parent / "logs" / "1.0-cpu.log").read_text()


def test_what_cmake_is_asked(stand):
    install(order(jobs=3), Silent())
    configure, _, build = calls(stand)
    assert {"Ninja", "-DBUILD_SHARED_LIBS=ON", "-DCMAKE_INSTALL_RPATH=$ORIGIN", "-DLLAMA_CURL=OFF"} <= {*configure.split()}
    assert {"-DLLAMA_BUILD_COMMIT=ccccccc", "-DGGML_CUDA=OFF", "-DLLAMA_BUILD_SERVER=OFF"} <= {*configure.split()}
    assert build.endswith(f"--parallel 3 --target {' '.join(BUILT)}")


@pytest.mark.parametrize(("backend", "sdk"), [("cuda", "nvcc"), ("vulkan", "glslc"), ("hip", "hipconfig")])
def test_back_ends(stand, tmp_path, backend, sdk):
    script(tmp_path / "tools" / sdk, "#!/bin/sh\n")
    toolchain = install(order(backend=backend), Silent())
    assert toolchain.folder.name == f"1.0-{backend}"
    assert f"-DGGML_{backend.upper()}=ON" in calls(stand)[0].split()


def test_second_call_builds_nothing_unless_forced_or_a_program_is_missing(stand):
    first = install(order("llama-quantize"), Silent())
    progress = Record()
    assert install(order("llama-quantize"), progress) == first
    assert progress.lines == [f"1.0-cpu is installed in {first.folder}"]
    assert len(calls(stand)) == 3
    install(order("llama-quantize"), Silent(), force=True)
    assert len(calls(stand)) == 6
    more = install(order("llama-imatrix"), Silent())
    assert more.programs == ("llama-imatrix", "llama-quantize")
    assert {*more.programs} <= {*names(more.folder / "bin")}
    assert not [name for name in names(more.folder.parent) if name.endswith((".old", ".part"))]


def test_stand_in_where_the_source_has_only_that(stand):
    assert install(order("llama-cli", "llama-quantize"), Silent()).programs == ("llama-completion", "llama-quantize")
    install(order("llama-cli"), Silent())
    assert len(calls(stand)) == 3


def test_program_that_the_source_lacks(stand):
    with pytest.raises(ToolchainError, match=r"has no program llama-nonsense; it has llama-completion, llama-gguf-split, llama-"):
        install(order("llama-nonsense"), Silent())


def test_failure_shows_the_last_lines_and_leaves_nothing_under_the_final_name(stand, tmp_path):
    (stand / "fail").touch()
    with pytest.raises(ToolchainError) as caught:
        install(order(), Silent())
    log = tmp_path / "cache" / "llama.cpp" / "logs" / "1.0-cpu.log"
    assert str(caught.value) == (
        "the build of llama.cpp failed with exit code 1; its last lines: [1/5] Building CXX object src/llama.o | "
        f"llama.cpp:7:1: error: bad | ninja: build stopped; all of it: {log}"
    )
    assert "llama.cpp:7:1: error: bad" in log.read_text()
    assert not [name for name in names(log.parent.parent) if "1.0-cpu" in name and not name.endswith(".lock")]


def test_failed_build_is_resumed_in_its_folder(stand, tmp_path):
    (stand / "fail").touch()
    with pytest.raises(ToolchainError):
        install(order(), Silent())
    (stand / "fail").unlink()
    work = tmp_path / "cache" / "llama.cpp" / ".work" / "1.0-cpu"
    (work / "build" / "made").touch()
    shutil.rmtree(tmp_path / "cache" / "llama.cpp" / "downloads")  # the source is unpacked: the archive is not asked for again
    seen = []
    progress = Record()
    progress.advance = lambda units=1.0: seen.append((work / "build" / "made").exists())  # type: ignore[method-assign]
    assert install(order(), progress).programs == BUILT
    assert seen
    assert all(seen)


def test_build_folder_that_cannot_be_used_is_made_anew(stand, tmp_path):
    build = tmp_path / "cache" / "llama.cpp" / ".work" / "1.0-cpu" / "build"
    build.mkdir(parents=True)
    (build / "damaged").touch()
    assert install(order(), Silent()).programs == BUILT
    assert len(calls(stand)) == 4


def test_cmake_that_cannot_configure(stand):
    (stand / "misconfigured").touch()
    with pytest.raises(
        ToolchainError, match="cmake failed with exit code 1; its last lines: CMake Error: no compiler; all of it: "
    ):
        install(order(), Silent())


def test_half_unpacked_source_is_unpacked_anew(stand, tmp_path):
    left_over = tmp_path / "cache" / "llama.cpp" / ".work" / "1.0-cpu" / ".src.part"
    left_over.mkdir(parents=True)
    (left_over / "CMakeLists.txt").touch()
    assert install(order(), Silent()).ggml_version == "0.25.3"


def test_interrupted_build_goes_on_later(stand, tmp_path):
    def interrupt(units=1.0):
        raise KeyboardInterrupt

    (stand / "slow").write_text("60")
    progress = Record()
    progress.advance = interrupt  # type: ignore[method-assign]
    begun = time.monotonic()
    with pytest.raises(InterruptedRunError, match="run the same command again"):
        install(order(), progress)
    (stand / "slow").unlink()
    assert not (tmp_path / "cache" / "llama.cpp" / "1.0-cpu").exists()
    assert install(order(), Silent()).programs == BUILT
    assert time.monotonic() - begun < 30  # no compiler lives on and holds the lock


def test_two_at_once_build_once(stand):
    (stand / "slow").write_text("0.5")
    records = [Record(), Record()]
    done = []
    threads = [threading.Thread(target=lambda r=record: done.append(install(order(), r))) for record in records]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 2
    assert done[0] == done[1]
    assert len(calls(stand)) == 3
    waited = next(record for record in records if not record.total)
    assert waited.lines == [
        "another installation of 1.0-cpu is at work; waiting for it",
        f"1.0-cpu is installed in {done[0].folder}",
    ]


def test_program_that_does_not_run_is_not_installed(stand, tmp_path):
    script(stand / "program", '#!/bin/sh\necho "error while loading shared libraries: libggml.so" >&2; exit 127\n')
    with pytest.raises(ToolchainError, match="llama-quantize was built but does not run: error while loading shared libraries"):
        install(order(), Silent())
    assert names(tmp_path / "cache" / "llama.cpp") == [".1.0-cpu.lock", ".work", "downloads", "logs"]
    script(tmp_path / "tools" / "nvcc", "#!/bin/sh\n")
    progress = Record()
    install(order("llama-quantize", backend="cuda"), progress)  # a build for another machine, without the driver here
    assert progress.warnings == ["llama-quantize was built but does not run here: error while loading shared libraries: libggml.so"]


@pytest.mark.parametrize(
    ("missing", "hints"),
    [
        (["cmake"], ["pip install cmake ninja"]),
        (["ninja"], ["pip install cmake ninja"]),
        (["c++"], ["install"]),
        (["cmake", "cc", "c++"], ["install", "pip install cmake ninja"]),
    ],
)
def test_missing_tools_are_named_before_anything_is_unpacked(stand, tmp_path, monkeypatch, missing, hints):
    for name in missing:
        (tmp_path / "tools" / name).unlink()
    monkeypatch.setattr(requirements, "search_path", lambda: str(tmp_path / "tools"))
    with pytest.raises(ToolchainError) as caught:
        install(order(), Silent())
    words = {"ninja": "ninja or make", "cc": "C compiler", "c++": "C++ compiler"}
    listed = ", ".join(words.get(name, name) for name in missing)
    assert str(caught.value).startswith(f"missing to build llama.cpp: {listed}; get them: ")
    assert all(hint in str(caught.value) for hint in hints)
    assert names(tmp_path / "cache" / "llama.cpp") == ["downloads"]


def test_missing_sdk(stand, tmp_path, monkeypatch):
    monkeypatch.setattr(requirements, "search_path", lambda: str(tmp_path / "tools"))
    with pytest.raises(ToolchainError, match=r"missing to build llama\.cpp: nvcc; get them: the CUDA toolkit"):
        install(order(backend="cuda"), Silent())


def test_make_where_ninja_is_missing(stand, tmp_path, monkeypatch):
    (tmp_path / "tools" / "ninja").rename(tmp_path / "tools" / "make")
    monkeypatch.setattr(requirements, "search_path", lambda: str(tmp_path / "tools"))
    assert requirements.require_tools("cpu").generator == "Unix Makefiles"


def test_compiler_of_the_environment_may_have_flags(stand, monkeypatch):
    monkeypatch.setenv("CXX", "c++ -m64")
    assert requirements.require_tools("cpu").compiler == "c++ 1.2.3"
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ToolchainError, match=r"missing to build llama\.cpp: C\+\+ compiler"):
        requirements.require_tools("cpu")


def test_bad_orders(stand, monkeypatch):
    with pytest.raises(ConfigError, match="no back end 'cudaa'; did you mean 'cuda'"):
        order(backend="cudaa")
    with pytest.raises(ConfigError, match="'--install' is no program"):
        order("--install")
    with pytest.raises(ConfigError, match="no pinned release '9'"):
        make_order("9", "cpu", (), 1)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(ConfigError, match="metal needs macOS"):
        order(backend="metal")


def test_no_room(stand, monkeypatch):
    monkeypatch.setitem(installing._ROOM, "cpu", 1 << 60)
    with pytest.raises(ToolchainError, match=r"no room to build llama\.cpp: it takes up to .* set BITCLASS3_CACHE to another disk"):
        install(order(), Silent())


def test_cache_that_cannot_be_written(stand, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BITCLASS3_CACHE", str(tmp_path / "file"))
    with pytest.raises(ToolchainError, match=r"llama\.cpp cannot be installed into .*; free some disk, or set BITCLASS3_CACHE$"):
        install(order(), Silent())


def test_windows_is_told_what_to_do(stand, monkeypatch):
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(ToolchainError, match="set LLAMA_CPP_DIR"):
        requirements.require_tools("cpu")


def test_jobs_fit_cores_and_memory(monkeypatch):
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 18}.__getitem__)
    assert default_jobs() == 1


def test_install_command_prints_the_folder_or_json(stand, tmp_path, capsys):
    install_command("1.0", jobs=1, programs=["llama-quantize,llama-imatrix"], quiet=True)
    assert capsys.readouterr().out == f"{tmp_path}/cache/llama.cpp/1.0-cpu\n"
    install_command("1.0", jobs=1, programs=["llama-quantize"], json=True, quiet=True)
    shown = json.loads(capsys.readouterr().out)
    assert (shown["version"], shown["backend"], shown["programs"]) == ("1.0", "cpu", ["llama-quantize", "llama-imatrix"])
