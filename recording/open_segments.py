"""The segments of one room that are being spoken, as files that grow. Does disk work: call it on the disk's thread."""

from __future__ import annotations

from audio_processor import Opened
from config import Settings
from core.records import RoomInfo, SegmentRecord, SpeechSegment
from recording.track_sink import Item, SegmentKey
from storage import PartFile, RoomFolder


class OpenSegments:
    """What is on disk before a segment ends is for the case of a crash: growing may fail, committing may not."""

    def __init__(self, settings: Settings, room: RoomInfo) -> None:
        self._settings = settings
        self._room = room
        self._folder: RoomFolder | None = None
        self._parts: dict[SegmentKey, PartFile] = {}
        self._without_part: set[SegmentKey] = set()
        """Segments that are open, and have no file because the disk refused it."""
        self._lost: set[SegmentKey] = set()
        """Segments that will never be committed."""

    def folder(self) -> RoomFolder:
        """The room's folder, made if it is not there yet."""
        if self._folder is None:
            self._folder = RoomFolder.open(self._settings, self._room)
        return self._folder

    @property
    def has_folder(self) -> bool:
        return self._folder is not None

    @property
    def has_leftovers(self) -> bool:
        """Whether anything would stay behind that is no segment."""
        return bool(self._parts or self._lost)

    @property
    def are_all_on_disk(self) -> bool:
        """Whether the disk has taken everything that it was given. (Of those that are lost, the gap is on disk.)"""
        if self._without_part - self._lost:
            return False
        return all(part.is_all_on_disk for key, part in self._parts.items() if key not in self._lost)

    def begin(self, item: Item, opened: Opened) -> None:
        """Makes the file. While there is none, the segment counts as not on disk."""
        key = item.key(opened.start_sample)
        self._without_part.add(key)
        self._part(item, opened.start_sample, opened.speech_start_sample)
        self._without_part.discard(key)

    def part(self, item: Item, start_sample: int) -> PartFile | None:
        """The file of an open segment, if the disk has taken it."""
        return self._parts.get(item.key(start_sample))

    def commit(self, item: Item, segment: SpeechSegment) -> SegmentRecord:
        """Makes the segment final, whatever of it was on disk before."""
        part = self._part(item, segment.start_sample, segment.speech_start_sample)
        return part.commit(segment, item.text_options)

    def forget(self, item: Item, segment: SpeechSegment, *, is_committed: bool) -> None:
        """The segment is over. One that is not committed leaves its file to :meth:`leave_nothing_open`."""
        key = item.key(segment.start_sample)
        self._without_part.discard(key)
        if is_committed:
            self._parts.pop(key, None)

    def lose(self, item: Item, segment: SpeechSegment) -> None:
        """The segment will never be committed."""
        self._lost.add(item.key(segment.start_sample))

    def is_lost(self, item: Item, start_sample: int) -> bool:
        return item.key(start_sample) in self._lost

    def leave_nothing_open(self) -> None:
        """Makes segments of what is on disk of speech that memory had to let go."""
        for part in self._parts.values():
            part.abandon()
        self._parts.clear()
        self.folder().recover()

    def _part(self, item: Item, start_sample: int, speech_sample: int) -> PartFile:
        key = item.key(start_sample)
        if key not in self._parts:
            self._parts[key] = self.folder().begin(item.track, item.clock, start_sample, speech_sample)
        return self._parts[key]
