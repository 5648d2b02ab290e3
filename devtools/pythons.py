"""Finds a Python that can run this project, or says how to get one.

Standard library only, and only syntax that an older Python can read: that Python prints the advice.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from devtools.machine import cache_folder

OLDEST = (3, 11)
# The last onnxruntime for Macs with an Intel processor has no wheel for a newer Python.
NEWEST = (3, 13) if sys.platform == "darwin" and platform.machine() == "x86_64" else (3, 14)
VERSIONS = [f"3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
"""The newest first."""

MORE_FOLDERS = ("/opt/homebrew/bin", "/usr/local/bin")
PROBE_SECONDS = 20.0


def is_suitable() -> bool:
    """Whether the Python that runs this can run the project."""
    return OLDEST <= sys.version_info[:2] <= NEWEST


def fetched_folder() -> Path:
    """Where `python dev.py get-python` puts a Python."""
    return cache_folder() / "pythons"


def another() -> list[str] | None:
    """The command of a suitable Python on this machine; None if there is none."""
    return next((command for command in _candidates() if _runs(command)), None)


def advice() -> str:
    """One line: which Python is needed, and how to get one on this system."""
    have = "{}.{}".format(*sys.version_info[:2])
    needed = f"Python {have} cannot run this, only {VERSIONS[-1]} to {VERSIONS[0]}"
    return f"{needed}: {_how_to_install()}, or let `{Path(sys.executable).name} dev.py get-python` fetch one."


def _candidates() -> Iterator[list[str]]:
    path = os.pathsep.join([os.environ.get("PATH", ""), *MORE_FOLDERS])
    for version in VERSIONS:
        if os.name == "nt" and shutil.which("py"):
            yield ["py", f"-{version}"]
        found = shutil.which(f"python{version}", path=path)
        if found:
            yield [found]
        pattern = f"cpython-{version}.*/" + ("python.exe" if os.name == "nt" else "bin/python3")
        yield from ([str(fetched)] for fetched in sorted(fetched_folder().glob(pattern)))
    for name in ("python3", "python"):
        found = shutil.which(name)
        if found:
            yield [found]


def _runs(command: list[str]) -> bool:
    program = f"import sys, venv, ensurepip; sys.exit(not {OLDEST} <= sys.version_info[:2] <= {NEWEST})"
    try:
        done = subprocess.run(
            [*command, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _how_to_install() -> str:
    newest = VERSIONS[0]
    if sys.platform == "win32":
        return f"winget install Python.Python.{newest} (or python.org)"
    if sys.platform == "darwin":
        return f"brew install python@{newest} (or python.org)"
    packaged = _newest_of_debian()
    if packaged:
        return f"sudo apt install python{packaged} python{packaged}-venv"
    return f"install Python {newest} from your distribution or from python.org"


def _newest_of_debian() -> str | None:
    """The newest suitable version among this system's Debian or Ubuntu packages."""
    if not shutil.which("apt-cache"):
        return None
    names = {f"python{version}-venv": version for version in VERSIONS}
    done = subprocess.run(
        ["apt-cache", "madison", *names], stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8"
    )
    known = {line.split("|")[0].strip() for line in done.stdout.splitlines()}
    return next((version for name, version in names.items() if name in known), None)
