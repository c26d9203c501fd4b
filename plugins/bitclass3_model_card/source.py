"""What the source states of itself: in its GGUF's metadata, else in the front matter of its own card in the HF folder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from bitclass3_core.results import Run
from bitclass3_core.sources.hub import is_hub_name
from bitclass3_model_card.text import code, plain

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # a bare name is no address on a hub
_HUB = re.compile(r"^https?://huggingface\.co/(?P<id>[^/\s]+/[^/\s]+?)/?$")
_URL_KEYS = ("general.source.repo_url", "general.source.url", "general.base_model.0.repo_url", "general.repo_url")
_ID_KEYS = ("general.source.huggingface.repository", "general.base_model", "general.name")


@dataclass(frozen=True, slots=True)
class License:
    """A hub's identifier of a licence (``apache-2.0``, ``other``), its name and link if they are given, and who states it."""

    identifier: str
    name: str = ""
    link: str = ""
    where: str = ""


def _text(values: Mapping[str, Any], key: str) -> str:
    """A string on one line; empty if it is missing or no string."""
    value = values.get(key)
    return " ".join(value.split()) if isinstance(value, str) else ""


def _source_card(run: Run) -> Mapping[str, Any]:
    """The front matter of the README.md beside the source's weights; empty if there is none or it cannot be read."""
    path = run.model.hf / "README.md" if run.model.hf else None
    if path is None or not path.is_file():
        return {}
    match = re.match(r"---\r?\n(.*?\n)---\r?\n", path.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        values = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:  # somebody else's file: if it cannot be read, it is ignored
        return {}
    return values if isinstance(values, dict) else {}


def license_of(run: Run, stated: str | None = None) -> License | None:
    """The licence that the user states, else that of the source's metadata or card; None if there is none."""
    if stated:
        return License(stated.lower(), where="stated by the publisher")
    keys = ("general.license", "general.license.name", "general.license.link")
    sources = (
        (run.model.metadata, keys, "the source's metadata"),
        (_source_card(run), ("license", "license_name", "license_link"), "the source's model card"),
    )
    for values, keys, where in sources:
        identifier, name, link = (_text(values, key) for key in keys)
        if identifier:  # hubs read the name and the link only beside it
            return License(identifier.lower(), name, link, where)
    return None


def _base_model(run: Run) -> str:
    """The source model's name on the hub: the user's, or from the metadata; empty if a hub would not accept it."""
    section = run.config.get("model")
    given = str(section.get("hf") or "") if isinstance(section, Mapping) else ""
    if is_hub_name(given):
        return given
    metadata = run.model.metadata
    for key in _URL_KEYS:
        if match := _HUB.match(_text(metadata, key)):
            return match["id"]
    owner, name = (_text(metadata, f"general.base_model.0.{key}") for key in ("organization", "name"))
    named = f"{owner}/{name}".replace(" ", "-") if owner and name else ""
    candidates = (named, *(_text(metadata, key) for key in _ID_KEYS))
    return next((value for value in candidates if _REPOSITORY.fullmatch(value)), "")


def front_matter(run: Run, found: License | None) -> str:
    """The YAML block that model hubs read, with both of its ``---`` lines; what the source does not state is left out."""
    base, known, card = _base_model(run), found or License(""), _source_card(run)
    task, language = card.get("pipeline_tag"), card.get("language")
    languages = [language] if isinstance(language, str) else language
    values: dict[str, Any] = {
        "base_model": base,
        "base_model_relation": "quantized" if base else "",
        "license": known.identifier,
        "license_name": known.name,
        "license_link": known.link,
        "language": languages if isinstance(languages, list) and all(isinstance(entry, str) for entry in languages) else "",
        "pipeline_tag": task if isinstance(task, str) else "",
        "library_name": "gguf",
        "quantized_by": "bitclass3",
        "tags": [tag for tag in ("gguf", "bitclass3", "mixed-precision", run.model.arch) if tag],
    }
    text = yaml.safe_dump({key: value for key, value in values.items() if value}, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n"


def license_section(run: Run, found: License | None) -> str:
    """The licence that the source names, or that there is none."""
    if found is None:
        return "## License\n\nNeither the source's metadata nor its model card name a license: see the source model."
    label = code(found.identifier) + "".join(f" ({plain(part)})" for part in (found.name, found.link) if part)
    inherited = (
        f"inherited from {plain(run.model.name)} (from {found.where})" if found.where.startswith("the source") else found.where
    )
    return f"## License\n\n{label}, {inherited}."
