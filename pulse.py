"""Keeps :data:`vitals.vitals` true about event loops: a heart for each room and one for the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vitals import WORKER, vitals

BEAT_SECONDS = 1.0


def start_room(sid: str) -> asyncio.Task[None]:
    """Opens a room in the vitals, and closes it when the task is cancelled."""
    vitals.room_opened(sid)
    return asyncio.create_task(_beat_for_room(sid), name=f"pulse {sid}")


async def _beat_for_room(sid: str) -> None:
    try:
        while True:
            vitals.alive(sid)
            await asyncio.sleep(BEAT_SECONDS)
    finally:
        vitals.room_closed(sid)


async def beat_for_worker(is_connected: Callable[[], bool]) -> None:
    """The worker's own heart. Runs until cancelled."""
    vitals.room_opened(WORKER)
    try:
        while True:
            vitals.alive(WORKER)
            if is_connected():
                vitals.server_found()
            else:
                vitals.server_lost()
            await asyncio.sleep(BEAT_SECONDS)
    finally:
        vitals.room_closed(WORKER)
