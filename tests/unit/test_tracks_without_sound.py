"""A track from which no frames arrive: the recorder subscribes again, the worker reports a problem until frames arrive,
and the list of gaps says what may be missing.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from unittest.mock import AsyncMock, MagicMock, Mock, call

import pytest
from livekit import rtc

from archive.handover_note import HandoverNote, TrackProgress
from archive.names import HANDOVER_NOTE
from config import Settings
from core import supervised
from core.records import GapReason, format_utc, parse_utc, utc_now
from core.worker_state import WorkerState
from devtools.room_folders import STUDENT, TEACHER, gaps, until
from recording import encryption, packet_stats, streams, track_actions, track_watch, tracks
from recording.gaps import MIN_GAP_SECONDS
from recording.room_recorder import RoomRecorder
from support.fake_room import (
    ROOM,
    Detector,
    FakeRoom,
    Stream,
    is_asked_for,
    open_gaps,
    own_worker_state,
    recorded_streams,
    set_recently_gone,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def worker_state(monkeypatch: pytest.MonkeyPatch) -> WorkerState:
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 0.5)
    monkeypatch.setattr(track_watch, "WATCH_SECONDS", 0.02)
    return own_worker_state(monkeypatch)


@dataclass
class Lesson:
    """A recorder, and a room in which a teacher has published a track."""

    recorder: RoomRecorder
    room: FakeRoom
    teacher: Mock
    publication: Mock
    folder: Path

    def begins(self) -> None:
        self.recorder.attach()
        self.recorder.begin()

    def subscribed(self) -> None:
        self.room.subscribed(self.teacher, "TR_1")

    def unpublished(self) -> None:
        self.room.unpublishes(self.teacher, "TR_1")

    def published(self) -> None:
        self.room.publishes(self.teacher, "TR_1", publication=self.publication)

    def deciphers(self, state: str) -> None:
        self.room.tell("e2ee_state_changed", self.teacher, rtc.EncryptionState.Value(state))

    async def gaps(self) -> list[tuple[str, str]]:
        """Those that have been written by the end: the track and the reason of each."""
        await self.recorder.aclose()
        return [(gap["track_sid"], gap["reason"]) for gap in gaps(self.folder)]


@pytest.fixture
async def lesson(
    tmp_path: Path, worker_state: WorkerState, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Lesson]:
    """Its first stream brings nothing, every later one does."""
    made = itertools.chain([Stream(is_silent=True)], iter(Stream, None))
    monkeypatch.setattr(streams, "open_stream", lambda *_: next(made))
    room = FakeRoom()
    teacher = room.joins("anna", TEACHER)
    publication = room.publishes(teacher, "TR_1")
    one = RoomRecorder(room.rtc, ROOM, Settings(output_dir=str(tmp_path)), Detector)
    yield Lesson(one, room, teacher, publication, tmp_path / "math101")
    await one.aclose()


def begins(lesson: Lesson) -> None:
    """The recorder is there, and then the teacher publishes."""
    lesson.unpublished()
    lesson.begins()
    lesson.published()


async def test_a_room_without_frames_is_a_problem_until_frames_arrive(
    lesson: Lesson, worker_state: WorkerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins(lesson)
    lesson.subscribed()
    assert worker_state.snapshot().rooms[0].teachers == 1
    await until(lambda: worker_state.snapshot().problems, "a problem is reported")
    assert worker_state.snapshot().problems[0].startswith("no audio from a recorded track in 1 room")
    assert worker_state.snapshot().rooms[0].teachers == 0
    await until(lambda: is_asked_for(lesson.teacher, "TR_1"), "it asks for the track anew")
    assert worker_state.snapshot().problems, "asking is not receiving"
    monkeypatch.setattr(
        track_watch, "NO_FRAMES_SECONDS", 60.0
    )  # a machine that stalls is not a track without frames
    lesson.subscribed()
    await until(lambda: not worker_state.snapshot().problems, "it hears")
    assert await lesson.gaps() == [("TR_1", "deaf")]
    await until(lambda: not worker_state.snapshot().rooms, "the room is over")


async def test_a_track_that_goes_without_having_brought_sound_is_a_gap(
    lesson: Lesson, worker_state: WorkerState
) -> None:
    begins(lesson)
    lesson.subscribed()
    await until(lambda: worker_state.snapshot().problems, "a problem is reported")
    lesson.unpublished()
    assert not open_gaps(lesson.recorder)
    assert await lesson.gaps() == [("TR_1", "deaf")]


async def test_a_clock_that_is_set_back_hides_no_gap(
    lesson: Lesson, worker_state: WorkerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins(lesson)
    lesson.subscribed()
    await until(lambda: worker_state.snapshot().problems, "a problem is reported")
    an_hour_ago = utc_now() - timedelta(hours=1)
    monkeypatch.setattr(track_actions, "utc_now", lambda: an_hour_ago)
    lesson.unpublished()
    assert await lesson.gaps() == [("TR_1", "deaf")]
    (gap,) = gaps(lesson.folder)
    assert gap["end"] == format_utc(an_hour_ago)
    assert parse_utc(gap["start"]) <= an_hour_ago - timedelta(seconds=0.5)


@pytest.mark.parametrize("is_resumed_first", [True, False])
async def test_a_reconnect_is_a_gap_of_each_track_that_comes_back_or_does_not(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch, is_resumed_first: bool
) -> None:
    """The client says that it reconnects before all is gone if it has tried to resume, and else only after."""
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 60.0)
    begins(lesson)
    for comes_back in (True, False):
        lesson.subscribed()
        if is_resumed_first:
            lesson.room.tell("reconnecting")
        lesson.room.leaves(lesson.teacher)
        if not is_resumed_first:
            lesson.room.tell("reconnecting")
        await asyncio.sleep(2 * MIN_GAP_SECONDS)
        if comes_back:
            lesson.room.comes_back(lesson.teacher, lesson.publication)
            lesson.subscribed()
            await until(lambda: not open_gaps(lesson.recorder), "the first packet")
        else:
            assert open_gaps(lesson.recorder)
        lesson.room.tell("reconnected")
        assert not open_gaps(lesson.recorder)
    assert await lesson.gaps() == [("TR_1", "reconnect")] * 2


@pytest.mark.parametrize("is_back_first", [True, False])
async def test_what_was_asked_for_while_the_connection_broke_is_asked_for_again(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch, is_back_first: bool
) -> None:
    """The server has never heard of it: the client sends such a request into the connection that is gone."""
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 60.0)
    begins(lesson)
    lesson.subscribed()
    lesson.room.leaves(lesson.teacher)
    lesson.room.tell("reconnecting")
    if is_back_first:
        lesson.room.comes_back(lesson.teacher, lesson.publication)
    lesson.publication.set_subscribed.reset_mock()
    lesson.room.tell("reconnected")
    if not is_back_first:
        lesson.room.comes_back(lesson.teacher, lesson.publication)
    lesson.publication.set_subscribed.assert_called_once_with(True)


async def test_a_subscription_that_does_not_arrive_is_requested_again(
    lesson: Lesson,
    worker_state: WorkerState,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Reported once, and no problem: perhaps its publisher does not allow it, which no restart would change."""
    monkeypatch.setattr(track_watch, "OVERDUE_SECONDS", 0.1)
    begins(lesson)
    asked = lesson.publication.set_subscribed
    await until(
        lambda: [call.args[0] for call in asked.call_args_list][-4:] == [True, False] * 2, "asked anew"
    )
    assert not worker_state.snapshot().problems
    monkeypatch.setattr(track_watch, "OVERDUE_SECONDS", 60.0)
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 60.0)
    lesson.subscribed()
    assert await lesson.gaps() == [("TR_1", "forbidden")]
    assert sum("NO AUDIO: TR_1" in record.message for record in caplog.records) == 1


async def test_a_track_that_arrives_late_is_one_gap_from_the_predecessors_note_on(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track_watch, "OVERDUE_SECONDS", 0.1)
    lesson.begins()
    await until(lambda: open_gaps(lesson.recorder), "it has not come")
    assert open_gaps(lesson.recorder)["TR_1"].since is None
    lesson.subscribed()
    assert await lesson.gaps() == [("TR_1", "forbidden")]


async def test_a_gap_lasts_until_the_first_packet(lesson: Lesson, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscription that is granted is not sound yet, least of all on a machine or a wire that is overloaded."""
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 60.0)
    lesson.room.is_wire_cut = True
    lesson.begins()
    lesson.subscribed()
    await asyncio.sleep(0.3)
    assert lesson.recorder._tracks.progress().tracks["TR_1"] is None, "no farther than the recorder before us"
    before = utc_now()
    lesson.room.is_wire_cut = False
    await until(lambda: not open_gaps(lesson.recorder), "the first packet")
    assert await lesson.gaps() == [("TR_1", "no_recorder")]
    (gap,) = gaps(lesson.folder)
    assert before - timedelta(milliseconds=1) <= parse_utc(gap["end"]) <= utc_now()


async def test_a_gap_of_one_who_is_muted_lasts_until_the_subscription(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 60.0)
    lesson.room.is_wire_cut = lesson.publication.muted = True
    lesson.begins()
    lesson.subscribed()
    await until(lambda: not open_gaps(lesson.recorder), "nobody can speak")


async def test_the_note_is_earlier_by_the_jitter_buffers_delay(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 60.0)
    lesson.room.jitter_delay_seconds = 0.4
    begins(lesson)
    asked = lesson.recorder._tracks.progress().tracks["TR_1"]
    assert asked is not None, "it is waited for"
    assert utc_now() - asked.until < timedelta(seconds=1)
    for _ in range(2):  # the second stream brings sound
        lesson.subscribed()

    def heard() -> TrackProgress | None:
        return lesson.recorder._tracks.progress().tracks["TR_1"]

    await until(
        lambda: (one := heard()) is not None and one.jitter_delay_seconds == pytest.approx(0.4),
        "it is measured",
    )
    ((processor, _),) = recorded_streams(lesson.recorder).values()
    await lesson.recorder.aclose()
    last = heard()
    assert last is not None
    assert processor.received_until - timedelta(seconds=1) < last.until <= processor.received_until
    note = HandoverNote.in_line((lesson.folder / HANDOVER_NOTE).read_bytes())
    assert note is not None
    assert note.tracks["TR_1"].jitter_delay_seconds == pytest.approx(0.4)
    assert list(note.tracks) == ["TR_1"]


def is_played_late(lesson: Lesson) -> bool:
    """Whether it is known that the jitter buffer delays the track much."""
    ((_, packets),) = recorded_streams(lesson.recorder).values()
    return packets.unplayed_since is not None


@pytest.mark.parametrize("how", ["leaves", "unpublishes", "is no teacher any more", "the room is over"])
async def test_what_a_late_jitter_buffer_holds_at_the_end_of_a_track_is_a_gap(
    heard_lesson: Lesson, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """After the process was stopped, the jitter buffer takes some seconds to catch up."""
    set_recently_gone(monkeypatch, 0.1)
    heard_lesson.room.jitter_delay_seconds = 3.0
    await until(lambda: is_played_late(heard_lesson), "the delay is known")
    ended_at = utc_now() + timedelta(milliseconds=1)
    if how == "leaves":
        heard_lesson.room.leaves(heard_lesson.teacher)
    elif how == "unpublishes":
        heard_lesson.unpublished()
        await asyncio.sleep(0.3)
        heard_lesson.published()
    elif how == "is no teacher any more":
        heard_lesson.room.becomes(heard_lesson.teacher, STUDENT)
    assert await heard_lesson.gaps() == [("TR_1", "no_media")]
    (gap,) = gaps(heard_lesson.folder)
    start, end = parse_utc(gap["start"]), parse_utc(gap["end"])
    assert timedelta(seconds=2.5) < ended_at - start < timedelta(seconds=4)
    assert ended_at - timedelta(seconds=0.5) < end <= utc_now()


@pytest.mark.parametrize(("delay_seconds", "is_muted"), [(0.3, False), (3.0, True)])
async def test_a_track_that_ends_as_usual_is_no_gap(
    heard_lesson: Lesson, delay_seconds: float, *, is_muted: bool
) -> None:
    heard_lesson.room.jitter_delay_seconds = delay_seconds
    heard_lesson.publication.muted = is_muted
    await asyncio.sleep(0.3)
    heard_lesson.unpublished()
    assert await heard_lesson.gaps() == []


async def test_a_track_that_ends_before_a_stop_of_the_process_is_noticed_is_a_gap(
    heard_lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.sleep(0.3)
    monkeypatch.setattr(packet_stats, "MAX_QUERY_AGE_SECONDS", 0.2)
    monkeypatch.setattr(track_watch, "WATCH_SECONDS", 60.0)
    await asyncio.sleep(0.5)
    heard_lesson.unpublished()
    assert await heard_lesson.gaps() == [("TR_1", "no_media")]


async def test_silence_of_a_cut_connection_does_not_count_as_received(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jitter buffer goes on for a moment, as if there were silence, before it is noticed."""
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 60.0)
    begins(lesson)
    for _ in range(2):  # the second stream brings sound
        lesson.subscribed()
    await asyncio.sleep(0.3)
    lesson.room.is_wire_cut, cut_at = True, utc_now()
    await asyncio.sleep(0.5)
    assert not open_gaps(lesson.recorder), "not noticed yet"
    await lesson.recorder.aclose()
    note = HandoverNote.in_line((lesson.folder / HANDOVER_NOTE).read_bytes())
    assert note is not None
    assert note.tracks["TR_1"].until <= cut_at


@pytest.mark.parametrize("what", ["subscription fails", "unsubscribed", "reconnecting"])
async def test_the_note_names_tracks_that_are_not_received(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 60.0)
    begins(lesson)
    if what == "subscription fails":
        lesson.room.tell("track_subscription_failed", lesson.teacher, "TR_1", "no")
    else:
        lesson.subscribed()
        await asyncio.sleep(0.1)
        lesson.room.unsubscribed(lesson.teacher, "TR_1")
    if what == "reconnecting":
        lesson.room.tell("reconnecting")
    before = utc_now()
    await asyncio.sleep(0.2)
    note = lesson.recorder._tracks.progress()
    heard = note.tracks["TR_1"]
    assert heard is not None
    assert heard.until <= before + timedelta(milliseconds=1)
    assert (note.until <= before + timedelta(milliseconds=1)) is (what == "reconnecting"), (
        "others may publish"
    )


async def test_a_client_that_does_not_answer_does_not_delay_the_end(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 60.0)
    monkeypatch.setattr(lesson.room, "_stats", asyncio.Event().wait)
    lesson.begins()
    lesson.subscribed()
    await asyncio.sleep(0.1)
    assert open_gaps(lesson.recorder)
    async with asyncio.timeout(5):
        await lesson.recorder.aclose()


async def test_a_gap_ends_although_the_client_has_no_statistics(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 60.0)
    failing = AsyncMock(side_effect=RuntimeError("no"))
    monkeypatch.setattr(lesson.room, "_stats", failing)
    lesson.begins()
    lesson.subscribed()
    await until(lambda: not open_gaps(lesson.recorder), "it is believed")
    assert failing.await_count >= track_watch.MAX_STATS_FAILURES


async def test_a_track_without_sound_is_a_gap_until_the_recorder_leaves(
    lesson: Lesson, worker_state: WorkerState
) -> None:
    begins(lesson)
    lesson.subscribed()
    await until(lambda: open_gaps(lesson.recorder), "no frames arrive")
    assert await lesson.gaps() == [("TR_1", "deaf")]
    (gap,) = gaps(lesson.folder)
    note = HandoverNote.in_line((lesson.folder / HANDOVER_NOTE).read_bytes())
    assert note is not None
    assert not note.tracks
    assert note.until - parse_utc(gap["end"]) < timedelta(seconds=0.1)


async def test_who_leaves_long_before_a_reconnect_leaves_no_gap(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 60.0)
    set_recently_gone(monkeypatch, 0.05)
    begins(lesson)
    lesson.subscribed()
    lesson.unpublished()
    await asyncio.sleep(0.2)
    lesson.room.tell("reconnecting")
    await asyncio.sleep(2 * MIN_GAP_SECONDS)
    lesson.room.tell("reconnected")
    assert await lesson.gaps() == []


@pytest.mark.parametrize("is_resumed_first", [True, False])
async def test_a_reconnect_makes_no_teacher_of_a_student(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch, is_resumed_first: bool
) -> None:
    set_recently_gone(monkeypatch, 0.2)
    lesson.begins()
    student = lesson.room.joins("sam")
    student.permissions.can_update_metadata = True
    track = lesson.room.publishes(student, "TR_2")
    lesson.room.becomes(student, TEACHER)
    if is_resumed_first:
        lesson.room.tell("reconnecting")
    lesson.room.leaves(student)
    if not is_resumed_first:
        lesson.room.tell("reconnecting")
    await asyncio.sleep(0.5)
    lesson.room.comes_back(student, track)
    lesson.room.tell("reconnected")
    await asyncio.sleep(0.5)
    lesson.room.becomes(student, TEACHER)
    assert not is_asked_for(student, "TR_2")


@pytest.mark.parametrize("end", ["unpublished", "demoted", "room over"])
async def test_an_encrypted_track_without_a_passphrase_is_a_gap_until_it_ends(
    lesson: Lesson, end: str
) -> None:
    lesson.publication.encryption_type = rtc.EncryptionType.GCM
    begins(lesson)
    lesson.publication.set_subscribed.assert_not_called()
    await asyncio.sleep(2 * MIN_GAP_SECONDS)
    if end == "unpublished":
        lesson.unpublished()
    elif end == "demoted":
        lesson.room.becomes(lesson.teacher, STUDENT)
    assert bool(open_gaps(lesson.recorder)) is (end == "room over")
    assert await lesson.gaps() == [("TR_1", "encrypted")]


@pytest.mark.parametrize("failure", ["DECRYPTION_FAILED", "MISSING_KEY"])
@pytest.mark.parametrize("is_failing_from_the_start", [True, False])
@pytest.mark.parametrize("is_mended", [True, False])
async def test_sound_that_cannot_be_deciphered_is_a_gap_until_it_can(
    lesson: Lesson,
    monkeypatch: pytest.MonkeyPatch,
    failure: str,
    is_failing_from_the_start: bool,
    is_mended: bool,
) -> None:
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 60.0)
    monkeypatch.setattr(encryption, "DECRYPTION_FAILURE_SECONDS", 0.1)
    begins(lesson)
    for _ in range(2):  # the second stream brings sound
        lesson.subscribed()
    began = time.monotonic()
    ((processor, _),) = recorded_streams(lesson.recorder).values()
    await until(lambda: processor.segmenter.position > 0, "it hears")
    if not is_failing_from_the_start:
        lesson.deciphers("OK")
    await asyncio.sleep(0.5)
    heard_seconds = time.monotonic() - began
    lesson.deciphers(failure)
    if is_mended:
        lesson.deciphers("OK")
    assert bool(open_gaps(lesson.recorder)) is not is_mended
    assert await lesson.gaps() == [("TR_1", "encrypted")]
    (gap,) = gaps(lesson.folder)
    seconds = (parse_utc(gap["end"]) - parse_utc(gap["start"])).total_seconds()
    expected = heard_seconds if is_failing_from_the_start else 0.1
    assert expected - 0.01 <= seconds
    assert is_failing_from_the_start or seconds < heard_seconds


async def test_packets_that_cannot_be_deciphered_end_no_gap(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They begin to come, after a hand-over, and are worth nothing."""
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 60.0)
    lesson.room.is_wire_cut = True
    lesson.begins()
    lesson.subscribed()
    await asyncio.sleep(2 * MIN_GAP_SECONDS)
    lesson.deciphers("DECRYPTION_FAILED")
    lesson.room.is_wire_cut = False
    await asyncio.sleep(2 * MIN_GAP_SECONDS)
    assert open_gaps(lesson.recorder)["TR_1"].reason is GapReason.ENCRYPTED
    assert await lesson.gaps() == [("TR_1", "no_recorder"), ("TR_1", "encrypted")]


@pytest.fixture
async def heard_lesson(lesson: Lesson, monkeypatch: pytest.MonkeyPatch) -> Lesson:
    """The teacher's track is there, its frames come, and its packets are counted."""
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 60.0)
    monkeypatch.setattr(packet_stats, "LOST_SECONDS", 0.2)
    begins(lesson)
    lesson.subscribed()
    return lesson


async def test_an_outage_that_breaks_no_connection_is_a_gap(
    heard_lesson: Lesson, caplog: pytest.LogCaptureFixture
) -> None:
    """The jitter buffer's silence is no speech that was heard."""
    await asyncio.sleep(0.3)
    before = utc_now()
    heard_lesson.room.is_wire_cut = True
    await until(lambda: open_gaps(heard_lesson.recorder), "it is noticed")
    heard_lesson.room.is_wire_cut = False
    await until(lambda: not open_gaps(heard_lesson.recorder), "it is over")
    after = utc_now()
    assert await heard_lesson.gaps() == [("TR_1", "no_media")]
    (gap,) = gaps(heard_lesson.folder)
    start, end = parse_utc(gap["start"]), parse_utc(gap["end"])
    assert start <= before + timedelta(milliseconds=1)
    assert start + timedelta(seconds=0.2) <= end <= after
    assert sum("No packets of TR_1 for" in record.message for record in caplog.records) == 1


async def test_a_track_that_stays_silent_is_asked_for_again(
    heard_lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its subscription may have been ended by the server's API, which the SDK does not say."""
    monkeypatch.setattr(track_watch, "OVERDUE_SECONDS", 0.1)
    asked = heard_lesson.publication.set_subscribed
    await asyncio.sleep(0.3)
    asked.reset_mock()
    await asyncio.sleep(0.3)
    asked.assert_not_called()
    heard_lesson.room.is_wire_cut = True
    await until(lambda: asked.call_count > 1, "it is asked for, and again")
    assert set(map(str, asked.call_args_list)) == {str(call(True))}
    heard_lesson.room.is_wire_cut = False
    heard_lesson.room.unsubscribed(heard_lesson.teacher, "TR_1")
    heard_lesson.subscribed()
    await until(lambda: not open_gaps(heard_lesson.recorder), "it is heard again")
    assert await heard_lesson.gaps() == [("TR_1", "no_media")]


async def test_an_outage_that_ends_with_the_lesson_is_a_gap(heard_lesson: Lesson) -> None:
    heard_lesson.room.is_wire_cut = True
    await until(lambda: open_gaps(heard_lesson.recorder), "it is noticed")
    heard_lesson.room.leaves(heard_lesson.teacher)
    assert await heard_lesson.gaps() == [("TR_1", "no_media")]


@pytest.mark.parametrize("then", ["nothing", "a failure", "a new subscription"])
async def test_a_subscription_that_ends_before_its_track_is_a_gap_from_then_on(
    heard_lesson: Lesson, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    set_recently_gone(monkeypatch, 0.1 if then == "nothing" else 60.0)
    monkeypatch.setattr(track_actions, "RETRY_SECONDS", 0.05)
    track = heard_lesson.recorder._tracks.get("TR_1")
    assert track is not None
    track.requested_at -= 3600
    await asyncio.sleep(0.3)
    heard_lesson.room.unsubscribed(heard_lesson.teacher, "TR_1")
    ended_at = utc_now()
    heard_lesson.publication.set_subscribed.reset_mock()
    await asyncio.sleep(2 * MIN_GAP_SECONDS)
    if then == "a failure":
        heard_lesson.room.tell("track_subscription_failed", heard_lesson.teacher, "TR_1", "not now")
    if then != "a new subscription":
        await until(lambda: is_asked_for(heard_lesson.teacher, "TR_1"), "it is asked for again")
    heard_lesson.subscribed()
    await until(lambda: not open_gaps(heard_lesson.recorder), "the first packet")
    reason = "deaf" if then == "a failure" else "unsubscribed"
    assert await heard_lesson.gaps() == [("TR_1", reason)]
    (gap,) = gaps(heard_lesson.folder)
    assert ended_at - timedelta(seconds=1) < parse_utc(gap["start"]) <= ended_at + timedelta(milliseconds=1)


async def test_packets_count_as_received_only_if_a_query_has_found_them(
    heard_lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last packet and the next query the track ends, and the handover note is written."""
    set_recently_gone(monkeypatch, 0.1)
    await asyncio.sleep(0.3)
    monkeypatch.setattr(track_watch, "WATCH_SECONDS", 0.4)
    await asyncio.sleep(0.1)
    heard_lesson.room.is_wire_cut, cut_at = True, utc_now() + timedelta(milliseconds=1)
    await asyncio.sleep(2 * MIN_GAP_SECONDS)
    noted = heard_lesson.recorder._tracks.progress().tracks["TR_1"]
    assert noted is not None
    heard_lesson.room.unsubscribed(heard_lesson.teacher, "TR_1")
    await until(lambda: open_gaps(heard_lesson.recorder), "it is still published")
    await heard_lesson.gaps()
    (gap,) = gaps(heard_lesson.folder)
    for moment in (noted.until, parse_utc(gap["start"])):
        assert cut_at - timedelta(seconds=1) < moment <= cut_at


async def test_a_subscription_that_the_server_ends_is_requested_again_at_once(
    heard_lesson: Lesson, worker_state: WorkerState
) -> None:
    await asyncio.sleep(0.3)
    heard_lesson.publication.set_subscribed.reset_mock()
    ended_at = utc_now() + timedelta(milliseconds=1)
    heard_lesson.room.has_statistics = False
    await until(lambda: is_asked_for(heard_lesson.teacher, "TR_1"), "it is requested again")
    assert not recorded_streams(heard_lesson.recorder), "a stream left open may receive another track's audio"
    assert heard_lesson.publication.set_subscribed.call_args_list == [call(True)]
    await asyncio.sleep(2 * MIN_GAP_SECONDS)
    heard_lesson.room.has_statistics = True
    heard_lesson.room.unsubscribed(heard_lesson.teacher, "TR_1")
    heard_lesson.subscribed()
    received_at = utc_now() - timedelta(milliseconds=1)
    await until(lambda: recorded_streams(heard_lesson.recorder), "it is recorded again")
    await until(lambda: not open_gaps(heard_lesson.recorder), "the first packet")
    assert await heard_lesson.gaps() == [("TR_1", "unsubscribed")]
    (gap,) = gaps(heard_lesson.folder)
    assert parse_utc(gap["start"]) <= ended_at < received_at <= parse_utc(gap["end"])


async def test_a_publisher_who_forbids_the_subscription_is_a_gap_and_no_problem_of_the_worker(
    heard_lesson: Lesson, worker_state: WorkerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_recently_gone(monkeypatch, 0.1)
    monkeypatch.setattr(track_watch, "FORBIDDEN_SECONDS", 0.1)  # OVERDUE_SECONDS does not apply
    await asyncio.sleep(0.1)
    heard_lesson.publication.set_subscribed.reset_mock()
    heard_lesson.room.has_statistics = False
    asked = heard_lesson.publication.set_subscribed
    await until(lambda: asked.call_count > 3, "it is requested, and again")
    assert set(map(str, asked.call_args_list)) == {str(call(True))}, (
        "the server delivers it once it is permitted"
    )
    assert open_gaps(heard_lesson.recorder)["TR_1"].reason is GapReason.FORBIDDEN
    with monkeypatch.context() as soon:
        soon.setattr(track_watch, "NO_FRAMES_SECONDS", 0.1)
        await asyncio.sleep(0.3)
    assert not worker_state.snapshot().problems
    heard_lesson.room.has_statistics = True
    heard_lesson.subscribed()
    await until(lambda: not open_gaps(heard_lesson.recorder), "the first packet")
    assert await heard_lesson.gaps() == [("TR_1", "forbidden")]


async def test_a_stop_of_the_process_is_a_gap_and_no_track_is_dropped(
    heard_lesson: Lesson, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The event loop stands still for longer than frames and packets may be missing."""
    monkeypatch.setattr(track_watch, "LATE_ROUND_SECONDS", 0.3)
    heard_lesson.unpublished()
    heard_lesson.published()
    heard_lesson.subscribed()  # only the first stream has no frames
    await asyncio.sleep(0.2)
    before = recorded_streams(heard_lesson.recorder)
    heard_lesson.publication.set_subscribed.reset_mock()
    stopped_at = utc_now()
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 0.4)
    time.sleep(0.6)  # noqa: ASYNC251 (everything stands still)
    continued_at = utc_now()
    await asyncio.sleep(0.3)
    heard_lesson.publication.set_subscribed.assert_not_called()
    assert recorded_streams(heard_lesson.recorder) == before
    assert await heard_lesson.gaps() == [("TR_1", "no_media")]
    (gap,) = gaps(heard_lesson.folder)
    assert parse_utc(gap["start"]) <= stopped_at and continued_at - timedelta(milliseconds=1) <= parse_utc(
        gap["end"]
    )
    assert caplog.text.count("This process did not run for 0.") == 1


async def test_audio_that_comes_late_is_in_the_log(
    heard_lesson: Lesson, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    heard_lesson.room.jitter_delay_seconds = 100.0
    await until(lambda: "s late, and so are the dates" in caplog.text, "it is reported")
    heard_lesson.room.jitter_delay_seconds = 0.0
    await until(lambda: "comes in time again" in caplog.text, "that is reported, too")
    assert caplog.text.count("s late, and so are the dates") == 1


@pytest.mark.parametrize("is_reconnecting", [False, True])
async def test_statistics_that_disappear_with_the_track_are_no_gap(
    heard_lesson: Lesson, is_reconnecting: bool
) -> None:
    """The track is unpublished a moment later, or the recorder's own connection is being replaced."""
    await asyncio.sleep(0.1)
    if is_reconnecting:
        heard_lesson.room.tell("reconnecting")
    heard_lesson.publication.set_subscribed.reset_mock()
    heard_lesson.room.has_statistics = False
    await asyncio.sleep(0.1)
    assert heard_lesson.publication.set_subscribed.called is not is_reconnecting
    heard_lesson.unpublished()
    reasons = {reason for _, reason in await heard_lesson.gaps()}
    assert reasons == ({"reconnect"} if is_reconnecting else set())


async def test_statistics_that_disappear_are_not_packets() -> None:
    """The client has none of a track whose publisher has revoked the permission; it sends no event either."""
    room, now = FakeRoom(), [1000.0]
    publication = MagicMock(muted=False)
    media = MagicMock(get_stats=AsyncMock(side_effect=room._stats))
    stats = packet_stats.PacketStats(media, publication, clock=lambda: now[0])
    now[0] += 1
    assert await stats.query() is packet_stats.Reception.ARRIVING
    assert stats.arrived_until == pytest.approx(1001.0, abs=0.01)
    room.has_statistics = False
    now[0] += 1
    assert await stats.query() is packet_stats.Reception.ENDED
    publication.muted = True
    now[0] += 1
    assert await stats.query() is packet_stats.Reception.ENDED
    assert stats.received_until == pytest.approx(1001.0, abs=0.01)


async def test_a_mute_says_nothing_of_the_time_before_it() -> None:
    """Packets stop, and the publisher mutes before the next query: what it said in between is missing."""
    room, now = FakeRoom(), [1000.0]
    publication = MagicMock(muted=False)
    media = MagicMock(get_stats=AsyncMock(side_effect=room._stats))
    stats = packet_stats.PacketStats(media, publication, clock=lambda: now[0])
    now[0] += 1
    await stats.query()
    room.is_wire_cut = publication.muted = True
    now[0] += 1
    await stats.query()
    assert stats.arrived_until == pytest.approx(1001.0, abs=0.01)
    now[0] += 1
    assert await stats.query() is packet_stats.Reception.ARRIVING
    assert stats.arrived_until == pytest.approx(1003.0, abs=0.01)


async def test_a_detector_that_cannot_be_made_leaves_no_stream_open(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 60.0)
    monkeypatch.setattr(track_actions, "RETRY_SECONDS", 0.05)
    opened = MagicMock(side_effect=lambda *_: Stream())
    monkeypatch.setattr(streams, "open_stream", opened)
    detectors = MagicMock(side_effect=[MemoryError, Detector()])
    monkeypatch.setattr(lesson.recorder._streams, "_new_detector", detectors)
    begins(lesson)
    lesson.subscribed()
    asked = lesson.publication.set_subscribed
    await until(lambda: asked.call_args_list[-2:] == [call(False), call(True)], "it is asked for again")
    lesson.subscribed()
    assert opened.call_count == len(recorded_streams(lesson.recorder)) == 1


async def test_who_leaves_takes_its_tracks_along_even_if_nothing_is_said_of_them(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK drops the end of a publication whose participant it has already forgotten."""
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 60.0)
    one = Settings(output_dir=str(lesson.folder.parent), max_teachers_per_room=1)
    recorder = RoomRecorder(lesson.room.rtc, ROOM, one, Detector)
    recorder.attach()
    recorder.begin()
    lesson.subscribed()
    ben = lesson.room.joins("ben", TEACHER, "TR_2")
    assert not is_asked_for(ben, "TR_2"), "there is no place"
    del lesson.room.people["anna"]
    lesson.room.tell("participant_disconnected", lesson.teacher)
    assert is_asked_for(ben, "TR_2")
    assert list(recorded_streams(recorder)) == []
    await recorder.aclose()


@pytest.mark.parametrize("cut_seconds", [0.0, 0.15, 0.5])
async def test_a_reconnect_is_a_gap_from_the_last_packet_on(
    heard_lesson: Lesson, monkeypatch: pytest.MonkeyPatch, cut_seconds: float
) -> None:
    """However long nothing had come in before it was noticed that the connection is gone."""
    set_recently_gone(monkeypatch, 0.1)
    room = heard_lesson.room
    await asyncio.sleep(0.3)
    cut_at = utc_now()
    room.is_wire_cut = cut_seconds > 0
    await asyncio.sleep(cut_seconds)
    room.leaves(heard_lesson.teacher)
    left_at = utc_now()
    room.tell("reconnecting")
    await asyncio.sleep(0.3)
    room.is_wire_cut = False
    room.comes_back(heard_lesson.teacher, heard_lesson.publication)
    heard_lesson.subscribed()
    back_at = utc_now()
    room.tell("reconnected")
    await until(lambda: not open_gaps(heard_lesson.recorder), "the first packet")
    assert ("TR_1", "reconnect") in await heard_lesson.gaps()
    spans = [(parse_utc(gap["start"]), parse_utc(gap["end"])) for gap in gaps(heard_lesson.folder)]
    last_heard = cut_at if cut_seconds else left_at
    assert min(start for start, _ in spans) <= last_heard + timedelta(milliseconds=1)
    assert max(end for _, end in spans) >= back_at - timedelta(milliseconds=1)
    reconnect = spans[-1]
    assert all(end >= reconnect[0] for _, end in spans), "without a hole"


async def test_tracks_published_or_requested_during_an_outage_are_gaps(
    heard_lesson: Lesson,
) -> None:
    room = heard_lesson.room
    ben = room.joins("ben", TEACHER, "TR_asked")
    room.tell("reconnecting")
    await asyncio.sleep(0.2)
    cleo = room.joins("cleo", TEACHER, "TR_new")
    room.joins("sam", STUDENT, "TR_student")
    room.tell("reconnected")
    room.subscribed(ben, "TR_asked")
    room.subscribed(cleo, "TR_new")
    await until(lambda: not open_gaps(heard_lesson.recorder), "they are heard")
    assert sorted(await heard_lesson.gaps()) == [("TR_asked", "reconnect"), ("TR_new", "reconnect")]


async def test_a_subscription_that_takes_long_is_a_gap(
    heard_lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracks, "LATE_SECONDS", 0.2)
    soon, late = (heard_lesson.room.joins(name, TEACHER, f"TR_{name}") for name in ("soon", "late"))
    heard_lesson.room.subscribed(soon, "TR_soon")
    await asyncio.sleep(0.3)
    heard_lesson.room.subscribed(late, "TR_late")
    heard_lesson.room.subscribed(soon, "TR_soon")
    await until(lambda: not open_gaps(heard_lesson.recorder), "it is heard")
    assert await heard_lesson.gaps() == [("TR_late", "deaf")]


async def test_a_track_whose_packets_cannot_be_counted_hides_no_other(
    heard_lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track_watch, "STATS_SECONDS", 0.1)
    one = recorded_streams(heard_lesson.recorder)["TR_1"].packets
    monkeypatch.setattr(one, "query", asyncio.Event().wait)
    ben = heard_lesson.room.joins("ben", TEACHER, "TR_2")
    heard_lesson.room.subscribed(ben, "TR_2")
    await asyncio.sleep(0.2)
    heard_lesson.room.is_wire_cut = True
    await until(lambda: "TR_2" in open_gaps(heard_lesson.recorder), "it is noticed")


async def test_a_query_that_hangs_is_no_stop_of_the_process(
    heard_lesson: Lesson, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(track_watch, "LATE_ROUND_SECONDS", 0.4)
    monkeypatch.setattr(track_watch, "STATS_SECONDS", 0.6)
    ben = heard_lesson.room.joins("ben", TEACHER, "TR_2")
    heard_lesson.room.subscribed(ben, "TR_2")
    one = recorded_streams(heard_lesson.recorder)["TR_2"].packets
    monkeypatch.setattr(one, "query", asyncio.Event().wait)
    await asyncio.sleep(1.5)
    assert "This process did not run" not in caplog.text
    assert await heard_lesson.gaps() == []


async def test_a_muted_or_stuttering_track_leaves_no_gap(heard_lesson: Lesson) -> None:
    heard_lesson.room.is_wire_cut = heard_lesson.publication.muted = True
    await asyncio.sleep(0.4)
    heard_lesson.publication.muted = False
    await asyncio.sleep(0.1)
    heard_lesson.room.is_wire_cut = False
    await asyncio.sleep(0.1)
    assert await heard_lesson.gaps() == []


async def test_a_client_that_cannot_count_packets_does_not_end_the_watch(
    heard_lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((_, one),) = recorded_streams(heard_lesson.recorder).values()
    monkeypatch.setattr(one, "_received", AsyncMock(side_effect=RuntimeError("no answer")))
    await asyncio.sleep(0.1)
    monkeypatch.undo()
    monkeypatch.setattr(packet_stats, "LOST_SECONDS", 0.2)
    heard_lesson.room.is_wire_cut = True
    await until(lambda: open_gaps(heard_lesson.recorder), "it is noticed")


async def test_a_room_that_has_ended_answers_no_more_calls(lesson: Lesson) -> None:
    """What stays registered keeps the native client's memory of the room."""
    begins(lesson)
    me = lesson.room.rtc.local_participant
    await lesson.recorder.aclose()
    offered = {call.args[0] for call in me.register_rpc_method.call_args_list}
    assert {call.args[0] for call in me.unregister_rpc_method.call_args_list} == offered != set()


async def test_a_room_that_could_not_be_joined_closes_like_any_other(
    tmp_path: Path, worker_state: WorkerState, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(output_dir=str(tmp_path), captions=True, gemini_api_key="k", target_languages=("es",))
    caplog.set_level(logging.INFO, "recorder")
    before = asyncio.all_tasks()
    recorder = RoomRecorder(rtc.Room(), ROOM, settings, Detector)
    recorder.attach()
    await recorder.aclose()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert "Room over" in caplog.text and "Captions over" in caplog.text


async def test_a_client_that_has_failed_does_not_keep_the_room_from_closing(
    lesson: Lesson, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "recorder")
    begins(lesson)
    lesson.room.rtc.local_participant.unregister_rpc_method.side_effect = RuntimeError(
        "the client has failed"
    )
    await lesson.recorder.aclose()
    assert "Room over" in caplog.text


async def test_speech_before_the_recorder_joined_is_one_gap(lesson: Lesson) -> None:
    lesson.begins()
    for _ in range(2):
        lesson.subscribed()
    assert await lesson.gaps() == [("TR_1", "no_recorder")]


async def test_a_track_that_is_wanted_again_has_no_gap_twice(lesson: Lesson) -> None:
    lesson.publication.encryption_type = rtc.EncryptionType.GCM
    lesson.begins()  # the track was there before
    for metadata in (STUDENT, TEACHER, STUDENT):
        await asyncio.sleep(2 * MIN_GAP_SECONDS)
        lesson.room.becomes(lesson.teacher, metadata)
    await lesson.gaps()
    first, second = gaps(lesson.folder)
    assert first["end"] < second["start"]


async def test_a_track_without_frames_that_is_no_longer_recorded_is_no_problem(
    lesson: Lesson, worker_state: WorkerState
) -> None:
    begins(lesson)
    lesson.subscribed()
    await until(lambda: worker_state.snapshot().problems, "a problem is reported")
    lesson.room.becomes(lesson.teacher, STUDENT)
    await until(lambda: not worker_state.snapshot().problems, "it is well")
    assert await lesson.gaps() == [("TR_1", "deaf")]


# --- what nobody foresaw ---


async def test_a_client_that_refuses_to_subscribe_is_asked_again_and_ends_no_watch(
    lesson: Lesson,
    worker_state: WorkerState,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(track_watch, "OVERDUE_SECONDS", 0.1)
    monkeypatch.setattr(track_actions, "RETRY_SECONDS", 0.05)
    lesson.publication.set_subscribed.side_effect = RuntimeError("odd")
    begins(lesson)
    await until(
        lambda: caplog.text.count("A step for TR_1 failed (Action.SUBSCRIBE)") > 1, "it is asked for again"
    )
    lesson.publication.set_subscribed.side_effect = None
    ben = lesson.room.joins("ben", TEACHER, "TR_2")
    await until(lambda: ben.track_publications["TR_2"].set_subscribed.call_count > 2, "the watch goes on")
    assert not worker_state.snapshot().problems
    monkeypatch.setattr(track_watch, "OVERDUE_SECONDS", 60.0)
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 60.0)
    await until(lambda: is_asked_for(lesson.teacher, "TR_1"), "it is wanted")
    lesson.subscribed()
    await until(lambda: "TR_1" not in open_gaps(lesson.recorder), "the first packet")
    assert ("TR_1", "forbidden") in await lesson.gaps()


async def test_a_stream_that_cannot_be_opened_is_a_gap_and_asked_for_again(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track_watch, "NO_FRAMES_SECONDS", 60.0)
    monkeypatch.setattr(track_actions, "RETRY_SECONDS", 0.05)
    with monkeypatch.context() as broken:
        broken.setattr(streams, "open_stream", MagicMock(side_effect=RuntimeError("odd")))
        begins(lesson)
        lesson.subscribed()
    assert open_gaps(lesson.recorder)["TR_1"].reason is GapReason.NO_FRAMES
    lesson.publication.set_subscribed.reset_mock()
    await until(lambda: is_asked_for(lesson.teacher, "TR_1"), "it is asked for again")
    await asyncio.sleep(2 * MIN_GAP_SECONDS)
    lesson.subscribed()
    await until(lambda: not open_gaps(lesson.recorder), "the first packet")
    assert await lesson.gaps() == [("TR_1", "deaf")]


async def test_a_watch_that_breaks_begins_again_and_the_health_answer_says_so(
    lesson: Lesson, worker_state: WorkerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised, "RESTART_SECONDS", (0.01,))
    monkeypatch.setattr(supervised, "WORKING_SECONDS", 0.3)
    report, failures = track_watch.TrackWatch.report, iter([KeyError("odd")])

    def odd(watch: track_watch.TrackWatch) -> None:
        for error in failures:
            raise error
        report(watch)

    monkeypatch.setattr(track_watch.TrackWatch, "report", odd)
    begins(lesson)
    await until(lambda: worker_state.snapshot().problems, "it has failed")
    assert worker_state.snapshot().problems == ["failing and being restarted: watch over tracks"]
    await until(lambda: not worker_state.snapshot().problems, "it works again")
    lesson.subscribed()
    await until(lambda: is_asked_for(lesson.teacher, "TR_1"), "it watches")
