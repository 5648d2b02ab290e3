"""The open segments of one room and their growing ``.part`` files. Does disk work: call it on the disk thread."""

from __future__ import annotations

from collections.abc import Iterator

from archive.files import prove_disk
from archive.handover_note import HandoverNote, RoomProgress
from archive.session_files import reopen_session
from audio_processor import Grown, Opened
from config import Settings
from core.records import RoomInfo, SegmentRecord, SpeechSegment
from recording.track_sink import Item, SegmentKey
from storage import PartFile, RoomFolder, SegmentErased


class OpenSegments:
    """The files of open segments. They are needed only after a crash, so appending may fail; committing must not."""

    def __init__(self, settings: Settings, room: RoomInfo) -> None:
        self._settings = settings
        self._room = room
        self._folder: RoomFolder | None = None
        self._parts: dict[SegmentKey, PartFile] = {}
        self._without_part: set[SegmentKey] = set()
        """Open segments whose file could not be created."""
        self._lost: set[SegmentKey] = set()
        """Segments that will never be committed."""
        self._appended: Item | None = None
        self._has_unlisted = False
        """Whether the manifest lacks a segment that was committed."""
        self._recovery: Iterator[SegmentRecord] | None = None
        self._has_reopened = False
        """Whether the file of the session that an earlier recorder closed is removed."""

    def folder(self) -> RoomFolder:
        """The room's folder, created if it does not exist."""
        if self._folder is None:
            self._folder = RoomFolder.open(self._settings, self._room)
        return self._folder

    @property
    def has_folder(self) -> bool:
        return self._folder is not None

    @property
    def has_leftovers(self) -> bool:
        """Whether files would be left that are not committed segments."""
        return bool(self._parts or self._lost or self._has_unlisted)

    @property
    def are_all_on_disk(self) -> bool:
        """Whether all speech so far is on disk. Lost segments do not count: their gaps are recorded."""
        if self._without_part - self._lost:
            return False
        return all(part.is_all_on_disk for key, part in self._parts.items() if key not in self._lost)

    def begin(self, item: Item, opened: Opened) -> None:
        """Creates the file. Until that succeeds, the segment counts as not on disk."""
        key = item.key(opened.start_sample)
        self._without_part.add(key)
        self._part(item, opened.start_sample, opened.speech_start_sample)
        self._without_part.discard(key)

    def has_part(self, item: Item, start_sample: int) -> bool:
        """Whether an open segment has a file; False if it could not be created."""
        return item.key(start_sample) in self._parts

    def append(self, item: Item, grown: Grown) -> None:
        """Adds speech to the file of an open segment. Does nothing if the item was the last that was added: it may be
        handled again after an interruption."""
        if item is not self._appended:
            self._appended = item
            self._parts[item.key(grown.start_sample)].append(grown.pcm)

    def commit(self, item: Item, segment: SpeechSegment) -> SegmentRecord | SegmentErased:
        """Commits the whole segment, however much of it was on disk before. Returns its record, or that it was erased
        while it was spoken."""
        part = self._part(item, segment.start_sample, segment.speech_start_sample)
        try:
            record = part.commit(segment, item.text_options)
        except SegmentErased as erased:
            return erased
        self._has_unlisted |= not part.is_listed
        return record

    def forget(self, item: Item, segment: SpeechSegment, *, is_committed: bool) -> None:
        """Drops a segment that has ended. If it is not committed, :meth:`leave_nothing_open` handles its file."""
        key = item.key(segment.start_sample)
        self._without_part.discard(key)
        if is_committed:
            self._parts.pop(key, None)

    def mark_lost(self, item: Item, segment: SpeechSegment) -> None:
        """Marks a segment that will never be committed."""
        self._lost.add(item.key(segment.start_sample))

    def is_lost(self, item: Item, start_sample: int) -> bool:
        return item.key(start_sample) in self._lost

    def recover_next(self) -> bool:
        """Recovers the next segment that a crash has left in the folder. Returns whether there was one."""
        if self._recovery is None:
            self._recovery = self.folder().recovering()
        return next(self._recovery, None) is not None

    def write_progress(self, progress: RoomProgress) -> None:
        """Writes the handover note, and keeps it locked as long as the recorder is in the room."""
        folder = self.folder()
        folder.handover.write(progress)
        folder.handover.hold()
        if not self._has_reopened:  # not before: the note keeps others from writing the session's file
            self._has_reopened = True
            reopen_session(folder.path, self._room.sid)

    def note_before(self) -> HandoverNote | None:
        """The note of an earlier recorder of this session; None: there was none on this disk, or it cannot be read."""
        return self.folder().handover.note_before()

    def prove_disk(self) -> int:
        """Tests whether the disk still refuses, while nobody speaks. Returns its free bytes."""
        return prove_disk(self.folder().path)

    def leave(self) -> None:
        """The recorder is no longer in the room."""
        if self._folder is not None:
            self._folder.handover.leave()

    def leave_nothing_open(self) -> None:
        """Recovers segments from the files of speech that was dropped from memory."""
        for part in self._parts.values():
            part.abandon()
        self._parts.clear()
        self.folder().recover()

    def _part(self, item: Item, start_sample: int, speech_sample: int) -> PartFile:
        key = item.key(start_sample)
        if key not in self._parts:
            self._parts[key] = self.folder().begin(item.track, item.clock, start_sample, speech_sample)
        return self._parts[key]
