"""What the source states of itself: in its GGUF's metadata, else in the front matter of its own card in the HF folder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from bitclass3_core.results import Run
from bitclass3_core.sources.hub import is_hub_name
from bitclass3_model_card.facts import text_value

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


def source_card(run: Run) -> Mapping[str, Any]:
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


def _license_in(values: Mapping[str, Any], keys: tuple[str, str, str], where: str) -> License | None:
    identifier, name, link = (text_value(values, key) for key in keys)
    # hubs read the name and the link only beside the identifier
    return License(identifier.lower(), name, link, where) if identifier else None


def license_of(run: Run, stated: str | None = None) -> License | None:
    """The licence that the user states, else that of the source's metadata or card; None if there is none."""
    if stated:
        return License(stated.lower(), where="stated by the publisher")
    metadata = _license_in(
        run.model.metadata, ("general.license", "general.license.name", "general.license.link"), "the source's metadata"
    )
    return metadata or _license_in(source_card(run), ("license", "license_name", "license_link"), "the source's model card")


def base_model(run: Run) -> str:
    """The source model's name on the hub: the user's, or from the metadata; empty if a hub would not accept it."""
    section = run.config.get("model")
    given = str(section.get("hf") or "") if isinstance(section, Mapping) else ""
    if is_hub_name(given):
        return given
    metadata = run.model.metadata
    for key in _URL_KEYS:
        if match := _HUB.match(text_value(metadata, key)):
            return match["id"]
    owner, name = (text_value(metadata, f"general.base_model.0.{key}") for key in ("organization", "name"))
    named = f"{owner}/{name}".replace(" ", "-") if owner and name else ""
    candidates = (named, *(text_value(metadata, key) for key in _ID_KEYS))
    return next((value for value in candidates if _REPOSITORY.fullmatch(value)), "")
