"""The session files of a room's folder, ``session_<sid>.json``: each sums up one session when it is over.

A session has a file only while it is not being recorded. The file is counted from the lists, so it may be deleted at
any time. It is written again when one of its figures changes: in a worker by :mod:`archive.session_keeper`, and by the
commands. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from archive import jsonl
from archive.delivery_log import SettledItems
from archive.files import FolderLock, is_ordinary_or_none, open_private, write_private
from archive.folder_texts import OLDER, name_of_segment, saved_texts
from archive.handover_note import NoteLock, read_note
from archive.line_index import Span
from archive.manifest import gap_in, listed_gaps, listed_segments, record_in
from archive.names import (
    HANDOVER_NOTE,
    NOTE_FRESH_SECONDS,
    SESSION_FILES,
    is_like_session_file,
    is_plain_name,
    session_file,
    session_tag,
)
from archive.session_counts import Expected, SessionCount
from archive.texts import Text, Texts, entry_in, text_in, text_of_entry
from archive.tombstones import Erasure, erasures_in, open_erasures
from core import notify
from core.errors import StorageError
from core.records import GapRecord, SegmentRecord
from core.session_records import ClosedBy, SessionRecord
from core.text_records import TextRecord

logger = logging.getLogger("recorder")

MAX_BYTES = 8 << 20
"""A larger file is not a session's: 10,000 participants take two megabytes."""
MAX_TOLD = 1000
"""Files that cannot be used are named in the log, each once, up to this many."""
_told: set[Path] = set()
MAX_COUNTS = 3
"""How often a session is counted while its lines change, until it is left to the next time."""


# --- one file ---


def read_session(folder: Path, room_sid: str) -> SessionRecord | None:
    """The record in a session's file; None if there is none that can be used. Raises nothing."""
    record = session_in(folder / session_file(room_sid))
    return record if record is not None and record.room_sid == room_sid else None


def session_in(path: Path) -> SessionRecord | None:
    """The record in a file; None unless it is the file of a session. Raises nothing: what is wrong is logged, once."""
    problem = "it is not the file of a session"
    try:
        if not os.path.lexists(path):
            return None
        with open_private(path, os.O_RDONLY) as file:
            record = session_of(path.name, file.read(MAX_BYTES))
        if record is not None:
            return record
    except OSError as error:
        problem = error.strerror or str(error)
    if path not in _told and len(_told) < MAX_TOLD:
        _told.add(path)
        logger.warning("The session file %s is left out: %s", path, problem)
    return None


def session_of(name: str, content: bytes) -> SessionRecord | None:
    """The record in the content of a file of this name; None unless it is the file of a session."""
    record = jsonl.parsed(content, SessionRecord.from_json)
    return record if record is not None and session_file(record.room_sid) == name else None


def encoded(record: SessionRecord) -> bytes:
    """A record as the content of a file."""
    text = json.dumps(record.to_json(), ensure_ascii=False, indent=1)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def all_session_files(folder: Path) -> list[tuple[Path, SessionRecord]]:
    """Every session file in a folder, by its content. Looks through all names in it, so it is not for each segment.

    Raises:
        OSError: the folder cannot be read.
    """
    paths = [folder / name for name in sorted(filter(is_like_session_file, os.listdir(folder)))]
    return [(path, record) for path in paths if (record := session_in(path)) is not None]


def remove_session(folder: Path, room_sid: str) -> None:
    """Removes a session's file, if there is a regular file or a link. The caller holds the folder's lock.

    Raises:
        OSError: the disk refuses.
    """
    path = folder / session_file(room_sid)
    if path.is_symlink() or is_ordinary_or_none(path):
        path.unlink(missing_ok=True)


def reopen_session(folder: Path, room_sid: str) -> None:
    """Removes a session's file because a recorder has joined the session. What the disk refuses is only logged."""
    path = folder / session_file(room_sid)
    try:
        if os.path.lexists(path):
            with FolderLock(folder):
                remove_session(folder, room_sid)
    except OSError as error:
        logger.warning("The session file %s cannot be removed: %s", path, error.strerror or error)


def is_going_on(folder: Path, room_sid: str) -> bool:
    """Whether a recorder is in the session now, or was until a moment ago, by its handover note.

    Raises:
        OSError: the note cannot be read.
    """
    note = read_note(folder)
    if note is None or note.room_sid != room_sid:
        return False
    with contextlib.suppress(FileNotFoundError):
        is_fresh = abs(time.time() - os.lstat(folder / HANDOVER_NOTE).st_mtime) < NOTE_FRESH_SECONDS
        return is_fresh or has_recorder(folder)
    return False


def has_recorder(folder: Path) -> bool:
    """Whether a recorder holds the handover note.

    Raises:
        OSError: there is no note, or it cannot be read.
    """
    lock = NoteLock(folder)
    is_free = lock.acquire()
    lock.release()
    return not is_free


# --- the files of one folder ---


Made = Callable[[SessionCount, SessionRecord | None], SessionRecord | None]


@dataclass(frozen=True)
class _State:
    """What a count depends on, besides progress that is announced."""

    segments: Span | None
    gaps: Span | None
    erasures: tuple[Erasure, ...]


class SessionFiles:
    """Counts the sessions of one folder, and writes their files.

    A session's lines are found by the index (:mod:`archive.line_index`), so the work does not grow with other sessions.
    Every method may raise OSError or StorageError, also if the lines of the session change all the time.
    """

    def __init__(self, folder: Path, expected: Expected) -> None:
        self.folder = folder
        self._expected = expected
        self._segments = listed_segments(folder)
        self._gaps = listed_gaps(folder)

    def spans(self) -> dict[str, Span]:
        """The sessions in the manifest, by :func:`~archive.names.session_tag`; also
        :data:`~archive.manifest.BROKEN`."""
        return self._segments.tags()

    def sid_of(self, tag: str) -> str | None:
        """The sid of a session in the manifest; None: its lines have just gone."""
        for line in self._segments.lines_from_first_to_last(tag):
            record = record_in(line)
            if record is not None and session_tag(record.room_sid) == tag:
                return record.room_sid
        return None

    def count(self, room_sid: str) -> SessionCount:
        """Counts a session, without what is being erased."""
        count, seen = SessionCount(self._expected), set[str]()
        erasures, settled = open_erasures(self.folder.parent), SettledItems(self.folder)
        with _texts_of(self.folder) as texts:
            for record in self._records(room_sid):
                if record.file in seen or any(one.covers_record(self.folder, record) for one in erasures):
                    continue
                seen.add(record.file)
                keys = self._expected.keys_of(record, texts.entry)
                count.add(record, texts.get(record), settled.undelivered(keys, self._expected.targets))
        for gap in self._gaps_of(room_sid):
            if not any(one.covers_record(self.folder, gap) for one in erasures):
                count.add_gap(gap)
        return count

    def close(self, room_sid: str, closed_by: ClosedBy, ended_at: datetime | None = None) -> bool:
        """Writes the file of a session that is over; returns whether it has changed."""
        return self._write(
            room_sid, lambda count, _: None if count.is_empty else count.record(closed_by, ended_at)
        )

    def recover(self, room_sid: str) -> bool:
        """Writes the file of a session if it has none that can be used and nobody is in the session; returns whether
        it has."""

        def made(count: SessionCount, before: SessionRecord | None) -> SessionRecord | None:
            if before is not None or count.is_empty or is_going_on(self.folder, room_sid):
                return before
            return count.record(ClosedBy.RECOVERY)

        return self._write(room_sid, made)

    def refresh(self, room_sid: str) -> bool:
        """Counts a session again that has a file, and returns whether the file has changed. It is removed if nothing is
        left of the session."""

        return self._write(room_sid, lambda count, before: None if before is None else _again(count, before))

    def repair(self, room_sid: str) -> bool:
        """Writes the file of a session that is over anew, whatever is in its place; returns whether it has changed."""

        def made(count: SessionCount, before: SessionRecord | None) -> SessionRecord | None:
            if before is not None:
                return _again(count, before)
            is_over = not count.is_empty and not is_going_on(self.folder, room_sid)
            return count.record(ClosedBy.RECOVERY) if is_over else None

        return self._write(room_sid, made, removes_damaged=True)

    def erase(self, room_sid: str, participant: str) -> None:
        """Counts a session again while an erasure of a participant (empty: of everybody) is open. The file is removed
        if nothing is left of the session, or if it cannot be read."""

        def made(count: SessionCount, before: SessionRecord | None) -> SessionRecord | None:
            if before is not None and before.is_pruned and not count.is_empty:
                return before.without(participant)
            return None if before is None else _again(count, before)

        self._write(room_sid, made, removes_damaged=True)

    def _write(self, room_sid: str, made: Made, *, removes_damaged: bool = False) -> bool:
        """Writes what ``made`` makes of the count and the present record; None: there is to be no file."""
        if not room_sid or not self.folder.is_dir():
            return False  # nobody knows the session of some recovered segments, or the room has been erased
        for _ in range(MAX_COUNTS):
            state, count = self._state(room_sid), self.count(room_sid)
            with FolderLock(self.folder):
                if self._state(room_sid) != state:
                    continue
                before = read_session(self.folder, room_sid)
                record = made(count, before)
                if record is None and (before is not None or removes_damaged):
                    remove_session(self.folder, room_sid)
                if record is not None and (before is None or encoded(record) != encoded(before)):
                    write_private(self.folder / session_file(room_sid), encoded(record))
                    notify.notify(self.folder / SESSION_FILES)
                    return True
                return False
        raise StorageError("its lines change all the time")

    def _state(self, room_sid: str) -> _State:
        tag = session_tag(room_sid)
        return _State(self._segments.span(tag), self._gaps.span(tag), erasures_in(self.folder.parent))

    def _records(self, room_sid: str) -> Iterator[SegmentRecord]:
        for line in self._segments.lines_from_first_to_last(session_tag(room_sid)):
            record = record_in(line)
            if record is not None and record.room_sid == room_sid and is_plain_name(record.file):
                yield record

    def _gaps_of(self, room_sid: str) -> Iterator[GapRecord]:
        for line in self._gaps.lines_from_first_to_last(session_tag(room_sid)):
            gap = gap_in(line)
            if gap is not None and gap.room_sid == room_sid:
                yield gap


def _again(count: SessionCount, before: SessionRecord) -> SessionRecord | None:
    """The record of a session that was counted again; None: nothing is left of it."""
    if count.is_empty:
        return None
    return before if before.is_pruned else count.record(before.closed_by, before.ended_at)


class IndexedTexts:
    """The texts of a folder, found one by one by the index; :class:`~archive.texts.Texts` reads the whole list."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines = saved_texts(folder)

    def get(self, record: SegmentRecord) -> Text | None:
        """The text of a segment; None if there is none yet."""
        line = self._lines.find(name_of_segment(record))
        entry = entry_in(line) if line is not None else None
        return None if entry is None else text_of_entry(self._folder, record.file, entry)

    def entry(self, record: SegmentRecord) -> TextRecord | None:
        """The record in the segment's line."""
        line = self._lines.find(name_of_segment(record))
        return text_in(line) if line is not None else None


@contextlib.contextmanager
def _texts_of(folder: Path) -> Iterator[Texts | IndexedTexts]:
    """The texts of a folder; those of an older version's folder are not found by the index."""
    if saved_texts(folder).span(OLDER) is None:
        yield IndexedTexts(folder)
        return
    with Texts(folder) as texts:
        yield texts
