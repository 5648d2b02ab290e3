"""Hand-over: a stopping worker requests recorders of other workers for its rooms."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection

from livekit import api

from config import Settings
from worker.room_queries import ask_for_recorder

logger = logging.getLogger("recorder")

HANDOVER_SECONDS = 3.0
"""How long a stopping worker continues to record while it waits for successors. Hosts kill 10 s after their signal."""

SUCCESSOR_SECONDS = 1.0
"""If no successor has joined within this time, one is requested again: the server may have offered the room to this
worker, which had just stopped taking rooms."""

ROOM_POLL_SECONDS = 0.02


async def hand_over(
    livekit: api.LiveKitAPI, settings: Settings, room_names: Callable[[], Collection[str]]
) -> None:
    """Requests successors until no room is left, or ``HANDOVER_SECONDS`` are over.

    A recorder leaves its room when a successor of the same identity joins (fact 13).

    Args:
        room_names: returns the rooms in which this worker still records.
    """
    deadline = time.monotonic() + HANDOVER_SECONDS
    while (names := room_names()) and time.monotonic() < deadline:
        await asyncio.gather(*(_request_successor(livekit, settings, name) for name in names))
        retry_at = min(deadline, time.monotonic() + SUCCESSOR_SECONDS)
        while room_names() and time.monotonic() < retry_at:  # noqa: ASYNC110  (the framework has no event for it)
            await asyncio.sleep(ROOM_POLL_SECONDS)


async def _request_successor(livekit: api.LiveKitAPI, settings: Settings, room: str) -> None:
    try:
        async with asyncio.timeout(HANDOVER_SECONDS):
            await ask_for_recorder(livekit, settings, room)
    except Exception as error:  # the reconciler of another worker will find the room
        logger.warning("No successor could be requested: %s", error, extra={"room": room})
