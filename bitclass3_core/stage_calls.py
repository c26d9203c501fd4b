"""Other stages as a plugin may call them: through the core, with the run's wrappers around them and every answer checked."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol


class StagePlugin(Protocol):
    """One plugin at one stage, its options read."""

    @property
    def name(self) -> str:
        """The plugin's name."""

    @property
    def label(self) -> str:
        """Name, version and options: what its answers depend on besides what it is asked."""

    def __call__(self, **arguments: Any) -> Any:
        """The answer to the stage's hook, checked. The arguments are the hook's, without ``options``."""


class Stages(Protocol):
    """The installed plugins of all stages."""

    def option_names(self, stage: str, name: str) -> Collection[str]:
        """The options that a plugin has at a stage. Raises PluginError for a plugin that is not there or does not do that stage."""

    def plugin(self, stage: str, name: str, options: Mapping[str, Any]) -> StagePlugin:
        """The plugin of that name at that stage. Raises PluginError as above, ConfigError for options that it does not have."""
