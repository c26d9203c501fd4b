"""A headless Chromium for tests of pages: playwright's own if it is there, else the system's."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# no network of its own: a page that needs one must fail
ARGUMENTS = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser. Without one the test is skipped, but in CI it fails: `.ci/run` is to bring one."""
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        system = next((path for name in NAMES if (path := shutil.which(name))), None)
        path = str(own) if own.is_file() else system
        if path is None:
            reason = "no Chromium: install one (apt-get install chromium, or playwright install chromium)"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS, chromium_sandbox=False)
        yield browser
        browser.close()
