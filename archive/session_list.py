"""All sessions of a room for the commands: those that are over and complete from their files, the others counted.

Everything here blocks. Nothing is written but the index, and that only where there is one.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from archive.delivery_log import DeliveryLog
from archive.folder_texts import saved_texts
from archive.jsonl import Lines
from archive.line_index import INDEX
from archive.manifest import BROKEN, read_gaps
from archive.names import session_file_of
from archive.rooms import Room
from archive.session_counts import Expected, SessionCount
from archive.session_files import SessionFiles, session_in
from archive.tombstones import is_being_erased, open_erasures
from core.errors import StorageError
from core.session_records import ClosedBy, SessionRecord


def sessions_in(room: Room, expected: Expected) -> tuple[list[SessionRecord], int]:
    """The sessions of a room sorted by their start, and how many invalid lines its lists have.

    The manifest is read only if a session is not complete, or has other lines than its file says.

    Raises:
        StorageError: the lists cannot be read.
    """
    known, broken = _from_files(room.path, expected)
    if broken is None:
        counts, broken = _counted(room, expected, known)
        known |= {sid: count.record(ClosedBy.RECOVERY) for sid, count in counts.items()}
    return sorted(known.values(), key=lambda session: session.started_at), broken


def _from_files(folder: Path, expected: Expected) -> tuple[dict[str, SessionRecord], int | None]:
    """The complete sessions by their sids, and the number of invalid lines; None: there are other sessions."""
    if not (folder.parent / INDEX).exists() or open_erasures(folder.parent):
        return {}, None
    known: dict[str, SessionRecord] = {}
    try:
        spans, texts = SessionFiles(folder, expected).spans(), saved_texts(folder).tags()
        broken = [spans.pop(BROKEN, None), texts.pop(BROKEN, None)]
    except (OSError, StorageError):  # such as a disk that cannot be written
        return {}, None
    for tag, span in spans.items():
        session = session_in(folder / session_file_of(tag))
        if session is None or session.segments != span.lines or not _is_final(session, expected):
            continue
        if session.texts.is_wanted or not texts:  # otherwise it may have got some of these since
            known[session.room_sid] = session
    return known, sum(span.lines for span in broken if span) if len(known) == len(spans) else None


def _is_final(session: SessionRecord, expected: Expected) -> bool:
    """Whether everything is done that is expected now. What is not may have been done since."""
    return session.is_complete and not session.is_pruned and expected.is_answered_by(session)


def _counted(room: Room, expected: Expected, known: Collection[str]) -> tuple[dict[str, SessionCount], int]:
    """Counts the sessions that are not known by their sids, in one pass over all lists; and the invalid lines."""
    lines, delivery_log = Lines(), DeliveryLog(room.path)
    counts: dict[str, SessionCount] = {}
    with room.texts() as texts:
        for record in room.records(lines=lines):
            if record.room_sid not in known:
                keys = expected.keys_of(record, texts.entry)
                counts.setdefault(record.room_sid, SessionCount(expected)).add(
                    record, texts.get(record), delivery_log.undelivered(keys, expected.targets)
                )
        broken = len(lines.broken) + len(texts.lines.broken)
    add_gaps(room, counts)
    return counts, broken


def add_gaps(room: Room, counts: dict[str, SessionCount]) -> None:
    """Adds the gaps of a room to the counts of its sessions, without those that are being erased.

    Raises:
        StorageError: the list cannot be read.
    """
    try:
        for gap in read_gaps(room.path):
            if gap.room_sid in counts and not is_being_erased(room.path, gap):
                counts[gap.room_sid].add_gap(gap)
    except OSError as error:
        raise StorageError(f"{room.path} cannot be read: {error.strerror or error}") from None
