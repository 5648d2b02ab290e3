"""What dev.py and the servers of the tests need from the machine: a cache folder, locks, ports, Debian's packages.

Standard library only: this runs before the environment exists.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where Debian has servers and administrators' tools; a user's PATH may lack these folders."""

APT_SECONDS = 600.0


class ProgramUnavailable(Exception):
    """A program is missing and cannot be installed, or does not start; the message says why, in one line."""


def is_build_machine() -> bool:
    """Whether this is a CI machine (``CI=true``), where no test may be skipped because a program is missing."""
    return os.environ.get("CI", "").casefold() == "true"


def cache_folder() -> Path:
    """The folder for files that can be made again, for this user."""
    home = Path.home()
    if os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif os.environ.get("XDG_CACHE_HOME"):
        base = Path(os.environ["XDG_CACHE_HOME"])
    else:
        base = home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache"
    return base / "voice-segmenter"


def try_lock(file: IO[bytes]) -> bool:
    """Takes the lock if it is free. It is released when every process that has the file open has closed it or ended."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port on loopback that is free at the moment."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def on_path(program: str) -> Path | None:
    """The path of this program on the PATH or in the system's folders; None if it is not there."""
    found = shutil.which(program) or shutil.which(program, path=SYSTEM_FOLDERS)
    return Path(found).resolve() if found else None


def found_or_installed(find: Callable[[], Path | None], what: str, *packages: str) -> Path:
    """The result of ``find``; if it finds nothing, installs Debian packages and tries again.

    ``packages``: first the one that contains the program. Only a build machine (``CI=true``) is changed, as root or
    by sudo.

    Raises:
        ProgramUnavailable: there is none, and it cannot be installed.
    """
    found = find()
    if found is None and is_build_machine():
        with _one_at_a_time():
            found = find()  # another test process may have installed it in the meantime
            if found is None:
                print(f"Installing {what} (about 1 minute) ...", file=sys.stderr, flush=True)
                _apt("update")
                _apt("install", "--yes", "--no-install-recommends", *packages)
                found = find()
    if found is None:
        raise ProgramUnavailable(f"There is no {what} here: install it (Debian: apt install {packages[0]})")
    return found


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Lets one process install packages at a time: apt-get fails while another one runs."""
    with open(Path(tempfile.gettempdir()) / "voice-segmenter-apt.lock", "w") as lock:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_root() -> bool:
    return sys.platform != "win32" and os.geteuid() == 0


def _apt(*arguments: str) -> None:
    apt, sudo = shutil.which("apt-get"), shutil.which("sudo")
    if apt is None or not (is_root() or sudo):
        raise ProgramUnavailable(f"Only root on Debian or Ubuntu can do this: apt-get {' '.join(arguments)}")
    become_root = [] if is_root() else [str(sudo), "-n", "-E"]
    try:
        done = subprocess.run(
            [*become_root, apt, "-qq", "-o", "DPkg::Lock::Timeout=300", *arguments],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=APT_SECONDS,
        )
    except subprocess.TimeoutExpired as late:
        raise ProgramUnavailable(f"apt-get {arguments[0]} took more than {APT_SECONDS:.0f} s") from late
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it says nothing"]
        raise ProgramUnavailable(f"apt-get {arguments[0]} failed: {lines[-1]}")
