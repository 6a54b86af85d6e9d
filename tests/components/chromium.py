"""Chromium, driven by Playwright: Debian's package, or whatever browser of the family is there."""

import os
import shutil
from pathlib import Path

from tests.components.install import ComponentMissing, apt_install

COMPONENT = "chromium"
COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find() -> Path | None:
    """The browser: `TEST_CHROMIUM` if set, else the first known command on the PATH."""
    chosen = os.environ.get("TEST_CHROMIUM")
    if chosen:
        return Path(chosen)
    found = next(filter(None, map(shutil.which, COMMANDS)), None)
    return None if found is None else Path(found)


def install() -> Path:
    """The browser, from Debian where that is allowed.

    Raises:
        ComponentMissing: There is none and it could not be installed.
    """
    browser = find()
    if browser is None:
        apt_install(COMPONENT, ["chromium"])
        browser = find()
    if browser is None or not browser.exists():
        raise ComponentMissing(
            COMPONENT,
            f"no browser at {browser or ' or '.join(COMMANDS)}.",
            "apt-get install chromium, or set TEST_CHROMIUM to a browser's path.",
        )
    return browser
