"""Publishes a run's folder on the Hugging Face hub: which files belong to the release, whether the card is valid, the upload."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bitclass3_core.errors import Bitclass3Error, ConfigError, ModelFileError, ToolchainError
from bitclass3_core.files import human_bytes
from bitclass3_core.gguf.model import split_files
from bitclass3_core.progress import Progress
from bitclass3_core.run_config import CARD_REPORT
from bitclass3_core.runs.folder import RunFolder

CARD = "README.md"
# beside the GGUFs: what a reader of the card looks at; costs, sensitivities and evaluations are not uploaded
_EXTRAS = ("imatrix.gguf", "explorer.html", "plots/*.png", "*.tensor_types.txt")
_FRONT_MATTER = re.compile(r"---\r?\n(.*?\n)---\r?\n", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Release:
    """What would be uploaded: bytes of each file by its path in the repository, the card's front matter, and what is wrong with it."""

    folder: Path
    repo: str
    files: Mapping[str, int]
    front_matter: Mapping[str, Any]
    problems: tuple[str, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    def to_json(self) -> dict[str, Any]:
        """What ``publish --json`` prints."""
        return {
            "repo": self.repo,
            "files": dict(self.files),
            "n_bytes": self.n_bytes,
            "front_matter": dict(self.front_matter),
            "problems": list(self.problems),
        }


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.utils
    except ImportError:
        raise ToolchainError("publishing needs huggingface_hub; pip install 'bitclass3[torch]'") from None
    return huggingface_hub


def _released(folder: Path) -> list[Path]:
    """The GGUFs that the run made as its own, with all files of a split."""
    made = RunFolder(folder).candidates
    firsts = [folder / str(entry["file"]) for entry in made.values() if entry["kind"] == "ours"]
    return [file for first in sorted(firsts) if first.is_file() for file in split_files(first)]


def _extras(folder: Path, ours: list[Path]) -> list[Path]:
    """The other files of the release; recipes only of the GGUFs in ``ours``."""
    stems = tuple(file.name.removesuffix(".gguf").split("-00001-of-")[0] for file in ours)
    found = [path for pattern in _EXTRAS for path in sorted(folder.glob(pattern))]
    return [p for p in found if not p.name.endswith(".tensor_types.txt") or p.name.removesuffix(".tensor_types.txt") in stems]


def release_of(folder: Path, repo: str | None) -> Release:
    """The release in a run's folder. Raises ModelFileError if there is none, ConfigError if the hub would not accept the name."""
    if not (folder / "run.json").is_file():
        raise ModelFileError(f"{folder} is no folder of a bitclass3 run; give the --out of a run")
    ours = _released(folder)
    if not ours:
        raise ModelFileError(f"{folder} holds no GGUF that the run made; run bitclass3 run or ladder to the end first")
    name = repo or f"{_model_name(ours[0])}-bitclass3-GGUF"
    _check_repo(name)
    card = folder / CARD
    files = [*([card] if card.is_file() else []), *ours, *_extras(folder, ours)]
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    values, problems = _card(card)
    return Release(folder, name, sizes, values, problems)


def _model_name(file: Path) -> str:
    """``Model`` of ``Model-4.80bpw.gguf``: the name without the last part, which is the level or the target."""
    return file.name.removesuffix(".gguf").split("-00001-of-")[0].rsplit("-", 1)[0]


def _check_repo(name: str) -> None:
    hub = _hub()
    try:
        hub.utils.validate_repo_id(name)
    except hub.utils.HFValidationError as error:
        raise ConfigError(
            f"repository {name!r} is no name for the hub ({str(error).rstrip('.')}); give --repo NAME/MODEL"
        ) from None


def _card(path: Path) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """(the front matter, what the hub would refuse or miss in it)."""
    if not path.is_file():
        return {}, (f"there is no {CARD}; run the report stage with the plugin {CARD_REPORT}",)
    match = _FRONT_MATTER.match(path.read_text(encoding="utf-8"))
    try:
        values = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError as error:
        return {}, (f"the front matter of {CARD} is no valid YAML ({' '.join(str(error).split())[:120]})",)
    if not isinstance(values, dict):
        return {}, (f"{CARD} has no front matter; write the card again with the plugin {CARD_REPORT}",)
    problems = []
    if not isinstance(values.get("license"), str):
        problems.append(
            f"{CARD} names no license, as the source names none; find out under which one you may publish, "
            f"then run again with --set report.options.{CARD_REPORT}.license=ID"
        )
    if not (isinstance(values.get("tags"), list) and all(isinstance(tag, str) for tag in values["tags"])):
        problems.append(f"tags in {CARD} are no list of words")
    return values, tuple(problems)


def upload(release: Release, private: bool, progress: Progress) -> str:
    """Upload the release in one commit; returns its address.

    Raises Bitclass3Error if there is no token, if the card has problems, and if the hub refuses the upload.
    """
    if release.problems:
        raise Bitclass3Error(f"nothing was uploaded: {release.problems[0]}")
    hub = _hub()
    token = hub.get_token()
    if not token:
        raise Bitclass3Error("nothing was uploaded: no token of the Hugging Face hub; log in with `hf auth login`, or set HF_TOKEN")
    api = hub.HfApi(token=token)
    operations = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=release.folder / name) for name in release.files]
    progress.say(f"publish: {len(operations)} files, {human_bytes(release.n_bytes)}, to {release.repo}")
    try:
        repo = api.create_repo(release.repo, repo_type="model", private=private, exist_ok=True).repo_id
        commit = api.create_commit(repo, operations, commit_message="Add the release", repo_type="model")
    except KeyboardInterrupt:
        raise
    except Exception as error:  # huggingface_hub passes on every error of its HTTP client
        raise _as_error(release.repo, error) from error
    return str(commit.repo_url)


def _as_error(repo: str, error: Exception) -> Bitclass3Error:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return Bitclass3Error(f"the hub refuses the token for {repo} ({status}); it needs write access: `hf auth login`")
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return Bitclass3Error(
        f"{repo} could not be uploaded ({line[:160]}); run the same command again, what the hub has is not sent twice"
    )
