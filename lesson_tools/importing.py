"""Segments a recording by the same speech rules, and into the same folders, as a live lesson.

    thread: decode ──► Silero ──► Segmenter ──► (at most MAX_WAITING segments) ──► SegmentWriter ──► disk

A run that is killed leaves whole segments, and the next run continues after them: the recording is recognised by its
content, and what the manifest has of it is not saved twice. So a second run of the same file does nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from archive.files import Reservation
from archive.imports import ImportedFile, add_import, blocks_of, known_recording, losses_of_session
from archive.manifest import read_manifest, replace_gaps
from archive.names import digest_of, session_file, valid_unicode
from archive.session_counts import Expected
from archive.session_files import SessionFiles
from audio_processor import WINDOW_SAMPLES, Closed, Segmenter, SegmenterOptions, Update
from config import Settings
from core.errors import InputError, StorageError
from core.records import (
    SAMPLE_RATE,
    EndReason,
    GapReason,
    GapRecord,
    Pcm,
    RoomInfo,
    SegmentRecord,
    SpeechSegment,
    StreamClock,
    TrackInfo,
    format_utc,
)
from core.session_records import ClosedBy
from lesson_tools.console import progress, run, tell
from lesson_tools.decoding import Recording
from lesson_tools.expected import expected_of
from lesson_tools.timeline import Loss
from recording.segment_writer import SegmentWriter
from recording.speech_detector import DetectorFactory, load_detector
from storage import RoomFolder

MAX_WAITING = 32
"""Segments that may wait for the disk, about 10 MB; then the decoder waits."""

MAX_DISK_WAIT_SECONDS = 30.0
"""The run ends if the disk saves nothing for this long; the next run continues where it ended."""

MIN_REST_SAMPLES = SAMPLE_RATE // 2
"""If most of a segment is saved already, a rest that is shorter than this is not saved."""

FINGERPRINT_BLOCKS, BLOCK_BYTES = 64, 1 << 16


@dataclass(frozen=True)
class Outcome:
    """The result for one recording."""

    file: str
    room: str
    folder: str
    room_sid: str
    start: datetime
    segments: int
    """All that the folder now holds of this recording."""
    new_segments: int
    speech_seconds: float
    duration_seconds: float
    damaged_packets: int
    taken: str
    """The tracks and channels that were taken, in words; empty: all that there are."""
    losses: tuple[Loss, ...]
    """What the file lacks."""
    excess_seconds: float
    """How much more there was than its header promises."""
    restarts: int
    """How often the file's timestamps restart: recordings were joined."""


def segment_file(
    settings: Settings,
    path: Path,
    room_name: str | None,
    start: datetime | None,
    speaker: str = "",
    *,
    track: int | None = None,
    channel: int | None = None,
) -> Outcome:
    """Segments one recording.

    Args:
        track, channel: the track of sound and its channel to take, from 1 on; None: those with speech.

    Raises:
        InputError: it cannot be read, has no sound, nothing of it can be decoded, it does not have that track or
            channel, or it has been imported with another start.
        StorageError: the disk cannot save it.
    """
    new_detector = load_detector(settings.vad_runtime)
    expected = expected_of(settings)
    with Recording(path, track=track, channel=channel, new_detector=new_detector) as recording:
        sound = recording.sound()
        first = list(islice(sound, 1))  # raises an error before a folder is made
        name, file_fingerprint = valid_unicode(room_name or path.stem), fingerprint(path)
        known = known_recording(Path(settings.output_dir), name, path, file_fingerprint)
        sid = known.room_sid if known else f"FILE_{file_fingerprint}"
        began = start or (known.started_at if known else None) or _start(settings, path, recording)
        speaker = valid_unicode(speaker)
        this = _Import(
            settings,
            recording,
            chain(first, sound),
            RoomInfo(name, sid, began),
            TrackInfo(speaker, speaker, sid, "file"),
            new_detector,
            file_fingerprint,
            start is not None,
            expected,
        )
        return run(this.run())


def fingerprint(path: Path) -> str:
    """Computes twelve hexadecimal digits that identify a file's content, from its size and blocks spread over it.

    Not from all bytes: a video of ten hours would have to be read twice.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    step = max(BLOCK_BYTES, size // FINGERPRINT_BLOCKS)
    with open(path, "rb") as file:
        for position in range(0, size, step):
            file.seek(position)
            digest.update(file.read(BLOCK_BYTES))
        file.seek(max(0, size - BLOCK_BYTES))
        digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()[:12]


def _start(settings: Settings, path: Path, recording: Recording) -> datetime:
    """When the recording began: by its metadata; else its file was last written when it ended.

    It is read for its length, as the length in a header may be missing, estimated or wrong.
    """
    said = recording.metadata.began_at(ZoneInfo(settings.timezone))
    if said is not None:
        return said
    ended = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return ended - timedelta(seconds=recording.length_seconds())


class _Import:
    """One run over one recording. A thread decodes and cuts, the event loop saves."""

    def __init__(
        self,
        settings: Settings,
        recording: Recording,
        sound: Iterable[Pcm],
        room: RoomInfo,
        track: TrackInfo,
        new_detector: DetectorFactory,
        file_fingerprint: str,
        start_was_given: bool,
        expected: Expected,
    ) -> None:
        self._settings = settings
        self._expected = expected
        self._recording = recording
        self._sound = sound
        self._fingerprint = file_fingerprint
        self._room = room
        self._track = track
        self._detector = new_detector()
        self._start_was_given = start_was_given
        self._free = threading.Semaphore(MAX_WAITING)
        self._is_over = threading.Event()

    async def run(self) -> Outcome:
        """Saves what is not saved yet. If it ends early, the next run continues from there."""
        try:
            folder = await asyncio.to_thread(self._folder)
            with Reservation(folder, self._room.sid):
                return await self._run(folder)
        except OSError as error:
            raise StorageError(f"OUTPUT_DIR cannot be used: {error.strerror or error}") from None

    def _folder(self) -> Path:
        """The room's folder, in which everything is listed that an interrupted run has left."""
        folder = RoomFolder.open(self._settings, self._room)
        folder.recover()
        return folder.path

    async def _run(self, folder: Path) -> Outcome:
        before = _records_of(folder, self._room.sid)
        room = self._continued(before)
        await asyncio.to_thread(self._remember, room, None)
        covered = Covered(_places(before))
        clock = StreamClock(room.started_at)
        writer = SegmentWriter(self._settings, room, [self])
        sink, loop = writer.sink(self._track), asyncio.get_running_loop()

        def put(segment: SpeechSegment) -> None:
            for piece in covered.rest(segment):
                self._wait_for_the_disk()
                loop.call_soon_threadsafe(sink.take, Closed(piece), clock)

        try:
            await asyncio.to_thread(self._cut, put)
        finally:
            self._is_over.set()
            totals = await writer.aclose()
        await asyncio.to_thread(self._note_losses, room, folder)
        await asyncio.to_thread(self._close_session, room, folder)
        return self._outcome(room, folder, totals.segments)

    def segment_saved(self, record: SegmentRecord, path: Path) -> None:
        """Called when a segment is saved: one more may be cut."""
        self._free.release()

    # On the thread.

    def _cut(self, put: Callable[[SpeechSegment], None]) -> None:
        recording, segmenter = self._recording, Segmenter(SegmenterOptions.from_settings(self._settings))
        reported = 0.0
        with progress(recording.path.name, recording.metadata.estimated_seconds or 0.0, "s") as advance:
            remainder = np.empty(0, np.int16)
            for pcm in _pieces(self._sound):
                pcm = np.concatenate([remainder, pcm])
                whole = len(pcm) - len(pcm) % WINDOW_SAMPLES
                for start in range(0, whole, WINDOW_SAMPLES):
                    window = pcm[start : start + WINDOW_SAMPLES]
                    _pass_on(segmenter.push(window, self._detector.probability(window)), put)
                remainder = pcm[whole:]
                advance(recording.seconds_read - reported)
                reported = recording.seconds_read
                if self._is_over.is_set():
                    return
            _pass_on(segmenter.finish(EndReason.SHUTDOWN, remainder), put)
            for _ in range(MAX_WAITING):
                self._wait_for_the_disk()

    def _wait_for_the_disk(self) -> None:
        """Waits until fewer than ``MAX_WAITING`` segments wait for the disk.

        Raises:
            StorageError: nothing was saved for MAX_DISK_WAIT_SECONDS.
        """
        deadline = time.monotonic() + MAX_DISK_WAIT_SECONDS
        while not self._free.acquire(timeout=0.2):
            if self._is_over.is_set() or time.monotonic() > deadline:
                raise StorageError(
                    f"The disk refuses the segments of {self._recording.path}: run it again when the disk works"
                )

    # Before and after.

    def _continued(self, before: Sequence[SegmentRecord]) -> RoomInfo:
        """Returns the session with the start that an earlier run has given it."""
        dated = next((record for record in before if record.offset_seconds is not None), None)
        if dated is None or dated.offset_seconds is None:
            return self._room
        began = dated.start - timedelta(seconds=dated.offset_seconds)
        if self._start_was_given and abs(began - self._room.started_at) > timedelta(seconds=1):
            raise InputError(
                f"{self._recording.path} is in room {self._room.name} already, beginning at {format_utc(began)}: "
                "leave out --start to continue from there"
            )
        return replace(self._room, started_at=began)

    def _remember(self, room: RoomInfo, losses: Sequence[Loss] | None) -> None:
        """Lists the file, so that a more complete one continues its session."""
        path = self._recording.path
        size = path.stat().st_size
        spans = (
            None if losses is None else tuple((loss.start, loss.end, loss.reason.value) for loss in losses)
        )
        entry = ImportedFile(
            room=digest_of(room.name),
            room_sid=room.sid,
            fingerprint=self._fingerprint,
            name=digest_of(path.name),
            size=size,
            blocks=tuple(blocks_of(path, size)),
            started_at=room.started_at,
            losses=spans,
        )
        add_import(Path(self._settings.output_dir), entry)

    def _note_losses(self, room: RoomInfo, folder: Path) -> None:
        """Writes what is missing to ``gaps.jsonl``, in place of what an earlier and less complete file lacked."""
        self._remember(room, self._recording.losses)
        lost = losses_of_session(Path(self._settings.output_dir), room.name, room.sid)
        clock, speaker = StreamClock(room.started_at), self._track.participant_identity
        gaps = [
            GapRecord(
                room.name,
                room.sid,
                speaker,
                self._track.track_sid,
                clock.at(round(start * SAMPLE_RATE)),
                clock.at(round(end * SAMPLE_RATE)),
                GapReason(reason),
            )
            for start, end, reason in lost
        ]
        replace_gaps(folder, room.sid, (GapReason.TRUNCATED, GapReason.DAMAGED), gaps)

    def _close_session(self, room: RoomInfo, folder: Path) -> None:
        """Writes the session's file. Where the disk refuses, a worker or `check --repair` does it later."""
        ended_at = room.started_at + timedelta(seconds=self._recording.seconds_read)
        try:
            SessionFiles(folder, self._expected).close(room.sid, ClosedBy.IMPORT, ended_at)
        except (OSError, StorageError) as error:
            tell(f"{session_file(room.sid)} cannot be written: {getattr(error, 'strerror', None) or error}")

    def _outcome(self, room: RoomInfo, folder: Path, new_segments: int) -> Outcome:
        records = _records_of(folder, room.sid)
        return Outcome(
            file=str(self._recording.path),
            room=room.name,
            folder=folder.name,
            room_sid=room.sid,
            start=room.started_at,
            segments=len(records),
            new_segments=new_segments,
            speech_seconds=sum(record.duration_seconds for record in records),
            duration_seconds=self._recording.seconds_read,
            damaged_packets=self._recording.damaged,
            taken=self._recording.taken,
            losses=tuple(self._recording.losses),
            excess_seconds=self._recording.excess_seconds,
            restarts=self._recording.restarts,
        )


def _pieces(sound: Iterable[Pcm]) -> Iterator[Pcm]:
    """Joins the decoder's small pieces into pieces of about a second."""
    waiting: list[Pcm] = []
    samples = 0
    for pcm in sound:
        waiting.append(pcm)
        samples += len(pcm)
        if samples >= SAMPLE_RATE:
            yield np.concatenate(waiting)
            waiting, samples = [], 0
    if waiting:
        yield np.concatenate(waiting)


def _pass_on(updates: Iterable[Update], put: Callable[[SpeechSegment], None]) -> None:
    """Passes on whole segments only: after a crash the recording can be read again."""
    for update in updates:
        if isinstance(update, Closed):
            put(update.segment)


# --- what is there already ---


class Covered:
    """The parts of a recording that are in the manifest already: samples start <= i < end, in any order."""

    def __init__(self, places: Iterable[tuple[int, int]]) -> None:
        self._places = sorted(places)

    def rest(self, segment: SpeechSegment) -> list[SpeechSegment]:
        """Returns the parts of a segment that are not saved yet: usually all or none; after a crash maybe its end."""
        position = segment.start_sample
        holes = []
        for start, end in self._places:
            if end > position and start < segment.end_sample:
                holes.append((position, start))
                position = end
        if not holes:
            return [segment]
        holes.append((position, segment.end_sample))
        return [_part(segment, *hole) for hole in holes if hole[1] - hole[0] >= MIN_REST_SAMPLES]


def _part(segment: SpeechSegment, start: int, end: int) -> SpeechSegment:
    return replace(
        segment,
        start_sample=start,
        speech_start_sample=max(start, segment.speech_start_sample),
        pcm=segment.pcm[start - segment.start_sample : end - segment.start_sample],
    )


def _records_of(folder: Path, room_sid: str) -> list[SegmentRecord]:
    return [record for record in read_manifest(folder) if record.room_sid == room_sid]


def _places(records: Iterable[SegmentRecord]) -> Iterator[tuple[int, int]]:
    for record in records:
        if record.offset_seconds is not None:
            start = round(record.offset_seconds * SAMPLE_RATE)
            yield start, start + round(record.duration_seconds * SAMPLE_RATE)
