"""Subscriptions that end while the track is published: by the server's API, or because its publisher forbids them."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from livekit import api

from core.records import parse_utc, utc_now
from devtools.room_folders import gaps, manifest
from devtools.speakers import Said, Speaker, administration
from devtools.worker import Worker
from support.fault_table import Seen
from support.teaching import heard, sentences, spoken, teacher_in

pytestmark = pytest.mark.e2e

ON_THE_WAY = timedelta(seconds=0.5)
"""The longest delay of speech: codec, network and jitter buffer."""

SENTENCES = 10

UNRECOGNISED_SECONDS = 0.05
"""A sentence of which more is missing may not be recognised (devtools/sound.py, STRETCH)."""


async def health(recorder: Worker, path: str) -> tuple[int, str]:
    line = next(line for line in recorder.lines if "health on" in line)
    found = re.search(r"health on (http://\S+)/", line)
    assert found
    async with aiohttp.ClientSession() as session, session.get(found[1] + path) as answer:
        return answer.status, await answer.text()


def the_gap(room_dir: Path, said: Said, reason: str) -> tuple[datetime, datetime]:
    """The only gap, after a check that every sentence is in the files or reaches into it, and that the files have what
    lies outside of it."""
    (gap,) = gaps(room_dir)
    assert gap["reason"] == reason
    start, end = parse_utc(gap["start"]), parse_utc(gap["end"])
    found = heard(room_dir)
    assert found == sorted(set(found)), "none twice, in order"
    files = [(parse_utc(record["start"]), parse_utc(record["end"])) for record in manifest(room_dir)]
    for sentence in spoken(said, 0, SENTENCES):
        if sentence.marker not in found:
            in_the_gap = sentence.overlap_seconds(start - ON_THE_WAY, end)
            in_the_files = sum(max(0.0, sentence.overlap_seconds(*file)) for file in files)
            assert in_the_gap > UNRECOGNISED_SECONDS, f"{sentence} is missing, the gap is {start} to {end}"
            assert in_the_files > sentence.seconds - in_the_gap - ON_THE_WAY.total_seconds(), (
                f"{sentence}: {files}"
            )
    return start, end


@pytest.mark.fault(
    "the server's API ends the subscription to a teacher's track",
    "requested again within about a second; the time between is recorded as a gap",
)
async def test_a_subscription_ended_by_the_api_is_requested_again(shared_worker: Worker, seen: Seen) -> None:
    recorder = shared_worker.in_room("unsubscribed")
    async with await teacher_in(shared_worker.server, recorder, "unsubscribed") as teacher:
        talk = asyncio.create_task(teacher.say(sentences(0, SENTENCES)))
        await asyncio.sleep(2.4)
        async with administration(shared_worker.server) as livekit:
            before = utc_now()
            request = api.UpdateSubscriptionsRequest(
                room="unsubscribed", identity="agent", track_sids=[teacher.microphone.sid], subscribe=False
            )
            await livekit.room.update_subscriptions(request)
        said = await talk
    await recorder.wait_for("Room over")
    start, end = the_gap(shared_worker.output_dir / "unsubscribed", said, "unsubscribed")
    seen(f"{(end - before).total_seconds():.1f} s until it is received again")
    assert before - timedelta(seconds=1.5) < start <= before + timedelta(seconds=0.2)
    assert (end - before).total_seconds() < 5, "about a second, on a machine that is not this busy"


@pytest.mark.fault(
    "a teacher's app forbids the subscription for a while",
    "received as soon as it is allowed; the time between is a gap; the health answer stays OK",
)
async def test_a_publisher_who_forbids_the_subscription(shared_worker: Worker, seen: Seen) -> None:
    recorder = shared_worker.in_room("forbidden")
    async with await teacher_in(shared_worker.server, recorder, "forbidden") as teacher:
        talk = asyncio.create_task(teacher.say(sentences(0, SENTENCES)))
        await asyncio.sleep(2.4)
        forbidden_at = utc_now()
        permit(teacher, False)
        await recorder.wait_for("the server does not deliver")
        await asyncio.sleep(5)
        assert await health(shared_worker, "/") == await health(shared_worker, "/live") == (200, "OK\n")
        allowed_at = utc_now()
        permit(teacher, True)
        said = await talk
    await recorder.wait_for("Room over")
    room_dir = shared_worker.output_dir / "forbidden"
    start, end = the_gap(room_dir, said, "forbidden")
    seen(f"{(end - allowed_at).total_seconds():.1f} s after it is allowed")
    assert start <= forbidden_at + timedelta(seconds=0.2) < allowed_at <= end
    assert manifest(room_dir)[-1]["start"] > allowed_at.isoformat()[:19], "recorded again"
    assert (end - allowed_at).total_seconds() < 5, "at once, on a machine that is not this busy"


def permit(teacher: Speaker, is_permitted: bool) -> None:
    """Allows everybody, or nobody, to subscribe to the teacher's tracks."""
    teacher.room.local_participant.set_track_subscription_permissions(allow_all_participants=is_permitted)
