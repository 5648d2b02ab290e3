"""Runs the disk work of one room on a thread of its own, so that a stalled disk delays nothing but saving."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from core.errors import StorageError
from core.records import RoomInfo
from core.supervised import pauses
from core.trouble import Trouble, trouble_of
from core.worker_state import worker_state

logger = logging.getLogger("recorder")

T = TypeVar("T")

STALL_SECONDS = 1.0
"""A disk step that takes longer is logged."""

RETRY_SECONDS = (0.25, 0.5, 1.0, 2.0)
"""Pauses before the second and each further attempt; the last is repeated."""


class DiskThread:
    """Runs disk steps one after the other. The first of several refusals in a row is logged, and their end."""

    def __init__(self, room: RoomInfo) -> None:
        self._room = room
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="disk")
        self._trouble = Trouble()

    @property
    def trouble(self) -> str:
        """Why the disk refused the last step; empty: it did not."""
        return self._trouble.current

    async def attempt(self, work: Callable[[], T]) -> T | None:
        """Runs a step once and returns its result. If it fails, that is logged, and None is returned."""
        started = time.monotonic()
        try:
            with worker_state.disk_step(self._room.sid):
                result = await self.run(work)
        except Exception as error:  # any error: the segment is still in memory, and the step is retried
            self._refuses(error)
            return None
        self._works(time.monotonic() - started)
        return result

    async def retry(self, work: Callable[[], T], is_time_up: Callable[[], bool]) -> T | None:
        """Retries a step until it succeeds or ``is_time_up`` returns True. Returns its result; None: no success."""
        for wait in pauses(RETRY_SECONDS):
            result = await self.attempt(work)
            if result is not None or is_time_up():
                return result
            await asyncio.sleep(wait)
        raise AssertionError("pauses never end")

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Runs work without logging a failure, and without counting it as a refusal of the disk."""
        return asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self, *last: Callable[[], object]) -> None:
        """Closes the thread without waiting. ``last`` still run, after all earlier steps, if the disk answers again."""
        for work in last:
            self._thread.submit(work)
        self._thread.shutdown(wait=False)

    def _refuses(self, error: Exception) -> None:
        worker_state.disk_refuses(self._room.sid, getattr(error, "strerror", None) or type(error).__name__)
        if self._trouble.begins(trouble_of(error)):
            logger.error(
                "The disk refuses: %s%s. Speech is kept in memory until it can be written",
                self._trouble.current,
                _file_in(error),
                extra={"room": self._room.name},
                exc_info=None if isinstance(error, (OSError, StorageError)) else error,
            )

    def _works(self, seconds: float) -> None:
        if self._trouble.ends():
            worker_state.disk_works(self._room.sid)
            logger.warning("The disk works again", extra={"room": self._room.name})
        if seconds > STALL_SECONDS:
            logger.warning(
                "The disk took %.1f s for one step; nothing is lost", seconds, extra={"room": self._room.name}
            )


def _file_in(error: Exception) -> str:
    """Names the file that an error is about, where it is about one."""
    path = getattr(error, "filename", None)
    return f" ({Path(path).name})" if isinstance(path, str) else ""
