"""``python agent.py dev``: runs ``start`` in a child process, and restarts it when a source file or .env is saved."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

from worker.stop import STOP_TIMEOUT_SECONDS

logger = logging.getLogger("recorder")

PACKAGES = ("archive", "core", "delivery", "recording", "search", "text", "worker")
"""The folders beside agent.py that contain the worker's modules."""


def run_and_reload(program: Path) -> int:
    """Runs ``program start`` until Ctrl-C, and restarts it after every change. Returns the exit code."""
    import watchfiles

    # The child is in a process group of its own: these signals would end only this process.
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        child = _start_child(program)
        try:
            watched = _watched_folders(program.parent)
            for changes in watchfiles.watch(*watched, watch_filter=_is_source, recursive=False):
                names = ", ".join(sorted({Path(path).name for _, path in changes}))
                logger.info("%s changed: restarting", names)
                _stop_child(child)
                child = _start_child(program)
        finally:
            _stop_child(child)
    return 0


def _watched_folders(root: Path) -> list[Path]:
    """The folders of the worker's own modules, without the virtual environment and the recordings."""
    return [root, *(root / name for name in PACKAGES)]


def _is_source(_: object, path: str) -> bool:
    name = Path(path).name
    return name.endswith(".py") or name in (".env", ".env.local")


def _start_child(program: Path) -> subprocess.Popen[bytes]:
    """Starts the worker in a process group of its own: the terminal's Ctrl-C goes to this process alone."""
    command, variables = [sys.executable, str(program), "start"], {**os.environ, "WORKERS": "1"}
    if sys.platform == "win32":
        return subprocess.Popen(command, env=variables, creationflags=subprocess.CREATE_NEW_PROCESS_GROUP)
    return subprocess.Popen(command, env=variables, process_group=0)


def _stop_child(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
    try:
        child.wait(STOP_TIMEOUT_SECONDS + 5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
