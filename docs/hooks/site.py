"""mkdocs hooks: a line ``<!-- from the code: NAME -->`` in a page becomes what ``reference.py`` says under that name."""

import re
from typing import Any

import reference
from mkdocs.structure.files import File

from bitclass3_core.runs.schema import schema_json

MARK = re.compile(r"^<!-- from the code: ([a-z-]+) -->$", re.MULTILINE)
_LISTED_ELSEWHERE = ("images/", "assets/", "hooks/")


def filled(markdown: str) -> str:
    """A page with its generated parts."""
    return MARK.sub(lambda match: reference.PARTS[match[1]](), markdown)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill a page."""
    return filled(markdown)


def on_files(files: Any, config: Any) -> Any:
    """Put pages that no list names under "More", and the pipeline file's JSON schema beside the reference."""
    named = str(config["nav"])
    paths = [file.src_uri for file in files.documentation_pages()]
    more = sorted(path for path in paths if path not in named and not path.startswith(_LISTED_ELSEWHERE))
    if more:
        config["nav"].append({"More": more})
    files.append(File.generated(config, "reference/pipeline.schema.json", content=schema_json()))
    return files
