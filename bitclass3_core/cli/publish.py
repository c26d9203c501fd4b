"""``bitclass3 publish``: what a release holds, and its upload to the Hugging Face hub."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitclass3_core.cli.flags import Flags, with_flags
from bitclass3_core.cli.groups import OUTPUT
from bitclass3_core.errors import Bitclass3Error, InterruptedRunError
from bitclass3_core.files import human_bytes
from bitclass3_core.progress import terminal_progress

if TYPE_CHECKING:
    from bitclass3_core.release.publish import Release


@with_flags(OUTPUT.only("json", "quiet"))
def publish(
    flags: Flags,
    folder: Annotated[Path, typer.Argument(help="folder of a finished run", show_default=False)],
    repo: Annotated[str | None, typer.Option("--repo", help="name on the hub: me/Model-GGUF", show_default=False)] = None,
    private: Annotated[bool, typer.Option("--private", help="make a new repository private")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would be uploaded; needs no token and no network")] = False,
) -> None:
    """Upload a run's files, card, plots and explorer to the Hugging Face hub."""
    from bitclass3_core.release.publish import release_of, upload

    release = release_of(folder, repo)
    if flags.json:
        print(json.dumps(release.to_json(), indent=1))
    elif not flags.quiet:
        _print(release, dry_run)
    if dry_run:
        if release.problems:
            raise Bitclass3Error(f"the release is not ready: {release.problems[0]}")
        return
    try:
        address = upload(release, private, terminal_progress(flags.quiet or flags.json))
    except KeyboardInterrupt:
        raise InterruptedRunError("interrupted; run the same command again, what the hub has is not sent twice") from None
    if not (flags.quiet or flags.json):
        print(f"published: {address}")


def _print(release: "Release", dry_run: bool) -> None:
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
