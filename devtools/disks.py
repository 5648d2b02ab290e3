"""Small disks that tests can fill."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


class NoSmallDisk(Exception):
    """This user or this system cannot mount a small disk."""


@contextlib.contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[Path]:
    """Mounts a small file system in a new folder, and removes it afterwards.

    Raises:
        NoSmallDisk: this needs root on Linux.
    """
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        path.rmdir()
        raise NoSmallDisk("only root on Linux can mount a small disk")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
        path.rmdir()


def filled(disk: Path) -> Path:
    """Fills the disk to the last byte with one file, and returns its path."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        for block in (2**20, 4096):
            with contextlib.suppress(OSError):
                while file.write(bytes(block)) == block:
                    pass
    return ballast
