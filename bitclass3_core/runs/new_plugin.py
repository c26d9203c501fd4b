"""A new package that is a working plugin from its first minute, with the test that holds it to its hook."""

import importlib.util
import re
from importlib.resources import files
from pathlib import Path
from string import Template

from bitclass3_core import __version__
from bitclass3_core.errors import Bitclass3Error, ConfigError, did_you_mean
from bitclass3_core.files import write_text
from bitclass3_core.hookspecs import API_VERSION
from bitclass3_core.plugin.manager import installed
from bitclass3_core.plugin.stage_table import STAGE_TABLE

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# What the template's plugin is and is not meant to do, as switches of its suite.
_SWITCHES = {
    "budget": '    options = {"share": 0.3}  # noqa: RUF012\n    larger = {"share": 0.4}  # noqa: RUF012\n',
    "export": "    writes_gguf = False  # another exporter's file is evaluated\n    reads_weights = False\n",
    "measure": "    in_nats = False\n",
    "architecture": "    knows_hf = False  # of the suite's sample, which has a tensor that llama has not; give the suite a model of your family\n",
}


def write_package(name: str, stage: str, out: Path) -> Path:
    """The folder of the new package. Raises ConfigError for a name or stage that cannot be, Bitclass3Error where the folder exists."""
    if stage not in STAGE_TABLE:
        raise ConfigError(f"unknown stage {stage!r}{did_you_mean(stage, STAGE_TABLE)}")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"plugin name {name!r} is not understood; use small letters, digits and single dashes, like my-{stage}r")
    module = name.replace("-", "_")
    if name in installed():
        raise ConfigError(f"a plugin named {name!r} is installed already; choose another name")
    if importlib.util.find_spec(module) is not None:
        raise ConfigError(
            f"a Python module named {module!r} is there already and would be hidden; choose another name, like my-{name}"
        )
    folder = out / f"bitclass3-{name}"
    if folder.exists():
        raise Bitclass3Error(f"{folder} exists already; choose another name or --out, or remove it")
    values = {
        "name": name,
        "module": module,
        "stage": stage,
        "title": f"{STAGE_TABLE[stage].title} {name}",
        "suite": STAGE_TABLE[stage].suite,
        "class": "".join(part.capitalize() for part in name.split("-")),
        "body": _SWITCHES.get(stage, ""),
        "api": str(API_VERSION),
        "bitclass3": __version__,
    }
    texts = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{module}.py": f"{stage}.py",
        f"tests/test_{module}.py": "test.py",
    }
    for path, template in texts.items():
        text = Template((files("bitclass3_core") / "templates" / f"{template}.txt").read_text(encoding="utf-8")).substitute(values)
        write_text(folder / path, text.rstrip("\n") + "\n")
    return folder
