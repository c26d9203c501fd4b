"""The configuration of a run as plain, checked data: one class a table of the pipeline file."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bitclass3_core.targets import FIXED_TARGETS, OWN_TARGETS

# Names that stand for plugins where the user names none
AUTO, NONE = "auto", "none"  # no plugin: the architecture by the model, no baseline
FALLBACK_ARCHITECTURE = "generic"
FIXED_BUDGET, LEVEL_BUDGET = "fixed", "bit-classes"
STOCK_SOLVER = "stock"
PLOT_REPORT, CARD_REPORT = "plots", "model-card"


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


class BudgetSection(StageSection):
    """The budget plugin, and what is asked of it; every other key is one of its options (``target_bpw = 4.8``).

    ``level`` is a name such as ``Q4_K_M`` (the plugin is then ``bit-classes``, unless another is named). ``target_kld`` asks for the
    smallest file whose measured mean KLD is at most that.
    """

    plugin: str = Field(default=FIXED_BUDGET, description="name of an installed plugin, or a .py file")
    level: str | None = Field(default=None, description="Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q3_K_S, ...")
    target_kld: float | None = Field(default=None, gt=0, description="the smallest file whose measured mean KLD is at most that")

    @model_validator(mode="after")
    def _one_target(self) -> "BudgetSection":
        given = [key for key in OWN_TARGETS if getattr(self, key) is not None]
        if given and len(given := [*given, *(key for key in FIXED_TARGETS if self.options.get(key) is not None)]) > 1:
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

    plugin: str = Field(default=STOCK_SOLVER, description="a solver, or none")
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
    architecture: StageSection = StageSection(plugin=AUTO)
    estimate: StageSection = StageSection(plugin="kl-hessian")
    measure: StageSection = StageSection(plugin="weighted-error")
    budget: BudgetSection = BudgetSection()
    solve: StageSection = StageSection(plugin="ilp")
    export: StageListSection = StageListSection(plugin=["gguf", "recipe"])
    evaluate: StageSection = StageSection(plugin="torch")
    report: StageListSection = StageListSection(plugin=[PLOT_REPORT, "explorer", CARD_REPORT])
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


COMPARE_REPORT = StageListSection(plugin=[PLOT_REPORT], options={"only": ["size_kld"]})  # of ``compare``, unless others are named
