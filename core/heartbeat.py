"""Heartbeats: each room and the worker say once a second, in :data:`core.worker_state.worker_state`, that their
event loop runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from core.supervised import supervised
from core.worker_state import WORKER, worker_state

BEAT_SECONDS = 1.0


def start_room(sid: str) -> asyncio.Task[None]:
    """Opens a room in the worker's state, and closes it when the task is cancelled."""
    worker_state.room_opened(sid)
    task = supervised(lambda: _beat_for_room(sid), "heartbeat", room=sid)
    task.add_done_callback(lambda _: worker_state.room_closed(sid))
    return task


async def _beat_for_room(sid: str) -> None:
    while True:
        worker_state.alive(sid)
        await asyncio.sleep(BEAT_SECONDS)


async def beat_for_worker(is_connected: Callable[[], bool]) -> None:
    """The worker's own heartbeat, and whether the server can reach it. Runs until cancelled."""
    while True:
        worker_state.alive(WORKER)
        if is_connected():
            worker_state.server_found()
        else:
            worker_state.server_lost()
        await asyncio.sleep(BEAT_SECONDS)
