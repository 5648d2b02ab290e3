"""Saves segments: each is first written to disk safely, then passed on to the next stages.

    track ──► TrackSink ──► Backlog ──► OpenSegments on the DiskThread ──► stages: captions

One :class:`SegmentWriter` serves one room. Tracks put updates into its backlog without waiting; one task handles them
in order and does the disk work on the room's own thread. The last update of a segment holds all of its PCM, and writing
it is retried until it succeeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from archive.names import MANIFEST
from audio_processor import Closed, Grown, Opened
from config import Settings
from core import notify
from core.records import (
    GapReason,
    GapRecord,
    RoomInfo,
    SegmentRecord,
    SpeechSegment,
    StreamClock,
    TrackInfo,
    format_utc,
)
from core.supervised import supervised
from core.worker_state import worker_state
from recording.backlog import Backlog
from recording.disk_thread import DiskThread
from recording.gaps import Gap, gap_records, write_gap
from recording.handover_notes import HandoverNotes, Progress, all_received
from recording.open_segments import OpenSegments
from recording.track_sink import Item, TextOptionsSource, TrackSink, no_text_options
from storage import SegmentErased

logger = logging.getLogger("recorder")

CLOSE_TIMEOUT_SECONDS = 8.0
"""How long closing a room waits for a disk that refuses. Hosts kill a process 10 s after their signal."""

HANGING_SECONDS = 1.0
"""How much longer is waited for a disk that does not answer at all."""


class Stage(Protocol):
    """A consumer of saved segments, such as captions. Must not block."""

    def segment_saved(self, record: SegmentRecord, path: Path) -> None: ...


@dataclass
class Totals:
    """The totals of a room."""

    segments: int = 0
    speech_seconds: float = 0.0
    lost_seconds: float = 0.0
    gap_seconds: float = 0.0
    """Length of all gaps, summed over the participants."""
    participants: set[str] = field(default_factory=set)


class SegmentWriter:
    """Saves the segments of one room and passes them on. Create it on the room's event loop."""

    def __init__(
        self,
        settings: Settings,
        room: RoomInfo,
        stages: Sequence[Stage] = (),
        text_options: TextOptionsSource = no_text_options,
        progress: Progress = all_received,
    ) -> None:
        self.totals = Totals()
        self._room = room
        self._stages = stages
        self._text_options = text_options
        self._sinks: weakref.WeakSet[TrackSink] = weakref.WeakSet()
        self._open = OpenSegments(settings, room)
        self._is_recovering = True
        """Whether a crash may have left segments in the folder."""
        self._disk = DiskThread(room)
        self._backlog = Backlog(settings.max_unsaved_seconds)
        self._more = asyncio.Event()
        self._closing_at: float | None = None
        self.notes = HandoverNotes(room, progress, self._disk, self._open, self._on_note_due)
        self._task = supervised(self._work, "saving", room=room.sid, room_name=room.name)

    @property
    def folder(self) -> Path | None:
        """The room's folder; None: the disk has not given one yet."""
        return self._open.folder().path if self._open.has_folder else None

    def sink(self, track: TrackInfo) -> TrackSink:
        """Returns a sink for the updates of a track."""
        sink = TrackSink(track, self._put, self._text_options)
        self._sinks.add(sink)
        return sink

    def record_gap(self, track: TrackInfo, gap: Gap) -> None:
        """Records a gap of the track in ``gaps.jsonl``."""
        self._put(Item(track, StreamClock(gap.end), gap))

    async def aclose(self) -> Totals:
        """Saves everything in the backlog. Call it after the last track has been closed."""
        self.notes.stop()
        self._closing_at = time.monotonic() + CLOSE_TIMEOUT_SECONDS
        self._more.set()
        await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT_SECONDS + HANGING_SECONDS)
        if not self._task.done():
            self._task.cancel()
            for item in self._backlog.items():
                self._lose(item, "the disk does not answer")
            self._disk.close(self._open.leave_nothing_open, self._open.leave)
            return self.totals
        if self._open.has_leftovers:
            remaining = max(0.0, self._closing_at - time.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(remaining + HANGING_SECONDS):
                    await self._disk.attempt(self._open.leave_nothing_open)
        await self.notes.write_last()
        self._disk.close(self._open.leave)
        return self.totals

    def _put(self, item: Item) -> None:
        self._backlog.put(item)
        for oldest in self._backlog.overflow():
            self._lose(oldest, "memory for unsaved speech is full (MAX_UNSAVED_SECONDS)")
        self._report_unsaved()
        self._more.set()

    def _report_unsaved(self) -> None:
        worker_state.unsaved(self._room.sid, self._backlog.seconds)

    def _lose(self, item: Item, reason: str) -> None:
        if not isinstance(item.update, Closed):
            return
        segment = item.update.segment
        start, end = item.clock.at(segment.start_sample), item.clock.at(segment.end_sample)
        self._open.mark_lost(item, segment)
        self.totals.lost_seconds += segment.duration_seconds
        worker_state.counters.lost_seconds.inc(segment.duration_seconds)
        logger.error(
            "LOST %.1f s of speech from %s on: %s",
            segment.duration_seconds,
            format_utc(start),
            reason,
            extra=self._context(item),
        )
        self._backlog.put(Item(item.track, item.clock, Gap(start, end, GapReason.UNSAVED)))

    async def _work(self) -> None:
        await self._disk.attempt(self._open.folder)
        while self._backlog or self._closing_at is None:
            if not self._backlog:
                self._more.clear()
                await self.notes.write_due()
                if self._disk.trouble and self._open.has_folder:
                    await self._disk.attempt(self._open.prove_disk)
                if not await self._has_recovered():
                    await self._more.wait()
                continue
            await self._handle(self._backlog.take())
            self._backlog.done()
            self._report_unsaved()

    async def _has_recovered(self) -> bool:
        """Recovers one segment that a crash has left, while there is nothing to save. Whether there may be more."""
        if self._is_recovering and self._open.has_folder:
            self._is_recovering = bool(await self._disk.attempt(self._open.recover_next))
            return self._is_recovering
        return False

    async def _handle(self, item: Item) -> None:
        """Handles one update; a failure must not stop the updates after it."""
        try:
            if isinstance(item.update, Opened):
                await self._begin(item, item.update)
            elif isinstance(item.update, Grown):
                await self._append(item, item.update)
            elif isinstance(item.update, Closed):
                await self._save(item, item.update.segment)
            else:
                await self._write_gap(item, item.update)
        except Exception as error:
            logger.error("One step of saving failed", exc_info=error, extra=self._context(item))
            self._lose(item, f"saving it failed ({type(error).__name__})")

    async def _begin(self, item: Item, opened: Opened) -> None:
        if not self._open.is_lost(item, opened.start_sample):
            logger.info("Speech begun", extra=self._context(item))
            await self._disk.attempt(lambda: self._open.begin(item, opened))

    async def _append(self, item: Item, grown: Grown) -> None:
        if self._open.has_part(item, grown.start_sample):
            await self._disk.attempt(lambda: self._open.append(item, grown))

    async def _save(self, item: Item, segment: SpeechSegment) -> None:
        """Commits a segment, and retries until that succeeds or the time for closing is up."""
        record = await self._disk.retry(lambda: self._open.commit(item, segment), self._is_time_up)
        self._open.forget(item, segment, is_committed=record is not None)
        if record is None:
            self._lose(item, f"the disk refused until the room was closed ({self._disk.trouble})")
        elif isinstance(record, SegmentErased):
            logger.info(
                "%s is not kept: it was erased while it was spoken", record, extra=self._context(item)
            )
        else:
            self._saved(item, record)

    def _saved(self, item: Item, record: SegmentRecord) -> None:
        self.totals.segments += 1
        self.totals.speech_seconds += record.duration_seconds
        worker_state.counters.segments.inc()
        worker_state.counters.speech_seconds.inc(record.duration_seconds)
        self.totals.participants.add(record.participant_identity)
        logger.info(
            "Segment saved: %s, %.1f s, confidence %.2f, ended by %s",
            record.file,
            record.duration_seconds,
            record.mean_probability or 0.0,
            record.end_reason.value,
            extra=self._context(item),
        )
        folder = self._open.folder().path
        notify.notify(folder / MANIFEST)
        for stage in self._stages:
            try:
                stage.segment_saved(record, folder / record.file)
            except Exception as error:  # the segment is safe, and the other stages must still be called
                logger.error("A stage after saving failed", exc_info=error, extra=self._context(item))

    async def _write_gap(self, item: Item, found: Gap) -> None:
        records = await self._disk.retry(
            lambda: gap_records(self._open.folder(), self._room, item.track, found), self._is_time_up
        )
        for record in records or ():
            await self._disk.retry(partial(write_gap, self._open.folder(), record), self._is_time_up)
            self._report_gap(item, record)

    def _report_gap(self, item: Item, gap: GapRecord) -> None:
        if gap.reason is GapReason.PAUSED:
            message = "Paused: not recorded from %s to %s (%.1f s)"
            dates = format_utc(gap.start), format_utc(gap.end)
            logger.info(message, *dates, gap.seconds, extra=self._context(item))
            return
        self.totals.gap_seconds += gap.seconds
        worker_state.counters.gaps.inc()
        worker_state.counters.gap_seconds.inc(gap.seconds)
        logger.warning(
            "GAP: speech may be missing from %s to %s (%.1f s, %s)",
            format_utc(gap.start),
            format_utc(gap.end),
            gap.seconds,
            gap.reason.value,
            extra=self._context(item),
        )

    def _is_time_up(self) -> bool:
        return self._closing_at is not None and time.monotonic() > self._closing_at

    def _on_note_due(self) -> None:
        for sink in list(self._sinks):
            sink.flush()
        self._more.set()

    def _context(self, item: Item) -> dict[str, str]:
        return {"room": self._room.name, "participant": item.track.participant_identity}
