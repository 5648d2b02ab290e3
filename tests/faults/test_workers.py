"""Several worker processes on one machine: what a room loses when one of them dies or is restarted."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conftest import StartWorker
from devtools.livekit_server import LiveKitServer
from devtools.room_folders import gaps, until
from devtools.speakers import Speaker
from devtools.worker import Worker
from support.fault_table import Seen
from support.teaching import heard, sentences, teacher_in

pytestmark = pytest.mark.e2e

MAX_ROOMS = 12


async def both_are_ready(recorder: Worker) -> None:
    await until(lambda: recorder.log.count("Registered with") >= 2, "both are registered", timeout=60)


@contextlib.asynccontextmanager
async def lessons(server: LiveKitServer, recorder: Worker, name: str) -> AsyncIterator[dict[str, Speaker]]:
    """Teachers in rooms, by the room. LiveKit chooses the workers: rooms are opened until both have one."""
    async with contextlib.AsyncExitStack() as stack:
        teachers: dict[str, Speaker] = {}
        while len({recorder.number_of(room) for room in teachers}) < 2:
            room = f"{name}-{len(teachers)}"
            assert len(teachers) < MAX_ROOMS, "LiveKit gives all rooms to one worker"
            teachers[room] = await stack.enter_async_context(await teacher_in(server, recorder, room))
        yield teachers


async def all_say(teachers: dict[str, Speaker], first: int, count: int) -> None:
    await asyncio.gather(*(teacher.say(sentences(first, count)) for teacher in teachers.values()))


@pytest.mark.fault(
    "SIGKILL of one of two worker processes (WORKERS=2)",
    "its rooms are recorded again within 4 s, the others have no gap",
)
@pytest.mark.skipif(sys.platform == "win32", reason="kills by a signal")
async def test_a_killed_worker_costs_only_its_own_rooms(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path, seen: Seen
) -> None:
    recorder = await worker(WORKERS="2")
    await both_are_ready(recorder)
    async with lessons(livekit_server, recorder, "of-two") as teachers:
        await all_say(teachers, 0, 2)
        await asyncio.sleep(1)
        dead = [room for room in teachers if recorder.number_of(room) == "2"]
        subscribed = recorder.log.count("Track subscribed")
        recorder.process("2").kill()
        killed = time.monotonic()
        await until(
            lambda: recorder.log.count("Track subscribed") == subscribed + len(dead),
            "its rooms are recorded again",
        )
        seen(f"{time.monotonic() - killed:.1f} s until the last of {len(dead)} rooms is recorded again")
        await asyncio.sleep(0.5)
        await all_say(teachers, 2, 2)
    await until(lambda: recorder.log.count("Room over") >= len(teachers), "the rooms are over", timeout=60)
    for room in teachers:
        room_dir = tmp_path / "segments" / room
        assert heard(room_dir) == [0, 1, 2, 3]
        assert [gap["reason"] for gap in gaps(room_dir)] == (["no_recorder"] if room in dead else [])
    assert recorder.log.count("Worker 2 has ended (SIGKILL)") == 1


@pytest.mark.fault("SIGHUP with WORKERS=2", "one worker after the other is restarted; every word is recorded")
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
async def test_a_rolling_restart_hands_all_rooms_over(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path
) -> None:
    recorder = await worker(WORKERS="2")
    await both_are_ready(recorder)
    async with lessons(livekit_server, recorder, "rolling") as teachers:
        await all_say(teachers, 0, 2)
        recorder.process("").send_signal(signal.SIGHUP)
        await recorder.wait_for("All workers have been restarted", timeout=90)
        await asyncio.sleep(1)
        await all_say(teachers, 2, 2)
    folders = [tmp_path / "segments" / room for room in teachers]
    await until(
        lambda: all(heard(folder) == [0, 1, 2, 3] for folder in folders), "every word is saved", timeout=60
    )
    assert " ERROR " not in recorder.log, "nor of the native client, which prints its own"
