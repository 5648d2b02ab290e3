"""Rooms that are encrypted end to end: recorded with the passphrase, and never noise without it."""

from __future__ import annotations

import pytest

from conftest import StartWorker
from devtools import sound
from devtools.livekit_server import LiveKitServer
from devtools.room_folders import TEACHER, gaps, manifest, recorded, segments_of
from devtools.speakers import Speaker
from devtools.worker import Worker

pytestmark = pytest.mark.e2e

MARKERS = sound.markers()
PASSPHRASE = "correct horse battery staple"


async def lesson(server: LiveKitServer, recorder: Worker, room: str, said: str, passphrase: str = "") -> None:
    """A teacher publishes, says three markers as soon as the log says ``said``, and leaves."""
    async with await Speaker.join(server, room, "anna", metadata=TEACHER, passphrase=passphrase) as teacher:
        before = len(recorder.lines)
        await teacher.publish()
        await recorder.wait_for(said, skip_lines=before)
        await teacher.silence(0.5)
        await teacher.say(sound.sequence(MARKERS[:3], 0.3, lead_seconds=0, tail_seconds=0.5)[0])
        await teacher.silence(1)
    await recorder.wait_for("Room over: ", skip_lines=before)


def heard(recorder: Worker, room: str) -> list[int]:
    return sound.heard(recorded(recorder.output_dir / room), MARKERS)


def reasons(recorder: Worker, room: str) -> list[str]:
    return [gap["reason"] for gap in gaps(recorder.output_dir / room)]


async def test_with_the_passphrase_the_words_are_recorded(
    livekit_server: LiveKitServer, worker: StartWorker
) -> None:
    recorder = await worker(E2EE_PASSPHRASE=PASSPHRASE)
    await lesson(livekit_server, recorder, "sealed", "Track subscribed", PASSPHRASE)
    await segments_of(recorder.output_dir / "sealed", 1)
    assert heard(recorder, "sealed") == [0, 1, 2]
    assert reasons(recorder, "sealed") == []
    assert "NOT RECORDED" not in recorder.log
    assert PASSPHRASE not in recorder.log


async def test_a_passphrase_does_not_affect_unencrypted_rooms(
    livekit_server: LiveKitServer, worker: StartWorker
) -> None:
    recorder = await worker(E2EE_PASSPHRASE=PASSPHRASE)
    await lesson(livekit_server, recorder, "unsealed", "Track subscribed")
    await segments_of(recorder.output_dir / "unsealed", 1)
    assert heard(recorder, "unsealed") == [0, 1, 2]
    assert reasons(recorder, "unsealed") == []
    assert "NOT RECORDED" not in recorder.log


async def test_without_a_passphrase_nothing_is_recorded_and_the_log_says_so_once(
    livekit_server: LiveKitServer, worker: StartWorker
) -> None:
    recorder = await worker()
    await lesson(livekit_server, recorder, "shut", "NOT RECORDED", PASSPHRASE)
    lines = [line for line in recorder.lines if "NOT RECORDED" in line]
    assert len(lines) == 1
    assert "no E2EE_PASSPHRASE is set room=shut participant=anna" in lines[0]
    assert manifest(recorder.output_dir / "shut") == []
    assert reasons(recorder, "shut") == ["encrypted"]


async def test_with_another_passphrase_no_word_is_recorded_and_the_log_says_so_once(
    livekit_server: LiveKitServer, worker: StartWorker
) -> None:
    recorder = await worker(E2EE_PASSPHRASE="wrong horse")
    await lesson(livekit_server, recorder, "misread", "NOT RECORDED", PASSPHRASE)
    lines = [line for line in recorder.lines if "NOT RECORDED" in line]
    assert len(lines) == 1
    assert (
        "E2EE_PASSPHRASE is not the passphrase of this participant room=misread participant=anna" in lines[0]
    )
    assert heard(recorder, "misread") == []
    assert reasons(recorder, "misread") == ["encrypted"]


async def test_a_passphrase_that_becomes_the_right_one_is_noticed(
    livekit_server: LiveKitServer, worker: StartWorker
) -> None:
    recorder = await worker(E2EE_PASSPHRASE=PASSPHRASE)
    async with await Speaker.join(
        livekit_server, "corrected", "anna", metadata=TEACHER, passphrase="mistyped"
    ) as teacher:
        await teacher.publish()
        await recorder.wait_for("NOT RECORDED")
        keys = teacher.room.e2ee_manager.key_provider
        assert keys is not None
        keys.set_shared_key(PASSPHRASE.encode(), 0)
        await recorder.wait_for("The encrypted audio can be decrypted now")
        await teacher.say(sound.sequence(MARKERS[:3], 0.3, lead_seconds=0.5, tail_seconds=0.5)[0])
        await teacher.silence(3)
        await segments_of(recorder.output_dir / "corrected", 1)
    await recorder.wait_for("Room over: ")
    assert heard(recorder, "corrected") == [0, 1, 2]
    (gap,) = gaps(recorder.output_dir / "corrected")
    assert gap["reason"] == "encrypted"
    assert gap["end"] < manifest(recorder.output_dir / "corrected")[0]["end"]
