"""Lets a few rooms join at the same time, those first in which somebody may be speaking.

All rooms share one native client: a join takes CPU time on its threads, and rooms that join together slow down each
other, and those that are being recorded.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass(order=True)
class _Wait:
    """A room that waits for its turn."""

    rank: int
    number: int
    loop: asyncio.AbstractEventLoop = field(compare=False)
    turn: asyncio.Future[None] = field(compare=False)


class JoinQueue:
    """Places for joins. Rooms are threads, each with an event loop: any of them may wait here."""

    def __init__(self, places: int) -> None:
        self._lock = threading.Lock()
        self._free = places
        self._waiting: list[_Wait] = []
        """In the order in which they will join."""
        self._numbers = itertools.count()
        self._joining = 0

    @property
    def joining(self) -> int:
        """The number of rooms that are joining or wait for it."""
        return self._joining

    @contextlib.asynccontextmanager
    async def turn(self, *, may_have_speech: bool) -> AsyncIterator[None]:
        """Waits for a place, and keeps it during the context. A wait that is cancelled takes none."""
        wait = self._enter(may_have_speech=may_have_speech)
        try:
            await wait.turn
            yield
        finally:
            self._leave(wait)

    def _enter(self, *, may_have_speech: bool) -> _Wait:
        loop = asyncio.get_running_loop()
        wait = _Wait(0 if may_have_speech else 1, next(self._numbers), loop, loop.create_future())
        with self._lock:
            self._joining += 1
            bisect.insort(self._waiting, wait)
            self._admit()
        return wait

    def _leave(self, wait: _Wait) -> None:
        with self._lock:
            self._joining -= 1
            if wait in self._waiting:
                self._waiting.remove(wait)
            else:
                self._free += 1
            self._admit()

    def _admit(self) -> None:
        """Gives the free places to those who wait, in their order."""
        while self._free and self._waiting:
            wait = self._waiting.pop(0)
            self._free -= 1
            with contextlib.suppress(RuntimeError):  # its loop has been closed; it leaves nevertheless
                wait.loop.call_soon_threadsafe(_grant, wait.turn)


def _grant(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
