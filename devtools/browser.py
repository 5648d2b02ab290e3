"""A Chromium for the tests of what people see in a browser: found, or on a build machine installed.

``async with launched(find_or_install(print)) as browser`` gives Playwright's ``Browser``, without a window.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

from playwright.async_api import Browser as Browser
from playwright.async_api import async_playwright

Report = Callable[[str], None]
"""Takes one line for the person who waits."""

NAMES = ("chromium", "google-chrome-stable", "google-chrome", "chrome", "chromium-browser", "msedge")
MACOS = ("Google Chrome", "Chromium", "Microsoft Edge")
WINDOWS = (r"Google\Chrome\Application\chrome.exe", r"Microsoft\Edge\Application\msedge.exe")
WINDOWS_FOLDERS = ("ProgramFiles", "ProgramFiles(x86)", "LocalAppData")
DEBIAN_PACKAGES = ("chromium", "fonts-dejavu-core")
"""The fonts have Arabic letters; without any font there would be empty boxes on screenshots."""

INSTALL_YOURSELF = "Install Chromium or Chrome, or set CHROMIUM to its path."


class BrowserUnavailable(Exception):
    """There is no Chromium and none can be installed; the message says why, in one line."""


def find_or_install(report: Report) -> Path:
    """The path of a Chromium: ``CHROMIUM``, then ``PATH``, then where systems keep it, else Debian's package.

    The package is installed only on a build machine (``CI=true``), by root: nobody else's machine is changed.

    Raises:
        BrowserUnavailable: there is none, and it cannot be installed.
    """
    named = os.environ.get("CHROMIUM")
    if named:
        return _checked(Path(named))
    found = _found()
    if found is None and is_build_machine():
        _install(report)
        found = _found()
    if found is None:
        raise BrowserUnavailable(f"There is no Chromium here. {INSTALL_YOURSELF}")
    return found


def is_build_machine() -> bool:
    """Where nothing may be left out because a program is missing."""
    return os.environ.get("CI", "").casefold() == "true"


@contextlib.asynccontextmanager
async def launched(chromium: Path, flags: Sequence[str] = ()) -> AsyncIterator[Browser]:
    """A running browser without a window; gone afterwards. ``flags`` are Chromium's own."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=list(flags))
        try:
            yield browser
        finally:
            await browser.close()


def _checked(path: Path) -> Path:
    if not path.is_file() or not os.access(path, os.X_OK):
        raise BrowserUnavailable(f"CHROMIUM={path} is wrong: there is no program there.")
    return path


def _found() -> Path | None:
    return next(_everywhere(), None)


def _everywhere() -> Iterator[Path]:
    yield from (Path(path) for name in NAMES if (path := shutil.which(name)))
    applications = [Path("/Applications") / f"{name}.app/Contents/MacOS/{name}" for name in MACOS]
    folders = [Path(os.environ[name]) for name in WINDOWS_FOLDERS if name in os.environ]
    programs = [folder / program for folder in folders for program in WINDOWS]
    yield from (path for path in (*applications, *programs) if path.is_file())


def _install(report: Report) -> None:
    """Debian's package; a browser of the tests' own would come from a host that not every network lets through."""
    apt = shutil.which("apt-get")
    if apt is None or sys.platform == "win32" or os.geteuid() != 0:
        raise BrowserUnavailable(f"Only root on Debian or Ubuntu can install Chromium. {INSTALL_YOURSELF}")
    report("Installing Chromium (about 1 minute) ...")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    wait = ["-o", "DPkg::Lock::Timeout=300"]
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *DEBIAN_PACKAGES]):
        done = subprocess.run(
            [apt, "-qq", *wait, *command],
            env=environ,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["it says nothing"]
            raise BrowserUnavailable(f"apt-get {command[0]} failed: {lines[-1]}. {INSTALL_YOURSELF}")


if __name__ == "__main__":
    try:
        print(find_or_install(lambda line: print(line, file=sys.stderr, flush=True)))
    except BrowserUnavailable as unavailable:
        print(unavailable, file=sys.stderr)
        sys.exit(1)
