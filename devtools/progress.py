"""Shows the progress of long steps: in one line that is updated on a terminal, in plain lines elsewhere.

Standard library only: this runs before the environment exists.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

Report = Callable[[str], None]
"""Takes one line to show to the user."""

STEP_SECONDS = 0.2
WHEEL = "|/-\\"


def say(line: str) -> None:
    print(line, flush=True)


@contextlib.contextmanager
def timed(what: str, usually: str, report: Report = say, screen: TextIO | None = None) -> Iterator[None]:
    """Shows what is being done and how long it usually takes, and afterwards how long it took.

    ``screen`` is where the line is updated if it is a terminal; default: standard error.
    """
    screen = screen or sys.stderr
    began = time.monotonic()
    if screen.isatty():
        with _moving(f"{what} ({usually})", began, screen):
            yield
        report(f"{what}: done in {time.monotonic() - began:.0f} s")
    else:
        report(f"{what} ({usually}) ...")
        yield
        report(f"  done in {time.monotonic() - began:.0f} s")


@contextlib.contextmanager
def _moving(what: str, began: float, screen: TextIO) -> Iterator[None]:
    done = threading.Event()
    mover = threading.Thread(target=_move, args=(what, began, screen, done), daemon=True)
    mover.start()
    try:
        yield
    finally:
        done.set()
        mover.join()


def _move(what: str, began: float, screen: TextIO, done: threading.Event) -> None:
    step = 0
    width = max(20, shutil.get_terminal_size().columns - 1)
    while True:
        line = f"{WHEEL[step % len(WHEEL)]} {what} ... {time.monotonic() - began:.0f} s"
        screen.write("\r" + line[:width].ljust(width))
        screen.flush()
        if done.wait(STEP_SECONDS):
            break
        step += 1
    screen.write("\r" + " " * width + "\r")
    screen.flush()
