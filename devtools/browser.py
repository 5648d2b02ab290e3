"""Finds a Chromium for the browser tests; on a build machine installs one.

``async with launched(find_or_install()) as browser`` gives Playwright's ``Browser``, without a window.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from devtools.machine import ProgramUnavailable, found_or_installed

if TYPE_CHECKING:  # Playwright takes most of a second to load, and most tests need no browser
    from playwright.async_api import Browser

NAMES = ("chromium", "google-chrome-stable", "google-chrome", "chrome", "chromium-browser", "msedge")
MACOS = ("Google Chrome", "Chromium", "Microsoft Edge")
WINDOWS = (r"Google\Chrome\Application\chrome.exe", r"Microsoft\Edge\Application\msedge.exe")
WINDOWS_FOLDERS = ("ProgramFiles", "ProgramFiles(x86)", "LocalAppData")
DEBIAN_PACKAGES = ("chromium", "fonts-dejavu-core")
"""The fonts include Arabic; without fonts, screenshots show empty boxes."""


def find_or_install() -> Path:
    """The path of a Chromium: ``CHROMIUM``, then ``PATH``, then the usual folders of the system, else Debian's package.

    Playwright's own browser is not downloaded: some networks block its host.

    Raises:
        ProgramUnavailable: there is none and it cannot be installed.
    """
    named = os.environ.get("CHROMIUM")
    if named:
        return _checked(Path(named))
    return found_or_installed(lambda: next(_everywhere(), None), "Chromium or Chrome", *DEBIAN_PACKAGES)


@contextlib.asynccontextmanager
async def launched(chromium: Path, flags: Sequence[str] = ()) -> AsyncIterator[Browser]:
    """Starts a browser without a window, and closes it afterwards. ``flags`` are Chromium's command-line flags."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=list(flags))
        try:
            yield browser
        finally:
            await browser.close()


def _checked(path: Path) -> Path:
    if not path.is_file() or not os.access(path, os.X_OK):
        raise ProgramUnavailable(f"CHROMIUM={path} is wrong: there is no program there.")
    return path


def _everywhere() -> Iterator[Path]:
    yield from (Path(path) for name in NAMES if (path := shutil.which(name)))
    applications = [Path("/Applications") / f"{name}.app/Contents/MacOS/{name}" for name in MACOS]
    folders = [Path(os.environ[name]) for name in WINDOWS_FOLDERS if name in os.environ]
    programs = [folder / program for folder in folders for program in WINDOWS]
    yield from (path for path in (*applications, *programs) if path.is_file())


if __name__ == "__main__":
    try:
        print(find_or_install())
    except ProgramUnavailable as unavailable:
        print(unavailable, file=sys.stderr)
        sys.exit(1)
