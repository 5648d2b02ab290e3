"""Small disks that can be filled, for what happens then."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


class NoSmallDisk(Exception):
    """This user of this system cannot mount one."""


@contextlib.contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own in a folder that is made for it; gone afterwards.

    Raises:
        NoSmallDisk: only root of a Linux system can.
    """
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        path.rmdir()
        raise NoSmallDisk("only root of a Linux system can mount a small disk")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
        path.rmdir()


def filled(disk: Path) -> Path:
    """A file that leaves no byte of the disk free."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        for block in (2**20, 4096):
            with contextlib.suppress(OSError):
                while file.write(bytes(block)) == block:
                    pass
    return ballast
