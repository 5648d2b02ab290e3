"""The worker with built-in faults, for those that cannot be produced from outside.

``BROKEN`` names a file. While it is there, the disk has the trouble that is written in it: ``EIO``, or ``stall`` for
five seconds once, or ``hang`` for ever. ``denied NAME``: files of this name cannot be opened, like those of another
owner, which root could open. ``callbacks``: others' callbacks for the room's events and for its end raise.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import livekit_compat  # noqa: F401  (before the framework)

# isort: split
from livekit.agents import JobContext

import agent

STALL_SECONDS = 5.0
EVENTS = (
    "participant_connected",
    "track_published",
    "track_subscribed",
    "track_unsubscribed",
    "participant_disconnected",
    "disconnected",
)

BROKEN = Path(os.environ["BROKEN"])

fsync = os.fsync
open_file = os.open
connect = JobContext.connect


def trouble() -> str:
    try:
        return BROKEN.read_text(encoding="ascii")
    except FileNotFoundError:
        return ""


def broken_fsync(fd: Any) -> None:
    now = trouble()
    if now == "EIO":
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    if now == "stall":
        BROKEN.unlink()
        time.sleep(STALL_SECONDS)
    while now == "hang":
        time.sleep(1)
    fsync(fd)


def broken_open(path: Any, *rest: Any, **options: Any) -> int:
    name = os.path.basename(os.fspath(path))
    if name != BROKEN.name and trouble() == f"denied {name}":
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
    return open_file(path, *rest, **options)


async def connect_with_others(self: JobContext, **options: Any) -> None:
    if trouble() == "callbacks":
        for event in EVENTS:
            self.room.on(event, broken_callback)  # type: ignore[arg-type]
        self.add_shutdown_callback(broken_end)
    await connect(self, **options)


def broken_callback(*_: object) -> None:
    raise RuntimeError("a callback that raises")


async def broken_end() -> None:
    raise RuntimeError("an end that raises")


os.fsync = broken_fsync
os.open = broken_open
JobContext.connect = connect_with_others  # type: ignore[method-assign]

if __name__ == "__main__":
    os._exit(agent.main(sys.argv[1:]))
