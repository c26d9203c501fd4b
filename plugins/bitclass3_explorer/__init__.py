"""Report ``explorer``: explorer.html, one page with every file's size and divergence and every tensor's type, cost and score.

A slider chooses another size; the page then solves again, as the solver ``lagrangian`` does.
"""

import html
import json
import re
from importlib.resources import files
from pathlib import Path

from bitclass3_core import hookimpl
from bitclass3_core.compare.comparison import compared_with
from bitclass3_core.files import write_text
from bitclass3_core.options import PluginOptions
from bitclass3_core.results import Run
from bitclass3_explorer.data import explorer_data

BITCLASS3_ANSWERS = "8371cf0be355"  # changes when the answers do

_SCRIPTS = ("solver.js", "sizes.js", "charts.js", "explorer.js")


class ExplorerOptions(PluginOptions):
    """``compared`` lists results of bitclass3 compare (compare.json); their files are shown beside the run's own."""

    compared: tuple[Path, ...] = ()


@hookimpl
def bitclass3_report(run: Run, out: Path, options: ExplorerOptions) -> list[Path]:
    """Write ``explorer.html``; it needs no network."""
    data = explorer_data(run, compared_with(run, options.compared))
    path = out / "explorer.html"
    write_text(path, page(data["model"], json.dumps(data, allow_nan=False)))
    return [path]


def page(title: str, data: str) -> str:
    """The page's HTML with styles, scripts, plotly.js and the data inside."""
    from plotly.offline import get_plotlyjs

    folder = files("bitclass3_explorer") / "page"
    parts = {
        "title": html.escape(title),
        "style": (folder / "explorer.css").read_text(encoding="utf-8"),
        "plotly": get_plotlyjs(),
        "data": data.replace("<", "\\u003c"),  # so that nothing in the data can end the script
        "script": "\n".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS),
    }
    return re.sub(r"{{(\w+)}}", lambda found: parts[found[1]], (folder / "explorer.html").read_text(encoding="utf-8"))
