"""The worker against a real server and real participants. What counts is the sound: which markers are in the files.

Every test has its own room and its own worker, started as an operator starts it.
"""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from livekit import api

from config import Settings
from conftest import StartWorker
from core.records import RoomInfo, parse_utc, utc_now
from devtools import sound
from devtools.livekit_server import LiveKitServer
from devtools.room_folders import (
    STUDENT,
    TEACHER,
    Record,
    gaps,
    manifest,
    recorded,
    samples,
    segments_of,
    session_of,
    until,
)
from devtools.speakers import SCREENSHARE_AUDIO, Said, Speaker, administration
from devtools.worker import Worker
from recording.room_recorder import RoomRecorder
from recording.speech_detector import load_detector
from support.fake_room import recorded_streams
from support.fault_table import Seen
from support.teaching import MARKERS, TAIL_SECONDS, heard, listened_to, sentences, teacher_in

pytestmark = pytest.mark.e2e


def assert_sound(room_dir: Path, expected: list[int], identity: str | None = None) -> list[Record]:
    """All expected markers are in the room's files, in order, none twice, nothing else; files and manifest agree."""
    records = manifest(room_dir)
    assert heard(room_dir, identity) == expected
    assert [record["number"] for record in records] == list(range(1, len(records) + 1))
    assert sorted(path.name for path in room_dir.glob("*.wav")) == sorted(one["file"] for one in records)
    assert not list(room_dir.glob("*.part"))
    for record in records:
        assert len(samples(room_dir / record["file"])) / 16_000 == pytest.approx(
            record["duration_seconds"], abs=0.001
        )
    return records


async def test_the_teacher_is_recorded_and_the_student_is_not(shared_worker: Worker) -> None:
    recorder = shared_worker.in_room("lesson")
    teacher = await teacher_in(shared_worker.server, recorder, "lesson")
    student = await Speaker.join(shared_worker.server, "lesson", "sam", metadata=STUDENT)
    await student.publish()
    async with teacher, student:
        await asyncio.gather(teacher.say(sentences(0, 5, gap=0.8)), student.say(sentences(10, 5)))
        await teacher.silence(2.5)
        records = await segments_of(recorder.output_dir / "lesson", 2)
    assert_sound(recorder.output_dir / "lesson", [0, 1, 2, 3, 4])
    assert {record["participant_identity"] for record in records} == {"anna"}
    assert "Track refused: its participant is not recorded (student) room=lesson" in recorder.log
    assert "Connected to room lesson" in recorder.log
    await recorder.wait_for("Room over: ")
    session, listed = (
        await session_of(recorder.output_dir / "lesson"),
        manifest(recorder.output_dir / "lesson"),
    )
    assert (session["closed_by"], session["is_complete"]) == ("recorder", True)
    assert (session["segments"], session["room_sid"]) == (len(listed), listed[0]["room_sid"])
    assert [one["identity"] for one in session["participants"]] == ["anna"]
    assert "participant=sam" not in recorder.log, "names of students are for LOG_LEVEL=DEBUG"


Ending = Callable[[LiveKitServer, Speaker, Worker], Awaitable[object]]


async def _mute(_: LiveKitServer, speaker: Speaker, __: Worker) -> None:
    speaker.mute()


async def _delete_room(server: LiveKitServer, speaker: Speaker, _: Worker) -> None:
    async with administration(server) as livekit:
        await livekit.room.delete_room(api.DeleteRoomRequest(room=speaker.room.name))


ENDINGS: dict[str, tuple[str, Ending]] = {
    "mute": ("muted", _mute),
    "unpublish": ("unpublished", lambda _, speaker, __: speaker.unpublish()),
    "leave": ("left", lambda _, speaker, __: speaker.leave()),
    "room-deleted": ("left or shutdown", _delete_room),
}
"""By room: the reason in the manifest, and what is done in mid-speech."""


@pytest.mark.fault(
    "mute, unpublish, leave, a deleted room or SIGTERM right after a word", "the last word is there"
)
async def test_the_last_word_is_kept_however_the_speech_ends(
    livekit_server: LiveKitServer, worker: StartWorker
) -> None:
    """Four rooms of one worker at the same time, and then the end of the worker itself."""
    recorder = await worker()

    async def lesson(room: str, end: Ending) -> None:
        async with await teacher_in(livekit_server, recorder, room) as teacher:
            await teacher.say(sentences(0, 3, tail=0))
            await end(livekit_server, teacher, recorder)
            await segments_of(recorder.output_dir / room, 1)

    def verify(room: str, reason: str) -> None:
        room_dir = recorder.output_dir / room
        assert manifest(room_dir)[-1]["end_reason"] in reason, room
        assert heard(room_dir)[:2] == [0, 1], room
        assert sound.partly_heard(recorded(room_dir), MARKERS[2]) > 0.8, (
            f"{room}: what was still in the jitter buffer may be missing"
        )

    await asyncio.gather(*(lesson(room, end) for room, (_, end) in ENDINGS.items()))
    # Not before: a comparison would hold up the speakers of the other rooms.
    for room, (reason, _) in ENDINGS.items():
        verify(room, reason)
    await lesson("sigterm", lambda _, __, recorder: recorder.stop())
    verify("sigterm", "shutdown or pause")


async def test_the_worker_stops_in_time_with_every_segment_closed(
    livekit_server: LiveKitServer, worker: StartWorker
) -> None:
    recorder = await worker()
    async with await teacher_in(livekit_server, recorder, "stop") as teacher:
        await teacher.say(sentences(0, 2))
        assert await recorder.stop() == 0
    assert_sound(recorder.output_dir / "stop", [0, 1])


@pytest.mark.fault("unpublish and republish, rejoin, mute and unmute", "everything, in order")
async def test_a_teacher_who_rejoins_or_republishes_is_recorded_on(shared_worker: Worker) -> None:
    recorder = shared_worker.in_room("rejoin")
    room_dir = recorder.output_dir / "rejoin"
    async with await teacher_in(shared_worker.server, recorder, "rejoin") as teacher:
        await teacher.say(sentences(0, 2, tail=0.3))
        await teacher.unpublish()
        await listened_to(recorder, teacher)
        await teacher.say(sentences(2, 2, tail=0.3))
    async with await teacher_in(shared_worker.server, recorder, "rejoin") as again:
        await again.say(sentences(4, 2, tail=0.3))
        again.mute()
        await asyncio.sleep(1)
        again.unmute()
        await again.say(sentences(6, 2, tail=0.3))
    await recorder.wait_for("Room over")
    records = assert_sound(room_dir, [0, 1, 2, 3, 4, 5, 6, 7])
    assert len({record["track_sid"] for record in records}) == 3


@pytest.mark.fault("the teacher's connection breaks", "everything before and after")
@pytest.mark.parametrize("full", [False, True], ids=["resume", "full reconnect"])
async def test_a_connection_that_breaks_costs_nothing_before_and_after(
    shared_worker: Worker, full: bool
) -> None:
    room = f"reconnect-{full}".lower()
    recorder = shared_worker.in_room(room)
    async with await teacher_in(shared_worker.server, recorder, room) as teacher:
        await teacher.say(sentences(0, 2))
        await teacher.silence(1)
        await teacher.reconnect(full=full)
        await teacher.silence(4)
        await teacher.say(sentences(2, 2))
    await recorder.wait_for("Room over")
    assert_sound(recorder.output_dir / room, [0, 1, 2, 3])


async def _set_role(server: LiveKitServer, room: str, identity: str, metadata: str) -> None:
    async with administration(server) as livekit:
        change = api.UpdateParticipantRequest(room=room, identity=identity, metadata=metadata)
        await livekit.room.update_participant(change)


@pytest.mark.fault("a student publishes after the teacher's unpublish", "not a sound of the student")
async def test_a_student_who_speaks_after_the_teacher_is_gone_is_in_no_file(shared_worker: Worker) -> None:
    """The student becomes a teacher in the end: what it says then into the same track is found, so what it said before
    would have been found."""
    recorder = shared_worker.in_room("after")
    student = await Speaker.join(shared_worker.server, "after", "sam", metadata=STUDENT)
    async with student, await teacher_in(shared_worker.server, recorder, "after") as teacher:
        await teacher.say(sentences(0, 2))
        await teacher.unpublish()
        microphone = await student.publish()
        await student.say(sentences(10, 3))
        await _set_role(shared_worker.server, "after", "sam", TEACHER)
        await recorder.wait_for(f"Track subscribed: microphone {microphone.sid}")
        await student.silence(0.5)
        await student.say(sentences(13, 2))
    await recorder.wait_for("Room over")
    records = assert_sound(recorder.output_dir / "after", [0, 1, 13, 14])
    assert heard(recorder.output_dir / "after", "anna") == [0, 1]
    assert records[-1]["track_sid"] == microphone.sid


async def test_a_role_that_changes_takes_effect_within_a_second(shared_worker: Worker) -> None:
    recorder = shared_worker.in_room("roles")
    async with await Speaker.join(shared_worker.server, "roles", "kim", metadata=STUDENT) as kim:
        await kim.publish()
        await recorder.wait_for("Track refused")
        await kim.say(sentences(0, 2))
        await _set_role(shared_worker.server, "roles", "kim", TEACHER)
        await kim.silence(1)
        await kim.say(sentences(2, 2))
        await _set_role(shared_worker.server, "roles", "kim", STUDENT)
        await kim.silence(1)
        await kim.say(sentences(4, 2))
    await recorder.wait_for("Room over")
    records = assert_sound(recorder.output_dir / "roles", [2, 3])
    assert records[-1]["end_reason"] == "role_lost"


async def test_a_student_cannot_make_itself_a_teacher(shared_worker: Worker) -> None:
    recorder = shared_worker.in_room("forged")
    async with await Speaker.join(
        shared_worker.server, "forged", "eve", metadata=STUDENT, can_update_metadata=True
    ) as eve:
        await eve.publish()
        await recorder.wait_for("Track refused")
        await eve.room.local_participant.set_metadata(TEACHER)
        await recorder.wait_for("may have done so itself")
        await eve.say(sentences(0, 2))
    await recorder.wait_for("Room over: 0 segments")
    assert not manifest(recorder.output_dir / "forged")


async def test_two_teachers_have_their_own_segments_and_one_numbering(shared_worker: Worker) -> None:
    recorder = shared_worker.in_room("duet")
    room_dir = recorder.output_dir / "duet"
    anna = await teacher_in(shared_worker.server, recorder, "duet", "anna")
    ben = await teacher_in(shared_worker.server, recorder, "duet", "ben")
    async with anna, ben:
        await asyncio.gather(anna.say(sentences(0, 4, 0.8)), ben.say(sentences(4, 4, 0.9)))
        await anna.silence(1)
    await recorder.wait_for("Room over")
    assert heard(room_dir, "anna") == [0, 1, 2, 3]
    assert heard(room_dir, "ben") == [4, 5, 6, 7]
    numbers = [record["number"] for record in manifest(room_dir)]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))


async def test_a_teacher_too_many_gets_the_place_of_one_who_leaves(
    livekit_server: LiveKitServer, worker: StartWorker
) -> None:
    recorder = await worker(MAX_TEACHERS_PER_ROOM="1")
    room_dir = recorder.output_dir / "crowded"
    anna = await teacher_in(livekit_server, recorder, "crowded")
    ben = await Speaker.join(livekit_server, "crowded", "ben", metadata=TEACHER)
    async with anna, ben:
        await ben.publish()
        await recorder.wait_for("NOT RECORDED")
        await asyncio.gather(anna.say(sentences(0, 2)), ben.say(sentences(10, 2)))
        before = len(recorder.lines)
        await anna.leave()
        await recorder.wait_for("Track subscribed", skip_lines=before)
        await ben.silence(0.5)
        await ben.say(sentences(2, 2))
    await recorder.wait_for("Room over")
    assert (heard(room_dir, "anna"), heard(room_dir, "ben")) == ([0, 1], [2, 3])
    assert [(gap["participant_identity"], gap["reason"]) for gap in gaps(room_dir)] == [("ben", "over_bound")]


@pytest.mark.fault(
    "the recorder's own connection breaks and is made again",
    "it records again within a second; the time between is recorded as a gap",
)
async def test_a_recorder_that_reconnects_continues_and_records_a_gap(
    livekit_server: LiveKitServer, tmp_path: Path, seen: Seen
) -> None:
    room = RoomInfo("anew", "RM_anew", utc_now())
    async with (
        await Speaker.join(livekit_server, "anew", "agent") as agent,
        await Speaker.join(livekit_server, "anew", "anna", metadata=TEACHER) as teacher,
    ):
        recorder = RoomRecorder(agent.room, room, Settings(output_dir=str(tmp_path)), load_detector("native"))
        recorder.attach()
        recorder.begin()
        await teacher.publish()
        await until(lambda: recorded_streams(recorder), "the teacher is listened to")
        await teacher.silence(0.5)
        await teacher.say(sentences(0, 2))
        await teacher.silence(1)
        remembered = list(recorder._people._rules._began_as_teacher)
        before = list(recorded_streams(recorder).values())
        await agent.reconnect(full=True)
        await until(
            lambda: recorded_streams(recorder) and list(recorded_streams(recorder).values()) != before,
            "the teacher is listened to again",
        )
        await teacher.silence(0.5)
        await teacher.say(sentences(2, 2))
        await teacher.silence(1)
        assert list(recorder._people._rules._began_as_teacher) == remembered, "people are the same as before"
        await recorder.aclose()
    assert heard(tmp_path / "anew") == [0, 1, 2, 3]
    (gap,) = gaps(tmp_path / "anew")
    assert gap["reason"] == "reconnect"
    seen(f"{(parse_utc(gap['end']) - parse_utc(gap['start'])).total_seconds():.1f} s not recorded")


async def test_microphone_and_screen_share_are_told_apart(shared_worker: Worker) -> None:
    recorder = shared_worker.in_room("sources")
    room_dir = recorder.output_dir / "sources"
    async with await teacher_in(shared_worker.server, recorder, "sources") as teacher:
        await teacher.say(sentences(0, 2))
        await teacher.publish(source=SCREENSHARE_AUDIO, name="screen")
        await recorder.wait_for("Track subscribed: screen_share_audio")
        await teacher.silence(0.5)
        await teacher.say(sentences(2, 2))
    await recorder.wait_for("Room over")
    assert heard(room_dir, track_source="microphone") == [0, 1]
    assert heard(room_dir, track_source="screen_share_audio") == [2, 3]


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2), (48_000, 2)])
async def test_any_sample_rate_becomes_16_khz_mono(shared_worker: Worker, rate: int, channels: int) -> None:
    room = f"rate-{rate}-{channels}"
    recorder = shared_worker.in_room(room)
    async with await Speaker.join(shared_worker.server, room, "anna", metadata=TEACHER) as teacher:
        await teacher.publish(rate, channels)
        await recorder.wait_for("Track subscribed")
        await teacher.silence(0.5)
        await teacher.say(sentences(0, 3))
    await recorder.wait_for("Room over")
    assert_sound(recorder.output_dir / room, [0, 1, 2])


@pytest.mark.fault("two utterances 0.4 s apart, and 1.6 s", "both are there, each whole")
async def test_utterances_that_are_close_together_are_both_there(shared_worker: Worker) -> None:
    recorder = shared_worker.in_room("close")
    room_dir = recorder.output_dir / "close"
    async with await teacher_in(shared_worker.server, recorder, "close") as teacher:
        await teacher.say(sentences(0, 2, gap=0.4, tail=1.6))
        await teacher.say(sentences(2, 2, gap=0.4))
    await recorder.wait_for("Room over")
    assert_sound(room_dir, [0, 1, 2, 3])
    for marker in MARKERS[:4]:
        assert sound.partly_heard(recorded(room_dir), marker) > 0.8, f"marker {marker.index}"


@pytest.mark.long
@pytest.mark.fault("75 s without a pause", "cut exactly, nothing lost, no file over 10 s")
async def test_speech_without_a_pause_loses_nothing(shared_worker: Worker) -> None:
    recorder = shared_worker.in_room("endless")
    endless = np.concatenate([sound.load("student")[: 16_000 * 20], sentences(0, 40, gap=0.0)])
    assert len(endless) > 16_000 * 65
    async with await teacher_in(shared_worker.server, recorder, "endless") as teacher:
        await teacher.say(endless)
    await recorder.wait_for("Room over")
    records = assert_sound(recorder.output_dir / "endless", list(range(40)))
    assert max(record["duration_seconds"] for record in records) <= 10
    assert [record["end_reason"] for record in records].count("max_length") >= 4


@pytest.mark.alone
@pytest.mark.fault("ten rooms open together", "all from their first word")
async def test_ten_rooms_that_open_together_are_all_recorded(
    livekit_server: LiveKitServer, worker: StartWorker
) -> None:
    recorder = await worker()
    rooms = [f"ten-{number}" for number in range(10)]

    async def teach(number: int) -> Said:
        async with await teacher_in(livekit_server, recorder, rooms[number]) as teacher:
            return await teacher.say(sentences(3 * number, 3))

    all_said = await asyncio.gather(*(teach(number) for number in range(10)))
    for number, (room, said) in enumerate(zip(rooms, all_said, strict=True)):
        await recorder.wait_for(f"room={room}")
        await until(
            lambda room=room: f"of gaps room={room}" in recorder.log,  # type: ignore[misc]
            f"{room} is over",
        )
        # Ten speakers, ten recordings and the server on one machine: speech may arrive late and torn, but it arrives.
        recording = recorded(recorder.output_dir / room)
        assert recording.size / sound.SAMPLE_RATE > 0.95 * (said.end - said.start - TAIL_SECONDS), room
        shares = [sound.share_heard(recording, marker) for marker in MARKERS[3 * number : 3 * number + 3]]
        assert statistics.mean(shares) > 0.6, f"{room}: {shares}"


@pytest.mark.fault("the room is older than the worker", "recorded")
async def test_a_room_that_is_older_than_the_worker_is_recorded(
    livekit_server: LiveKitServer, worker: StartWorker
) -> None:
    async with await Speaker.join(livekit_server, "early", "anna", metadata=TEACHER) as teacher:
        await teacher.publish()
        await asyncio.sleep(4)
        recorder = await worker(RECONCILE_SECONDS="1")
        await recorder.wait_for("Track subscribed", timeout=10)
        await teacher.silence(0.5)
        await teacher.say(sentences(0, 2))
    await recorder.wait_for("Room over")
    assert_sound(recorder.output_dir / "early", [0, 1])


@pytest.mark.fault(
    "SIGKILL of the whole tree in mid-word, restarted",
    "at most 1 s lost; the file so far is recovered; the room is recorded on",
)
async def test_a_killed_worker_loses_no_more_than_a_second(
    livekit_server: LiveKitServer, worker: StartWorker, tmp_path: Path
) -> None:
    recorder = await worker()
    room = "killed"
    async with await teacher_in(livekit_server, recorder, room) as teacher:
        talk = asyncio.create_task(teacher.say(sentences(0, 6, gap=0.1)))
        await asyncio.sleep(5.0)
        recorder.kill()
        await talk
        successor = await worker(RECONCILE_SECONDS="1")
        await successor.wait_for("Recovered 1 segments")
        await successor.wait_for("Track subscribed", timeout=40)
        await teacher.silence(0.5)
        await teacher.say(sentences(10, 2))
    await successor.wait_for("Room over")
    room_dir = tmp_path / "segments" / room
    records = manifest(room_dir)
    assert records[0]["end_reason"] == "recovered"
    assert records[0]["participant_identity"] == "anna"
    assert records[0]["duration_seconds"] > 5.0 - 0.5 - 1.0
    recording = heard(room_dir)
    assert recording[:3] == [0, 1, 2]
    assert recording[-2:] == [10, 11]


HOSTILE_METADATA = {
    "not JSON": "teacher",
    "list": '["role", "teacher"]',
    "role of the wrong type": '{"role": ["teacher"]}',
    "500 kB": json.dumps({"role": "teacher", "padding": "x" * 500_000}),
    "nested 5000 deep": "[" * 5000 + "]" * 5000,
    "5000 digits": '{"role": ' + "9" * 5000 + "}",
    "NaN": '{"role": NaN}',
    "control characters": '{"role": "teacher\\u0000"}',
}


@pytest.mark.fault("metadata that is hostile", "the lesson is recorded, one line for each")
async def test_hostile_metadata_does_no_harm(shared_worker: Worker) -> None:
    recorder = shared_worker.in_room("hostile")
    async with await teacher_in(shared_worker.server, recorder, "hostile") as teacher:
        guests = [
            await Speaker.join(shared_worker.server, "hostile", f"guest {name}", metadata=metadata)
            for name, metadata in HOSTILE_METADATA.items()
            if name != "500 kB"  # too long for a token's way through a URL; set by the server below
        ]
        for guest in guests:
            await guest.publish()
        await _set_role(shared_worker.server, "hostile", guests[0].identity, HOSTILE_METADATA["500 kB"])
        await teacher.say(sentences(0, 3))
        for guest in guests:
            await guest.leave()
    await recorder.wait_for("Room over")
    assert heard(recorder.output_dir / "hostile", "anna") == [0, 1, 2]
    assert "Traceback" not in recorder.log
    assert recorder.log.count("that is not JSON") >= 2, "from Python 3.14 on, the deep nesting can be read"


HOSTILE_NAMES = [
    "../../escape",
    "nul\0byte",
    "new\nline",
    "\u202eright to left",
    "CON",
    "con.txt",
    "trailing dot.",
    "emoji 🎓",
    "x" * 200,
    "Case",
    "case",
    "درس",
]


async def test_hostile_room_names_get_folders_of_their_own(
    livekit_server: LiveKitServer, worker: StartWorker
) -> None:
    recorder = await worker()
    places = asyncio.Semaphore(4)

    async def lesson(number: int, name: str) -> None:
        identity = f"../{name}"[:200]
        async with places, await teacher_in(livekit_server, recorder, name, identity) as teacher:
            await teacher.say(sentences(number, 1))

    await asyncio.gather(*(lesson(number, name) for number, name in enumerate(HOSTILE_NAMES)))
    await until(lambda: recorder.log.count("Room over") == len(HOSTILE_NAMES), "all rooms are over", 60)
    folders = [path for path in recorder.output_dir.iterdir() if path.is_dir()]
    assert len({folder.name.casefold() for folder in folders}) == len(HOSTILE_NAMES)
    assert sorted(heard(folder)[0] for folder in folders) == list(range(len(HOSTILE_NAMES)))
    assert {manifest(folder)[0]["room_name"] for folder in folders} == set(HOSTILE_NAMES)
    outside = {path.name for path in recorder.output_dir.parent.iterdir()} - {recorder.output_dir.name}
    assert not outside
    assert all("\0" not in line and "\u202e" not in line for line in recorder.lines)


async def test_people_can_see_that_they_are_recorded(
    livekit_server: LiveKitServer, worker: StartWorker
) -> None:
    recorder = await worker(AGENT_DISPLAY_NAME="The recorder", AGENT_IDENTITY="recorder-1")
    async with await teacher_in(livekit_server, recorder, "seen") as teacher:
        agents = teacher.room.remote_participants
        await until(
            lambda: agents["recorder-1"].attributes.get("recorded_participants") == '["anna"]',
            "the recorder says whom it records",
        )
        permissions = agents["recorder-1"].permissions
        assert agents["recorder-1"].name == "The recorder"
        assert not permissions.can_publish
        assert permissions.can_publish_data, "for its answer whether it is alive"


async def test_a_hidden_recorder_is_not_seen(livekit_server: LiveKitServer, worker: StartWorker) -> None:
    recorder = await worker(HIDDEN="true")
    async with await teacher_in(livekit_server, recorder, "hidden") as teacher:
        assert not teacher.room.remote_participants
        await teacher.say(sentences(0, 2))
    await recorder.wait_for("Room over")
    assert_sound(recorder.output_dir / "hidden", [0, 1])


async def test_everyone_is_recorded_on_request(livekit_server: LiveKitServer, worker: StartWorker) -> None:
    recorder = await worker(RECORD="everyone")
    room_dir = recorder.output_dir / "everyone"
    anna = await teacher_in(livekit_server, recorder, "everyone", "anna")
    sam = await teacher_in(livekit_server, recorder, "everyone", "sam", metadata="")
    async with anna, sam:
        await anna.say(sentences(0, 2))
        await sam.say(sentences(2, 2))
    await recorder.wait_for("Room over")
    assert heard(room_dir, "anna") == [0, 1]
    assert heard(room_dir, "sam") == [2, 3]


async def test_the_onnx_model_records_as_well(livekit_server: LiveKitServer, worker: StartWorker) -> None:
    recorder = await worker(VAD_RUNTIME="onnx")
    async with await teacher_in(livekit_server, recorder, "onnx") as teacher:
        await teacher.say(sentences(0, 2))
        assert await recorder.stop() == 0
    assert_sound(recorder.output_dir / "onnx", [0, 1])
