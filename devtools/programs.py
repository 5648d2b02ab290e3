"""Runs programs so that a Ctrl-C ends them, and what they have started, in order.

Standard library only: this runs before the environment exists.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent

PATIENCE_SECONDS = 20.0
"""What a program that was told to end gets for ending what it started."""


class Failed(Exception):
    """Something only the person at the keyboard can mend; the message says what, in one line."""


def run(
    command: Sequence[str],
    environ: Mapping[str, str] | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> int:
    """Runs a program in the project's folder until it ends by itself, or is interrupted as we are."""
    with running(command, environ, patience_seconds=patience_seconds) as process:
        return process.wait()


def run_quietly(
    command: Sequence[str], environ: Mapping[str, str] | None = None, keep_open: Sequence[int] = ()
) -> tuple[int, str]:
    """Runs a program likewise, and returns its exit code and what it said, on whichever stream."""
    with tempfile.TemporaryFile() as said:
        with running(command, environ, stdout=said, stderr=subprocess.STDOUT, keep_open=keep_open) as process:
            code = process.wait()
        said.seek(0)
        return code, said.read().decode("utf-8", "replace")


@contextlib.contextmanager
def running(
    command: Sequence[str],
    environ: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
    keep_open: Sequence[int] = (),
) -> Iterator[subprocess.Popen[str]]:
    """A program in a session of its own: every signal comes from us, once, whether a Ctrl-C or meant for us alone.

    ``keep_open`` are files that the program keeps open as long as it runs, where the system can do that.
    """
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environ,
        stdout=stdout,
        stderr=stderr,
        encoding="utf-8",
        start_new_session=True,
        pass_fds=keep_open if os.name == "posix" else (),
    )
    try:
        yield process
    except KeyboardInterrupt:
        _end(process, patience_seconds)
        raise


def _end(process: subprocess.Popen[str], patience_seconds: float) -> None:
    """Passes the interruption on, and gives the program time to end what it has started."""
    if sys.platform != "win32":  # there, a Ctrl-C has reached it already
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(patience_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
