"""What the runs of one folder have in common: the folder, results in memory, loaded plugins, and who is told."""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bitclass3_core import machine
from bitclass3_core.errors import ConfigError
from bitclass3_core.gguf.kernels import library
from bitclass3_core.plugin.manager import Plugin
from bitclass3_core.plugin.stages import StageRunner
from bitclass3_core.progress import Progress, Silent
from bitclass3_core.run_config import RunConfig
from bitclass3_core.runs.artefact import Results
from bitclass3_core.runs.folder import RunFolder


@dataclass(slots=True)
class Context:
    """``may_convert`` says whether a source may be converted to GGUF first. ``wrappers`` are those of the run that opened the folder.

    ``timings`` are seconds by stage.
    """

    folder: RunFolder
    progress: Progress
    command: str
    may_convert: bool = True
    results: Results = field(default_factory=Results)
    plugins: dict[str, Plugin] = field(default_factory=dict)
    wrappers: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def stages(self, config: RunConfig) -> StageRunner:
        """The plugins of a configuration of this folder."""
        return StageRunner(config, self.plugins, self.wrappers)

    @classmethod
    def of(cls, config: RunConfig, progress: Progress, command: str, may_convert: bool = True) -> "Context":
        """The context of a configuration's folder; from now on this process uses the threads and the llama.cpp that it names.

        Raises ConfigError for a folder of llama.cpp that is not there.
        """
        use_machine(config)
        folder = RunFolder(folder_of(config))
        return cls(folder, progress, command, may_convert, wrappers=config.wrappers, timings=folder.timings)

    def aside(self) -> "Context":
        """The same folder for a run that is only tried: it says nothing, and leaves no timings or warnings."""
        return replace(self, progress=Silent(), timings={}, warnings=[])

    def warn(self, line: str) -> None:
        """Say a warning and keep it for the run's record."""
        self.warnings.append(line)
        self.progress.warn(line)

    @contextmanager
    def timed(self, stage: str, called: Collection[str]) -> Iterator[None]:
        """Note a stage's seconds if its plugin was ``called`` in the block; else those of the run that made its result stay."""
        begin = time.monotonic()
        yield
        if stage in called or stage not in self.timings:
            self.timings[stage] = round(time.monotonic() - begin, 3)


def folder_of(config: RunConfig) -> Path:
    """The run's folder: as it is named, else ``out/<model>``."""
    if config.out is not None:
        return config.out
    source = config.model.hf or config.model.gguf
    return Path("out") / (source.resolve().name.removesuffix(".gguf") if source else "run")


def use_machine(config: RunConfig) -> None:
    """Let this process use the threads and the llama.cpp that a configuration names. Raises ConfigError if that folder is not there."""
    llama_cpp = config.llama_cpp
    if llama_cpp is not None and not llama_cpp.is_dir():
        raise ConfigError(f"llama.cpp folder {llama_cpp} does not exist; check --llama-cpp")
    if machine.use(config.threads, llama_cpp.absolute() if llama_cpp else None):
        library.cache_clear()
