"""Creates the project's environment in ``.venv``, updates it, and repairs it after an interrupted installation.

Standard library only: this runs before the environment exists.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from devtools.installer import install
from devtools.machine import try_lock
from devtools.programs import Failed, run_quietly
from devtools.progress import say, timed

OURS = "installed."
"""The prefix of this module's files in the environment's folder."""
POLL_SECONDS = 0.5
PROBE_SECONDS = 60.0

Stamp = dict[str, Any]
"""What an environment holds: the SHA-256 of each requirements file that is installed, none during an installation;
and ``adopted``, if another tool made it: such an environment is never deleted."""


class Environment:
    """The environment of the project in ``root``, for the version of Python that runs this."""

    def __init__(self, root: Path) -> None:
        self.folder = root / ".venv"
        self.python = self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self._root = root
        self._stamp = self.folder / f"{OURS}json"

    def prepare(self, requirements: str, *included: str) -> None:
        """Installs what this requirements file pins, if it is not installed already.

        ``included`` are requirements files whose pins this file contains, too.

        Raises:
            Failed: another tool made the folder, or the packages cannot be installed.
        """
        if self._is_ready(requirements):
            return
        self._what_to_do()  # raises before anything is touched
        self.folder.mkdir(exist_ok=True)
        with self._alone() as lock:
            if not self._is_ready(requirements):  # another process may have installed it in the meantime
                self._make_ready(requirements, included, lock)

    def _is_ready(self, requirements: str) -> bool:
        stamp = self._read_stamp() or {}
        return stamp.get(requirements) == self._hash(requirements) and self._version() == _VERSION

    def _make_ready(self, requirements: str, included: tuple[str, ...], lock: int) -> None:
        to_do = self._what_to_do()
        known = self._read_stamp()
        adopted = to_do != "create" and (known is None or bool(known.get("adopted")))
        if to_do == "create":
            self._create(lock)
        self._write_stamp({"adopted": adopted})
        options = ["--force-reinstall"] if to_do == "reinstall" else []
        with timed(f"Installing {requirements}", "5 to 60 seconds"):
            self._ensure_pip()
            install(self.python, self._root / requirements, *options, keep_open=[lock])
        hashes = {name: self._hash(name) for name in (requirements, *included)}
        self._write_stamp({"adopted": adopted, **hashes})

    def _what_to_do(self) -> str:
        return what_to_do(self._read_stamp(), self._version(), self._may_be_replaced(), self.folder)

    def _may_be_replaced(self) -> bool:
        """Whether the folder does not exist, is empty, or is the rest of an environment."""
        if self.folder.is_symlink() or self.folder.is_file():
            return False
        left = [path.name for path in self.folder.iterdir()] if self.folder.exists() else []
        return "pyvenv.cfg" in left or all(name.startswith(OURS) for name in left)

    def _create(self, lock: int) -> None:
        if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
            raise Failed(
                f"This Python lacks venv: install it first (Debian, Ubuntu: sudo apt install python{_VERSION}-venv)."
            )
        with timed(f"Creating {self.folder.name} with Python {_VERSION}", "some seconds"):
            self._write_stamp({})  # an interrupted creation is recognised, and started again
            for path in self.folder.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif not path.name.startswith(OURS):
                    path.unlink()
            # Not the Python of an active environment, which may be the one that was just deleted.
            base = getattr(sys, "_base_executable", None) or sys.executable
            code, said = run_quietly([base, "-m", "venv", str(self.folder)], keep_open=[lock])
        if code:
            raise Failed(f"{base} -m venv failed: {' '.join(said.split())}")

    def _ensure_pip(self) -> None:
        """Installs pip, which an environment of another tool may lack."""
        if self._probe("import pip") is None:
            run_quietly([str(self.python), "-m", "ensurepip"])

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """Waits for other installations: those of another command, or of a child process that a killed one left."""
        with open(self.folder / f"{OURS}lock", "a+b") as lock:
            if not try_lock(lock):
                say(f"Waiting for another installation into {self.folder.name} ...")
                while not try_lock(lock):
                    time.sleep(POLL_SECONDS)
            yield lock.fileno()

    def _version(self) -> str | None:
        """The version of Python in the environment: "3.12"; None if it has none that runs."""
        return self._probe("import sys; print('%d.%d' % sys.version_info[:2])")

    def _probe(self, program: str) -> str | None:
        try:
            done = subprocess.run(
                [str(self.python), "-c", program],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=PROBE_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if not done.returncode else None

    def _read_stamp(self) -> Stamp | None:
        """None: there is none."""
        try:
            return dict(json.loads(self._stamp.read_text(encoding="utf-8")))
        except OSError:
            return None
        except ValueError:
            return {}

    def _write_stamp(self, stamp: Stamp) -> None:
        partial = self._stamp.with_name(f"{OURS}new")
        partial.write_text(json.dumps(stamp), encoding="utf-8")
        partial.replace(self._stamp)

    def _hash(self, name: str) -> str:
        return hashlib.sha256((self._root / name).read_bytes()).hexdigest()


_VERSION = "{}.{}".format(*sys.version_info[:2])


def what_to_do(stamp: Stamp | None, version: str | None, may_be_replaced: bool, folder: Path) -> str:
    """Whether to "create" the environment, to "install" into it what it lacks, or to "reinstall" everything.

    Raises:
        Failed: another tool made it, and it cannot be used.
    """
    theirs = stamp is None or bool(stamp.get("adopted"))
    if theirs and version is None and stamp is None and may_be_replaced:
        return "create"  # there is no environment, or an incomplete one that runs nothing
    if theirs and version != _VERSION:
        has = f"has Python {version}" if version else "has no Python that runs"
        raise Failed(f"{folder} was not made by this command and {has}: move it away and try again.")
    unfinished = stamp is not None and not any(name.endswith(".txt") for name in stamp)
    if theirs:
        return "reinstall" if unfinished else "install"
    return "create" if unfinished or version != _VERSION else "install"
