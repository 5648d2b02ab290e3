"""What the demo prints: lines, a progress line, and how times and confidences are written."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

PROGRESS_SECONDS = 10.0
"""How often progress is printed where a line cannot be overwritten."""

Record = dict[str, Any]
"""One line of the manifest, or of the list of texts."""


class Screen:
    """Prints lines, and below them one progress line, which is overwritten where the terminal allows that."""

    def __init__(self) -> None:
        self._can_overwrite = sys.stdout.isatty()
        self._width = 0
        self._last_progress_at = time.monotonic()

    def line(self, text: str) -> None:
        self.clear()
        say(text)

    def progress(self, text: str) -> None:
        if self._can_overwrite:
            sys.stdout.write("\r" + text.ljust(self._width))
            sys.stdout.flush()
            self._width = len(text)
        elif time.monotonic() - self._last_progress_at > PROGRESS_SECONDS:
            self._last_progress_at = time.monotonic()
            say(text)

    def clear(self) -> None:
        if self._width:
            sys.stdout.write("\r" + " " * self._width + "\r")
            self._width = 0


def say(line: str) -> None:
    """Prints a line; does nothing if the reader of the output has gone."""
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


def clock(seconds: float, *, tenths: bool = False) -> str:
    """Minutes and seconds: ``1:05``, with ``tenths`` ``1:05.3``."""
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    minutes, rest = divmod(round(seconds, 1) if tenths else int(seconds), 60)
    return f"{sign}{minutes:.0f}:{rest:04.1f}" if tenths else f"{sign}{minutes:.0f}:{rest:02.0f}"


def confidence(record: Record) -> str:
    """The mean speech probability of a segment, or ``-`` if the manifest has none."""
    mean = record["mean_probability"]
    return "-" if mean is None else f"{mean:.2f}"
