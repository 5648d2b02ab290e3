"""Pausing the recording of a room: who may, what follows, and where the state is kept."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from livekit import api, rtc

from archive.handover_note import RoomProgress, TrackProgress
from archive.names import HANDOVER_NOTE, session_file
from config import Settings
from core.records import parse_utc, utc_now
from devtools.room_folders import STUDENT, TEACHER, gaps, until
from recording import pause, role_reading, streams, track_watch, tracks
from recording.gaps import MIN_GAP_SECONDS
from recording.pause import is_paused_in, with_state
from recording.room_recorder import RoomRecorder
from storage import RoomFolder
from support.fake_room import (
    ROOM,
    Detector,
    FakeRoom,
    Stream,
    is_asked_for,
    own_worker_state,
    recorded_streams,
)

PAUSED = '{"recording": "paused"}'

pytestmark = pytest.mark.slow


# --- the room's metadata ---


@pytest.mark.parametrize(
    ("metadata", "is_paused"),
    [
        (PAUSED, True),
        ('{"title": "x", "recording": " Paused "}', True),
        ('{"recording": "on"}', False),
        ('{"recording": true}', False),
        ('{"recording": ["paused"]}', False),
        ("{}", False),
        ("", False),
        ("paused", False),
        ('["recording", "paused"]', False),
        ('{"recording":' * 100_000, False),
        (" " * role_reading.MAX_METADATA_CHARACTERS + PAUSED, False),
    ],
)
def test_the_state_is_read_from_the_room_s_metadata(metadata: str, is_paused: bool) -> None:
    assert is_paused_in(metadata) is is_paused


@pytest.mark.parametrize("metadata", ["", "{}", '{"title": "Física", "recording": "paused"}', PAUSED])
def test_the_state_is_written_beside_what_the_app_has_there(metadata: str) -> None:
    others = {key: value for key, value in json.loads(metadata or "{}").items() if key != "recording"}
    paused = with_state(metadata, is_paused=True)
    assert paused is not None and json.loads(paused) == {**others, "recording": "paused"}
    resumed = with_state(paused, is_paused=False)
    assert resumed is not None and json.loads(resumed) == others


@pytest.mark.parametrize("metadata", ["Physics", "[]", "5", "[" * 100_000])
def test_metadata_that_is_no_object_is_left_as_it_is(metadata: str) -> None:
    assert with_state(metadata, is_paused=True) is None


# --- a room ---


@dataclass
class Api:
    """The server's API, as far as it is needed; stands for the class, too."""

    room_fake: FakeRoom
    written: list[str] = field(default_factory=list)
    is_away: bool = False
    delay_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.room = self

    def __call__(self, *_: str) -> Api:
        return self

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def list_rooms(self, _: object) -> object:
        await asyncio.sleep(self.delay_seconds)
        if self.is_away:
            raise OSError("no route to host")
        return SimpleNamespace(rooms=[SimpleNamespace(metadata=self.room_fake.rtc.metadata)])

    async def update_room_metadata(self, request: api.UpdateRoomMetadataRequest) -> None:
        self.written.append(request.metadata)
        self.room_fake.sets_metadata(request.metadata)


@dataclass
class Lesson:
    """A recorder in a room with a teacher, whose track it records, and a student."""

    recorder: RoomRecorder
    room: FakeRoom
    api: Api
    anna: Mock
    folder: Path

    async def call(self, method: str, caller: str) -> str:
        """Calls an RPC of the recorder."""
        calls = self.room.rtc.local_participant.register_rpc_method.call_args_list
        handlers = {call.args[0]: call.args[1] for call in calls}
        answer: str = await handlers[method](rtc.RpcInvocationData("1", caller, "", 10.0, method))
        return answer

    @property
    def is_recorded(self) -> bool:
        return "TR_1" in recorded_streams(self.recorder)

    @property
    def announced(self) -> Any:
        calls = self.room.rtc.local_participant.set_attributes.call_args_list
        return calls[-1].args[0]["recording"] if calls else None


@pytest.fixture
async def lesson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lesson]:
    own_worker_state(monkeypatch)
    monkeypatch.setattr(streams, "open_stream", lambda *_: Stream())
    monkeypatch.setattr(track_watch, "WATCH_SECONDS", 0.02)
    room = FakeRoom()
    server = Api(room)
    monkeypatch.setattr(api, "LiveKitAPI", server)
    anna = room.joins("anna", TEACHER, "TR_1")
    room.joins("sam", STUDENT)
    one = RoomRecorder(room.rtc, ROOM, Settings(output_dir=str(tmp_path)), Detector)
    yield Lesson(one, room, server, anna, tmp_path / "math101")
    await one.aclose()


async def begin(lesson: Lesson) -> None:
    lesson.recorder.attach()
    lesson.recorder.begin()
    lesson.room.subscribed(lesson.anna, "TR_1")
    await until(lambda: lesson.announced == "on", "the state is shown")
    await asyncio.sleep(0.1)  # past the gap of a recorder that comes late


@contextlib.contextmanager
def refused() -> Iterator[None]:
    with pytest.raises(rtc.RpcError) as error:
        yield
    assert error.value.code == pause.NOT_ALLOWED


async def test_a_teacher_pauses_and_resumes(lesson: Lesson) -> None:
    await begin(lesson)
    assert lesson.is_recorded
    assert await lesson.call("recorder/pause", "anna") == "paused"
    assert not lesson.is_recorded and not is_asked_for(lesson.anna, "TR_1")
    assert lesson.api.written == [PAUSED]
    await until(lambda: lesson.announced == "paused", "the pause is shown")
    await asyncio.sleep(2 * MIN_GAP_SECONDS)
    assert await lesson.call("recorder/resume", "anna") == "on"
    assert is_asked_for(lesson.anna, "TR_1")
    lesson.room.subscribed(lesson.anna, "TR_1")
    await until(lambda: lesson.announced == "on", "the end of the pause is shown")
    assert lesson.is_recorded
    assert json.loads(lesson.api.written[-1]) == {}
    await until(
        lambda: [gap["reason"] for gap in gaps(lesson.folder)][-1:] == ["paused"], "the gap is listed"
    )


async def test_what_is_lost_after_the_pause_is_not_listed_as_paused(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracks, "LATE_SECONDS", 0.1)
    await begin(lesson)
    await lesson.call("recorder/pause", "anna")
    await asyncio.sleep(2 * MIN_GAP_SECONDS)
    await lesson.call("recorder/resume", "anna")
    await asyncio.sleep(0.2)  # the server takes its time
    lesson.room.subscribed(lesson.anna, "TR_1")
    await until(lambda: gaps(lesson.folder)[-1]["reason"] == "deaf", "it is listed")
    paused, late = gaps(lesson.folder)[-2:]
    assert (paused["reason"], late["reason"]) == ("paused", "deaf")
    assert parse_utc(paused["end"]) <= parse_utc(late["start"])


@pytest.mark.parametrize("change", ["resumed", "promoted", "consent"])
async def test_what_is_said_until_a_track_in_use_arrives_is_a_gap_however_short(
    lesson: Lesson, change: str
) -> None:
    await begin(lesson)
    sam = lesson.room.people["sam"]
    lesson.room.publishes(sam, "TR_2")
    who, sid = (lesson.anna, "TR_1") if change == "resumed" else (sam, "TR_2")
    if change == "resumed":
        await lesson.call("recorder/pause", "anna")
        await lesson.call("recorder/resume", "anna")
    elif change == "promoted":
        lesson.room.becomes(sam, TEACHER)
    else:
        sam.attributes = {"recording": "no"}
        lesson.room.becomes(sam, TEACHER)
        assert not is_asked_for(sam, sid)
        sam.attributes = {}
        lesson.room.tell("participant_attributes_changed", {"recording": ""}, sam)
    assert is_asked_for(who, sid)
    await asyncio.sleep(2 * MIN_GAP_SECONDS)
    lesson.room.subscribed(who, sid)
    await until(lambda: ("deaf", sid) in listed(lesson), "it is listed")


def listed(lesson: Lesson) -> list[tuple[str, str]]:
    return [(gap["reason"], gap["track_sid"]) for gap in gaps(lesson.folder)]


@pytest.mark.parametrize(
    ("was_paused", "is_paused", "reasons"),
    [
        (False, True, ["no_recorder", "paused"]),
        (True, True, ["paused"]),
        (True, False, ["paused", "no_recorder"]),
        (False, False, ["no_recorder"]),
    ],
)
async def test_of_the_time_after_a_crash_only_what_is_known_to_have_been_paused_is_listed_as_paused(
    lesson: Lesson, was_paused: bool, is_paused: bool, reasons: list[str]
) -> None:
    """A recorder was killed; the room may have been paused before or after that."""
    killed_at = utc_now() - timedelta(seconds=10)
    received = {"TR_1": TrackProgress(killed_at - timedelta(seconds=5))}
    note = RoomProgress(killed_at, received, killed_at, is_paused=was_paused)
    settings = Settings(output_dir=str(lesson.folder.parent))
    RoomFolder.open(settings, ROOM).handover.write(note)
    lesson.room.rtc.metadata = PAUSED if is_paused else ""
    await lesson.recorder.prepare()
    lesson.recorder.attach()
    joined_at = utc_now()
    lesson.recorder.begin()
    await asyncio.sleep(2 * MIN_GAP_SECONDS)
    if not is_paused:
        lesson.room.subscribed(lesson.anna, "TR_1")
    await lesson.recorder.aclose()
    found = gaps(lesson.folder)
    assert [gap["reason"] for gap in found] == reasons
    assert parse_utc(found[0]["start"]) - received["TR_1"].until < timedelta(milliseconds=2)
    border = killed_at if was_paused else joined_at
    for before, after in itertools.pairwise(found):
        assert abs(parse_utc(before["end"]) - parse_utc(after["start"])) < timedelta(milliseconds=2)
        assert abs(parse_utc(before["end"]) - border) < timedelta(seconds=1)


@pytest.mark.parametrize("caller", ["sam", "nobody", ""])
async def test_nobody_else_can(lesson: Lesson, caller: str) -> None:
    await begin(lesson)
    with refused():
        await lesson.call("recorder/pause", caller)
    assert lesson.is_recorded and not lesson.api.written
    await lesson.call("recorder/pause", "anna")
    with refused():
        await lesson.call("recorder/resume", caller)
    assert not lesson.is_recorded


async def test_the_app_pauses_and_resumes_with_the_room_s_metadata(lesson: Lesson) -> None:
    await begin(lesson)
    lesson.room.sets_metadata(PAUSED)
    assert not lesson.is_recorded and not is_asked_for(lesson.anna, "TR_1")
    ben = lesson.room.joins("ben", TEACHER, "TR_2")
    assert not is_asked_for(ben, "TR_2"), "who publishes during the pause is not recorded either"
    lesson.room.sets_metadata("")
    assert is_asked_for(lesson.anna, "TR_1") and is_asked_for(ben, "TR_2")


async def test_a_recorder_that_takes_over_stays_paused(lesson: Lesson) -> None:
    lesson.room.rtc.metadata = PAUSED
    lesson.recorder.attach()
    lesson.room.publishes(lesson.anna, "TR_2")  # an event before the recorder begins
    lesson.recorder.begin()
    assert not is_asked_for(lesson.anna, "TR_1") and not is_asked_for(lesson.anna, "TR_2")
    await until(lambda: lesson.announced == "paused", "the pause is shown")
    assert await lesson.call("recorder/resume", "anna") == "on"
    assert is_asked_for(lesson.anna, "TR_1") and is_asked_for(lesson.anna, "TR_2")


async def test_a_track_that_is_brought_after_the_pause_began_is_not_recorded(lesson: Lesson) -> None:
    lesson.recorder.attach()
    lesson.recorder.begin()
    assert is_asked_for(lesson.anna, "TR_1")
    lesson.room.sets_metadata(PAUSED)
    lesson.room.subscribed(lesson.anna, "TR_1")
    assert not lesson.is_recorded and not is_asked_for(lesson.anna, "TR_1")


@pytest.mark.parametrize("problem", ["the server is away", "metadata of another kind"])
async def test_a_pause_that_cannot_be_stored_holds_all_the_same(
    lesson: Lesson, caplog: pytest.LogCaptureFixture, problem: str
) -> None:
    await begin(lesson)
    lesson.api.is_away = problem == "the server is away"
    if not lesson.api.is_away:
        lesson.room.sets_metadata("Physics")
    assert await lesson.call("recorder/pause", "anna") == "paused"
    assert "It holds until another recorder takes over" in caplog.text
    lesson.room.sets_metadata("Chemistry")
    assert not lesson.is_recorded, "other changes of the metadata do not end it"
    assert await lesson.call("recorder/resume", "anna") == "on"


@pytest.mark.parametrize("problem", ["the server is away", "metadata of another kind"])
async def test_a_pause_is_stored_as_soon_as_it_can_be(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    await begin(lesson)
    if problem == "the server is away":
        monkeypatch.setattr(pause, "RETRY_SECONDS", 0.02)
        lesson.api.is_away = True
    else:
        lesson.room.sets_metadata("Physics")
    await lesson.call("recorder/pause", "anna")
    assert not lesson.api.written
    lesson.api.is_away = False
    if problem == "metadata of another kind":
        lesson.room.sets_metadata('{"title": "Physics"}')
    await until(lambda: is_paused_in(lesson.room.rtc.metadata), "it is stored")
    lesson.room.sets_metadata("")
    await asyncio.sleep(0.1)
    assert len(lesson.api.written) == 1 and is_asked_for(lesson.anna, "TR_1"), "then the app decides"


async def test_a_pause_is_stored_though_its_call_was_cancelled(lesson: Lesson) -> None:
    """The SDK cancels the handler of a call when the caller's deadline is over."""
    await begin(lesson)
    lesson.api.delay_seconds = 0.05
    call = asyncio.create_task(lesson.call("recorder/pause", "anna"))
    await asyncio.sleep(0.01)
    call.cancel()
    await until(lambda: is_paused_in(lesson.room.rtc.metadata), "it is stored")


async def test_a_pause_that_is_requested_as_another_recorder_takes_over_is_stored(lesson: Lesson) -> None:
    await begin(lesson)
    lesson.api.delay_seconds = 0.3
    call = asyncio.create_task(lesson.call("recorder/pause", "anna"))
    await asyncio.sleep(0.01)
    lesson.room.tell("disconnected", rtc.DisconnectReason.DUPLICATE_IDENTITY)
    await lesson.recorder.aclose()
    assert is_paused_in(lesson.room.rtc.metadata), "the other recorder learns of it"
    assert await call == "paused"


@pytest.mark.parametrize(("method", "metadata"), [("recorder/pause", "Physics"), ("recorder/resume", PAUSED)])
async def test_the_next_recorder_knows_what_could_not_be_stored(
    lesson: Lesson, method: str, metadata: str
) -> None:
    lesson.room.rtc.metadata = metadata
    lesson.recorder.attach()
    lesson.recorder.begin()
    lesson.api.is_away = True
    await lesson.call(method, "anna")
    await lesson.recorder.aclose()
    successor = RoomRecorder(lesson.room.rtc, ROOM, Settings(output_dir=str(lesson.folder.parent)), Detector)
    await successor.prepare()
    lesson.anna.track_publications["TR_1"].set_subscribed.reset_mock()
    successor.begin()
    assert is_asked_for(lesson.anna, "TR_1") is (method == "recorder/resume")
    await successor.aclose()


@pytest.mark.parametrize(
    ("reason", "is_over"),
    [
        ("ROOM_DELETED", True),
        ("ROOM_CLOSED", True),
        ("DUPLICATE_IDENTITY", False),
        ("CLIENT_INITIATED", False),
        ("SERVER_SHUTDOWN", False),
        ("PARTICIPANT_REMOVED", False),
        (None, False),
    ],
)
async def test_only_a_room_that_has_ended_is_told_to_be_over(
    tmp_path: Path, reason: str | None, is_over: bool
) -> None:
    told: list[tuple[str, str]] = []
    room = FakeRoom()
    recorder = RoomRecorder(
        room.rtc,
        ROOM,
        Settings(output_dir=str(tmp_path)),
        Detector,
        lambda folder, sid, _: told.append((folder, sid)),
    )
    recorder.attach()
    recorder.begin()
    await until(lambda: (tmp_path / "math101").exists(), "the folder is there")
    if reason is not None:
        room.tell("disconnected", rtc.DisconnectReason.Value(reason))
    await recorder.aclose()
    assert told == ([("math101", ROOM.sid)] if is_over else [])


async def test_a_recorder_that_joins_a_session_removes_its_file(lesson: Lesson) -> None:
    lesson.folder.mkdir(exist_ok=True)
    path = lesson.folder / session_file(ROOM.sid)
    path.touch()
    await begin(lesson)
    await until(lambda: not path.exists(), "the file is gone")
    assert (lesson.folder / HANDOVER_NOTE).exists(), "it keeps others from writing the file"


async def test_of_several_requests_the_last_one_holds(lesson: Lesson) -> None:
    await begin(lesson)
    lesson.api.delay_seconds = 0.05
    methods = ["recorder/pause", "recorder/resume", "recorder/pause"]
    await asyncio.gather(*(lesson.call(method, "anna") for method in methods))
    assert not lesson.is_recorded
    assert is_paused_in(lesson.room.rtc.metadata)
    await asyncio.gather(*(lesson.call(method, "anna") for method in reversed(["recorder/resume", *methods])))
    assert not is_paused_in(lesson.room.rtc.metadata)


async def test_a_changed_list_is_shown_though_a_request_fails(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recording.announcement.RETRY_SECONDS", 0.01)
    show = lesson.room.rtc.local_participant.set_attributes
    show.side_effect = [OSError("away"), OSError("away"), None, None, None]
    lesson.recorder.attach()
    lesson.recorder.begin()
    await until(lambda: show.await_count >= 3, "it is tried again")
