"""The server goes away for a minute: what is recorded before and after."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from conftest import StartWorker
from devtools.livekit_server import LiveKitServer
from devtools.room_folders import manifest
from support.teaching import heard, sentences, teacher_in

pytestmark = pytest.mark.e2e


@pytest.mark.long
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
