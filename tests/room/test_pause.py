"""Pausing a recording on a real server: by a teacher's RPC, by the app, and over a change of recorders."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from livekit import api, rtc

from conftest import StartWorker
from core.records import parse_utc, utc_now
from devtools.livekit_server import LiveKitServer
from devtools.room_folders import STUDENT, gaps, manifest, until
from devtools.speakers import Speaker, administration
from devtools.worker import Worker
from support.fault_table import Seen
from support.teaching import heard, sentences, spoken, teacher_in

pytestmark = pytest.mark.e2e

LATEST = timedelta(seconds=0.5)
"""What is said later than this after a request to pause is not kept."""


async def call(speaker: Speaker, method: str) -> str:
    return await speaker.room.local_participant.perform_rpc(
        destination_identity="agent", method=method, payload=""
    )


def state_shown_to(speaker: Speaker) -> str | None:
    agent = speaker.room.remote_participants.get("agent")
    return agent.attributes.get("recording") if agent else None


def assert_nothing_between(room_dir: Path, start: datetime, end: datetime) -> None:
    for record in manifest(room_dir):
        assert parse_utc(record["end"]) <= start or parse_utc(record["start"]) >= end, record


@pytest.mark.fault(
    "a teacher pauses the recording in mid-speech, and a student tries to resume it",
    "nothing after 0.5 s is kept, the gap says paused; after the teacher's resume all is kept",
)
async def test_a_teacher_pauses_and_resumes_and_a_student_cannot(
    livekit_server: LiveKitServer, worker: StartWorker, seen: Seen
) -> None:
    recorder = await worker()
    room_dir = recorder.output_dir / "pause"
    async with (
        await teacher_in(livekit_server, recorder, "pause") as anna,
        await Speaker.join(livekit_server, "pause", "sam", metadata=STUDENT) as sam,
    ):
        assert state_shown_to(sam) == "on"
        with pytest.raises(rtc.RpcError) as refused:
            await call(sam, "recorder/pause")
        assert refused.value.code == 403
        talk = asyncio.create_task(anna.say(sentences(0, 8)))
        await asyncio.sleep(3)
        paused_at = utc_now()
        assert await call(anna, "recorder/pause") == "paused"
        said = await talk
        assert state_shown_to(sam) == "paused"
        assert json.loads(sam.room.metadata) == {"recording": "paused"}
        with pytest.raises(rtc.RpcError):
            await call(sam, "recorder/resume")
        before = len(recorder.lines)
        resumed_at = utc_now()
        assert await call(anna, "recorder/resume") == "on"
        await recorder.wait_for("Track subscribed", skip_lines=before)
        await anna.silence(0.5)
        await anna.say(sentences(8, 2))
        await until(lambda: state_shown_to(sam) == "on", "the end of the pause is shown")
    await recorder.wait_for("Room over")
    assert_nothing_between(room_dir, paused_at + LATEST, resumed_at)
    before_pause = [one.marker for one in spoken(said, 0, 8) if one.end < paused_at - LATEST]
    kept = heard(room_dir)
    assert kept[: len(before_pause)] == before_pause and kept[-2:] == [8, 9]
    assert not set(kept) & {one.marker for one in spoken(said, 0, 8) if one.start > paused_at + LATEST}
    gap, *arrival = [one for one in gaps(room_dir) if parse_utc(one["end"]) > paused_at]
    assert gap["reason"] == "paused"
    assert [one["reason"] for one in arrival] in ([], ["deaf"]), "until the track came again"
    assert parse_utc(gap["start"]) <= paused_at + LATEST and parse_utc(gap["end"]) >= resumed_at
    ends = (parse_utc(record["end"]) for record in manifest(room_dir))
    last = max(end for end in ends if end < resumed_at)
    seen(f"the last sound kept is {(last - paused_at).total_seconds():+.2f} s from the request")
    assert "recording_paused" in {record["end_reason"] for record in manifest(room_dir)}
    assert "AUDIT recording paused event=recording_paused room=pause participant=anna" in recorder.log
    assert "AUDIT recording resumed event=recording_resumed room=pause participant=anna" in recorder.log


async def set_metadata(server: LiveKitServer, room: str, metadata: str) -> None:
    async with administration(server) as livekit:
        await livekit.room.update_room_metadata(api.UpdateRoomMetadataRequest(room=room, metadata=metadata))


def is_in(recorder: Worker, room: str) -> bool:
    return f"Connected to room {room}" in recorder.log


@pytest.mark.fault(
    "a paused room is handed over, and its recorder is then killed",
    "both successors stay paused until the app resumes; what the app has in the metadata is kept",
)
async def test_a_pause_outlives_its_recorder(livekit_server: LiveKitServer, worker: StartWorker) -> None:
    first = await worker(RECONCILE_SECONDS="1")
    room_dir = first.output_dir / "lasting"
    async with await teacher_in(livekit_server, first, "lasting") as anna:
        await set_metadata(livekit_server, "lasting", json.dumps({"title": "Física"}))
        await anna.say(sentences(0, 2))
        assert await call(anna, "recorder/pause") == "paused"
        second = await worker(RECONCILE_SECONDS="1")
        assert await first.stop() == 0
        await until(lambda: is_in(second, "lasting"), "the room is handed over")
        await anna.say(sentences(2, 2))
        assert state_shown_to(anna) == "paused"
        second.kill()
        third = await worker(RECONCILE_SECONDS="1")
        await until(lambda: is_in(third, "lasting"), "the room is adopted")
        await anna.say(sentences(4, 2))
        assert json.loads(anna.room.metadata) == {"title": "Física", "recording": "paused"}
        resumed_at = utc_now()
        await set_metadata(livekit_server, "lasting", json.dumps({"title": "Física"}))
        await third.wait_for("Track subscribed")
        await anna.silence(0.5)
        await anna.say(sentences(6, 2))
    await third.wait_for("Room over")
    assert heard(room_dir) == [0, 1, 6, 7]
    found = gaps(room_dir)
    reasons = [gap["reason"] for gap in found if parse_utc(gap["start"]) < resumed_at]
    assert set(reasons) == {"paused"}
    assert {gap["reason"] for gap in found[len(reasons) :]} <= {"deaf"}, "until the track came again"
    assert "AUDIT recording resumed event=recording_resumed room=lasting" in third.log


async def test_a_room_that_the_app_opens_paused_is_not_recorded_until_it_resumes(
    livekit_server: LiveKitServer, worker: StartWorker
) -> None:
    recorder = await worker(RECORD="everyone")
    async with administration(livekit_server) as livekit:
        request = api.CreateRoomRequest(name="opened-paused", metadata='{"recording": "paused"}')
        await livekit.room.create_room(request)
    async with await Speaker.join(livekit_server, "opened-paused", "anna") as anna:
        await anna.publish()
        await until(lambda: state_shown_to(anna) == "paused", "the pause is shown")
        with pytest.raises(rtc.RpcError):
            await call(anna, "recorder/resume")
        await anna.say(sentences(0, 2))
        await set_metadata(livekit_server, "opened-paused", "")
        await recorder.wait_for("Track subscribed")
        await anna.silence(0.5)
        await anna.say(sentences(2, 2))
    await recorder.wait_for("Room over")
    assert heard(recorder.output_dir / "opened-paused") == [2, 3]
    reasons = [gap["reason"] for gap in gaps(recorder.output_dir / "opened-paused")]
    assert reasons[0] == "paused" and reasons[1:] in ([], ["deaf"])
