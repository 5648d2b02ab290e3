"""A worker's process that does not run for a while: stopped, or on a machine that sleeps."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from conftest import StartWorker
from core.records import parse_utc, utc_now
from devtools.livekit_server import LiveKitServer
from devtools.room_folders import gaps, until
from support.fault_table import Seen
from support.teaching import Spoken, heard, sentences, spoken, teacher_in

pytestmark = pytest.mark.e2e


@pytest.mark.fault(
    "SIGSTOP of the worker for 7 s in a lecture",
    "no healthy track is dropped; the time is a gap that ends a moment after the stop; what the jitter buffer holds "
    "of a teacher who leaves before it has caught up is a gap, too",
)
@pytest.mark.skipif(sys.platform == "win32", reason="stops a process with a signal that Windows lacks")
async def test_a_process_that_is_stopped(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path, seen: Seen
) -> None:
    recorder = await worker(RECONCILE_SECONDS="60")
    async with (
        await teacher_in(livekit_server, recorder, "stopped") as teacher,
        await teacher_in(livekit_server, recorder, "left", "ben") as leaving,
    ):
        await asyncio.gather(teacher.say(sentences(0, 2)), leaving.say(sentences(0, 2)))
        await teacher.silence(1)
        stopped_at = utc_now()
        os.kill(recorder.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(7)
        finally:
            continued_at = utc_now()
            os.kill(recorder.pid, signal.SIGCONT)
        await recorder.wait_for("This process did not run for")
        said_before_leaving = spoken(await leaving.say(sentences(2, 2, tail=0)), 2, 2)
        await leaving.leave()
        # The jitter buffer plays faster until it has caught up, which changes the sound.
        await teacher.silence(10)
        await teacher.say(sentences(2, 2))
        await teacher.silence(2)  # what it still holds when a participant leaves is not played
    await until(lambda: recorder.log.count("Room over") == 2, "both rooms are over", timeout=40)
    assert_nothing_is_missing_without_a_gap(tmp_path / "segments" / "left", said_before_leaving)
    room_dir = tmp_path / "segments" / "stopped"
    assert heard(room_dir) == [0, 1, 2, 3]
    (gap,) = gaps(room_dir)
    assert gap["reason"] == "no_media"
    start, end = parse_utc(gap["start"]), parse_utc(gap["end"])
    assert stopped_at - timedelta(seconds=3) < start <= stopped_at
    assert continued_at <= end
    seen(f"the gap ends {(end - continued_at).total_seconds():.1f} s after the stop")
    assert "subscribing again" not in recorder.log, "a healthy track is not dropped"
    assert recorder.log.count("Track subscribed") == 2
    assert (end - continued_at).total_seconds() < 6, "one to two seconds, on a machine that is not this busy"


def assert_nothing_is_missing_without_a_gap(room_dir: Path, said: list[Spoken]) -> None:
    found = heard(room_dir)
    times = [(parse_utc(gap["start"]), parse_utc(gap["end"])) for gap in gaps(room_dir)]
    for sentence in said:
        seconds_in_gaps = sum(max(0.0, sentence.overlap_seconds(*gap)) for gap in times)
        assert sentence.marker in found or seconds_in_gaps > 0.2, (
            f"{sentence} is missing, the gaps are {times}"
        )
