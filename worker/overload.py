"""Finds out whether this worker hears late: whether it has more rooms than the machine can bear now.

Audio that is processed late is not lost yet: the system, the jitter buffer and the queue of frames keep some seconds of
it. So a worker that hears late takes no further rooms before it loses speech. Late packets of a participant's network
do not count: the delay is that of frames, which come regularly whatever arrives.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from core.worker_state import WorkerState, worker_state

logger = logging.getLogger("recorder")

LATE_SECONDS = 1.0
"""Ten rooms are processed within 35 ms of when they are due (docs/benchmarks.md). The jitter buffer keeps four seconds
of packets, and a room that no worker takes loses everything: so not much earlier."""

LOOK_SECONDS = 1.0
LATE_LOOKS = 3
"""A worker hears late if half of its rooms are late in so many looks in a row: a short stall is none."""
PROMPT_LOOKS = 10
"""It is over after so many looks in a row without that."""

NOTE = "audio is processed late: no further rooms are taken"


class Overload:
    """Whether this worker hears late. It is logged and noted once, when it begins."""

    def __init__(self, on_change: Callable[[], Awaitable[None]], state: WorkerState = worker_state) -> None:
        """
        Args:
            on_change: called when it begins and when it ends.
        """
        self.is_late = False
        self._on_change = on_change
        self._state = state
        self._looks = 0
        """How many looks in a row have found the opposite of ``is_late``."""

    async def run(self) -> None:
        """Looks once a second, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.look():
                await self._on_change()

    def look(self) -> bool:
        """Looks at the delays of all rooms; returns whether ``is_late`` has changed."""
        delays = [room.audio_delay_seconds for room in self._state.snapshot().rooms if room.teachers]
        late = [delay for delay in delays if delay > LATE_SECONDS]
        is_late_now = bool(late) and 2 * len(late) >= len(delays)
        self._looks = self._looks + 1 if is_late_now != self.is_late else 0
        if self._looks < (PROMPT_LOOKS if self.is_late else LATE_LOOKS):
            return False
        self.is_late, self._looks = is_late_now, 0
        self._state.note("late", NOTE if is_late_now else "")
        if is_late_now:
            logger.warning(
                "Audio is processed up to %.1f s late in %d of %d rooms: no further rooms are taken until that is "
                "over. This machine needs more cores, or fewer rooms (MAX_ROOMS)",
                max(late),
                len(late),
                len(delays),
            )
        else:
            logger.info("Audio is processed in time again")
        return True
