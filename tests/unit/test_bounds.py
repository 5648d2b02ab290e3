"""More people and tracks than the limits: everyone who is not recorded is reported, and memory does not grow."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from unittest.mock import MagicMock, Mock

import pytest
from livekit import rtc

from config import Settings
from core.worker_state import WorkerState
from devtools.room_folders import STUDENT, TEACHER, gaps, until
from recording import captions, people, roles, streams, track_watch
from recording.gaps import MIN_GAP_SECONDS
from recording.room_recorder import RoomRecorder
from support.fake_room import (
    ROOM,
    Detector,
    FakeRoom,
    Stream,
    is_asked_for,
    own_worker_state,
    recorded_streams,
    set_recently_gone,
)

pytestmark = pytest.mark.slow

STUDENTS = 500

OURS = "recording"
"""The package whose objects are looked into."""

NewRecorder = Callable[..., RoomRecorder]


@pytest.fixture
def worker_state(monkeypatch: pytest.MonkeyPatch) -> WorkerState:
    return own_worker_state(monkeypatch)


@pytest.fixture
def room() -> FakeRoom:
    return FakeRoom()


@pytest.fixture
async def recording(
    tmp_path: Path, room: FakeRoom, worker_state: WorkerState, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[NewRecorder]:
    """Starts a recorder in the room, with these settings."""
    monkeypatch.setattr(streams, "open_stream", lambda *_: Stream())
    monkeypatch.setattr(track_watch, "WATCH_SECONDS", 0.02)
    set_recently_gone(monkeypatch, 0.05)
    started: list[RoomRecorder] = []

    def start(**settings: object) -> RoomRecorder:
        new = RoomRecorder(room.rtc, ROOM, Settings(output_dir=str(tmp_path), **settings), Detector)  # type: ignore[arg-type]
        new.attach()
        new.begin()
        started.append(new)
        return new

    yield start
    for one in started:
        await one.aclose()


def left_out(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "NOT RECORDED" in record.message]


# --- places ---


@pytest.mark.parametrize("end", ["leaves", "unpublishes", "steps down"])
async def test_a_teacher_too_many_is_named_and_gets_the_next_free_place(
    recording: NewRecorder,
    room: FakeRoom,
    worker_state: WorkerState,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    end: str,
) -> None:
    one = recording(max_teachers_per_room=2)
    anna, ben, cleo, dora = (
        room.joins(name, TEACHER, f"TR_{name}") for name in ("anna", "ben", "cleo", "dora")
    )
    for _ in range(3):
        room.becomes(cleo, TEACHER)  # whatever changes about her, it is said once
    assert left_out(caplog) == [
        "NOT RECORDED: TR_cleo is over MAX_TEACHERS_PER_ROOM=2",
        "NOT RECORDED: TR_dora is over MAX_TEACHERS_PER_ROOM=2",
    ]
    assert [
        getattr(record, "participant", None) for record in caplog.records if "NOT RECORDED" in record.message
    ] == [
        "cleo",
        "dora",
    ]
    assert worker_state.registry.get_sample_value("recorder_tracks_over_bound_total") == 2
    assert is_asked_for(anna, "TR_anna") and is_asked_for(ben, "TR_ben")
    assert not is_asked_for(cleo, "TR_cleo")
    await asyncio.sleep(2 * MIN_GAP_SECONDS)

    if end == "leaves":
        room.leaves(anna)
    elif end == "unpublishes":
        room.unpublishes(anna, "TR_anna")
    else:
        room.becomes(anna, STUDENT)
    assert is_asked_for(cleo, "TR_cleo")
    assert not is_asked_for(dora, "TR_dora"), "she came later"
    room.subscribed(cleo, "TR_cleo")
    await one.aclose()
    assert [(gap["participant_identity"], gap["reason"]) for gap in gaps(tmp_path / "math101")] == [
        ("cleo", "over_bound"),
        ("dora", "over_bound"),
    ]


async def test_a_track_too_many_waits_for_one_of_the_same_teacher(
    recording: NewRecorder, room: FakeRoom, caplog: pytest.LogCaptureFixture
) -> None:
    recording(max_tracks_per_teacher=2)
    anna = room.joins("anna", TEACHER, "TR_1", "TR_2", "TR_3")
    ben = room.joins("ben", TEACHER, "TR_4")
    assert left_out(caplog) == ["NOT RECORDED: TR_3 is over MAX_TRACKS_PER_TEACHER=2"]
    room.leaves(ben)
    assert not is_asked_for(anna, "TR_3")
    room.unpublishes(anna, "TR_1")
    assert is_asked_for(anna, "TR_3")


async def test_a_recorded_participant_keeps_its_place_through_a_reconnect_unless_it_leaves(
    recording: NewRecorder, room: FakeRoom
) -> None:
    recording(max_teachers_per_room=2)
    people = [room.joins(name, TEACHER, f"TR_{name}") for name in ("anna", "ben", "cleo")]
    tracks = [dict(person.track_publications) for person in people]
    _, ben, cleo = people
    room.subscribed(ben, "TR_ben")
    room.tell("reconnecting")
    for person in people:
        room.leaves(person)
    for person, published in ((cleo, tracks[2]), (ben, tracks[1])):  # as new objects, like a full reconnect's
        room.joins(person.identity, TEACHER, *published)
    assert not is_asked_for(room.people["cleo"], "TR_cleo"), "anna may come back"
    assert is_asked_for(room.people["ben"], "TR_ben")
    room.tell("reconnected")
    assert is_asked_for(room.people["cleo"], "TR_cleo"), "anna has not come back"


async def test_a_participant_that_loses_its_place_by_a_reconnect_is_reported_and_waits(
    recording: NewRecorder, room: FakeRoom, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The client has not tried to resume: it reports that all have left before it reports that it reconnects."""
    one = recording(max_teachers_per_room=1)
    ben, cleo = (room.joins(name, TEACHER, f"TR_{name}") for name in ("ben", "cleo"))
    of_ben, of_cleo = (teacher.track_publications[f"TR_{teacher.identity}"] for teacher in (ben, cleo))
    room.subscribed(ben, "TR_ben")
    for teacher in (ben, cleo):
        room.leaves(teacher)
    room.tell("reconnecting")
    await asyncio.sleep(2 * MIN_GAP_SECONDS)
    room.comes_back(cleo, of_cleo)
    room.comes_back(ben, of_ben)
    room.tell("reconnected")
    assert left_out(caplog)[-1] == "NOT RECORDED: TR_ben is over MAX_TEACHERS_PER_ROOM=1"
    await asyncio.sleep(2 * MIN_GAP_SECONDS)
    of_ben.set_subscribed.reset_mock()
    room.leaves(cleo)
    assert is_asked_for(ben, "TR_ben")
    room.subscribed(ben, "TR_ben")
    await one.aclose()
    of_him = [gap["reason"] for gap in gaps(tmp_path / "math101") if gap["track_sid"] == "TR_ben"]
    assert of_him == ["reconnect", "over_bound"]


# --- crowds ---


def sizes(thing: object, name: str = "recorder", seen: set[int] | None = None) -> dict[str, int]:
    """How much is in each container that a recorder holds, at any depth."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return {}
    seen.add(id(thing))
    found: dict[str, int] = {}
    if isinstance(thing, (dict, set, list, deque)):
        found[name] = len(thing)
        inner = [("", one) for one in (thing.values() if isinstance(thing, dict) else thing)]
    elif type(thing).__module__.partition(".")[0] == OURS:
        inner = [(f".{key}", value) for key, value in getattr(thing, "__dict__", {}).items()]
    else:
        inner = []
    for key, value in inner:
        found.update(sizes(value, name + key, seen))
    return found


async def settled(one: RoomRecorder) -> dict[str, int]:
    """What it holds when nothing changes any longer."""
    before = sizes(one)
    while True:
        await asyncio.sleep(0.2)
        now = sizes(one)
        if now == before:
            return now
        before = now


def a_student(room: FakeRoom, number: int) -> Mock:
    """A student who does everything that a student can do to a recorder."""
    student = room.joins(f"student-{number}")
    student.permissions.can_update_metadata = True
    student.attributes = {"captions_language": "es" if number % 2 else "ar"}
    room.tell("participant_attributes_changed", student.attributes, student)
    room.tell("participant_active", student)
    for track in range(2):
        room.publishes(student, f"TR_{number}_{track}", "GCM")
    room.becomes(student, TEACHER)
    room.becomes(student, "{")
    return student


async def test_students_who_come_and_go_leave_nothing_behind(
    recording: NewRecorder, room: FakeRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captions, "LANGUAGES_SECONDS", 0.01)
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 600.0)  # a machine that stalls is no silent track
    one = recording(captions=True, gemini_api_key="x", max_teachers_per_room=1)
    anna = room.joins("anna", TEACHER, "TR_anna")
    room.subscribed(anna, "TR_anna")
    assert one._captions is not None
    looks = MagicMock(wraps=one._captions.languages)
    monkeypatch.setattr(one._captions, "languages", looks)
    one._captions._recent.append((-math.inf, MagicMock()))  # too old to be shown to who comes
    before = await settled(one)
    assert before["recorder._people._people"] == 1
    for wave in range(3):
        students = [a_student(room, 1_000 * wave + number) for number in range(STUDENTS)]
        assert sizes(one)["recorder._people._people"] == STUDENTS + 1
        if wave == 1:
            room.tell("reconnecting")
        for student in students:
            room.leaves(student)
        if wave == 1:
            room.tell("reconnected")
        await until(lambda: sizes(one) == before, "nothing is left of them")
    assert looks.call_count <= 4, "not everybody who comes has everybody looked at"


async def test_teachers_who_come_and_go_leave_nothing_behind(recording: NewRecorder, room: FakeRoom) -> None:
    one = recording(max_teachers_per_room=3)
    before = await settled(one)
    for wave in range(3):
        teachers = [room.joins(f"teacher-{wave}-{n}", TEACHER, f"TR_{wave}_{n}") for n in range(20)]
        for number, teacher in enumerate(teachers):
            if is_asked_for(teacher, f"TR_{wave}_{number}"):
                room.subscribed(teacher, f"TR_{wave}_{number}")
            room.publishes(teacher, f"TR_{wave}_{number}_sealed", "GCM")
            room.tell("e2ee_state_changed", teacher, rtc.EncryptionState.OK)
            room.tell("e2ee_state_changed", teacher, rtc.EncryptionState.DECRYPTION_FAILED)
            room.tell("e2ee_state_changed", teacher, rtc.EncryptionState.OK)
        assert len(recorded_streams(one)) == 3
        for teacher in teachers:
            room.leaves(teacher)
        await until(lambda: sizes(one) == before, "nothing is left of them")


async def test_beyond_the_bound_teachers_are_recorded_and_of_students_nothing_is_kept(
    recording: NewRecorder, room: FakeRoom, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (captions, people, roles):
        monkeypatch.setattr(module, "MAX_PARTICIPANTS", 3)
    one = recording(captions=True, gemini_api_key="x")
    students = [a_student(room, number) for number in (1, 3, 5, 0, 2, 4, 6)]
    anna = room.joins("anna", TEACHER, "TR_anna")
    assert is_asked_for(anna, "TR_anna")
    assert sizes(one)["recorder._people._people"] == 4
    assert sizes(one)["recorder._people._rules._began_as_teacher"] == 3
    assert one._captions is not None
    assert one._captions.languages() == ("es",)
    told = [record.message for record in caplog.records if "More than 3 people" in record.message]
    assert len(told) == 1
    for student in students[:2]:
        room.leaves(student)
    for number in (11, 12):
        a_student(room, number)
    assert sizes(one)["recorder._people._people"] == 3


@pytest.mark.parametrize("has_come", [False, True])
async def test_each_place_that_becomes_free_is_given_away(
    recording: NewRecorder, room: FakeRoom, has_come: bool
) -> None:
    """Also while no packet has arrived yet from the one who got the last place."""
    recording(max_teachers_per_room=2)
    anna, ben, cleo, dora = (
        room.joins(name, TEACHER, f"TR_{name}") for name in ("anna", "ben", "cleo", "dora")
    )
    room.is_wire_cut = True
    room.leaves(anna)
    assert is_asked_for(cleo, "TR_cleo")
    if has_come:
        room.subscribed(cleo, "TR_cleo")
        await asyncio.sleep(0.1)
    assert not is_asked_for(dora, "TR_dora")
    room.leaves(ben)
    assert is_asked_for(dora, "TR_dora")
