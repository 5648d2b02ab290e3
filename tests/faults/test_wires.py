"""Network links with delay, loss and outages: between the teacher and the server, and the recorder and the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from livekit import rtc

from conftest import StartWorker
from core.records import parse_utc
from devtools import sound
from devtools.livekit_server import LiveKitServer
from devtools.room_folders import gaps, manifest, samples, until
from devtools.speakers import Speaker
from devtools.wire import BROKEN, PERFECT, Quality, Wire
from devtools.worker import Worker
from support.fault_table import Seen
from support.teaching import MARKERS, Spoken, heard, sentences, spoken, teacher_in

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

POOR = Quality(delay_seconds=0.06, jitter_seconds=0.02, loss=0.03)
AWFUL = Quality(delay_seconds=0.06, jitter_seconds=0.02, loss=0.3)
OUTAGE_SECONDS = 8.0

LATEST_SECONDS = 0.6
"""The most by which speech is dated too late: link, jitter buffer and codec."""
EARLIEST_SECONDS = 0.1

ROOM = "wired"


@pytest.fixture(params=["teacher", "recorder"])
def whose(request: pytest.FixtureRequest) -> str:
    """Whether the teacher or the recorder is behind the link; the other one is on the server's side."""
    return str(request.param)


@pytest_asyncio.fixture
async def lesson(
    livekit_server_binary: Path, whose: str, wire: Wire, worker: StartWorker
) -> AsyncIterator[tuple[Worker, Speaker]]:
    """A recorder at the link's far end that records a teacher at its near end; the server is at one of the ends."""
    binary = livekit_server_binary
    beside_the_teacher = LiveKitServer(binary, address=wire.near_address)
    beside_the_recorder = LiveKitServer(binary, address=wire.far_address, within=wire.far_end)
    with beside_the_recorder if whose == "teacher" else beside_the_teacher as server:
        recorder = await worker(server=server, within=wire.far_end)
        async with await teacher_in(server, recorder, ROOM) as teacher:
            yield recorder, teacher


async def say(teacher: Speaker, first: int, count: int) -> list[Spoken]:
    return spoken(await teacher.say(sentences(first, count)), first, count)


def assert_recorded_when_said(room_dir: Path, said: list[Spoken]) -> None:
    """Checks that the files cover all of its time, and that every marker that is found has the right time."""
    begins = begins_of_markers(room_dir)
    for sentence in said:
        seconds = sum(
            max(0.0, sentence.overlap_seconds(parse_utc(record["start"]), parse_utc(record["end"])))
            for record in manifest(room_dir)
        )
        assert seconds > sentence.seconds / 2, f"{sentence} has {seconds:.1f} s in the files"
    late = {
        sentence.marker: (begins[sentence.marker] - sentence.start).total_seconds()
        for sentence in said
        if sentence.marker in begins
    }
    assert len(late) >= len(said) / 3, "a marker that a cut or a lost packet divides has no time"
    assert all(-EARLIEST_SECONDS < seconds < LATEST_SECONDS for seconds in late.values()), late


def begins_of_markers(room_dir: Path) -> dict[int, datetime]:
    """By the manifest and the place in the file; of those that lie whole in one file."""
    return {
        marker.index: parse_utc(record["start"]) + timedelta(seconds=place.start_sample / sound.SAMPLE_RATE)
        for record in manifest(room_dir)
        for marker in MARKERS
        for place in sound.find_marker(samples(room_dir / record["file"]), marker)
    }


@pytest.mark.fault(
    "3 % loss and 60 ms with 20 ms of jitter on the wire, 30 % loss for 10 s",
    "every word of the one, no moment of the other missing; the times are right",
)
async def test_loss_and_jitter_cost_no_word(wire: Wire, lesson: tuple[Worker, Speaker], seen: Seen) -> None:
    recorder, teacher = lesson
    wire.quality = POOR
    poorly = await say(teacher, 0, 4)
    wire.quality = AWFUL
    awfully = await say(teacher, 4, 6)
    wire.quality = POOR
    poorly += await say(teacher, 10, 4)
    await teacher.leave()
    await recorder.wait_for("Room over", timeout=60)
    room_dir = recorder.output_dir / ROOM
    found = heard(room_dir)
    assert found == sorted(set(found)), "in order, none twice"
    assert {sentence.marker for sentence in poorly} <= set(found)
    assert_recorded_when_said(room_dir, poorly + awfully)
    assert wire.lost > 50, "the wire was as bad as that"
    seen(f"{len(found) - len(poorly)} of {len(awfully)} sentences at 30 %, {wire.lost} packets lost")


@pytest.mark.fault(
    "the wire is down for 8 s, in mid-sentence",
    "everything before and after; what is missing is recorded as a gap",
)
async def test_an_outage_costs_what_was_said_meanwhile(
    wire: Wire, lesson: tuple[Worker, Speaker], seen: Seen
) -> None:
    recorder, teacher = lesson
    said = await say(teacher, 0, 3)
    await teacher.silence(1)
    wire.quality = BROKEN
    talk = asyncio.create_task(say(teacher, 3, 4))
    await asyncio.sleep(OUTAGE_SECONDS)
    wire.quality = PERFECT
    meanwhile = await talk
    await all_are_connected(recorder, teacher)
    said += await say(teacher, 7, 3)
    await teacher.leave()
    await recorder.wait_for("Room over", timeout=60)
    room_dir = recorder.output_dir / ROOM
    found = heard(room_dir)
    assert found == sorted(set(found)), "in order, none twice"
    assert {sentence.marker for sentence in said} <= set(found)
    assert_recorded_when_said(room_dir, said)
    missing = [sentence for sentence in meanwhile if sentence.marker not in found]
    assert missing, "nobody can have heard this"
    gaps_recorded = [(parse_utc(gap["start"]), parse_utc(gap["end"])) for gap in gaps(room_dir)]
    for sentence in missing:
        in_gaps = sum(max(0.0, sentence.overlap_seconds(*gap)) for gap in gaps_recorded)
        assert in_gaps > sentence.seconds / 3, f"{sentence} is missing, the gaps are {gaps_recorded}"
    seen(f"{sum((end - start).total_seconds() for start, end in gaps_recorded):.1f} s not recorded")


async def all_are_connected(recorder: Worker, teacher: Speaker) -> None:
    """Waits until every client that lost its connection has it again."""

    def is_back() -> bool:
        is_recorder_back = recorder.log.count("Connection lost") == recorder.log.count("Connection is back")
        return is_recorder_back and teacher.room.connection_state == rtc.ConnectionState.CONN_CONNECTED

    for _ in range(2):
        await until(is_back, "everybody is back", timeout=60)
        await teacher.silence(5)
