"""Runs `lessons.py` as a person would, in a process of its own, without the developer's own settings."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INHERITED = ("PATH", "SYSTEMROOT", "TEMP", "TMP", "HOME", "USERPROFILE", "LANG", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Result:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


def environment(**settings: str) -> dict[str, str]:
    """What a command runs with. An empty setting counts as not set, and hides the one in a developer's .env."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    hidden = dict.fromkeys(("GEMINI_API_KEY", "SAVE_TRANSLATIONS", "TARGET_LANGUAGES", "TIMEZONE"), "")
    return {**hidden, **kept, "PYTHONIOENCODING": "utf-8", "COLUMNS": "100", **settings}


def run(*arguments: str, output_dir: Path | None = None, timeout: float = 110, **settings: str) -> Result:
    """Runs ``python lessons.py`` to its end. A traceback is never an answer."""
    if output_dir is not None:
        settings["OUTPUT_DIR"] = str(output_dir)
    done = subprocess.run(
        [sys.executable, str(ROOT / "lessons.py"), *arguments],
        env=environment(**settings),
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Result(done.returncode, done.stdout, done.stderr)
