"""One room's pipeline on a real folder: with slow, full and dead disks, and what may be lost then."""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archive import files, handover_note
from archive.handover_note import HandoverNote, NoteLock, RoomProgress, TrackProgress
from archive.manifest import read_gaps
from archive.names import HANDOVER_NOTE
from archive.recovery import recover_all
from audio_processor import Closed, Grown, Opened
from core import notify, supervised
from core.records import (
    SAMPLE_RATE,
    EndReason,
    GapReason,
    Pcm,
    SegmentRecord,
    StreamClock,
    TextOptions,
    TrackInfo,
    utc_now,
)
from core.worker_state import WorkerState
from devtools.room_folders import samples, until
from devtools.sample_room import ANNA, BOB, CLOCK, ROOM, noise, segment_of, settings_for
from recording import disk_thread, handover_notes, segment_writer, track_sink
from recording.disk_thread import DiskThread
from recording.gaps import Gap
from recording.segment_writer import SegmentWriter, Totals
from recording.track_sink import TrackSink
from storage import PartFile, RoomFolder
from support.disk import RefusingDisk, assert_sound, leftovers, manifest, place

FOR_EVER = 10**9


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover_notes, "NOTE_SECONDS", 0.01)
    monkeypatch.setattr(disk_thread, "RETRY_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(segment_writer, "CLOSE_TIMEOUT_SECONDS", 0.3)


@pytest.fixture(autouse=True)
def every_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "recorder")


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.DEBUG) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


def grow(sink: TrackSink, pcm: Pcm, start: int, clock: StreamClock = CLOCK) -> None:
    """A segment opens and is spoken, 96 ms at a time."""
    sink.take(Opened(start, start), clock)
    for first in range(0, len(pcm), 1_536):
        sink.take(Grown(start, pcm[first : first + 1_536]), clock)


def close(sink: TrackSink, pcm: Pcm, start: int, reason: EndReason = EndReason.PAUSE) -> None:
    sink.take(Closed(segment_of(pcm, start, reason)), CLOCK)


def speak(sink: TrackSink, pcm: Pcm, start: int = 0) -> None:
    grow(sink, pcm, start)
    close(sink, pcm, start)


def spoken(folder: Path, track: TrackInfo = ANNA) -> dict[int, Pcm]:
    """The sound of a participant's segments, by the sample they begin at."""
    return {
        place(line): samples(folder / line["file"])
        for line in manifest(folder)
        if line["participant_identity"] == track.participant_identity
    }


def assert_spoken(folder: Path, wanted: dict[int, Pcm], track: TrackInfo = ANNA) -> None:
    seen = spoken(folder, track)
    assert sorted(seen) == sorted(wanted), "segments"
    for start, pcm in wanted.items():
        np.testing.assert_array_equal(seen[start], pcm)


def lecture(segments: int, seconds: float = 1.0) -> dict[int, Pcm]:
    length = round(seconds * SAMPLE_RATE)
    return {index * 2 * length: noise(length, seed=index) for index in range(segments)}


# --- a disk that works ---


async def test_segments_are_saved_in_the_order_given(tmp_path: Path) -> None:
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    sink, wanted = room.sink(ANNA), lecture(5)
    for start, pcm in wanted.items():
        speak(sink, pcm, start)
    await room.aclose()
    records = assert_sound(tmp_path / "math101")
    assert [line["number"] for line in records] == [1, 2, 3, 4, 5]
    assert [place(line) for line in records] == list(wanted)
    assert_spoken(tmp_path / "math101", wanted)


async def test_two_teachers_share_one_numbering_and_nothing_else(tmp_path: Path) -> None:
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    anna, bob = room.sink(ANNA), room.sink(BOB)
    of_anna, of_bob = noise(32_000, seed=1), noise(24_000, seed=2)
    grow(anna, of_anna, 0)
    grow(bob, of_bob, 0)
    close(anna, of_anna, 0)
    close(bob, of_bob, 0)
    totals = await room.aclose()
    assert [line["number"] for line in assert_sound(tmp_path / "math101")] == [1, 2]
    assert_spoken(tmp_path / "math101", {0: of_anna}, ANNA)
    assert_spoken(tmp_path / "math101", {0: of_bob}, BOB)
    assert totals == Totals(segments=2, speech_seconds=3.5, participants={"anna", "bob"})


async def test_two_streams_of_one_track_are_two_segments(tmp_path: Path) -> None:
    """A full reconnect: the same track, counted from a new beginning."""
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    sink = room.sink(ANNA)
    later = StreamClock(CLOCK.anchor.replace(minute=30))
    grow(sink, noise(16_000), 0)
    grow(room.sink(ANNA), noise(16_000, seed=1), 0, later)
    close(sink, noise(16_000), 0)
    room.sink(ANNA).take(Closed(segment_of(noise(16_000, seed=1))), later)
    await room.aclose()
    first, second = assert_sound(tmp_path / "math101")
    assert (first["start"], second["start"]) == ("2025-10-08T14:05:23.000Z", "2025-10-08T14:30:23.000Z")


async def test_a_room_in_which_nobody_speaks_saves_nothing(tmp_path: Path) -> None:
    assert await SegmentWriter(settings_for(tmp_path), ROOM).aclose() == Totals()
    assert manifest(tmp_path / "math101") == []


async def test_a_room_that_is_silent_in_the_end_closes_at_once(tmp_path: Path) -> None:
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    speak(room.sink(ANNA), noise(16_000))
    await until(lambda: room.totals.segments == 1, "the segment is saved")
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        assert (await room.aclose()).segments == 1


@pytest.mark.slow
async def test_a_saved_segment_is_held_no_longer(tmp_path: Path) -> None:
    gc.collect()  # what earlier tests have left
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    for start, pcm in lecture(5).items():
        speak(room.sink(ANNA), pcm, start)
    await until(lambda: room.totals.segments == 5, "the segments are saved")
    assert not [held for held in gc.get_objects() if isinstance(held, PartFile)]
    await room.aclose()
    await until(lambda: not disk_threads(), "the disk's thread has ended")


def disk_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("disk")]


async def test_the_log_says_what_was_begun_and_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    sink = room.sink(ANNA)
    grow(sink, noise(40_000), 0)
    close(sink, noise(40_000), 0, EndReason.MUTED)
    await room.aclose()
    assert lines(caplog) == [
        "Speech begun",
        "Segment saved: segment_001_20251008_140523.wav, 2.5 s, confidence 0.90, ended by muted",
    ]
    for record in caplog.records:
        assert record.__dict__["room"] == "math101" and record.__dict__["participant"] == "anna"


async def test_listeners_are_notified_of_existing_files_only(tmp_path: Path) -> None:
    told: list[tuple[int, bool]] = []

    class Listener:
        def segment_saved(self, record: SegmentRecord, path: Path) -> None:
            told.append((record.number, path.exists() and path.name == record.file))

    room = SegmentWriter(settings_for(tmp_path), ROOM, [Listener(), Listener()])
    for start, pcm in lecture(2).items():
        speak(room.sink(ANNA), pcm, start)
    await room.aclose()
    assert told == [(1, True), (1, True), (2, True), (2, True)]


async def part_has_grown(folder: Path, pcm: Pcm) -> Path:
    """The open segment's file, as soon as it holds all that it can of what has been spoken."""
    part = folder / "segment_001_20251008_140523.wav.part"
    enough = len(pcm) - (track_sink.BATCH_SECONDS + 0.1) * SAMPLE_RATE
    await until(lambda: part.exists() and len(samples(part)) >= enough, "the part has grown")
    return part


async def test_speech_is_on_disk_before_it_ends(tmp_path: Path) -> None:
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    sink, pcm = room.sink(ANNA), noise(48_000)
    grow(sink, pcm, 0)
    part = await part_has_grown(tmp_path / "math101", pcm)
    np.testing.assert_array_equal(samples(part), pcm[: len(samples(part))])
    close(sink, pcm, 0)
    await room.aclose()
    assert_spoken(tmp_path / "math101", {0: pcm})


async def test_at_a_split_each_part_has_its_own(tmp_path: Path) -> None:
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    sink, pcm, middle = room.sink(ANNA), noise(64_000), 32_000
    grow(sink, pcm[:48_000], 0)
    sink.take(Opened(middle, middle), CLOCK)
    sink.take(Grown(middle, pcm[middle:48_000]), CLOCK)
    close(sink, pcm[:middle], 0, EndReason.MAX_LENGTH)
    sink.take(Grown(middle, pcm[48_000:]), CLOCK)
    close(sink, pcm[middle:], middle)
    await room.aclose()
    assert_sound(tmp_path / "math101")
    assert_spoken(tmp_path / "math101", {0: pcm[:middle], middle: pcm[middle:]})


# --- a disk that is slow ---


@pytest.mark.parametrize("method", ["append", "commit"])
async def test_a_disk_that_stalls_delays_nothing_but_the_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    work, stalls = getattr(PartFile, method), iter([1.2])
    is_stalled, ticks_meanwhile = False, 0
    called = threading.Event()

    def slow(self: PartFile, *arguments: Any) -> Any:
        nonlocal is_stalled
        called.set()
        is_stalled = True
        time.sleep(next(stalls, 0))
        is_stalled = False
        return work(self, *arguments)

    monkeypatch.setattr(PartFile, method, slow)

    async def tick() -> None:
        nonlocal ticks_meanwhile
        while True:
            await asyncio.sleep(0.01)
            ticks_meanwhile += is_stalled

    ticking = asyncio.create_task(tick())
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    sink, wanted = room.sink(ANNA), lecture(4)
    for start, pcm in wanted.items():
        grow(sink, pcm, start)
        if method == "append":  # a segment that is closed at once needs no file that grows
            await until(called.is_set, "it is appended to")
        await asyncio.sleep(0.05)
        close(sink, pcm, start)
        await asyncio.sleep(0.05)
    await room.aclose()
    ticking.cancel()
    assert ticks_meanwhile > 10, "the event loop stood still"
    assert_sound(tmp_path / "math101")
    assert_spoken(tmp_path / "math101", wanted)
    (said,) = lines(caplog, logging.WARNING)
    assert said.startswith("The disk took 1.") and said.endswith("nothing is lost")


class Gate:
    """Holds the disk up until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open = threading.Event()
        opened = RoomFolder.open.__func__  # type: ignore[attr-defined]

        def held_up(cls: type[RoomFolder], *arguments: Any) -> RoomFolder:
            self._open.wait(20)
            folder = opened(cls, *arguments)
            assert isinstance(folder, RoomFolder)
            return folder

        monkeypatch.setattr(RoomFolder, "open", classmethod(held_up))

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.open()


async def test_what_waits_to_grow_is_dropped_when_the_segment_brings_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    appended: list[int] = []
    append = PartFile.append

    def watched(self: PartFile, pcm: Pcm) -> None:
        appended.append(len(pcm))
        append(self, pcm)

    monkeypatch.setattr(PartFile, "append", watched)
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    anna, bob = room.sink(ANNA), room.sink(BOB)
    speak(anna, noise(32_000), 0)
    grow(bob, noise(32_000, seed=1), 0)
    gate.open()
    await until(lambda: sum(appended) >= 16_000, "the open segment has grown")
    close(bob, noise(32_000, seed=1), 0)
    await room.aclose()
    assert sum(appended) <= 32_000, "the closed segment was written twice"
    assert_spoken(tmp_path / "math101", {0: noise(32_000)}, ANNA)
    assert_spoken(tmp_path / "math101", {0: noise(32_000, seed=1)}, BOB)


async def test_when_memory_is_full_the_oldest_speech_goes_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, gate: Gate
) -> None:
    room = SegmentWriter(settings_for(tmp_path, max_unsaved_seconds=3.0), ROOM)
    sink, wanted = room.sink(ANNA), lecture(8)
    for start, pcm in wanted.items():
        speak(sink, pcm, start)
    gate.open()
    totals = await room.aclose()
    kept = dict(list(wanted.items())[-3:])
    assert_spoken(tmp_path / "math101", kept)
    lost = lines(caplog, logging.ERROR)
    assert len(lost) == 5
    assert lost[0].startswith("LOST 1.0 s of speech from 2025-10-08T14:05:23.000Z on: ")
    assert all("MAX_UNSAVED_SECONDS" in line for line in lost)
    assert totals == Totals(
        segments=3, speech_seconds=3, lost_seconds=5, gap_seconds=5, participants={"anna"}
    )
    gaps = list(read_gaps(tmp_path / "math101"))
    assert [gap.start for gap in gaps] == [CLOCK.at(start) for start in list(wanted)[:5]]
    assert {(gap.participant_identity, gap.seconds, gap.reason) for gap in gaps} == {
        ("anna", 1.0, GapReason.UNSAVED)
    }


async def test_speech_that_memory_let_go_leaves_nothing_behind(tmp_path: Path, gate: Gate) -> None:
    room = SegmentWriter(settings_for(tmp_path, max_unsaved_seconds=3.0), ROOM)
    for start, pcm in lecture(8).items():
        speak(room.sink(ANNA), pcm, start)
    gate.open()
    await room.aclose()
    assert_sound(tmp_path / "math101")


async def test_a_segment_longer_than_the_bound_is_kept_while_it_is_the_last(
    tmp_path: Path, gate: Gate
) -> None:
    room = SegmentWriter(settings_for(tmp_path, max_unsaved_seconds=1.0), ROOM)
    for start, pcm in (wanted := lecture(2, seconds=2)).items():
        speak(room.sink(ANNA), pcm, start)
    gate.open()
    assert (await room.aclose()).lost_seconds == 2
    (_, last) = wanted
    assert_spoken(tmp_path / "math101", {last: wanted[last]})


# --- a disk that refuses ---


async def test_a_disk_that_refuses_for_a_while_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk, wanted = RefusingDisk(monkeypatch), lecture(4)
    disk.refuse(errno.ENOSPC, 0, FOR_EVER)
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    for start, pcm in wanted.items():
        speak(room.sink(ANNA), pcm, start)
        await asyncio.sleep(0.03)
    assert len(disk.refused) > 3
    disk.relent()
    totals = await room.aclose()
    assert_spoken(tmp_path / "math101", wanted)
    assert (totals.segments, totals.lost_seconds) == (4, 0)
    troubles = lines(caplog, logging.WARNING)
    assert troubles == [
        "The disk refuses: No space left on device. Speech is kept in memory until it can be written",
        "The disk works again",
    ]


async def test_while_the_disk_refuses_the_worker_reports_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker_state = WorkerState()
    for module in (disk_thread, segment_writer):
        monkeypatch.setattr(module, "worker_state", worker_state)
    worker_state.room_opened(ROOM.sid)
    disk = RefusingDisk(monkeypatch)
    disk.refuse(errno.ENOSPC, 0, FOR_EVER)
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    for start, pcm in lecture(4).items():
        speak(room.sink(ANNA), pcm, start)
    await until(lambda: worker_state.snapshot().problems, "the problem is reported")
    seen = worker_state.snapshot()
    assert seen.problems == ["the disk refuses: No space left on device"]
    assert seen.rooms[0].unsaved_seconds == 4
    assert worker_state.registry.get_sample_value("recorder_segments_total") == 0
    disk.relent()
    await room.aclose()
    seen = worker_state.snapshot()
    assert (seen.problems, seen.rooms[0].unsaved_seconds) == ([], 0)
    counted = worker_state.registry.get_sample_value
    assert (counted("recorder_segments_total"), counted("recorder_speech_seconds_total")) == (4, 4)
    assert counted("recorder_lost_seconds_total") == 0
    assert (counted("recorder_disk_write_seconds_count") or 0) > 4


async def test_a_disk_that_fills_up_in_mid_sentence_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, pcm = RefusingDisk(monkeypatch), noise(80_000)
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    sink, folder = room.sink(ANNA), tmp_path / "math101"
    sink.take(Opened(0, 0), CLOCK)
    for index, first in enumerate(range(0, len(pcm), 16_000)):
        if index == 1:
            disk.refuse(errno.ENOSPC, 0, FOR_EVER)
        if index == 3:
            disk.relent()
        sink.take(Grown(0, pcm[first : first + 16_000]), CLOCK)
        await asyncio.sleep(0.05)
    close(sink, pcm, 0)
    await room.aclose()
    assert disk.refused
    assert_sound(folder)
    assert_spoken(folder, {0: pcm})


async def test_an_hour_without_a_disk_leaves_no_gap_in_the_numbers_and_no_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk often still makes a file, and then takes nothing into it."""
    disk, wanted = RefusingDisk(monkeypatch), lecture(3)
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    await until(lambda: (tmp_path / "math101").is_dir(), "the folder is there")
    refuses = disk.refuses
    monkeypatch.setattr(disk, "refuses", lambda step: step == "write" and refuses(step))
    disk.refuse(errno.ENOSPC, 0, FOR_EVER)
    for start, pcm in wanted.items():
        speak(room.sink(ANNA), pcm, start)
    await until(lambda: len(disk.refused) > 10, "the disk has refused often")
    disk.relent()
    await room.aclose()
    assert_spoken(tmp_path / "math101", wanted)
    assert leftovers(tmp_path / "math101") == []
    assert [line["number"] for line in manifest(tmp_path / "math101")] == [1, 2, 3]


async def test_a_disk_that_refuses_until_the_end_delays_no_shutdown_and_the_loss_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = RefusingDisk(monkeypatch)
    disk.refuse(errno.EROFS, 0, FOR_EVER)
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    for start, pcm in lecture(3).items():
        speak(room.sink(ANNA), pcm, start)
    began = time.monotonic()
    totals = await room.aclose()
    assert time.monotonic() - began < 3
    assert len(disk.refused) < 500, "the disk was asked without a pause"
    disk.relent()
    assert totals == Totals(lost_seconds=3)
    lost = [line for line in lines(caplog, logging.ERROR) if line.startswith("LOST 1.0 s of speech from ")]
    assert len(lost) == 3
    assert all("Read-only file system" in line for line in lost)
    assert lines(caplog).count("Speech begun") == 3


async def test_a_disk_that_hangs_until_the_end_delays_no_shutdown_and_the_loss_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The segment that is being written is lost, like those after it. If the disk answers later, what it has of that
    segment becomes a segment."""
    monkeypatch.setattr(segment_writer, "HANGING_SECONDS", 0.1)
    hangs, answers = threading.Event(), threading.Event()

    def hang(*_: Any) -> None:
        hangs.set()
        answers.wait(20)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(PartFile, "commit", hang)
    room, wanted = SegmentWriter(settings_for(tmp_path), ROOM), lecture(3)
    sink, folder = room.sink(ANNA), tmp_path / "math101"
    room.notes.start()
    await until(lambda: note_in(tmp_path), "the disk is told")
    grow(sink, wanted[0], 0)
    await part_has_grown(folder, wanted[0])
    for start, pcm in wanted.items():
        close(sink, pcm, start)
    await until(hangs.is_set, "the disk hangs")
    assert await room.aclose() == Totals(lost_seconds=3)
    lost = [line for line in lines(caplog, logging.ERROR) if line.startswith("LOST 1.0 s of speech from ")]
    assert len(lost) == 3
    assert all("the disk does not answer" in line for line in lost)
    answers.set()
    await until(lambda: manifest(folder) and not leftovers(folder), "what is on the disk is a segment")
    assert [line["end_reason"] for line in assert_sound(folder)] == ["recovered"]
    await until(lambda: not disk_threads(), "the disk's thread has ended")
    lock = NoteLock(folder)
    assert lock.acquire(), "the room looks as if its recorder were alive"
    lock.release()


async def test_a_disk_that_dies_in_mid_sentence_leaves_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part stays locked as long as it is open, and would never be recovered by this process."""
    disk, pcm = RefusingDisk(monkeypatch), noise(32_000)
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    sink, folder = room.sink(ANNA), tmp_path / "math101"
    grow(sink, pcm, 0)
    await part_has_grown(folder, pcm)
    disk.refuse(errno.EIO, 0, FOR_EVER)
    close(sink, pcm, 0)
    await room.aclose()
    disk.relent()
    (record,) = recover_all(settings_for(tmp_path))
    assert record.end_reason is EndReason.RECOVERED
    assert record.duration_seconds >= 2 - track_sink.BATCH_SECONDS - 0.1


async def test_a_bug_on_the_disk_thread_is_a_refusal_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    commit, troubles = PartFile.commit, iter([ValueError("odd"), KeyError("odder")])

    def buggy(self: PartFile, *arguments: Any) -> Any:
        trouble = next(troubles, None)
        if trouble is not None:
            raise trouble
        return commit(self, *arguments)

    monkeypatch.setattr(PartFile, "commit", buggy)
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    speak(room.sink(ANNA), noise(16_000))
    await room.aclose()
    assert_spoken(tmp_path / "math101", {0: noise(16_000)})
    first = next(record for record in caplog.records if record.levelno == logging.ERROR)
    assert "odd" in first.getMessage() and first.exc_info, "a bug is shown with its place"


async def test_the_folder_of_a_hostile_room_is_below_the_output_folder(tmp_path: Path) -> None:
    room = SegmentWriter(settings_for(tmp_path), replace(ROOM, name="../../x\x00\n"))
    speak(room.sink(ANNA), noise(16_000))
    await room.aclose()
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert len(assert_sound(folder)) == 1


async def test_the_text_options_are_those_at_the_end_of_the_segment(tmp_path: Path) -> None:
    text_options = {"anna": TextOptions("ar-EG", ("es",)), "bob": TextOptions()}
    room = SegmentWriter(
        settings_for(tmp_path), ROOM, text_options=lambda track: text_options[track.participant_identity]
    )
    sink = room.sink(ANNA)
    speak(sink, noise(16_000))
    text_options["anna"] = TextOptions("ar-EG", ("es", "de"))
    speak(sink, noise(16_000), 32_000)
    speak(room.sink(BOB), noise(16_000))
    await room.aclose()
    seen = [
        (line["speaking_language"], line["caption_languages"]) for line in assert_sound(tmp_path / "math101")
    ]
    assert seen == [("ar-EG", ["es"]), ("ar-EG", ["es", "de"]), ("", [])]


async def test_a_segment_is_saved_if_its_text_options_are_not_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: TrackInfo) -> TextOptions:
        raise RuntimeError("no such participant")

    room = SegmentWriter(settings_for(tmp_path), ROOM, text_options=broken)
    speak(room.sink(ANNA), noise(16_000))
    await room.aclose()
    assert_spoken(tmp_path / "math101", {0: noise(16_000)})
    assert "no such participant" in caplog.text


async def test_a_saved_segment_notifies(tmp_path: Path) -> None:
    received: list[Path] = []
    stop = notify.listen("segments.jsonl", received.append)
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    speak(room.sink(ANNA), noise(16_000))
    await room.aclose()
    await until(lambda: received, "the notification")
    stop()
    assert received == [tmp_path / "math101" / "segments.jsonl"]


# --- what may be missing ---


def gaps_of(folder: Path) -> list[tuple[float, GapReason]]:
    return [(gap.seconds, gap.reason) for gap in read_gaps(folder)]


async def test_a_recorder_records_the_gap_between_its_predecessor_and_itself(tmp_path: Path) -> None:
    settings, now = settings_for(tmp_path), CLOCK.anchor
    RoomFolder.open(settings, ROOM).handover.write(RoomProgress(now, {}))
    room = SegmentWriter(settings, ROOM)
    room.record_gap(ANNA, Gap(None, now + timedelta(seconds=7), GapReason.NO_RECORDER))
    assert (await room.aclose()).gap_seconds == 7
    (gap,) = read_gaps(tmp_path / "math101")
    assert (gap.start, gap.end) == (now, now + timedelta(seconds=7))
    assert (gap.participant_identity, gap.track_sid, gap.room_sid) == ("anna", ANNA.track_sid, ROOM.sid)


async def test_an_earlier_session_of_the_same_room_is_no_gap(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    RoomFolder.open(settings, replace(ROOM, sid="RM_before")).handover.write(RoomProgress(CLOCK.anchor, {}))
    room = SegmentWriter(settings, replace(ROOM, started_at=CLOCK.anchor))
    room.record_gap(ANNA, Gap(None, CLOCK.anchor + timedelta(seconds=1), GapReason.NO_RECORDER))
    await room.aclose()
    assert not gaps_of(tmp_path / "math101"), "a room that has just opened"


async def test_a_room_that_is_older_than_its_first_recorder_has_a_gap(tmp_path: Path) -> None:
    room = SegmentWriter(settings_for(tmp_path), replace(ROOM, started_at=CLOCK.anchor))
    room.record_gap(ANNA, Gap(None, CLOCK.anchor + timedelta(seconds=90), GapReason.NO_RECORDER))
    await room.aclose()
    assert gaps_of(tmp_path / "math101") == [(90.0, GapReason.NO_RECORDER)]


async def test_a_recorder_writes_the_handover_note_while_it_receives(tmp_path: Path) -> None:
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    room.notes.start()
    received = tmp_path / "math101" / ".heard"
    await until(received.exists, "the disk is told")
    room.notes.stop()
    stopped = utc_now()
    await room.aclose()
    successor = RoomFolder.open(settings_for(tmp_path), ROOM)
    before = successor.handover.received_before("TR_any", stopped)
    assert before is not None
    assert before <= stopped
    successor.handover.write(RoomProgress(stopped + timedelta(hours=1), {}))
    assert successor.handover.received_before("TR_any", stopped) == before, (
        "its own note is not the one before"
    )


def note_in(folder: Path) -> HandoverNote | None:
    path = folder / "math101" / HANDOVER_NOTE
    return HandoverNote.in_line(path.read_bytes()) if path.exists() else None


async def test_the_note_says_until_when_each_track_was_received(tmp_path: Path) -> None:
    settings, now = settings_for(tmp_path), CLOCK.anchor
    seconds = timedelta(seconds=1)
    RoomFolder.open(settings, ROOM).handover.write(
        RoomProgress(now, {"TR_before": TrackProgress(now - 5 * seconds, 0.5)})
    )
    told = {
        "TR_1": TrackProgress(now + seconds),
        "TR_late": TrackProgress(now + seconds, 0.25),
        "TR_before": None,
    }
    room = SegmentWriter(settings, ROOM, progress=lambda: RoomProgress(now + seconds, told))
    room.notes.start()
    await until(lambda: (note := note_in(tmp_path)) is not None and "TR_1" in note.tracks, "the disk is told")
    room.notes.stop()
    await room.aclose()
    successor = RoomFolder.open(settings, ROOM)
    assert successor.handover.received_before("TR_1", now + 9 * seconds) == now + seconds
    assert successor.handover.received_before("TR_late", now + 9 * seconds) == now + 0.75 * seconds
    assert successor.handover.received_before("TR_before", now + 9 * seconds) == now - 5.5 * seconds, (
        "as the one before us had said"
    )


async def test_the_note_does_not_go_beyond_what_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the process is killed now, nothing is lost that the note calls received."""
    append, may_go_on = PartFile.append, threading.Event()

    def stall(part: PartFile, pcm: Pcm) -> None:
        assert may_go_on.wait(30)
        append(part, pcm)

    monkeypatch.setattr(PartFile, "append", stall)
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    sink, pcm = room.sink(ANNA), noise(1_600)
    grow(sink, pcm, 0)
    room.notes.start()
    await asyncio.sleep(0.2)
    assert note_in(tmp_path) is None
    may_go_on.set()
    await until(lambda: note_in(tmp_path), "the disk is told")
    (part,) = (tmp_path / "math101").glob("*.part")
    assert part.stat().st_size == 44 + 2 * len(pcm), "less than a batch, and there all the same"
    close(sink, pcm, 0)
    await room.aclose()
    assert_spoken(tmp_path / "math101", {0: pcm})


async def test_while_the_disk_refuses_no_note_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = RefusingDisk(monkeypatch)
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    sink, pcm = room.sink(ANNA), noise(16_000)
    room.notes.start()
    await until(lambda: note_in(tmp_path), "the disk is told")
    disk.refuse(errno.ENOSPC, 0, FOR_EVER)
    grow(sink, pcm, 0)
    await until(lambda: disk.refused, "the disk refuses")
    before = note_in(tmp_path)
    await asyncio.sleep(0.1)
    assert note_in(tmp_path) == before
    disk.relent()
    close(sink, pcm, 0)
    await until(lambda: note_in(tmp_path) != before, "all is on disk, and the disk is told")
    await room.aclose()
    assert_spoken(tmp_path / "math101", {0: pcm})


async def test_one_track_on_disk_does_not_advance_the_note_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk refuses one track's file, or its growth, and accepts everything of the other track."""
    begin, write, refused = RoomFolder.begin, PartFile._write_after_synced, {"anna": "begin"}
    of_anna: list[PartFile] = []

    def refusing_begin(folder: RoomFolder, track: TrackInfo, *rest: Any) -> PartFile:
        if refused.get(track.participant_identity) == "begin":
            raise OSError(errno.ENOSPC, "full")
        part = begin(folder, track, *rest)
        of_anna.extend([part] if track is ANNA else [])
        return part

    def refusing_write(part: PartFile, pcm: Pcm) -> None:
        if refused.get("anna") == "write" and part in of_anna:
            raise OSError(errno.ENOSPC, "full")
        write(part, pcm)

    monkeypatch.setattr(RoomFolder, "begin", refusing_begin)
    monkeypatch.setattr(PartFile, "_write_after_synced", refusing_write)
    for how in ("begin", "write"):
        refused["anna"] = how
        room = SegmentWriter(settings_for(tmp_path / how), ROOM)
        anna, bob = room.sink(ANNA), room.sink(BOB)
        grow(anna, noise(16_000), 0)
        grow(bob, noise(16_000), 0)
        room.notes.start()
        for _ in range(5):
            bob.take(Grown(0, noise(16_000)), CLOCK)
            await until(lambda room=room: not room._disk.trouble, "what the disk did last, it did")  # type: ignore[misc]
            await asyncio.sleep(0.03)
            assert note_in(tmp_path / how) is None
        refused.clear()
        close(anna, noise(16_000), 0)
        close(bob, noise(16_000), 0)
        await until(lambda how=how: note_in(tmp_path / how), "all is on disk")  # type: ignore[misc]
        await room.aclose()


@pytest.mark.parametrize("kind", ["folder", "link", "pipe", "nonsense", "year 1", "unreadable"])
async def test_an_unusable_note_does_not_delay_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    path = tmp_path / "math101" / HANDOVER_NOTE
    path.parent.mkdir()
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/nowhere")
    elif kind == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("has no pipes with names")
        os.mkfifo(path)
    elif kind == "unreadable":
        path.write_text(ROOM.sid)
        _refuse_to_open(path, monkeypatch)
    else:
        until_then = "0001-01-01T00:00:00+14:00" if kind == "year 1" else 5
        path.write_text(json.dumps({"room_sid": ROOM.sid, "until": until_then, "tracks": {}}) + "\n")
    room = SegmentWriter(
        settings_for(tmp_path), ROOM, progress=lambda: RoomProgress(utc_now(), {"TR_9": None})
    )
    room.notes.start()
    room.record_gap(ANNA, Gap(None, utc_now(), GapReason.NO_RECORDER))
    speak(room.sink(ANNA), noise(16_000))
    await until(lambda: room.totals.segments == 1, "the segment is saved")
    await room.aclose()
    assert room._task.exception() is None
    assert "failed" not in caplog.text


async def test_a_note_of_an_older_version_is_read(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    path = RoomFolder.open(settings, ROOM).path / HANDOVER_NOTE
    path.parent.mkdir(exist_ok=True)
    path.write_text(ROOM.sid)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    before = RoomFolder.open(settings, ROOM).handover.received_before("TR_any", utc_now())
    assert before is not None
    assert before.timestamp() == 1_700_000_000


def _refuse_to_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_private = files.open_private

    def refusing(what: Path, flags: int) -> Any:
        if what == path:
            raise OSError(errno.EIO, "broken")
        return open_private(what, flags)

    monkeypatch.setattr(handover_note, "open_private", refusing)


@pytest.mark.parametrize("has_file", [True, False])
async def test_a_discarded_segment_does_not_end_the_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_file: bool
) -> None:
    """What is missing of it on disk has been recorded as a gap by then."""
    disk = RefusingDisk(monkeypatch)
    room = SegmentWriter(settings_for(tmp_path, max_unsaved_seconds=10), ROOM)
    anna, bob = room.sink(ANNA), room.sink(BOB)
    for sink in (anna, bob) if has_file else ():
        grow(sink, noise(16_000), 0)
    room.notes.start()
    await until(lambda: note_in(tmp_path), "the disk is told")
    disk.refuse(errno.ENOSPC, 0, FOR_EVER)
    for sink in (anna, bob):
        if has_file:
            sink.take(Grown(0, noise(16_000)), CLOCK)
        else:
            grow(sink, noise(16_000), 0)
    await until(lambda: len(disk.refused) >= 2, "the disk refuses both")
    close(anna, noise(32_000), 0)
    close(bob, noise(32_000), 0)
    for number in range(1, 7):
        speak(anna, noise(32_000), number * 64_000)
    await until(lambda: room.totals.lost_seconds > 0, "memory is full")
    before = note_in(tmp_path)
    disk.relent()
    await until(lambda: note_in(tmp_path) != before, "the disk is told again")
    await room.aclose()
    assert {gap.reason for gap in read_gaps(tmp_path / "math101")} == {GapReason.UNSAVED}


# --- what nobody foresaw ---


class Odd:
    """A stage that breaks at the first segment."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def segment_saved(self, record: SegmentRecord, path: Path) -> None:
        self.told.append(record.number)
        if len(self.told) == 1:
            raise RuntimeError("odd")


async def test_a_failing_stage_loses_no_segment_and_is_notified_of_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Odd(), Odd()
    room = SegmentWriter(settings_for(tmp_path), ROOM, [first, second])
    wanted = lecture(3)
    for start, pcm in wanted.items():
        speak(room.sink(ANNA), pcm, start)
    assert await room.aclose() == Totals(segments=3, speech_seconds=3, participants={"anna"})
    assert_spoken(tmp_path / "math101", wanted)
    assert first.told == second.told == [1, 2, 3]
    assert sum("A stage after saving failed" in line for line in lines(caplog)) == 2


async def test_one_segment_that_cannot_be_handled_is_named_and_ends_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save, wanted = SegmentWriter._save, lecture(3)

    async def odd(room: SegmentWriter, item: Any, segment: Any) -> None:
        if segment.start_sample == list(wanted)[1]:
            raise RuntimeError("odd")
        await save(room, item, segment)

    monkeypatch.setattr(SegmentWriter, "_save", odd)
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    for start, pcm in wanted.items():
        close(room.sink(ANNA), pcm, start)
    totals = await room.aclose()
    assert (totals.segments, totals.lost_seconds, totals.gap_seconds) == (2, 1, 1)
    assert sorted(spoken(tmp_path / "math101")) == [list(wanted)[0], list(wanted)[2]]
    assert [gap.reason for gap in read_gaps(tmp_path / "math101")] == [GapReason.UNSAVED]
    assert any(line.startswith("LOST 1.0 s") and "RuntimeError" in line for line in lines(caplog))


@pytest.mark.parametrize("step", range(5))
async def test_an_interrupted_item_is_handled_again_when_saving_is_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Folder, file, two pieces, commit: the disk does each step, and the task that waits for it is interrupted."""
    monkeypatch.setattr(supervised, "RESTART_SECONDS", (0.01,))
    run, steps = DiskThread.run, itertools.count()

    def interrupted(disk: DiskThread, work: Callable[[], Any]) -> asyncio.Future[Any]:
        future = run(disk, work)
        if next(steps) == step:
            raise asyncio.CancelledError
        return future

    monkeypatch.setattr(DiskThread, "run", interrupted)
    room = SegmentWriter(settings_for(tmp_path), ROOM)
    monkeypatch.setattr(room, "_is_recovering", False)
    sink, pcm = room.sink(ANNA), noise(20_000)
    sink.take(Opened(0, 0), CLOCK)
    for first in range(0, len(pcm), 10_000):
        sink.take(Grown(0, pcm[first : first + 10_000]), CLOCK)
    await until(lambda: not room._backlog, "the pieces are on disk")
    close(sink, pcm, 0)
    await until(lambda: room.totals.segments, "the segment is saved")
    totals = await room.aclose()
    assert_sound(tmp_path / "math101")
    assert_spoken(tmp_path / "math101", {0: pcm})
    assert (totals.segments, totals.lost_seconds) == (1, 0)


async def test_a_note_that_cannot_be_made_once_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised, "RESTART_SECONDS", (0.01,))
    failures = iter([KeyError("odd")])

    def progress() -> RoomProgress:
        for error in failures:
            raise error
        return RoomProgress(utc_now(), {})

    room = SegmentWriter(settings_for(tmp_path), ROOM, progress=progress)
    room.notes.start()
    await until(lambda: note_in(tmp_path), "the disk is told")
    await room.aclose()
