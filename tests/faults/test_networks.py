"""A server that goes away, a job that is killed, a track that breaks off: what is recorded before and after."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from conftest import StartWorker
from harness import gaps, manifest
from teaching import heard, sentences, teacher_in

from devtools.livekit_server import LiveKitServer
from devtools.worker import Worker

pytestmark = pytest.mark.e2e


@pytest.mark.timeout(240)
@pytest.mark.fault("the server is away for 60 s", "the worker goes on trying; the next lesson is recorded")
async def test_a_server_that_is_away_for_a_minute_finds_the_worker_again(
    livekit_server_binary: Path, worker: StartWorker, tmp_path: Path
) -> None:
    room_dir = tmp_path / "segments" / "away"
    with LiveKitServer(livekit_server_binary) as server:
        recorder = await worker(server=server, RECONCILE_SECONDS="1")
        async with await teacher_in(server, recorder, "away") as teacher:
            talk = asyncio.create_task(teacher.say(sentences(0, 4)))
            await asyncio.sleep(3)
            server.stop()
            talk.cancel()
            await asyncio.sleep(60)
            server.start()
        await recorder.wait_for("Room over", timeout=60)
        assert heard(room_dir)[:1] == [0]
        before, said = len(manifest(room_dir)), len(recorder.lines)
        async with await teacher_in(server, recorder, "away") as again:
            await again.say(sentences(10, 3))
        await recorder.wait_for("Room over", timeout=40, skip_lines=said)
        records = manifest(room_dir)
        assert heard(room_dir)[-3:] == [10, 11, 12]
        assert [record["number"] for record in records] == list(range(1, len(records) + 1))
        assert len(records) > before
        assert recorder.exit_code is None, "it went on trying"


@pytest.mark.fault(
    "SIGKILL of one room's process in mid-word",
    "at most 1 s of speech; the room is recorded on; no other room notices",
)
@pytest.mark.skipif(sys.platform == "win32", reason="kills a process with a signal that Windows lacks")
async def test_the_killed_process_of_a_room_costs_that_room_some_seconds_and_no_other_anything(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path
) -> None:
    recorder = await worker(JOB_EXECUTOR="process", RECONCILE_SECONDS="1")
    async with await teacher_in(livekit_server, recorder, "victim") as victim:
        async with await teacher_in(livekit_server, recorder, "other", "ben") as other:
            talk = asyncio.gather(victim.say(sentences(0, 4)), other.say(sentences(20, 4)))
            await asyncio.sleep(4)
            said = len(recorder.lines)
            os.kill(writer_in(tmp_path / "segments" / "victim", recorder), signal.SIGKILL)
            await talk
            await recorder.wait_for("Track subscribed", timeout=40, skip_lines=said)
            await asyncio.gather(victim.silence(0.5), other.silence(0.5))
            await asyncio.gather(victim.say(sentences(4, 3)), other.say(sentences(24, 3)))
    for room in ("victim", "other"):
        await recorder.wait_for(f"s of gaps room={room}", timeout=40)
    assert heard(tmp_path / "segments" / "other") == [20, 21, 22, 23, 24, 25, 26]
    found = heard(tmp_path / "segments" / "victim")
    assert found[:2] == [0, 1]
    assert found[-3:] == [4, 5, 6]
    assert found == sorted(set(found))
    assert manifest(tmp_path / "segments" / "victim")[0]["end_reason"] == "recovered"
    assert [gap["reason"] for gap in gaps(tmp_path / "segments" / "victim")] == ["no_recorder"]


def writer_in(folder: Path, recorder: Worker) -> int:
    """The process that has its hand on a part in the folder."""
    processes = psutil.Process(recorder.pid).children(recursive=True)
    (writer,) = (
        process.pid
        for process in processes
        if any(
            Path(file.path).parent == folder and file.path.endswith(".part") for file in process.open_files()
        )
    )
    return writer
