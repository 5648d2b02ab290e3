"""Many participants join and leave: the worker keeps nothing of them, and the lessons are recorded."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
import pytest
from livekit.protocol.rtc import LeaveRequest, SignalRequest, SignalResponse

from benchmarks.meter import memory_megabytes
from conftest import StartWorker
from devtools.livekit_server import LiveKitServer
from devtools.room_folders import STUDENT, TEACHER, manifest, until
from devtools.speakers import Speaker, token
from devtools.worker import Worker
from support.fault_table import Seen
from support.teaching import heard, sentences, subscribed, teacher_in

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(360),
    pytest.mark.skipif(sys.platform == "win32", reason="counts what Windows does not tell"),
]

CYCLES, SETTLED_AFTER, AT_ONCE, SPEAKS_EVERY = 100, 40, 2, 10
WAVES, PEOPLE = 10, 50
WARM_UP_WAVES = 3
"""Until then the worker's services have opened what they keep open: databases, connections."""

LOOKS = 12
"""One a second: the native client keeps what belongs to a room for up to ten seconds after its end."""
FLAT = 1.1
"""How much more memory is allowed at the end: without any cause it differs by some per cent between readings."""
SPARE = 2
"""By how much the number of threads and files may differ while nothing happens: pools."""
SPARE_CONNECTIONS = 6
"""The native client and the worker keep connections to the server for up to 90 s after their last use, to use them
again. If a room kept one, there would be ten times as many."""


@dataclass(frozen=True)
class Footprint:
    """Memory, threads, files and TCP connections of the worker and everything it started."""

    megabytes: float
    threads: int
    files: int
    """Without the connections."""
    connections: int

    @classmethod
    async def of(cls, recorder: Worker) -> Footprint:
        """The lowest of several readings: what a room holds is released some seconds after its end."""
        looks = []
        for _ in range(LOOKS):
            await asyncio.sleep(1)
            looks.append(await asyncio.to_thread(cls._now, recorder.pid))
        return cls(
            min(look.megabytes for look in looks),
            min(look.threads for look in looks),
            min(look.files for look in looks),
            min(look.connections for look in looks),
        )

    @classmethod
    def _now(cls, pid: int) -> Footprint:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        connections = sum(len(process.net_connections("tcp")) for process in processes)
        return cls(
            memory_megabytes(pid),
            sum(process.num_threads() for process in processes),
            sum(process.num_fds() for process in processes) - connections,
            connections,
        )

    def __str__(self) -> str:
        return f"{self.megabytes:.0f} MB, {self.threads} threads, {self.files} files, {self.connections} connections"


def assert_flat(before: Footprint, after: Footprint) -> None:
    assert after.megabytes < FLAT * before.megabytes, f"{before}, then {after}"
    assert after.threads <= before.threads + SPARE, f"{before}, then {after}"
    assert after.files <= before.files + SPARE, f"{before}, then {after}"
    assert after.connections <= before.connections + SPARE_CONNECTIONS, f"{before}, then {after}"


@pytest.mark.alone
@pytest.mark.fault("100 join/leave cycles", "every room is recorded; memory, threads and files stay flat")
async def test_rooms_that_come_and_go_leave_nothing_behind(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path, seen: Seen
) -> None:
    recorder = await worker()
    await rooms_come_and_go(livekit_server, recorder, range(SETTLED_AFTER))
    before = await Footprint.of(recorder)
    await rooms_come_and_go(livekit_server, recorder, range(SETTLED_AFTER, CYCLES))
    after = await Footprint.of(recorder)
    seen(f"after {SETTLED_AFTER}: {before}; after {CYCLES}: {after}")
    assert_flat(before, after)
    assert recorder.log.count("Room over") == CYCLES
    for number in range(0, CYCLES, SPEAKS_EVERY):
        assert heard(tmp_path / "segments" / f"cycle-{number}") == [number // SPEAKS_EVERY]


async def rooms_come_and_go(server: LiveKitServer, recorder: Worker, numbers: Sequence[int]) -> None:
    """Two at a time: with more, the native client of this process has been seen to hang while it lets go of rooms.

    A teacher joins, is subscribed to, says a word in every tenth room, and leaves.
    """
    places = asyncio.Semaphore(AT_ONCE)

    async def lesson(number: int) -> None:
        room = f"cycle-{number}"
        async with places, await Speaker.join(server, room, "anna", metadata=TEACHER) as teacher:
            await subscribed(recorder, teacher)
            if number % SPEAKS_EVERY == 0:
                await teacher.silence(0.5)
                await teacher.say(sentences(number // SPEAKS_EVERY, 1))

    await asyncio.gather(*(lesson(number) for number in numbers))
    await until(lambda: recorder.log.count("Room over") > numbers[-1], "the rooms are over", timeout=60)


@pytest.mark.long
@pytest.mark.fault(
    "500 students join and leave", "the teacher is recorded; memory, threads and files stay flat"
)
async def test_students_who_come_and_go_leave_nothing_behind(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path, seen: Seen
) -> None:
    recorder = await worker(LOG_LEVEL="DEBUG")  # the log names students only then
    async with await teacher_in(livekit_server, recorder, "crowd") as teacher:
        for wave in range(WARM_UP_WAVES):
            await students_come_and_go(livekit_server, recorder, "crowd", wave)
        await teacher.say(sentences(0, 2))
        before = await Footprint.of(recorder)
        talk = asyncio.create_task(teacher.say(sentences(2, 4)))
        for wave in range(WARM_UP_WAVES, WAVES):
            await students_come_and_go(livekit_server, recorder, "crowd", wave)
        await talk
        after = await Footprint.of(recorder)
        await teacher.say(sentences(6, 2))
    await recorder.wait_for("Room over")
    seen(f"after {WARM_UP_WAVES * PEOPLE}: {before}; after {WAVES * PEOPLE}: {after}")
    assert_flat(before, after)
    room_dir = tmp_path / "segments" / "crowd"
    assert heard(room_dir) == list(range(8))
    assert {record["participant_identity"] for record in manifest(room_dir)} == {"anna"}


async def students_come_and_go(server: LiveKitServer, recorder: Worker, room: str, wave: int) -> None:
    """They join together, and leave together when the recorder has seen all of them."""
    so_far = wave * PEOPLE

    def seen_to(what: str) -> bool:
        return recorder.log.count(f"{what}: student") == so_far + PEOPLE

    async with aiohttp.ClientSession() as session:
        identities = [f"student-{so_far + number}" for number in range(PEOPLE)]
        students = await asyncio.gather(
            *(_joined(session, server, room, identity) for identity in identities)
        )
        await until(lambda: seen_to("Participant joined"), f"wave {wave} is there", timeout=40)
        await asyncio.gather(*(_left(student) for student in students))
        await until(lambda: seen_to("Participant left"), f"wave {wave} is gone", timeout=40)


async def _joined(
    session: aiohttp.ClientSession, server: LiveKitServer, room: str, identity: str
) -> aiohttp.ClientWebSocketResponse:
    """A participant without media: only its connection for signals, which costs next to nothing here."""
    access = {"access_token": token(server, identity, room, metadata=STUDENT), "auto_subscribe": "0"}
    student = await session.ws_connect(f"{server.url}/rtc", params=access)
    assert SignalResponse.FromString(await student.receive_bytes()).HasField("join")
    return student


async def _left(student: aiohttp.ClientWebSocketResponse) -> None:
    await student.send_bytes(SignalRequest(leave=LeaveRequest()).SerializeToString())
    await student.close()
