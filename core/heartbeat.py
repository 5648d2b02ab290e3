"""Heartbeats: each room and the worker report once a second to :data:`core.worker_state.worker_state` that their
event loop runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from core.supervised import supervised
from core.worker_state import WORKER, worker_state

BEAT_SECONDS = 1.0


def start_room(sid: str) -> asyncio.Task[None]:
    """Adds a room to the worker's state and starts its heartbeat. Cancelling the task removes the room."""
    worker_state.room_opened(sid)
    task = supervised(lambda: _beat_for_room(sid), "heartbeat", room=sid)
    task.add_done_callback(lambda _: worker_state.room_closed(sid))
    return task


async def _beat_for_room(sid: str) -> None:
    while True:
        worker_state.alive(sid)
        await asyncio.sleep(BEAT_SECONDS)


async def beat_for_worker(is_connected: Callable[[], bool]) -> None:
    """Reports the worker's own heartbeat, and whether it is connected to its server, until cancelled."""
    while True:
        worker_state.alive(WORKER)
        if is_connected():
            worker_state.server_found()
        else:
            worker_state.server_lost()
        await asyncio.sleep(BEAT_SECONDS)
