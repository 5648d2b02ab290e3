"""Produces each kind of fault in a classroom. Each function returns when the fault should be over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from livekit import api

from benchmarks.soak.classroom import ROOM, Classroom
from benchmarks.soak.plan import Fault
from devtools import sound
from devtools.disks import filled
from devtools.speakers import administration

MUTED_SECONDS = 3.0
AWAY_SECONDS = 1.0
RECONNECT_SECONDS = 4.0
FULL_SECONDS = 8.0
HANGING_SECONDS = 3.0
SETTLE_SECONDS = 4.0
STUDENTS = 20
CHANGES = 20
"""How often each student changes its attributes."""


async def mute(room: Classroom) -> None:
    async with room.interrupted() as teacher:
        teacher.mute()
        await asyncio.sleep(MUTED_SECONDS)
        teacher.unmute()
        await teacher.silence(1)


async def rejoin(room: Classroom) -> None:
    async with room.interrupted():
        await room.leave()
        await asyncio.sleep(AWAY_SECONDS)
        await room.enter()


async def republish(room: Classroom) -> None:
    async with room.interrupted() as teacher:
        await teacher.unpublish()
        await asyncio.sleep(AWAY_SECONDS)
        await room.publish()


async def resume(room: Classroom) -> None:
    async with room.interrupted() as teacher:
        await teacher.reconnect(full=False)
        await teacher.silence(RECONNECT_SECONDS)


async def full_reconnect(room: Classroom) -> None:
    async with room.interrupted() as teacher:
        await teacher.reconnect(full=True)
        await teacher.silence(RECONNECT_SECONDS)


async def restart_server(room: Classroom) -> None:
    """Restarts the server. The teacher joins again as soon as possible, and speaks when a recorder has subscribed."""
    async with room.interrupted():
        await asyncio.to_thread(room.server.restart)
        await room.leave()
        await room.enter()


async def rolling_restart(room: Classroom) -> None:
    old = room.worker
    new = await room.another_worker()
    await room.mid_word()
    await old.stop()
    await room.until_taken_over(new)


async def kill_worker(room: Classroom) -> None:
    async with room.replaced() as recording:
        recording.kill()


async def hang(room: Classroom) -> None:
    old = room.worker
    async with AsyncExitStack() as at_end:
        async with room.replaced() as recording:
            at_end.callback(recording.resume)
            recording.suspend()
        await asyncio.sleep(HANGING_SECONDS)
    await asyncio.sleep(HANGING_SECONDS)
    if old is not room.worker:
        await old.stop()


async def fill_disk(room: Classroom) -> None:
    assert room.disk is not None
    await room.mid_word()
    ballast = await asyncio.to_thread(filled, room.disk)
    try:
        await asyncio.sleep(FULL_SECONDS)
    finally:
        ballast.unlink()


async def dispatch_twice(room: Classroom) -> None:
    """Dispatches two more recorders, then stops the first worker: the second one records from then on."""
    old = room.worker
    new = await room.another_worker()
    await room.mid_word()
    async with administration(room.server) as livekit:
        for _ in range(2):
            await livekit.agent_dispatch.create_dispatch(api.CreateAgentDispatchRequest(room=ROOM))
    await asyncio.sleep(SETTLE_SECONDS)
    await old.stop()
    await room.until_taken_over(new)


async def student_speaks(room: Classroom) -> None:
    async with await room.student() as student:
        await student.publish()
        await student.say(sound.load("student"))


async def crowd(room: Classroom) -> None:
    async with AsyncExitStack() as students:
        for number in range(STUDENTS):
            student = await students.enter_async_context(await room.student(number))
            for change in range(CHANGES):
                await student.room.local_participant.set_attributes({"mood": str(change)})


DO: dict[Fault, Callable[[Classroom], Awaitable[None]]] = {
    Fault.MUTE: mute,
    Fault.ROLLING_RESTART: rolling_restart,
    Fault.REJOIN: rejoin,
    Fault.WORKER_KILLED: kill_worker,
    Fault.HANG: hang,
    Fault.REPUBLISH: republish,
    Fault.STUDENT: student_speaks,
    Fault.RESUME: resume,
    Fault.DISK_FULL: fill_disk,
    Fault.DOUBLED: dispatch_twice,
    Fault.FULL_RECONNECT: full_reconnect,
    Fault.CROWD: crowd,
    Fault.SERVER_RESTART: restart_server,
}
