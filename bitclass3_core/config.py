"""The pipeline as text: TOML file, flags and --set, read into one checked object. Flags beat the file, the file beats defaults."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bitclass3_core.errors import ConfigError, did_you_mean
from bitclass3_core.hub import is_hub_name
from bitclass3_core.plugins import Plugin, load_plugin


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(_Section):
    """The source model: an HF folder or a name on the hub (for torch, and to be converted), a BF16, F16 or F32 GGUF, or both.

    ``pre_tokenizer`` is llama.cpp's name of the tokenizer's splitting rule, where its converter does not know the tokenizer.
    """

    hf: Path | None = Field(default=None, description="HF folder, or a name on the hub")
    gguf: Path | None = Field(default=None, description="the model's BF16, F16 or F32 GGUF (the first file of a split)")
    pre_tokenizer: str | None = Field(
        default=None, description="llama.cpp's name of the tokenizer's splitting rule, where it knows it not"
    )
    allow_quantized_source: bool = Field(default=False, description="go on with a source that is already quantized")


class CorpusSection(_Section):
    """Text files: ``.jsonl`` with one document a line, or plain text. Without ``evaluation`` the documents are split in two.

    ``selection`` is held-out text to choose among candidates, ``imatrix`` text for the weights of columns. Where candidates are
    compared and these are not given, they get halves of the evaluation's and of the calibration's documents.
    """

    calibration: list[Path] = Field(default_factory=list, description="text files to measure sensitivity on")
    evaluation: list[Path] = Field(default_factory=list, description="held-out text files")
    selection: list[Path] = Field(default_factory=list, description="held-out text to choose among candidates")
    imatrix: list[Path] = Field(default_factory=list, description="text for the weights of columns")


class QtypesSection(_Section):
    """The types to choose from, and constraints by regular expressions over tensor names.

    ``pins`` gives the type of what a pattern matches, ``floors`` the smallest, ``menus`` the types to choose from there. ``groups``
    are patterns (or ``gate_up``, ``qkv``): tensors that match with the same captures share a type.
    """

    menu: str | list[str] = Field(default="default", description="default, k, cuda, cpu, metal, vulkan, all, or a list of types")
    pins: dict[str, str] = Field(default_factory=dict, description="type by regular expression over tensor names")
    floors: dict[str, str] = Field(default_factory=dict, description="smallest type by regular expression over tensor names")
    menus: dict[str, str | list[str]] = Field(default_factory=dict, description="menu by regular expression over tensor names")
    groups: list[str] = Field(
        default_factory=list, description="tensors that share a type: gate_up, qkv, or a pattern with captures"
    )


class GpuSection(_Section):
    """A second budget, for the tensors that lie on the GPU: those that any of ``tensors`` matches; all but experts where none is named."""

    budget: str | int | None = Field(default=None, description="bytes of the tensors on the GPU: 24GiB")
    tensors: list[str] = Field(default_factory=list, description="regular expressions over the names of those tensors")


class StageSection(_Section):
    """Which plugin does a stage, with which options."""

    plugin: str = Field(description="name of an installed plugin, or a .py file")
    options: dict[str, Any] = Field(default_factory=dict, description="the plugin's own options")


_TARGETS = ("target_bpw", "target_size", "match_stock", "fit_vram")  # options of the plugin fixed, of which one is given
_OF_VRAM = ("ctx", "kv_type", "vram_reserve")


class BudgetSection(StageSection):
    """The budget plugin, and what is asked of it; every other key is one of its options (``target_bpw = 4.8``).

    ``level`` is a name such as ``Q4_K_M`` (the plugin is then ``bit-classes``, unless another is named). ``target_kld`` asks for the
    smallest file whose measured mean KLD is at most that.
    """

    plugin: str = Field(default="fixed", description="name of an installed plugin, or a .py file")
    level: str | None = Field(default=None, description="Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q3_K_S, ...")
    target_kld: float | None = Field(default=None, gt=0, description="the smallest file whose measured mean KLD is at most that")

    @model_validator(mode="after")
    def _one_target(self) -> "BudgetSection":
        given = [key for key in ("level", "target_kld") if getattr(self, key) is not None]
        if given and len(given := [*given, *(key for key in _TARGETS if self.options.get(key) is not None)]) > 1:
            raise ValueError(f"give one target, not {len(given)} ({', '.join(given)})")
        return self


class StageListSection(_Section):
    """Plugins that each do a stage in turn; with several, ``options`` is keyed by plugin name."""

    plugin: list[str] = Field(description="names of installed plugins or .py files, one or a list")
    options: dict[str, Any] = Field(default_factory=dict, description="the plugin's own options; with several, by plugin name")

    @field_validator("plugin", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    def options_of(self, name: str) -> dict[str, Any]:
        """The options of one plugin of the list."""
        return dict(self.options) if len(self.plugin) == 1 else dict(self.options.get(name, {}))


class BaselineSection(_Section):
    """What to compare with: a solver whose answer is written and measured too. ``none`` compares with nothing.

    Without options, ``stock`` takes the mix whose size was matched, else the smallest one that is no smaller than ours.
    """

    plugin: str = Field(default="stock", description="a solver, or none")
    options: dict[str, Any] = Field(default_factory=dict, description="the solver's own options")


class SelectSection(_Section):
    """Candidates at the size that was asked for, measured on the selection text; the best ships.

    ``variations`` are other ways to make our file: a name, and the keys that it sets, as ``--set`` takes them. ``stock`` adds the
    largest stock mix that fits. ``mixes`` are files of that size, rounded with effort fast, that are measured to fit a multiplier for each
    role's costs; what the solver answers then is one more candidate, ``fitted``.
    """

    enabled: bool = Field(default=False, description="measure several candidates on the selection text")
    stock: bool = Field(default=True, description="the largest stock mix that fits is one of them")
    variations: dict[str, list[str]] = Field(
        default_factory=lambda: {"k-types": ["qtypes.menu=k"]}, description="others: a name, and the keys that it sets"
    )
    mixes: int = Field(
        default=0, ge=0, description="mixes to measure, to fit cost_multipliers for one more candidate: 20, or 0 for none"
    )

    @field_validator("variations")
    @classmethod
    def _names_are_free(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        for name in value:
            if name in ("ours", "fitted") or name.startswith(("stock", "mix")):
                raise ValueError(f"a variation cannot be called {name!r}, as other candidates are; give it another name")
        return value


Keep = Literal["all", "stock", "shipped", "none"]
Effort = Literal["fast", "normal", "high"]


class RunConfig(_Section):
    """A whole pipeline.

    ``keep`` says which GGUFs stay once they are measured: ``all`` with every candidate that stood for selection, ``stock`` ours and the
    stock mix beside it, ``shipped`` ours alone, or ``none``. Recipes and figures always stay.
    """

    model: ModelSection = ModelSection()
    corpus: CorpusSection = CorpusSection()
    qtypes: QtypesSection = QtypesSection()
    gpu: GpuSection = GpuSection()
    architecture: StageSection = StageSection(plugin="auto")
    estimate: StageSection = StageSection(plugin="kl-hessian")
    measure: StageSection = StageSection(plugin="weighted-error")
    budget: BudgetSection = BudgetSection()
    solve: StageSection = StageSection(plugin="ilp")
    export: StageListSection = StageListSection(plugin=["gguf", "recipe"])
    evaluate: StageSection = StageSection(plugin="torch")
    report: StageListSection = StageListSection(plugin=["plots", "explorer", "model-card"])
    baseline: BaselineSection = BaselineSection()
    select: SelectSection = SelectSection()
    imatrix: StageSection = StageSection(plugin="hessian-diag")
    cost_multipliers: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict, description="what the costs of a role are multiplied by: attn_v = 0.7"
    )
    wrappers: list[str] = Field(default_factory=list, description="plugins that go around those of the stages")
    effort: Effort = Field(
        default="fast", description="time for a better file, as the plugins' options know it: fast, normal, high"
    )
    out: Path | None = Field(default=None, description="folder of the run; default: out/<model>")
    keep: Keep = Field(default="stock", description="GGUFs that stay once they are measured: all, stock, shipped or none")
    threads: int = Field(default=0, ge=0, description="threads of the kernels; 0: all cores")
    llama_cpp: Path | None = Field(default=None, description="folder of llama.cpp; else LLAMA_CPP_DIR, PATH, the managed one")


_LIST_STAGES = ("export", "report")
_PATH_KEYS = (("model", "hf"), ("model", "gguf"), *(("corpus", part) for part in CorpusSection.model_fields))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        values = tomli.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"pipeline file {path} does not exist; check the path") from None
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"pipeline file {path} is no valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"pipeline file {path} cannot be read: {error.strerror}") from None
    for section, key in _PATH_KEYS:
        entry = values.get(section, {})
        if isinstance(entry, dict) and key in entry:
            is_name = (section, key) == ("model", "hf") and is_hub_name(str(entry[key])) and not (path.parent / entry[key]).exists()
            entry[key] = entry[key] if is_name else _relative_to(path.parent, entry[key])
    if "llama_cpp" in values:
        values["llama_cpp"] = _relative_to(path.parent, values["llama_cpp"])
    for section in RunConfig.model_fields:
        entry = values.get(section)
        if isinstance(entry, dict) and "plugin" in entry:
            entry["plugin"] = _relative_to(path.parent, entry["plugin"], ".py")
    if "wrappers" in values:
        values["wrappers"] = _relative_to(path.parent, values["wrappers"], ".py")
    return values


def _relative_to(folder: Path, value: Any, ending: str = "") -> Any:
    """Paths in a pipeline file are relative to that file; so is a plugin's file (``ending`` tells it from a plugin's name)."""
    if isinstance(value, list):
        return [_relative_to(folder, item, ending) for item in value]
    return str(folder / value) if isinstance(value, str) and value.endswith(ending) else value


def parse_setting(text: str) -> tuple[list[str], Any]:
    """``estimate.options.n_tokens=4096`` as path and TOML value; a value that is no TOML is taken as a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r} is not understood; write it like estimate.options.n_tokens=4096")
    try:
        parsed = tomli.loads(f"value = {value}")["value"]
    except tomli.TOMLDecodeError:
        parsed = value
    return key.strip().split("."), parsed


def put(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a nested key. Raises ConfigError where the path runs through something that is no table."""
    for part in path[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise ConfigError(f"key {'.'.join(path)!r} cannot be set: {part!r} is no table")
    values[path[-1]] = value


def _put_plugins(values: dict[str, Any], plugins: Sequence[str]) -> None:
    """Put each ``--plugin`` into the stage whose hook it implements; a wrapper goes around all stages."""
    replaced: set[str] = set()
    for name in plugins:
        plugin: Plugin = load_plugin(name)
        if plugin.wrapper:
            values.setdefault("wrappers", []).append(name)
            continue
        if len(plugin.stages) > 1:
            raise ConfigError(
                f"plugin {name!r} implements several stages ({', '.join(plugin.stages)}); name the stage: --set {plugin.stages[0]}.plugin={name}"
            )
        stage = plugin.stages[0]
        section = values.setdefault(stage, {})
        if not isinstance(section, dict):
            raise ConfigError(f"key {stage!r} is no table; write [{stage}] plugin = {name!r}")
        if stage in _LIST_STAGES and stage in replaced:
            section["plugin"] = [*section["plugin"], name]
        elif stage in _LIST_STAGES:
            section["plugin"] = [name]
        elif stage in replaced:
            raise ConfigError(f"two plugins for the stage {stage!r} ({section['plugin']} and {name}); name one")
        else:
            if section.get("plugin", name) != name:
                section.pop("options", None)  # they were the other plugin's
            section["plugin"] = name
        replaced.add(stage)


def _move_budget_keys(values: dict[str, Any]) -> None:
    """``[budget] target_bpw = 4.8`` is short for ``options.target_bpw``."""
    section = values.get("budget")
    if isinstance(section, dict):
        short = {key: section.pop(key) for key in list(section) if key not in BudgetSection.model_fields}
        if short and isinstance(section.get("options", {}), dict):
            section["options"] = {**section.get("options", {}), **short}


def _drop_target(values: dict[str, Any]) -> None:
    """A target on the command line replaces the file's."""
    section = values.get("budget", {})
    for table, keys in ((section, ("level", "target_kld")), (section.get("options"), (*_TARGETS, *_OF_VRAM))):
        for key in keys if isinstance(table, dict) else ():
            table.pop(key, None)


def _default_plugins(values: dict[str, Any]) -> None:
    """A section that sets options alone keeps the default plugin."""
    for name, field in RunConfig.model_fields.items():
        default = getattr(field.default, "plugin", None)
        if default is not None and isinstance(values.get(name), dict):
            by_level = name == "budget" and values[name].get("level") is not None
            values[name].setdefault("plugin", "bit-classes" if by_level else default)


def _as_config_error(error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        section: Any = RunConfig
        for part in path[:-1]:
            section = section.model_fields[part].annotation if part in getattr(section, "model_fields", {}) else section
        return ConfigError(f"unknown key {key!r}{did_you_mean(path[-1], section.model_fields)}")
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    given = first.get("input")
    return ConfigError(f"key {key!r}: {message}" + ("" if isinstance(given, dict) else f", got {given!r}"))


def load_config(
    pipeline: Path | None = None,
    flags: Mapping[tuple[str, ...], Any] | None = None,
    plugins: Sequence[str] = (),
    settings: Sequence[str] = (),
) -> RunConfig:
    """The checked configuration: pipeline file, then ``--plugin``, then flags, then ``--set``, the later beating the earlier.

    Raises ConfigError for unknown keys and bad values, PluginError for unknown plugins.
    """
    values = _read_toml(pipeline) if pipeline else {}
    if isinstance(values.get("budget"), dict):
        _move_budget_keys(values)
    _put_plugins(values, plugins)
    if any(path[0] == "budget" for path in flags or {}):
        _drop_target(values)
    for path, value in (flags or {}).items():
        put(values, path, value)
    for text in settings:
        path_, value = parse_setting(text)
        put(values, path_, value)
    _move_budget_keys(values)
    _default_plugins(values)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise _as_config_error(error) from None


def with_settings(config: RunConfig, settings: Sequence[str]) -> RunConfig:
    """The configuration with some keys set, as ``--set`` does. Raises ConfigError for unknown keys and bad values."""
    values = config.model_dump()
    for text in settings:
        put(values, *parse_setting(text))
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise _as_config_error(error) from None
