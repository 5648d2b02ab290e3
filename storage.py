"""Writes speech segments as WAV files and manifest lines, so that a crash at any moment loses nothing written.

For each segment these files exist one after the other in the room's folder:

    .segment_007_20251008_140951.json      who speaks and since when, for recovery; then
    segment_007_20251008_140951.wav.part   the audio so far: a valid WAV at every moment (fact 29), locked; then
    segment_007_20251008_140951.wav        the same file renamed, when the segment has ended; then
    segments.jsonl                         one more line; the first file is deleted.

Each step is on the disk before the next begins, so after a crash :mod:`archive.recovery` can tell from the files
alone how far the segment got. Everything here blocks and belongs on a disk thread. No object is shared between threads;
:class:`FolderLock` separates processes and threads that use the same folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import unicodedata
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO
from zoneinfo import ZoneInfo

import numpy as np

from archive.files import (
    PRIVATE_FOLDER,
    FolderLock,
    is_still_at,
    open_private,
    sync_file,
    sync_folder,
    try_lock,
    write_all,
    write_whole,
)
from archive.handover import RoomHandover
from archive.jsonl import encoded
from archive.manifest import append_gap, append_manifest, read_manifest
from archive.names import MANIFEST, PART_SUFFIX, SegmentNames, digest_of, safe_name
from archive.numbers import Numbers
from archive.recovery import OpenNote, recovering
from archive.tombstones import ERASED, erased_since
from archive.wav import WAV_HEADER_BYTES, pcm_bytes, wav_header
from config import Settings
from core.errors import RecorderError, StorageError
from core.records import (
    BYTES_PER_SAMPLE,
    NO_TEXT_OPTIONS,
    GapRecord,
    Pcm,
    RoomInfo,
    SegmentRecord,
    SpeechSegment,
    StreamClock,
    TextOptions,
    TrackInfo,
    utc_now,
)

logger = logging.getLogger("recorder")

MAX_LISTING_REFUSALS = 3
"""On Windows another program may hold the manifest open for a moment; after this many attempts it is left alone."""


class RoomFolder:
    """The folder of one room: assigns segment numbers, begins segments, and recovers what a crash left."""

    def __init__(self, path: Path, room: RoomInfo, names: SegmentNames, agent_name: str) -> None:
        self.path = path
        self.room = room
        self.handover = RoomHandover(path, room, agent_name)
        self._names = names
        self._numbers = Numbers(path, names)
        self._opened_at = utc_now()

    @classmethod
    def open(cls, settings: Settings, room: RoomInfo) -> RoomFolder:
        """Opens the room's folder, and creates it if necessary.

        Raises:
            OSError: the disk refuses.
        """
        names = SegmentNames.from_settings(settings)
        return cls(_folder_for(settings, room, names.zone), room, names, settings.agent_name)

    def recovering(self) -> Iterator[SegmentRecord]:
        """Makes segments of what a crash has left in the folder, one by one. What the disk refuses is only logged.

        WAVs without a note are left to the worker's start (:func:`archive.recovery.recover_all`)."""
        try:
            yield from recovering(self.path, self._names, only_with_note=True)
        except OSError as error:
            logger.error("Folder %s cannot be recovered now: %s", self.path.name, error)

    def recover(self) -> list[SegmentRecord]:
        """Makes segments of everything that a crash has left in the folder."""
        return list(self.recovering())

    def note_gap(self, gap: GapRecord) -> None:
        """Records a time from which speech may be missing, unless it was erased meanwhile.

        Raises:
            OSError: the disk refuses.
        """
        self.path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        who = gap.participant_identity
        with FolderLock(self.path):
            if erased_since(self.path, gap.room_name, who, gap.start, self._opened_at):
                return
            try:
                append_gap(self.path, gap)
            except PermissionError as error:  # of another owner; the speech after the gap must be saved
                logger.error("This gap is only in the log: %s", error)

    def begin(self, track: TrackInfo, clock: StreamClock, start_sample: int, speech_sample: int) -> PartFile:
        """Reserves the next number and creates the files of a segment that is being spoken.

        Raises:
            OSError: the disk refuses; no file is left that could be mistaken for a segment.
        """
        self.path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        with FolderLock(self.path):
            number = self._numbers.highest() + 1
            while (note := self._note(number, track, clock, start_sample, speech_sample)).is_taken(self.path):
                number += 1
            part = PartFile.create(self.path, note, self._opened_at)
            self._numbers.keep(number)
            return part

    def _note(
        self, number: int, track: TrackInfo, clock: StreamClock, start_sample: int, speech_sample: int
    ) -> OpenNote:
        stem = self._names.stem(number, clock.at(speech_sample), self.room, track)
        return OpenNote(number, f"{stem}.wav", self.room, track, clock.anchor, start_sample)


def _folder_for(settings: Settings, room: RoomInfo, zone: ZoneInfo) -> Path:
    """The folder of this room, created if necessary. No other room has it, even if the disk ignores case."""
    output_dir = Path(settings.output_dir)
    name = settings.room_dir.format(
        room=safe_name(room.name),
        room_sid=safe_name(room.sid),
        date=f"{room.started_at.astimezone(zone):%Y%m%d}",
    )
    output_dir.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    with FolderLock(output_dir):
        if _is_taken(name, output_dir):
            name = f"{name}-{digest_of(room.name)}"
        path = output_dir / name
        path.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    return path


def _is_taken(name: str, output_dir: Path) -> bool:
    """Whether a folder's name is that of a file, of the list of erasures, or of a folder that differs in its case."""
    with os.scandir(output_dir) as entries:
        is_folder = {unicodedata.normalize("NFC", entry.name): entry.is_dir() for entry in entries}
    folded = [ERASED, *(entry.casefold() for entry in is_folder)]
    is_known = is_folder.get(name, False) and name.casefold() != ERASED
    return not is_known and name.casefold() in folded


class SegmentErased(RecorderError):
    """A segment that was being spoken has been erased, and is not kept."""


class PartFile:
    """A segment that is being written: it grows while it is spoken, and ends as a WAV with a manifest line.

    Every method may raise OSError. :meth:`append` only protects against a crash, so after an error there the caller
    continues; :meth:`commit` gets the whole PCM, and can be repeated until it succeeds.
    """

    def __init__(
        self, folder: Path, note: OpenNote, file: IO[bytes] | None, opened_at: datetime | None = None
    ) -> None:
        self._folder = folder
        self._opened_at = opened_at or utc_now()
        """An erasure after this time applies to the segment, if that began before it."""
        self._note = note
        self._file = file
        self._synced_samples = 0
        """How many samples are certainly on the disk."""
        self._unsynced: list[Pcm] = []
        """The samples after those. If a write or sync has failed, it is not known which of them are on the disk."""
        self._may_be_listed = False
        self._listing_refusals = 0
        self.is_listed = False
        """Whether the manifest has its line."""

    @classmethod
    def create(cls, folder: Path, note: OpenNote, opened_at: datetime | None = None) -> PartFile:
        """Creates both files, or neither. The caller holds the folder's lock."""
        part = cls(folder, note, None, opened_at)
        try:
            write_whole(folder / note.path_name, encoded(note.to_json()))
            part._file = part._create_file()
            sync_folder(folder)
        except BaseException:
            part.abandon()
            for path in (part._part_path, folder / note.path_name):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            raise
        return part

    @property
    def name(self) -> str:
        """The file's name once it is committed."""
        return self._note.file

    @property
    def _part_path(self) -> Path:
        return self._folder / (self._note.file + PART_SUFFIX)

    @property
    def _final_path(self) -> Path:
        return self._folder / self._note.file

    @property
    def is_all_on_disk(self) -> bool:
        """Whether everything that was appended is known to be on the disk."""
        return not self._unsynced

    def append(self, pcm: Pcm) -> None:
        """Adds PCM and syncs it. The header is updated after the samples, so it never counts a missing sample."""
        assert self._file is not None, "a committed segment cannot grow"
        self._unsynced.append(pcm)
        self._write_after_synced(np.concatenate(self._unsynced))

    def abandon(self) -> None:
        """Closes the file without committing it; recovery makes a segment of its content."""
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):
                file.close()

    def commit(self, segment: SpeechSegment, text_options: TextOptions = NO_TEXT_OPTIONS) -> SegmentRecord:
        """Gives the segment its final length and name, and adds its line to the manifest.

        It can be repeated after an error: everything is then written again from ``segment.pcm``.

        Raises:
            SegmentErased: it was erased while it was spoken; its files are removed.
        """
        self._folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        self._set_content(segment.pcm)
        with FolderLock(self._folder):
            if self._is_erased():
                self._remove()
                raise SegmentErased(self._note.file)
            if sys.platform == "win32":
                self.abandon()  # Windows cannot rename an open file; other systems keep it locked to the end
            os.replace(self._part_path, self._final_path)
            sync_folder(self._folder)
            record = self._note.record(
                len(segment.pcm),
                hashlib.sha256(wav_header(len(segment.pcm)) + pcm_bytes(segment.pcm)).hexdigest(),
                segment.end_reason,
                (segment.mean_probability, segment.lowest_probability),
                text_options,
            )
            self.is_listed = self._try_to_list(record)
            if self.is_listed:
                with contextlib.suppress(OSError):  # the next recovery removes a note that is left
                    (self._folder / self._note.path_name).unlink(missing_ok=True)
        self.abandon()
        return record

    def _try_to_list(self, record: SegmentRecord) -> bool:
        """Adds the manifest line. Returns False if the manifest cannot be opened again and again: recovery can still
        list the WAV by its note, and the segments after it must be saved, too."""
        try:
            self._list(record)
        except PermissionError as error:
            self._listing_refusals += 1
            if self._listing_refusals < MAX_LISTING_REFUSALS:
                raise
            logger.error("%s is saved, and cannot be listed until it is recovered: %s", record.file, error)
            return False
        return True

    def _is_erased(self) -> bool:
        note = self._note
        participant = note.track.participant_identity
        return (
            erased_since(self._folder, note.room.name, participant, note.start, self._opened_at) is not None
        )

    def _remove(self) -> None:
        self.abandon()
        for path in (self._part_path, self._folder / self._note.path_name):
            path.unlink(missing_ok=True)

    def _list(self, record: SegmentRecord) -> None:
        """Adds the manifest line once: an attempt that failed may have written it."""
        if self._may_be_listed and any(one.file == record.file for one in read_manifest(self._folder)):
            sync_file(self._folder / MANIFEST)
            return
        self._may_be_listed = True
        append_manifest(self._folder, record)

    def _set_content(self, pcm: Pcm) -> None:
        """Makes the file contain exactly ``pcm``: truncates it after a split, otherwise adds the missing samples."""
        if not self._is_still_there():
            self.abandon()
            self._file = self._create_file()
        assert self._file is not None
        self._synced_samples = min(self._synced_samples, len(pcm))
        self._unsynced = []
        self._write_header(self._synced_samples)
        self._file.truncate(WAV_HEADER_BYTES + self._synced_samples * BYTES_PER_SAMPLE)
        self._write_after_synced(pcm[self._synced_samples :])

    def _is_still_there(self) -> bool:
        return self._file is not None and is_still_at(self._file, self._part_path)

    def _create_file(self) -> IO[bytes]:
        file = open_private(self._part_path, os.O_RDWR | os.O_CREAT)
        self._synced_samples = 0
        try:
            if not try_lock(file):
                raise StorageError(f"{self._part_path.name} is being written by another recorder")
            file.truncate(0)
            write_all(file, wav_header(0))
        except BaseException:
            file.close()
            raise
        return file

    def _write_after_synced(self, pcm: Pcm) -> None:
        """Adds samples, updates the header, then syncs. After an error the next call overwrites these samples."""
        assert self._file is not None
        self._file.seek(WAV_HEADER_BYTES + self._synced_samples * BYTES_PER_SAMPLE)
        write_all(self._file, pcm_bytes(pcm))
        self._write_header(self._synced_samples + len(pcm))
        os.fsync(self._file.fileno())
        self._synced_samples += len(pcm)
        self._unsynced = []

    def _write_header(self, samples: int) -> None:
        assert self._file is not None
        self._file.seek(0)
        write_all(self._file, wav_header(samples))
