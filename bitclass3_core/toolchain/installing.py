"""Installs the managed llama.cpp: checks, downloads, builds, copies into the cache. The folder appears when all of it works."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from bitclass3_core.errors import ConfigError, InterruptedRunError, ToolchainError
from bitclass3_core.files import human_bytes, write_json
from bitclass3_core.progress import Progress
from bitclass3_core.toolchain.building import Build, default_jobs
from bitclass3_core.toolchain.finding import PROGRAMS, STAND_INS
from bitclass3_core.toolchain.places import CONVERTER, FACTS, Toolchain, locked, managed_folder, read_toolchain
from bitclass3_core.toolchain.release import Release, fetch, release_of, unpack
from bitclass3_core.toolchain.requirements import Tools, provide_build_tools, require_backend, require_tools, search_path
from bitclass3_core.toolchain.running import captured

BUILT_PROGRAMS = tuple(name for name in PROGRAMS if name != CONVERTER)
# What the converter reads from its own folder, and the licences that a copy must include.
_COPIED = (CONVERTER, "conversion", "gguf-py/gguf", "models/templates", "LICENSE", "licenses")
_ROOM = {"cpu": 1 << 30}  # bytes: archive, source, build and the installed folder together take 0.4 GiB
_ROOM_GPU = 6 << 30


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be installed."""

    release: Release
    backend: str
    programs: tuple[str, ...]
    jobs: int

    @property
    def name(self) -> str:
        """The folder's name: ``0.3.36-cpu``."""
        return f"{self.release.version}-{self.backend}"

    @property
    def folder(self) -> Path:
        """The final place."""
        return managed_folder() / self.name

    @property
    def work(self) -> Path:
        """Source and build, kept until the installation is complete."""
        return managed_folder() / ".work" / self.name


def make_order(version: str, backend: str, programs: tuple[str, ...], jobs: int) -> Order:
    """What to install. Raises ConfigError for a version, back end or program that cannot be built."""
    require_backend(backend)
    for name in programs:
        if not re.fullmatch(r"llama-[a-z0-9-]+", name):
            raise ConfigError(f"{name!r} is no program that can be built; they are named like llama-quantize")
    return Order(release_of(version), backend, programs or BUILT_PROGRAMS, jobs or default_jobs())


def install(order: Order, progress: Progress, force: bool = False) -> Toolchain:
    """The installed toolchain, built unless it is there already. Raises ToolchainError if it cannot be built here."""
    try:
        if not force and (found := _complete(order)):
            progress.say(f"{order.name} is installed in {found.folder}")
            return found
        provide_build_tools(search_path(), progress)
        tools = require_tools(order.backend)
        with locked(managed_folder() / f".{order.name}.lock", progress) as keep_open:
            if not force and (found := _complete(order)):  # another process has built it meanwhile
                progress.say(f"{order.name} is installed in {found.folder}")
                return found
            return _install(order, tools, keep_open, progress)
    except KeyboardInterrupt:
        raise InterruptedRunError("interrupted; run the same command again to go on with the build") from None
    except OSError as error:
        raise ToolchainError(
            f"llama.cpp cannot be installed into {managed_folder()} ({error}); free some disk, or set BITCLASS3_CACHE"
        ) from error


def _complete(order: Order) -> Toolchain | None:
    """The installed toolchain, if it was built from the pinned source and has every program of the order."""
    found = read_toolchain(order.folder)
    if found is None or found.sha256 != order.release.sha256:
        return None
    return found if all({name, STAND_INS.get(name)} & {*found.programs} for name in order.programs) else None


def _install(order: Order, tools: Tools, keep_open: tuple[int, ...], progress: Progress) -> Toolchain:
    _require_room(order)
    source = order.work / "src"
    if not source.is_dir():  # unpack() makes it in one step, so a folder that exists is complete
        unpack(fetch(order.release, managed_folder() / "downloads", progress), source)
    before = read_toolchain(order.folder)
    # programs that are installed are built again too
    programs = tuple(dict.fromkeys([*order.programs, *(before.programs if before else ())]))
    log = managed_folder() / "logs" / f"{order.name}.log"
    build = Build(source, order.work / "build", log, tools, order.backend, order.release.commit, keep_open)
    built = build(programs, order.jobs, progress)
    toolchain = Toolchain(
        folder=order.folder,
        version=order.release.version,
        backend=order.backend,
        sha256=order.release.sha256,
        ggml_version=_ggml_version(source),
        programs=built,
        compiler=tools.compiler,
        installed_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    _publish(toolchain, build, progress)
    shutil.rmtree(order.work, ignore_errors=True)
    progress.say(f"installed: {toolchain.folder}")
    return toolchain


def _require_room(order: Order) -> None:
    folder = managed_folder()
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = _ROOM.get(order.backend, _ROOM_GPU), shutil.disk_usage(folder).free
    if free < needed:
        raise ToolchainError(
            f"no room to build llama.cpp: it takes up to {human_bytes(needed)}, {folder} has {human_bytes(free)} free; "
            "free some or set BITCLASS3_CACHE to another disk"
        )


def _ggml_version(source: Path) -> str:
    """The version in ggml's CMakeLists.txt, which its kernels report too; ``unknown`` if it is not found."""
    path = source / "ggml" / "CMakeLists.txt"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = [re.search(rf"set\(GGML_VERSION_{part} (\d+)\)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    return ".".join(match[1] for match in found if match) if all(found) else "unknown"


def _publish(toolchain: Toolchain, build: Build, progress: Progress) -> None:
    """Copy programs, libraries and the converter, try them, and give the folder its final name."""
    final = toolchain.folder
    part = final.with_name(f".{final.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        shutil.copytree(build.folder / "bin", part / "bin", symlinks=True)
        for name in _COPIED:
            _copy(build.source / name, part / name)
        for name in toolchain.programs:
            _try(part / "bin" / name, toolchain.backend, progress)
        write_json(part / FACTS, toolchain.facts())
        _swap(part, final)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _swap(part: Path, final: Path) -> None:
    """Rename ``part`` to ``final``; if that fails, the old ``final`` stays."""
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.replace(old)
    try:
        part.replace(final)
    except OSError:
        if old.exists():
            old.replace(final)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    elif source.is_file():
        shutil.copy2(source, target)


def _try(program: Path, backend: str, progress: Progress) -> None:
    """Raise ToolchainError if the program cannot start here; for a GPU build only warn, as the driver may be on another machine."""
    try:
        done = captured([str(program), "--help"], 120)
        problem = (done.stderr + done.stdout).strip()[-300:] if done.returncode not in (0, 1) else ""  # llama-quantize: 1
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    line = " | ".join(problem.splitlines())
    if problem and backend == "cpu":
        raise ToolchainError(f"{program.name} was built but does not run: {line}")
    if problem:
        progress.warn(f"{program.name} was built but does not run here: {line}")
