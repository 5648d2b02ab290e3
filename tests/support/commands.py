"""Runs `lessons.py` without the developer's own settings.

Commands run in this process, because starting a process takes longer than most commands; ``run_process`` starts one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import lessons
from support import ROOT

INHERITED = ("PATH", "SYSTEMROOT", "TEMP", "TMP", "HOME", "USERPROFILE", "LANG", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Result:
    """A command's exit code and output."""

    code: int
    out: str
    err: str


def environment(**settings: str) -> dict[str, str]:
    """The environment of a command. An empty setting counts as not set, and hides the one in a developer's .env."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    hidden = dict.fromkeys(("GEMINI_API_KEY", "SAVE_TRANSLATIONS", "TARGET_LANGUAGES", "TIMEZONE"), "")
    return {**hidden, **kept, "PYTHONIOENCODING": "utf-8", "COLUMNS": "100", **settings}


def run(*arguments: str, output_dir: Path | None = None, **settings: str) -> Result:
    """Runs a command of ``lessons.py`` to its end, in this process. A traceback fails the test."""
    if output_dir is not None:
        settings["OUTPUT_DIR"] = str(output_dir)
    return run_here(list(arguments), environment(**settings))


async def run_in_thread(*arguments: str, output_dir: Path | None = None, **settings: str) -> Result:
    """The same in another thread, so that the servers of the test's event loop answer meanwhile."""
    return await asyncio.to_thread(functools.partial(run, *arguments, output_dir=output_dir, **settings))


def run_process(
    *arguments: str, output_dir: Path | None = None, timeout: float = 110, **settings: str
) -> Result:
    """The same as ``python lessons.py``, in its own process."""
    if output_dir is not None:
        settings["OUTPUT_DIR"] = str(output_dir)
    return run_there(list(arguments), environment(**settings), timeout)


def run_there(arguments: list[str], environ: Mapping[str, str], timeout: float = 110) -> Result:
    """Runs a command in its own process, with these variables and no others, and nothing to read from."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "lessons.py"), *arguments],
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Result(done.returncode, done.stdout, done.stderr)


def run_here(arguments: list[str], environ: Mapping[str, str]) -> Result:
    """Runs a command in this process, with these variables and no others, and nothing to read from."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    with (
        patch.dict(os.environ, environ, clear=True),
        patch.object(sys, "stdin", io.StringIO()),
        _logging_and_signals_as_before(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            lessons.main(arguments)
        except SystemExit as ended:
            code = ended.code or 0
        except KeyboardInterrupt:
            code = 130
    out_text, err_text = _text(out), _text(err)
    assert "Traceback" not in err_text, err_text
    assert isinstance(code, int)
    return Result(code, out_text, err_text)


@contextlib.contextmanager
def _logging_and_signals_as_before() -> Iterator[None]:
    """A command sets up the log of its process, and what its signals do (only a main thread can)."""
    root, recorder = logging.getLogger(), logging.getLogger("recorder")
    handlers, levels = root.handlers[:], (root.level, recorder.level)
    root.handlers.clear()
    is_main = threading.current_thread() is threading.main_thread()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.nullcontext() if is_main else patch.object(signal, "signal"):
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        recorder.setLevel(levels[1])
        if is_main:
            signal.signal(signal.SIGTERM, on_sigterm)


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode("utf-8")
