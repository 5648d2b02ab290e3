"""Who is recorded on a real server: by kind, by role and by consent, and what the log says about it."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from conftest import StartWorker
from devtools.livekit_server import LiveKitServer
from devtools.room_folders import STUDENT, TEACHER, manifest, until
from devtools.speakers import ParticipantKind, Speaker
from support.teaching import heard, listened_to, sentences

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("record", "recorded"), [("teachers", {"obs", "phone"}), ("everyone", {"obs", "phone", "guest"})]
)
async def test_teachers_may_come_by_encoder_or_telephone_and_agents_are_never_recorded(
    livekit_server: LiveKitServer, worker: StartWorker, record: str, recorded: set[str]
) -> None:
    recorder = await worker(RECORD=record)
    room = f"kinds-{record}"
    people: dict[str, tuple[ParticipantKind, str]] = {
        "obs": ("ingress", TEACHER),
        "phone": ("sip", TEACHER),
        "guest": ("sip", ""),
        "bot": ("agent", TEACHER),
        "copy": ("egress", TEACHER),
    }
    async with contextlib.AsyncExitStack() as lesson:
        speakers = {}
        for identity, (kind, metadata) in people.items():
            speaker = await Speaker.join(livekit_server, room, identity, metadata=metadata, kind=kind)
            speakers[identity] = await lesson.enter_async_context(speaker)
            if identity in recorded:
                await listened_to(recorder, speaker)
            else:
                await speaker.publish()
        said = [speaker.say(sentences(2 * at, 2)) for at, speaker in enumerate(speakers.values())]
        await asyncio.gather(*said)
    await recorder.wait_for("Room over")
    room_dir = recorder.output_dir / room
    assert {one["participant_identity"] for one in manifest(room_dir)} == recorded
    for at, identity in enumerate(people):
        assert heard(room_dir, identity) == ([2 * at, 2 * at + 1] if identity in recorded else [])


async def test_the_log_says_why_nobody_is_recorded_and_names_no_student(
    livekit_server: LiveKitServer, worker: StartWorker
) -> None:
    recorder = await worker()
    nested = json.dumps({"user": {"role": "teacher", "name": "Mia Meier"}})
    async with (
        await Speaker.join(livekit_server, "unrecorded", "mia", metadata=nested) as mia,
        await Speaker.join(livekit_server, "unrecorded", "sam", metadata=STUDENT),
        await Speaker.join(livekit_server, "unrecorded", "zoe", metadata="Zoe Zimmer"),
    ):
        await mia.publish()
        line = await recorder.wait_for("Nobody is recorded", timeout=20)
        assert "ROLE_KEY=user.role" in line and "RECORD=everyone" in line
        await mia.silence(3)
    await recorder.wait_for("Room over: 0 segments")
    assert recorder.log.count("Nobody is recorded") == 1
    assert "has metadata that is not JSON" in recorder.log
    for name in ("mia", "Meier", "sam", "zoe", "Zimmer"):
        assert name not in recorder.log


async def test_a_role_behind_a_path_is_recorded_and_audited(
    livekit_server: LiveKitServer, worker: StartWorker
) -> None:
    recorder = await worker(ROLE_KEY="user.role", LOG_FORMAT="json")
    nested = json.dumps({"user": {"role": ["staff", "teacher"]}})
    async with await Speaker.join(livekit_server, "path", "anna", metadata=nested) as anna:
        await listened_to(recorder, anna)
        await anna.say(sentences(0, 2))
    await recorder.wait_for("Room over")
    assert heard(recorder.output_dir / "path") == [0, 1]
    lines = [json.loads(line) for line in recorder.lines if '"event"' in line]
    events = [(line["event"], line["room"], line["participant"], line["level"]) for line in lines]
    assert events == [
        ("recording_begun", "path", "anna", "INFO"),
        ("recording_ended", "path", "anna", "INFO"),
    ]


async def test_who_does_not_consent_is_not_recorded_also_in_mid_call(
    livekit_server: LiveKitServer, worker: StartWorker
) -> None:
    recorder = await worker()
    declined = {"recording": "no"}
    async with (
        await Speaker.join(livekit_server, "consent", "ben", metadata=TEACHER, attributes=declined) as ben,
        await Speaker.join(
            livekit_server, "consent", "anna", metadata=TEACHER, can_update_metadata=True
        ) as anna,
    ):
        await ben.publish()
        await listened_to(recorder, anna)
        await asyncio.gather(anna.say(sentences(0, 2)), ben.say(sentences(10, 2)))
        await anna.room.local_participant.set_attributes(declined)
        await until(lambda: "recording ended" in recorder.log, "she is no longer recorded", timeout=5)
        await anna.say(sentences(2, 2))
        before = len(recorder.lines)
        await anna.room.local_participant.set_attributes({"recording": "yes"})
        await recorder.wait_for("Track subscribed", skip_lines=before)
        await anna.silence(0.5)
        await anna.say(sentences(4, 2))
    await recorder.wait_for("Room over")
    assert heard(recorder.output_dir / "consent") == [0, 1, 4, 5]
    assert {one["participant_identity"] for one in manifest(recorder.output_dir / "consent")} == {"anna"}
