"""What happens to a segment, in order: first it is made safe on disk, then it is handed on.

One :class:`RoomPipeline` serves one room. Tracks put updates into its queue without ever waiting; one task takes
them out in order and does the disk work on a thread of the room's own, so a disk that stalls delays the saving and
nothing else. What is on disk before a segment ends is for the case of a crash; the truth comes with the end of the
segment, whole, and is tried again until the disk takes it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

import doorbell
from audio_processor import Closed, Grown, Opened, Update
from config import Settings
from hearing import Heard
from names import MANIFEST
from segments import (
    NO_WISHES,
    SAMPLE_RATE,
    GapReason,
    GapRecord,
    Pcm,
    RoomInfo,
    SegmentRecord,
    SpeechSegment,
    StorageError,
    StreamClock,
    TextWishes,
    TrackInfo,
    format_utc,
    utc_now,
)
from storage import PartFile, RoomFolder
from vitals import vitals

logger = logging.getLogger("recorder")

T = TypeVar("T")

_Key = tuple[str, datetime, int]
"""A segment while it is open: track, stream, first sample."""

BATCH_SECONDS = 0.5
"""Speech goes to disk in pieces of this length: what a crash can cost at most, with the 0.1 s of a frame."""

STALL_SECONDS = 1.0
"""A disk that takes longer for anything is worth a line in the log."""

RETRY_SECONDS = (0.25, 0.5, 1.0, 2.0)
CLOSE_TIMEOUT_SECONDS = 8.0
"""How long the end of a room waits for a disk that refuses; hosts kill 10 s after their signal."""


HEARD_SECONDS = 1.0
"""How often the disk is told how far we have heard, so that the next recorder knows what it has missed."""

JOINING_SECONDS = 2.0
"""What the first recorder of a room takes to get there; a room that is younger has no gap."""

SHORTEST_GAP_SECONDS = 0.1

HANGING_SECONDS = 1.0
"""A disk that neither takes nor refuses anything is waited for so much longer, and no more."""


Wishes = Callable[[TrackInfo], TextWishes]
"""Says what the room wants of the text of what is spoken on a track now. Must not block or raise."""


def no_wishes(_: TrackInfo) -> TextWishes:
    return NO_WISHES


HowFar = Callable[[], Heard]
"""Says how far the room has been heard and passed on by now. Must not block or raise."""


def all_heard() -> Heard:
    return Heard(utc_now(), {})


class Stage(Protocol):
    """Something that happens to a segment after it is safe: text, captions, delivery. Must not block or raise."""

    def segment_saved(self, record: SegmentRecord, path: Path) -> None: ...


@dataclass
class Totals:
    """What a room came to."""

    segments: int = 0
    speech_seconds: float = 0.0
    lost_seconds: float = 0.0
    gap_seconds: float = 0.0
    """Times, summed over the participants, from which speech may be missing."""
    participants: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Missed:
    """Speech of a track may be missing. Without a start: from where the recorder before us stopped."""

    start: datetime | None
    end: datetime
    reason: GapReason


@dataclass(frozen=True)
class _Item:
    """One update of one track."""

    track: TrackInfo
    clock: StreamClock
    update: Update | _Missed
    wishes: TextWishes = NO_WISHES


@dataclass
class _Growing:
    """Speech of one open segment that is not on its way to disk yet."""

    clock: StreamClock
    pieces: list[Pcm] = field(default_factory=list)
    samples: int = 0


class TrackSink:
    """One track's way into the pipeline: collects small pieces into batches, never waits."""

    def __init__(self, track: TrackInfo, put: Callable[[_Item], None], wishes: Wishes = no_wishes) -> None:
        self._track = track
        self._put = put
        self._wishes = wishes
        self._growing: dict[int, _Growing] = {}

    def take(self, update: Update, clock: StreamClock) -> None:
        if isinstance(update, Grown):
            self._grow(update, clock)
            return
        wishes = NO_WISHES
        if isinstance(update, Closed):
            self._growing.pop(update.segment.start_sample, None)  # the segment brings all of its PCM
            wishes = self._wishes_now()
        self._put(_Item(self._track, clock, update, wishes))

    def _wishes_now(self) -> TextWishes:
        try:
            return self._wishes(self._track)
        except Exception as error:  # whatever is wrong there, the segment comes first
            logger.error("What is wanted of the text cannot be found out", exc_info=error)
            return NO_WISHES

    def _grow(self, update: Grown, clock: StreamClock) -> None:
        growing = self._growing.setdefault(update.start_sample, _Growing(clock))
        growing.pieces.append(update.pcm)
        growing.samples += len(update.pcm)
        if growing.samples >= BATCH_SECONDS * SAMPLE_RATE:
            self._send(update.start_sample)

    def flush(self) -> None:
        """Sends what has been collected so far."""
        for start_sample in list(self._growing):
            self._send(start_sample)

    def _send(self, start_sample: int) -> None:
        growing = self._growing.pop(start_sample)
        self._put(_Item(self._track, growing.clock, Grown(start_sample, np.concatenate(growing.pieces))))


class RoomPipeline:
    """Saves the segments of one room and hands them on. Create it on the room's event loop."""

    def __init__(
        self,
        settings: Settings,
        room: RoomInfo,
        stages: Sequence[Stage] = (),
        wishes: Wishes = no_wishes,
        how_far: HowFar = all_heard,
    ) -> None:
        self.totals = Totals()
        self._settings = settings
        self._room = room
        self._stages = stages
        self._wishes = wishes
        self._how_far = how_far
        self._sinks: weakref.WeakSet[TrackSink] = weakref.WeakSet()
        self._folder: RoomFolder | None = None
        self._parts: dict[_Key, PartFile] = {}
        self._without_part: set[_Key] = set()
        """Segments that are open, and have no file because the disk refused it."""
        self._backlog: deque[_Item] = deque()
        self._in_hand: _Item | None = None
        self._more = asyncio.Event()
        self._let_go: set[_Key] = set()
        """Segments that will never be committed."""
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="disk")
        self._disk_trouble: str | None = None
        self._closing_at: float | None = None
        self._listening: asyncio.Task[None] | None = None
        self._listened_until: datetime | None = None
        self._word: Heard | None = None
        """Is to be left on disk as soon as everything is there that it speaks of."""
        self._leaving: asyncio.Future[None] | None = None
        self._task = asyncio.create_task(self._work(), name=f"pipeline {room.name}")

    def sink(self, track: TrackInfo) -> TrackSink:
        sink = TrackSink(track, self._put, self._wishes)
        self._sinks.add(sink)
        return sink

    def listen(self) -> None:
        """We are in the room from now on."""
        self._listening = asyncio.create_task(self._keep_word(), name=f"listening {self._room.name}")

    def stop_listening(self) -> None:
        """We have left the room, or are about to. Idempotent."""
        if self._listening is not None and self._listened_until is None:
            self._listening.cancel()
            self._listened_until = utc_now()

    def missed(self, track: TrackInfo, start: datetime | None, end: datetime, reason: GapReason) -> None:
        """Owns up to a time in which the track may have spoken. No start: from where the recorder before us stopped."""
        self._put(_Item(track, StreamClock(end), _Missed(start, end, reason)))

    async def aclose(self) -> Totals:
        """Saves everything that has been taken. Call it after the last track has been closed."""
        self.stop_listening()
        self._closing_at = time.monotonic() + CLOSE_TIMEOUT_SECONDS
        self._more.set()
        await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT_SECONDS + HANGING_SECONDS)
        if not self._task.done():
            self._task.cancel()
            self._lose_all("the disk does not answer")
            self._disk.submit(self._leave_nothing_open)  # should it answer after all
            self._disk.shutdown(wait=False)
            return self.totals
        await self._task
        if self._parts or self._let_go:
            await self._attempt(self._leave_nothing_open)
        if self._listened_until is not None:
            heard, left_at = self._how_far(), self._listened_until
            self._word = Heard(min(heard.until, left_at), heard.tracks, left_at)
            await self._leave_word()
        self._disk.shutdown(wait=False)
        return self.totals

    def _lose_all(self, reason: str) -> None:
        for item in (self._in_hand, *self._backlog):
            if item is not None and isinstance(item.update, Closed):
                self._lose(item, reason)

    def _leave_nothing_open(self) -> None:
        """Makes segments of what is on disk of speech that memory had to let go."""
        for part in self._parts.values():
            part.abandon()
        self._parts.clear()
        self._open_folder().recover()

    def _put(self, item: _Item) -> None:
        if isinstance(item.update, Closed):
            self._forget_growth(_key(item, item.update.segment.start_sample))
        self._backlog.append(item)
        self._stay_within_bound()
        self._tell_unsaved()
        self._more.set()

    def _forget_growth(self, key: _Key) -> None:
        """What waits to grow need not: the closed segment brings all of its PCM."""
        self._backlog = deque(
            item
            for item in self._backlog
            if not (isinstance(item.update, Grown) and _key(item, item.update.start_sample) == key)
        )

    def _stay_within_bound(self) -> None:
        """Lets the oldest speech go when the disk has refused for longer than memory is allowed to hold."""
        waiting = [item for item in self._backlog if isinstance(item.update, Closed)]
        seconds = sum(_seconds(item) for item in waiting)
        while seconds > self._settings.max_unsaved_seconds and len(waiting) > 1:
            oldest = waiting.pop(0)
            self._backlog.remove(oldest)
            seconds -= _seconds(oldest)
            self._lose(oldest, "memory for unsaved speech is full (MAX_UNSAVED_SECONDS)")

    def _tell_unsaved(self) -> None:
        in_hand = _seconds(self._in_hand) if self._in_hand else 0.0
        vitals.unsaved(self._room.sid, in_hand + sum(map(_seconds, self._backlog)))

    def _lose(self, item: _Item, reason: str) -> None:
        assert isinstance(item.update, Closed)
        segment = item.update.segment
        self._let_go.add(_key(item, segment.start_sample))
        self.totals.lost_seconds += segment.duration_seconds
        vitals.counters.lost_seconds.inc(segment.duration_seconds)
        logger.error(
            "LOST %.1f s of speech from %s on: %s",
            segment.duration_seconds,
            format_utc(item.clock.at(segment.start_sample)),
            reason,
            extra=self._context(item),
        )
        start, end = item.clock.at(segment.start_sample), item.clock.at(segment.end_sample)
        self._backlog.append(_Item(item.track, item.clock, _Missed(start, end, GapReason.UNSAVED)))

    async def _work(self) -> None:
        await self._attempt(self._open_folder)
        while self._backlog or self._closing_at is None:
            if not self._backlog:
                self._more.clear()
                await self._leave_word()
                await self._more.wait()
                continue
            self._in_hand = self._backlog.popleft()
            await self._handle(self._in_hand)
            self._in_hand = None
            self._tell_unsaved()

    async def _handle(self, item: _Item) -> None:
        if isinstance(item.update, Opened):
            await self._begin(item, item.update)
        elif isinstance(item.update, Grown):
            await self._append(item, item.update)
        elif isinstance(item.update, Closed):
            await self._save(item, item.update.segment)
        else:
            await self._own_up(item, item.update)

    async def _save(self, item: _Item, segment: SpeechSegment) -> None:
        """What happens to a segment, in order."""
        record = await self._commit(item, segment)
        if record is None:
            return
        self.totals.segments += 1
        self.totals.speech_seconds += record.duration_seconds
        vitals.counters.segments.inc()
        vitals.counters.speech_seconds.inc(record.duration_seconds)
        self.totals.participants.add(record.participant_identity)
        logger.info(
            "Segment saved: %s, %.1f s, confidence %.2f, ended by %s",
            record.file,
            record.duration_seconds,
            record.mean_probability or 0.0,
            record.end_reason.value,
            extra=self._context(item),
        )
        assert self._folder is not None
        doorbell.ring(self._folder.path / MANIFEST)
        for stage in self._stages:
            stage.segment_saved(record, self._folder.path / record.file)

    async def _own_up(self, item: _Item, missed: _Missed) -> None:
        gap = await self._until_taken(lambda: self._note_gap(item.track, missed))
        if gap is None or gap.seconds < SHORTEST_GAP_SECONDS:
            return
        self.totals.gap_seconds += gap.seconds
        vitals.counters.gaps.inc()
        vitals.counters.gap_seconds.inc(gap.seconds)
        logger.warning(
            "GAP: speech may be missing from %s to %s (%.1f s, %s)",
            format_utc(gap.start),
            format_utc(gap.end),
            gap.seconds,
            gap.reason.value,
            extra=self._context(item),
        )

    def _note_gap(self, track: TrackInfo, missed: _Missed) -> GapRecord:
        folder = self._open_folder()
        gap = GapRecord(
            room_name=self._room.name,
            room_sid=self._room.sid,
            participant_identity=track.participant_identity,
            track_sid=track.track_sid,
            start=missed.start
            or folder.heard_before(track.track_sid, missed.end)
            or self._first_word_possible(missed.end),
            end=missed.end,
            reason=missed.reason,
        )
        if gap.seconds >= SHORTEST_GAP_SECONDS:
            folder.note_gap(gap)
        return gap

    def _first_word_possible(self, now: datetime) -> datetime:
        age = (now - self._room.started_at).total_seconds()
        return self._room.started_at if age > JOINING_SECONDS else now

    async def _keep_word(self) -> None:
        while True:
            await asyncio.sleep(HEARD_SECONDS)
            for sink in list(self._sinks):
                sink.flush()
            self._word = self._how_far()
            self._more.set()

    async def _leave_word(self) -> None:
        """Not an attempt: it says nothing about whether the disk takes speech. One that hangs is not asked again."""
        word, self._word = self._word, None
        is_hanging = self._leaving is not None and not self._leaving.done()
        if word is None or self._folder is None or is_hanging or not self._is_all_on_disk():
            return
        self._leaving = asyncio.get_running_loop().run_in_executor(self._disk, self._folder.hear, word)
        try:
            async with asyncio.timeout(HANGING_SECONDS):
                await asyncio.shield(self._leaving)
        except (OSError, asyncio.TimeoutError):
            pass
        except Exception as error:  # whatever is wrong with it, speech comes first
            logger.error("No word could be left of what was heard", exc_info=error)

    def _is_all_on_disk(self) -> bool:
        """Whether the disk has taken everything that it was given of open segments. (Of those that were let go, the
        gap is on disk.)"""
        if self._disk_trouble is not None or self._without_part - self._let_go:
            return False
        return all(part.is_all_on_disk for key, part in self._parts.items() if key not in self._let_go)

    # The disk: growing may fail, committing may not.

    def _open_folder(self) -> RoomFolder:
        if self._folder is None:
            self._folder = RoomFolder.open(self._settings, self._room)
        return self._folder

    async def _begin(self, item: _Item, opened: Opened) -> None:
        if _key(item, opened.start_sample) in self._let_go:
            return
        logger.info("Speech begun", extra=self._context(item))
        part = await self._attempt(
            lambda: self._new_part(item, opened.start_sample, opened.speech_start_sample)
        )
        if part is not None:
            self._parts[_key(item, opened.start_sample)] = part
        else:
            self._without_part.add(_key(item, opened.start_sample))

    async def _append(self, item: _Item, grown: Grown) -> None:
        part = self._parts.get(_key(item, grown.start_sample))
        if part is not None:
            await self._attempt(lambda: part.append(grown.pcm))

    async def _commit(self, item: _Item, segment: SpeechSegment) -> SegmentRecord | None:
        """The segment's record. None when the room is over and the disk still refuses."""
        record = await self._until_taken(lambda: self._commit_once(item, segment))
        self._without_part.discard(_key(item, segment.start_sample))
        if record is None:
            self._lose(item, f"the disk refuses until the end ({self._disk_trouble})")
        else:
            self._parts.pop(_key(item, segment.start_sample), None)
        return record

    async def _until_taken(self, work: Callable[[], T]) -> T | None:
        """Tries until the disk takes it. None when the room is over and the disk still refuses."""
        pauses = itertools.chain(RETRY_SECONDS, itertools.repeat(RETRY_SECONDS[-1]))
        while True:
            result = await self._attempt(work)
            if result is not None:
                return result
            if self._closing_at is not None and time.monotonic() > self._closing_at:
                return None
            await asyncio.sleep(next(pauses))

    def _commit_once(self, item: _Item, segment: SpeechSegment) -> SegmentRecord:
        key = _key(item, segment.start_sample)
        if key not in self._parts:
            self._parts[key] = self._new_part(item, segment.start_sample, segment.speech_start_sample)
        return self._parts[key].commit(segment, item.wishes)

    def _new_part(self, item: _Item, start_sample: int, speech_sample: int) -> PartFile:
        return self._open_folder().begin(item.track, item.clock, start_sample, speech_sample)

    async def _attempt(self, work: Callable[[], T]) -> T | None:
        """Does disk work on the disk thread. A refusal is said once, and so is its end."""
        started = time.monotonic()
        try:
            with vitals.disk_step(self._room.sid):
                result = await asyncio.get_running_loop().run_in_executor(self._disk, work)
        except (
            Exception
        ) as error:  # whatever went wrong there, the segment is still in memory and is tried again
            self._disk_refuses(error)
            return None
        self._disk_works(time.monotonic() - started)
        return result

    def _disk_refuses(self, error: Exception) -> None:
        trouble = str(getattr(error, "strerror", None) or error) or type(error).__name__
        vitals.disk_refuses(self._room.sid, getattr(error, "strerror", None) or type(error).__name__)
        if trouble != self._disk_trouble:
            self._disk_trouble = trouble
            logger.error(
                "The disk refuses: %s. Speech is held in memory until it does not",
                trouble,
                extra={"room": self._room.name},
                exc_info=None if isinstance(error, (OSError, StorageError)) else error,
            )

    def _disk_works(self, seconds: float) -> None:
        if self._disk_trouble is not None:
            self._disk_trouble = None
            vitals.disk_works(self._room.sid)
            logger.warning("The disk works again", extra={"room": self._room.name})
        if seconds > STALL_SECONDS:
            logger.warning(
                "The disk took %.1f s for one step; nothing is lost", seconds, extra={"room": self._room.name}
            )

    def _context(self, item: _Item) -> dict[str, str]:
        return {"room": self._room.name, "participant": item.track.participant_identity}


def _key(item: _Item, start_sample: int) -> _Key:
    return item.track.track_sid, item.clock.anchor, start_sample


def _seconds(item: _Item) -> float:
    return item.update.segment.duration_seconds if isinstance(item.update, Closed) else 0.0
