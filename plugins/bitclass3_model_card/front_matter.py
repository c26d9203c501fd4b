"""The YAML head that model hubs read; what the source does not say is left out."""

import json
import re
from collections.abc import Mapping
from typing import Any

from bitclass3_core.results import Run
from bitclass3_model_card.facts import text_value

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # a bare name is no address on a hub
_HUB = re.compile(r"^https?://huggingface\.co/(?P<id>[^/\s]+/[^/\s]+?)/?$")
_BARE = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")  # a scalar that YAML takes as a string without quotes
_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
_URL_KEYS = ("general.source.repo_url", "general.source.url", "general.base_model.0.repo_url", "general.repo_url")
_ID_KEYS = ("general.source.huggingface.repository", "general.base_model", "general.name")


def _scalar(value: str) -> str:
    bare = _BARE.fullmatch(value) and value.lower() not in _YAML_WORDS
    return value if bare else json.dumps(value, ensure_ascii=False)


def base_model(metadata: Mapping[str, Any]) -> str:
    """The hub's name of the source model, from its metadata; empty if they hold none that a hub would accept."""
    for key in _URL_KEYS:
        if match := _HUB.match(text_value(metadata, key)):
            return match["id"]
    owner, name = (text_value(metadata, f"general.base_model.0.{key}") for key in ("organization", "name"))
    named = f"{owner}/{name}".replace(" ", "-") if owner and name else ""
    candidates = (named, *(text_value(metadata, key) for key in _ID_KEYS))
    return next((value for value in candidates if _REPOSITORY.fullmatch(value)), "")


def _license(metadata: Mapping[str, Any]) -> dict[str, str]:
    values = {
        "license": text_value(metadata, "general.license").lower(),
        "license_name": text_value(metadata, "general.license.name"),
        "license_link": text_value(metadata, "general.license.link"),
    }
    # hubs read the name and the link only beside the identifier
    return values if values["license"] else {}


def front_matter(run: Run) -> str:
    """The YAML block, with both of its ``---`` lines and a final line break."""
    metadata = run.model.metadata
    entries = {"base_model": base_model(metadata), **_license(metadata), "library_name": "gguf", "quantized_by": "bitclass3"}
    tags = [tag for tag in ("gguf", "bitclass3", "mixed-precision", run.model.arch) if tag]
    lines = [f"{key}: {_scalar(value)}" for key, value in entries.items() if value]
    return "\n".join(["---", *lines, "tags:", *(f"  - {_scalar(tag)}" for tag in tags), "---", ""])
