"""Adds texts to a room's folder: lines of ``texts.jsonl``, and the text files beside the WAVs.

Everything blocks except :meth:`FolderTexts.save_with_files`. What is asked of earlier lines is looked up
(:mod:`archive.line_index`), so a text costs the same in a folder with a hundred texts and with a hundred thousand.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

from aiofiles.os import wrap as in_thread

from archive import jsonl
from archive.files import FolderLock, sync_folder, write_whole
from archive.jsonl import Bookmark, bookmark_before_end, lines_behind
from archive.line_index import Entry, LineIndex
from archive.manifest import BROKEN, listed_segments
from archive.names import MANIFEST, PART_SUFFIX, TEXTS
from archive.texts import LANGUAGE_TAG, SegmentKey, entry_in, key_of, text_in
from archive.tombstones import erasures_in, is_being_erased
from core import notify
from core.answers import name_of
from core.records import SegmentRecord
from core.text_records import TextRecord

RECENT_BYTES = 1 << 17
"""How much of the end of texts.jsonl is read for the context of the next text."""

MAX_REMEMBERED = 200
"""Records of one folder that are kept in memory as context."""

OLDER = "older?"
"""The tag of lines that do not have all fields of a record."""

MAX_SPOKEN_LANGUAGES = 50
"""Of one folder; more are not used."""

CONTEXT_SECONDS = 120.0
"""What was said longer ago than this is not used as context."""


def write_text(path: Path, text: str) -> None:
    """Writes a private file completely or not at all."""
    part = path.with_name(path.name + PART_SUFFIX)
    write_whole(part, text.encode())
    os.replace(part, path)


def saved_texts(folder: Path) -> LineIndex:
    """Finds a folder's texts by :func:`name_of_segment`, without reading the others. The tags are the languages spoken;
    :data:`OLDER` for lines of older versions, and :data:`~archive.manifest.BROKEN` for invalid ones."""
    return LineIndex(folder / TEXTS, _entry_in)


class FolderTexts:
    """Adds texts to one room's folder, each once. May be used by several threads at once.

    The line in texts.jsonl is written last, when the text files it names are on disk. Every method may raise
    StorageError or OSError.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._lines = saved_texts(folder)
        self._listed = listed_segments(folder)
        self._bookmark: Bookmark | None = None
        """How far ``_recent`` has been read; None: not at all."""
        self._recent: OrderedDict[SegmentKey, TextRecord] = OrderedDict()
        self._named: dict[str, None] = {}
        """The languages of texts that were about to be saved."""

    @property
    def path(self) -> Path:
        return self.folder / TEXTS

    def has(self, segment: SegmentRecord) -> bool:
        """Whether this segment has a text or is refused."""
        return self.record_of(segment) is not None

    def spoken_languages(self) -> tuple[str, ...]:
        """The BCP 47 tags of the languages spoken so far, in the order in which they first came."""
        with self._lock:
            spoken = filter(LANGUAGE_TAG.fullmatch, self._lines.tags())
            return tuple(dict.fromkeys((*spoken, *self._named)))[:MAX_SPOKEN_LANGUAGES]

    def name_of_language(self, tag: str, transcript: str) -> str:
        """The tag by which the language of a transcript is named here. A new one is remembered: its text is about to be
        saved."""
        with self._lock:
            name = name_of(tag, transcript, self.spoken_languages())
            if len(self._named) < MAX_SPOKEN_LANGUAGES:
                self._named[name] = None
            return name

    def may_remove_audio(self, segment: SegmentRecord) -> bool:
        """Whether its text is saved, and its WAV still exists but is not to be kept (SAVE_AUDIO=false)."""
        return self._may_remove_audio(segment, self.record_of(segment))

    def unfinished(self, segments: Sequence[SegmentRecord]) -> list[SegmentRecord]:
        """Those of these segments that have no text and are not refused, or whose WAV may be removed."""
        lines = self._lines.find_all({name_of_segment(segment) for segment in segments})
        found = []
        for segment in segments:
            line = lines.get(name_of_segment(segment))
            record = text_in(line) if line is not None else None
            if record is None or self._may_remove_audio(segment, record):
                found.append(segment)
        return found

    def _may_remove_audio(self, segment: SegmentRecord, record: TextRecord | None) -> bool:
        return record is not None and not record.is_audio_kept and (self.folder / segment.file).exists()

    def before(self, segment: SegmentRecord, most: int) -> tuple[str, ...]:
        """The last texts that are known of what the same person said before this segment, at most ``most``."""
        with self._lock:
            self._read_recent()
            known = list(self._recent.values())
        said = [
            record
            for record in known
            if record.transcript
            and not record.doubt
            and record.participant_identity == segment.participant_identity
            and record.number < segment.number
            and 0 <= (segment.start - record.start).total_seconds() <= CONTEXT_SECONDS
        ]
        said.sort(key=lambda record: record.start)
        return tuple(record.transcript for record in said[-most:]) if most else ()

    def _is_erased_now(self, record: TextRecord) -> bool:
        """Whether the segment is no longer in the manifest, or is being erased: its text is not to be written."""
        with self._lock:
            self._listed.find(record.file)  # reads the manifest while the folder is not locked
            with FolderLock(self.folder):
                return self._is_erased(record)

    async def save_with_files(self, record: TextRecord, contents: Mapping[str, str]) -> bool:
        """Writes the record's text files, then saves it as :meth:`save`. Does not block."""
        return await in_thread(self._save_with_files)(record, contents)

    def _save_with_files(self, record: TextRecord, contents: Mapping[str, str]) -> bool:
        if contents and self._is_erased_now(record):
            return False  # a process that is killed after the next line would leave files that no list names
        for name, text in contents.items():
            write_text(self.folder / name, text)
        return self.save(record)

    def save(self, record: TextRecord) -> bool:
        """Adds the record's line. False: the segment has one already, from another worker, or has been erased.

        Of an erased segment the text files are removed."""
        with self._lock:
            if self._is_done(record):
                return False
            self._listed.find(record.file)  # reads the manifest while the folder is not locked
            with FolderLock(self.folder):
                if self._is_done(record):
                    return False
                if self._is_erased(record):
                    for name in record.files:
                        (self.folder / name).unlink(missing_ok=True)
                    return False
                sync_folder(self.folder)  # the text files' names are durable before the line that names them
                jsonl.append(self.path, record.to_json())
        notify.notify(self.path)
        return True

    def _is_done(self, record: TextRecord) -> bool:
        """Whether no other text is to be saved for the record's segment."""
        return self.record_of(record) is not None

    def record_of(self, segment: SegmentRecord | TextRecord) -> TextRecord | None:
        """The last record about a segment; None if it has no text and is not refused."""
        line = self._lines.find(name_of_segment(segment))
        return text_in(line) if line is not None else None

    def _is_erased(self, record: TextRecord) -> bool:
        if is_being_erased(self.folder, record):
            return True
        if self._listed.find(record.file) is not None:
            return False
        if (self.folder / MANIFEST).exists():
            return True
        return any(erasure.covers_record(self.folder, record) for erasure in erasures_in(self.folder.parent))

    def _read_recent(self) -> None:
        """Reads the lines that have come since the last call; at first, and of another list, only the last."""
        while True:
            if self._bookmark is None:
                self._recent.clear()
                self._bookmark = bookmark_before_end(self.path, RECENT_BYTES)
            is_another, lines, behind = lines_behind(self.path, self._bookmark)
            self._bookmark = None if is_another else behind
            for record in filter(None, map(text_in, lines if not is_another else ())):
                self._recent[key_of(record)] = record
                self._recent.move_to_end(key_of(record))
                if len(self._recent) > MAX_REMEMBERED:
                    self._recent.popitem(last=False)
            if not lines and not is_another:
                return


def _entry_in(line: bytes) -> Entry:
    record = text_in(line)
    if record is None:
        return Entry("", OLDER if entry_in(line) is not None else BROKEN)
    language = record.language if LANGUAGE_TAG.fullmatch(record.language) else ""
    return Entry(name_of_segment(record), language)


def name_of_segment(segment: SegmentRecord | TextRecord) -> str:
    """By what a segment's text is found."""
    return f"{segment.number} {segment.file}"
