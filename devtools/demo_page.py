"""The end of the demo: exports the recorded lesson as a web page, and opens it if there is a desktop."""

from __future__ import annotations

import os
import subprocess
import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path

from devtools.machine import is_build_machine
from devtools.progress import Report

ROOT = Path(__file__).resolve().parent.parent
EXPORT_SECONDS = 300.0


class PageFailed(Exception):
    """The lesson could not be exported; the message says why."""


def show_page(archive: Path, room: str, say: Report) -> None:
    """Exports the room's lesson into its folder, prints the page's address, and opens it if there is a desktop.

    Raises:
        PageFailed: the lesson could not be exported.
    """
    page = _exported(archive, room)
    say(f"Read, search and play it: {page.as_uri()}")
    if has_desktop(os.environ):
        webbrowser.open(page.as_uri())


def has_desktop(environ: Mapping[str, str]) -> bool:
    """Whether a browser window can be shown to the user."""
    if is_build_machine() or not sys.stdout.isatty():
        return False
    return sys.platform in ("win32", "darwin") or bool(
        environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")
    )


def _exported(archive: Path, room: str) -> Path:
    command = [sys.executable, "lessons.py", "--output-dir", str(archive), "export", room]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=EXPORT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise PageFailed(f"`lessons.py export {room}` took more than {EXPORT_SECONDS:.0f} s") from None
    pages = sorted((archive / room).glob("*.html"))
    if done.returncode or not pages:
        raise PageFailed(f"`lessons.py export {room}` failed: {(done.stderr or done.stdout).strip()}")
    return pages[0]
