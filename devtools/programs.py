"""Runs programs so that a Ctrl-C ends them, and what they started, in the right order.

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

STOP_SECONDS = 20.0
"""How long an interrupted program may take to end what it started."""


class Failed(Exception):
    """Something that only the user can correct; the message says what, in one line."""


def run(
    command: Sequence[str],
    environ: Mapping[str, str] | None = None,
    stop_seconds: float = STOP_SECONDS,
) -> int:
    """Runs a program in the project's folder until it ends or this process is interrupted; returns its exit code."""
    with running(command, environ, stop_seconds=stop_seconds) as process:
        return process.wait()


def run_quietly(
    command: Sequence[str], environ: Mapping[str, str] | None = None, keep_open: Sequence[int] = ()
) -> tuple[int, str]:
    """Runs a program likewise; returns its exit code and its output, of stdout and stderr together."""
    with tempfile.TemporaryFile() as output:
        with running(
            command, environ, stdout=output, stderr=subprocess.STDOUT, keep_open=keep_open
        ) as process:
            code = process.wait()
        output.seek(0)
        return code, output.read().decode("utf-8", "replace")


@contextlib.contextmanager
def running(
    command: Sequence[str],
    environ: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | None = None,
    stop_seconds: float = STOP_SECONDS,
    keep_open: Sequence[int] = (),
) -> Iterator[subprocess.Popen[str]]:
    """Runs a program in its own session, so that it gets a SIGINT only from this process, and exactly once.

    ``keep_open`` are file descriptors that the program keeps open as long as it runs, on POSIX systems.
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
        _end(process, stop_seconds)
        raise


def _end(process: subprocess.Popen[str], stop_seconds: float) -> None:
    """Sends the program a SIGINT, and kills it if it has not ended after ``stop_seconds``."""
    if sys.platform != "win32":  # on Windows the Ctrl-C has reached it already
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(stop_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
