"""The YAML front matter that model hubs read; what the source does not state is left out."""

from typing import Any

import yaml

from bitclass3_core.results import Run
from bitclass3_model_card.source import License, base_model, source_card


def _inherited(run: Run) -> dict[str, Any]:
    """The languages and the task that the source states."""
    card = source_card(run)
    task, language = card.get("pipeline_tag"), card.get("language")
    languages = [language] if isinstance(language, str) else language
    found: dict[str, Any] = {}
    if isinstance(languages, list) and languages and all(isinstance(entry, str) for entry in languages):
        found["language"] = languages
    return {**found, "pipeline_tag": task} if isinstance(task, str) else found


def front_matter(run: Run, found: License | None) -> str:
    """The YAML block, with both of its ``---`` lines and a final line break."""
    base = base_model(run)
    values: dict[str, Any] = {
        "base_model": base,
        "base_model_relation": "quantized" if base else "",
        "license": found.identifier if found else "",
        "license_name": found.name if found else "",
        "license_link": found.link if found else "",
        **_inherited(run),
        "library_name": "gguf",
        "quantized_by": "bitclass3",
        "tags": [tag for tag in ("gguf", "bitclass3", "mixed-precision", run.model.arch) if tag],
    }
    text = yaml.safe_dump({key: value for key, value in values.items() if value}, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n"
