"""``bitclass3 publish``: what a release holds, and its upload to the Hugging Face hub."""

import json
from pathlib import Path

from bitclass3_core.errors import Bitclass3Error, InterruptedRunError
from bitclass3_core.files import human_bytes
from bitclass3_core.progress import terminal_progress
from bitclass3_core.release.publish import Release, release_of, upload


def publish_command(folder: Path, repo: str | None, private: bool, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """Print the release; upload it unless this is a dry run."""
    release = release_of(folder, repo)
    if as_json:
        print(json.dumps(release.to_json(), indent=1))
    elif not quiet:
        _print(release, dry_run)
    if dry_run:
        if release.problems:
            raise Bitclass3Error(f"the release is not ready: {release.problems[0]}")
        return
    progress = terminal_progress(quiet or as_json)
    try:
        address = upload(release, private, progress)
    except KeyboardInterrupt:
        raise InterruptedRunError("interrupted; run the same command again, what the hub has is not sent twice") from None
    if not (quiet or as_json):
        print(f"published: {address}")


def _print(release: Release, dry_run: bool) -> None:
    where = "" if "/" in release.repo else " (in your own namespace)"
    print(f"{'would upload' if dry_run else 'uploading'} to {release.repo}{where}:")
    width = max(len(name) for name in release.files)
    for name, n_bytes in release.files.items():
        print(f"  {name:<{width}}  {n_bytes:>15,} bytes")
    print(f"{len(release.files)} files, {human_bytes(release.n_bytes)}")
    shown = ", ".join(f"{key}: {value}" for key, value in release.front_matter.items() if isinstance(value, str))
    print(f"card: {shown or 'no front matter'}")
    for problem in release.problems:
        print(f"problem: {problem}")
