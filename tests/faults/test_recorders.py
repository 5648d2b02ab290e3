"""Recorders that start late, are killed, are replaced, or are doubled: what the files and the gaps contain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest
from livekit import api

from benchmarks.soak.lecture import Word
from benchmarks.soak.word_check import check_recordings
from conftest import StartWorker
from core.records import parse_utc, utc_now
from devtools.livekit_server import LiveKitServer
from devtools.room_folders import STUDENT, TEACHER, gaps, manifest, session_of, sessions, until
from devtools.speakers import Speaker, administration
from devtools.worker import Worker
from support.fault_table import Seen
from support.teaching import heard, listened_to, sentences, spoken, teacher_in

pytestmark = pytest.mark.e2e

BUSY_SECONDS = 5.0
"""A worker tells the server its load every 2.5 s; a stock one takes the mean of the last seconds."""

ON_THE_WAY = timedelta(seconds=0.5)
"""The longest delay of speech: codec, network and jitter buffer."""


def gap_times(room_dir: Path, since: datetime | None = None) -> list[tuple[datetime, datetime]]:
    """When the gaps that end after ``since`` start and end. One before that tells how long the first join took."""
    times = [(parse_utc(gap["start"]), parse_utc(gap["end"])) for gap in gaps(room_dir)]
    return [(start, end) for start, end in times if since is None or end > since]


async def recorders_in(server: LiveKitServer, room: str) -> int:
    async with administration(server) as livekit:
        request = api.ListParticipantsRequest(room=room)
        people = (await livekit.room.list_participants(request)).participants
    return sum(one.identity == "agent" for one in people)


@pytest.mark.fault(
    "SIGKILL of a worker, another is ready on the same disk",
    "the other records within 4 s; the time between is recorded as a gap",
)
async def test_a_room_whose_worker_is_killed_goes_to_another_that_is_there(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path, seen: Seen
) -> None:
    first = await worker(RECONCILE_SECONDS="2")
    async with await teacher_in(livekit_server, first, "orphan") as teacher:
        second = await worker(RECONCILE_SECONDS="2")
        began = utc_now()
        await teacher.say(sentences(0, 3))
        first.kill()
        # The server lists the dead one for twenty seconds more; the lock on its note is free at once.
        await second.wait_for("The recorder of this room has died", timeout=30)
        await second.wait_for("Track subscribed", timeout=30)
        assert await recorders_in(livekit_server, "orphan") == 1
        await teacher.silence(0.5)
        await teacher.say(sentences(3, 3))
    await second.wait_for("Room over")
    room_dir = tmp_path / "segments" / "orphan"
    assert heard(room_dir) == [0, 1, 2, 3, 4, 5]
    ((start, end),) = gap_times(room_dir, began)
    seen(f"{(end - start).total_seconds():.1f} s not recorded")
    records = manifest(room_dir)
    before = [record for record in records if record["number"] == 1]
    assert parse_utc(before[0]["start"]) < start < end, "the gap begins where the killed one last listened"
    assert all(not (start < parse_utc(record["start"]) < end) for record in records)


@pytest.mark.fault(
    "SIGKILL of a worker, another is ready on another disk",
    "the other records within 10 s; the time between is recorded as a gap",
)
async def test_a_worker_without_the_dead_one_s_disk_finds_out_by_asking(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path, seen: Seen
) -> None:
    first = await worker(RECONCILE_SECONDS="2")
    async with await teacher_in(livekit_server, first, "far") as teacher:
        second = await worker(RECONCILE_SECONDS="2", output_dir=tmp_path / "other")
        await teacher.say(sentences(0, 2))
        killed = time.monotonic()
        first.kill()
        await second.wait_for("The room's recorder does not answer", timeout=30)
        await second.wait_for("Track subscribed", timeout=30)
        seen(f"{time.monotonic() - killed:.1f} s not recorded")
        await teacher.silence(0.5)
        await teacher.say(sentences(2, 2))
    await second.wait_for("Room over")
    assert heard(tmp_path / "other" / "far") == [2, 3]
    assert len(gaps(tmp_path / "other" / "far")) == 1


@pytest.mark.alone
@pytest.mark.fault(
    "SIGKILL of the only worker in a lecture, restarted after 1 s",
    "recorded again 4 s after the kill; the time between is recorded as a gap",
)
async def test_a_killed_worker_that_is_restarted_knows_its_rooms(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path, seen: Seen
) -> None:
    first = await worker(RECONCILE_SECONDS="60")
    async with await teacher_in(livekit_server, first, "restarted") as teacher:
        began = utc_now()
        await teacher.say(sentences(0, 2))
        await teacher.silence(1)
        killed = utc_now()
        first.kill()
        await asyncio.sleep(1)
        second = await worker(RECONCILE_SECONDS="60")
        await second.wait_for("Track subscribed", timeout=30)
        await teacher.silence(0.5)
        await teacher.say(sentences(2, 2))
        room_dir = tmp_path / "segments" / "restarted"
        assert not sessions(room_dir), "the session goes on"
    await second.wait_for("Room over")
    session = await session_of(room_dir)
    assert (session["closed_by"], session["segments"]) == ("recorder", len(manifest(room_dir)))
    assert session["gaps"]["no_recorder"]["count"] == 1
    assert heard(room_dir) == [0, 1, 2, 3]
    ((start, end),) = gap_times(room_dir, began)
    assert start < killed < end
    outage = (end - killed).total_seconds()
    seen(f"after {outage:.1f} s")
    assert "The recorder of this room has died" in second.log
    assert outage < 10, "the promise is 4 s, on a machine that is not this busy"


@pytest.mark.fault(
    "rolling restart: SIGTERM in mid-lecture, another worker is ready",
    "hand-over at once, at most 1 s not recorded, with a gap; no word in two files",
)
async def test_a_worker_that_stops_hands_its_rooms_over(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path, seen: Seen
) -> None:
    """A rolling restart in mid-sentence: at most a second is missing, and the gap says which."""
    first = await worker(RECONCILE_SECONDS="2")
    async with await teacher_in(livekit_server, first, "rolling") as teacher:
        second = await worker(RECONCILE_SECONDS="2")
        began = utc_now()
        talk = asyncio.create_task(teacher.say(sentences(0, 8)))
        await asyncio.sleep(4)
        assert await first.stop() == 0
        said = await talk
    await second.wait_for("Room over")
    room_dir = tmp_path / "segments" / "rolling"
    assert "Another recorder has taken over this room" in first.log
    assert "A teacher without a recorder" not in second.log, "handed over, not found"
    found = heard(room_dir)
    assert found == sorted(set(found)), "none twice, in order"
    assert len(found) >= 7, "at most one sentence holds the gap"
    ((start, end),) = gap_times(room_dir, began)
    words = [Word(one.marker, one.start.timestamp(), one.seconds) for one in spoken(said, 0, 8)]
    checked = check_recordings(words, room_dir, "anna")
    assert checked.is_good, f"{checked.unexplained} is missing, the gap is {start} to {end}"
    assert parse_utc(manifest(room_dir)[0]["start"]) < start
    seen(f"{(end - start).total_seconds():.1f} s not recorded")
    assert (end - start).total_seconds() < 5, "the promise is one second, on a machine that is not this busy"


@pytest.mark.fault("two more recorders are dispatched into a room", "one is left, no word twice")
async def test_a_doubled_dispatch_ends_with_one_recorder_and_no_word_twice(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path
) -> None:
    first, second = await worker(RECONCILE_SECONDS="2"), await worker(RECONCILE_SECONDS="2")
    async with await Speaker.join(livekit_server, "double", "anna", metadata=TEACHER) as teacher:
        await teacher.publish()
        await until(lambda: "Track subscribed" in first.log + second.log, "somebody records the room")
        await teacher.silence(0.5)
        await teacher.say(sentences(0, 3))
        await teacher.silence(1)
        async with administration(livekit_server) as livekit:
            for _ in range(2):
                await livekit.agent_dispatch.create_dispatch(api.CreateAgentDispatchRequest(room="double"))
        await teacher.silence(4)
        assert await recorders_in(livekit_server, "double") == 1
        await teacher.say(sentences(3, 3))
    await until(lambda: "Room over" in first.log + second.log, "the room is over")
    room_dir = tmp_path / "segments" / "double"
    await until(lambda: len(heard(room_dir)) == 6, "everything is saved")
    assert heard(room_dir) == [0, 1, 2, 3, 4, 5]


@pytest.mark.fault(
    "the worker starts in mid-lecture", "recorded from then on; the time before is recorded as a gap"
)
async def test_a_late_worker_records_a_gap_for_what_it_missed(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path
) -> None:
    async with await Speaker.join(livekit_server, "late", "anna", metadata=TEACHER) as teacher:
        await teacher.publish()
        await teacher.say(sentences(0, 3))
        recorder = await worker(RECONCILE_SECONDS="2")
        await recorder.wait_for("Track subscribed", timeout=20)
        await teacher.silence(0.5)
        await teacher.say(sentences(3, 2))
    await recorder.wait_for("Room over")
    room_dir = tmp_path / "segments" / "late"
    assert heard(room_dir) == [3, 4]
    ((start, end),) = gap_times(room_dir)
    assert (end - start).total_seconds() > 4
    assert end <= parse_utc(manifest(room_dir)[0]["start"])


@pytest.mark.fault(
    "every worker is full when a room opens",
    "recorded as soon as a place is free; the time before is recorded as a gap",
)
async def test_a_room_that_no_worker_could_take_gets_the_first_place_that_is_free(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path, seen: Seen
) -> None:
    recorder = await worker(MAX_ROOMS="1", RECONCILE_SECONDS="2")
    anna = await teacher_in(livekit_server, recorder, "first")
    async with await Speaker.join(livekit_server, "second", "ben", metadata=TEACHER) as ben:
        await ben.publish()
        async with anna:
            await asyncio.gather(anna.say(sentences(0, 2)), ben.say(sentences(10, 2)))
            assert "Connected to room second" not in recorder.log
        await recorder.wait_for("Room over")
        over = time.monotonic()
        await recorder.in_room("second").wait_for("Track subscribed")
        seen(f"{time.monotonic() - over:.1f} s after there was a place")
        await ben.silence(0.5)
        await ben.say(sentences(12, 2))
    await recorder.in_room("second").wait_for("Room over")
    assert heard(tmp_path / "segments" / "first") == [0, 1]
    assert heard(tmp_path / "segments" / "second") == [12, 13]
    assert len(gap_times(tmp_path / "segments" / "second")) == 1


@pytest.mark.fault("SIGTERM with ON_STOP=drain", "the room is recorded to its end, no new one is taken")
async def test_draining_records_a_room_to_its_end_and_takes_no_other(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path
) -> None:
    recorder = await worker(ON_STOP="drain", RECONCILE_SECONDS="2")
    async with await teacher_in(livekit_server, recorder, "drain") as teacher:
        await teacher.say(sentences(0, 2))
        os.kill(recorder.pid, signal.SIGTERM)
        await recorder.wait_for("Stopping")
        async with await Speaker.join(livekit_server, "too-late", "ben", metadata=TEACHER) as other:
            await other.publish()
            await teacher.say(sentences(2, 3))
    await recorder.wait_for("Stopped", timeout=30)
    assert heard(tmp_path / "segments" / "drain") == [0, 1, 2, 3, 4]
    assert not (tmp_path / "segments" / "too-late").exists()


@pytest.mark.fault(
    "SIGTERM in mid-word, then a second",
    "the first part is on disk within a second; both are valid and meet exactly, to the sample",
)
async def test_a_stopping_worker_closes_its_segments_at_once_and_records_on(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path, seen: Seen
) -> None:
    """The first signal in mid-word, then a second that ends everything: both halves are valid files."""
    recorder = await worker(ON_STOP="drain", RECONCILE_SECONDS="2")
    async with await teacher_in(livekit_server, recorder, "twice") as teacher:
        talk = asyncio.create_task(teacher.say(sentences(0, 6)))
        await asyncio.sleep(3)
        saved = len(recorder.lines)
        signalled_at = time.time()
        os.kill(recorder.pid, signal.SIGTERM)
        await recorder.wait_for("ended by shutdown", skip_lines=saved)
        await asyncio.sleep(3)
        os.kill(recorder.pid, signal.SIGTERM)
        await talk
    successor = await worker(RECONCILE_SECONDS="2")
    await successor.wait_for("Recovered 1 segments")
    room_dir = tmp_path / "segments" / "twice"
    records = manifest(room_dir)
    assert [record["end_reason"] for record in records][-2:] == ["shutdown", "recovered"]
    assert records[-1]["start"] == records[-2]["end"], "they meet exactly"
    took = (room_dir / records[-2]["file"]).stat().st_ctime - signalled_at  # it was renamed last
    seen(f"on disk after {max(0.0, took):.2f} s")  # a file's time may be a clock tick old
    assert took < 1
    assert heard(room_dir)[:3] == [0, 1, 2]


@pytest.mark.fault("a room that ROOM_FILTER does not name", "not recorded, the other is")
async def test_only_rooms_that_the_filter_lets_through_are_recorded(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path
) -> None:
    recorder = await worker(ROOM_FILTER="class-*, exam?", RECONCILE_SECONDS="2")
    async with (
        await Speaker.join(livekit_server, "staff-room", "ben", metadata=TEACHER) as ben,
        await teacher_in(livekit_server, recorder, "class-7b") as anna,
    ):
        await ben.publish()
        await asyncio.gather(anna.say(sentences(0, 3)), ben.say(sentences(10, 3)))
    await recorder.wait_for("Room over")
    assert heard(tmp_path / "segments" / "class-7b") == [0, 1, 2]
    assert not (tmp_path / "segments" / "staff-room").exists()
    assert "no pattern of ROOM_FILTER matches room=staff-room" in recorder.log


async def request_agent(server: LiveKitServer, room: str, name: str) -> None:
    """Opens a room whose configuration names an agent."""
    async with administration(server) as livekit:
        agents = [api.RoomAgentDispatch(agent_name=name)]
        await livekit.room.create_room(api.CreateRoomRequest(name=room, agents=agents))


@pytest.mark.fault(
    "AGENT_NAME is set and the worker starts late",
    "rooms that requested this agent are recorded, rooms that did not are not",
)
async def test_with_an_agent_name_only_rooms_that_requested_it_are_recorded(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path
) -> None:
    await request_agent(livekit_server, "configured", "scribe")
    rooms = ("configured", "dispatched", "not-requested")
    async with contextlib.AsyncExitStack() as lessons:
        teachers = []
        for room in rooms:
            speaker = await Speaker.join(livekit_server, room, "anna", metadata=TEACHER)
            teachers.append(await lessons.enter_async_context(speaker))
            await speaker.publish()
        async with administration(livekit_server) as livekit:
            request = api.CreateAgentDispatchRequest(room="dispatched", agent_name="scribe")
            await livekit.agent_dispatch.create_dispatch(request)
        await asyncio.sleep(4)
        recorder = await worker(AGENT_NAME="scribe", RECONCILE_SECONDS="1")
        for room in ("configured", "dispatched"):
            await recorder.in_room(room).wait_for("Track subscribed")
        await teachers[0].silence(0.5)
        await asyncio.gather(*(one.say(sentences(2 * at, 2)) for at, one in enumerate(teachers)))
        await teachers[0].silence(5)
    await recorder.in_room("dispatched").wait_for("Room over")
    await recorder.in_room("configured").wait_for("Room over")
    assert heard(tmp_path / "segments" / "configured") == [0, 1]
    assert heard(tmp_path / "segments" / "dispatched") == [2, 3]
    assert "not-requested" not in recorder.log
    assert not (tmp_path / "segments" / "not-requested").exists()


@pytest.mark.fault(
    "the dispatch of a recorded room is deleted",
    "what was said is saved, the recorder leaves, and no worker of the name returns",
)
async def test_a_room_whose_dispatch_is_deleted_is_not_recorded_any_more(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path
) -> None:
    recorder = await worker(AGENT_NAME="scribe", RECONCILE_SECONDS="1")
    async with await Speaker.join(livekit_server, "withdrawn", "anna", metadata=TEACHER) as anna:
        await anna.publish()
        async with administration(livekit_server) as livekit:
            request = api.CreateAgentDispatchRequest(room="withdrawn", agent_name="scribe")
            await livekit.agent_dispatch.create_dispatch(request)
            await recorder.wait_for("Track subscribed")
            await anna.silence(0.5)
            await anna.say(sentences(0, 2))
            for dispatch in await livekit.agent_dispatch.list_dispatch("withdrawn"):
                await livekit.agent_dispatch.delete_dispatch(dispatch.id, "withdrawn")
        await recorder.wait_for("Room over")
        await anna.say(sentences(2, 3))
    assert heard(tmp_path / "segments" / "withdrawn") == [0, 1]
    assert recorder.log.count("Connected to room withdrawn") == 1


@pytest.mark.fault(
    "SIGKILL of a named worker, only one of another name and passphrase is ready",
    "the other does not record on; a new worker of the name does",
)
async def test_a_worker_of_another_name_and_passphrase_does_not_take_over(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path
) -> None:
    async def named(name: str) -> Worker:
        return await worker(RECONCILE_SECONDS="1", AGENT_NAME=name, E2EE_PASSPHRASE=f"secret of {name}")

    first, other = await named("a"), await named("b")
    await request_agent(livekit_server, "room-of-a", "a")
    teacher = await Speaker.join(
        livekit_server, "room-of-a", "anna", metadata=TEACHER, passphrase="secret of a"
    )
    async with teacher:
        await listened_to(first, teacher)
        await teacher.say(sentences(0, 2))
        first.kill()
        await teacher.silence(8)
        assert "room-of-a" not in other.log
        second = await named("a")
        await second.wait_for("Track subscribed")
        await teacher.silence(0.5)
        await teacher.say(sentences(2, 2))
    await second.wait_for("Room over")
    assert "room-of-a" not in other.log
    assert heard(tmp_path / "segments" / "room-of-a") == [0, 1, 2, 3]
    assert [gap["reason"] for gap in gaps(tmp_path / "segments" / "room-of-a")] == ["no_recorder"]


async def test_a_room_of_students_gets_no_recorder_sent(
    livekit_server: LiveKitServer, worker: StartWorker
) -> None:
    async with await Speaker.join(livekit_server, "study-group", "sam", metadata=STUDENT) as student:
        await student.publish()
        await asyncio.sleep(4)
        recorder = await worker(RECONCILE_SECONDS="1")
        await student.silence(4)
        assert "room=study-group" not in recorder.log


@pytest.mark.fault(
    "a recorder hangs (SIGSTOP)",
    "it is replaced, and nothing of it is lost when it wakes; the time between is recorded as a gap",
)
@pytest.mark.skipif(sys.platform == "win32", reason="stops a process with a signal that Windows lacks")
async def test_a_recorder_that_hangs_is_replaced(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path, seen: Seen
) -> None:
    first = await worker(RECONCILE_SECONDS="2")
    async with await teacher_in(livekit_server, first, "zombie") as teacher:
        second = await worker(RECONCILE_SECONDS="2")
        await teacher.say(sentences(0, 2))
        await teacher.silence(3)
        hangs_since = utc_now()
        os.kill(first.pid, signal.SIGSTOP)
        try:
            await second.wait_for("Track subscribed", timeout=40)
            replaced_at = utc_now()
            await teacher.silence(0.5)
            await teacher.say(sentences(2, 2))
        finally:
            os.kill(first.pid, signal.SIGCONT)
        await teacher.silence(1)
    await second.wait_for("Room over")
    room_dir = tmp_path / "segments" / "zombie"
    await first.wait_for("Room over")
    assert heard(room_dir) == [0, 1, 2, 3]
    seen(f"{(replaced_at - hangs_since).total_seconds():.1f} s not recorded")
    latest_start, earliest_end = hangs_since, replaced_at - timedelta(seconds=1)
    assert any(start <= latest_start and earliest_end <= end for start, end in gap_times(room_dir))


@pytest.mark.fault("the native client panics", "everything heard is saved; exit code 1")
@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal that Windows lacks")
async def test_a_panic_of_the_native_client_ends_the_worker_with_an_error_and_everything_saved(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path
) -> None:
    recorder = await worker()
    async with await teacher_in(livekit_server, recorder, "panic") as teacher:
        await teacher.say(sentences(0, 3))
        os.kill(recorder.pid, signal.SIGABRT)
        await recorder.wait_for("Stopped", timeout=30)
    assert await recorder.stop() == 1
    assert "The native client has failed" in recorder.log
    assert heard(tmp_path / "segments" / "panic") == [0, 1, 2]


@pytest.mark.fault("callbacks of others raise, in mid-lesson and at its end", "everything is saved")
async def test_callbacks_that_raise_cost_nothing(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("callbacks", encoding="ascii")
    program = Path(__file__).with_name("broken_worker.py")
    recorder = await worker(program=program, BROKEN=str(broken))
    async with await teacher_in(livekit_server, recorder, "raising") as teacher:
        await teacher.say(sentences(0, 2, tail=0.3))
        await teacher.unpublish()
        await listened_to(recorder, teacher)
        await teacher.say(sentences(2, 2))
    await recorder.wait_for("Room over")
    await recorder.wait_for("an end that raises")
    assert "a callback that raises" in recorder.log
    assert heard(tmp_path / "segments" / "raising") == [0, 1, 2, 3]
    async with await teacher_in(livekit_server, recorder, "raising-again") as teacher:
        await teacher.say(sentences(4, 2))
    await recorder.wait_for("s of gaps room=raising-again")
    assert heard(tmp_path / "segments" / "raising-again") == [4, 5]


@pytest.fixture
def busy_host() -> Iterator[None]:
    """Every core is busy, with programs of a lower priority than the speakers."""
    hog = [sys.executable, "-c", "import os\nos.nice(19)\nwhile True: pass"]
    with contextlib.ExitStack() as stack:
        for _ in range(2 * (os.cpu_count() or 1)):
            process = stack.enter_context(subprocess.Popen(hog))
            stack.callback(process.kill)
        yield


@pytest.mark.fault("a busy host: every core is used up when rooms open", "no room is refused")
@pytest.mark.skipif(sys.platform == "win32", reason="its programs do not give way like this")
async def test_a_busy_host_refuses_no_room(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path, busy_host: None
) -> None:
    recorder = await worker(RECONCILE_SECONDS="3600")
    await until(lambda: psutil.cpu_percent(interval=1) > 90, "the host is busy", timeout=60)
    await asyncio.sleep(BUSY_SECONDS)
    rooms = [f"busy-{number}" for number in range(3)]
    async with contextlib.AsyncExitStack() as lessons:
        teachers = [
            await lessons.enter_async_context(await teacher_in(livekit_server, recorder, room))
            for room in rooms
        ]
        await asyncio.gather(*(teacher.say(sentences(3 * at, 3)) for at, teacher in enumerate(teachers)))
    for at, room in enumerate(rooms):
        await recorder.wait_for(f"s of gaps room={room}")
        assert heard(tmp_path / "segments" / room) == list(range(3 * at, 3 * at + 3))
