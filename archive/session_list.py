"""All sessions of a room for the commands: those that are over and complete from their files, the others counted.

Everything here blocks. Nothing is written but the index, and that only where there is one.
"""

from __future__ import annotations

from pathlib import Path

from archive.delivery_log import DeliveryLog
from archive.folder_texts import saved_texts
from archive.jsonl import Lines
from archive.line_index import INDEX, Span
from archive.manifest import BROKEN, read_gaps
from archive.names import session_file_of, session_tag
from archive.rooms import Room
from archive.session_counts import Expected, SessionCount
from archive.session_files import SessionFiles, session_in
from archive.tombstones import is_being_erased, open_erasures
from core.errors import StorageError
from core.session_records import ClosedBy, SessionRecord

MAX_SHARE = 0.25
"""If more of the lines have to be read, it is faster to read all than to look for each."""


def sessions_in(room: Room, expected: Expected) -> tuple[list[SessionRecord], int]:
    """The sessions of a room sorted by their start, and how many invalid lines its lists have.

    Of a session that is complete, and has as many lines as its file says, no lines are read. Of the others only theirs
    are, unless these are many.

    Raises:
        StorageError: the lists cannot be read.
    """
    found = _by_index(room.path, expected)
    if found is None:
        counts, broken = _counted(room, expected)
        found = [count.record(ClosedBy.RECOVERY) for count in counts.values()], broken
    return sorted(found[0], key=lambda session: session.started_at), found[1]


def _by_index(folder: Path, expected: Expected) -> tuple[list[SessionRecord], int] | None:
    """The sessions and the number of invalid lines, if the index is there and most lines need not be read."""
    if not (folder.parent / INDEX).exists() or open_erasures(folder.parent):
        return None
    try:
        files, texts = SessionFiles(folder, expected), saved_texts(folder).tags()
        spans = files.spans()
        broken = [span.lines for one in (spans, texts) if (span := one.pop(BROKEN, None)) is not None]
        known = {tag: session_in(folder / session_file_of(tag)) for tag in spans}
        final = [
            session
            for tag, session in known.items()
            if session is not None and _is_final(session, spans[tag], expected, has_texts=bool(texts))
        ]
        others = spans.keys() - {session_tag(session.room_sid) for session in final}
        if sum(spans[tag].lines for tag in others) > MAX_SHARE * sum(span.lines for span in spans.values()):
            return None
        sids = [sid for tag in others if (sid := files.sid_of(tag)) is not None]
        counts = [count for sid in sids if not (count := files.count(sid)).is_empty]
    except (OSError, StorageError):  # such as a disk that cannot be written
        return None
    return [*final, *(count.record(ClosedBy.RECOVERY) for count in counts)], sum(broken)


def _is_final(session: SessionRecord, span: Span, expected: Expected, *, has_texts: bool) -> bool:
    """Whether everything is done that is expected now. What is not may have been done since.

    Args:
        has_texts: whether any session of the folder has texts: then one without may have got some since.
    """
    return (
        session.segments == span.lines
        and session.is_complete
        and not session.is_pruned
        and expected.is_answered_by(session)
        and (session.texts.is_wanted or not has_texts)
    )


def _counted(room: Room, expected: Expected) -> tuple[dict[str, SessionCount], int]:
    """Counts all sessions in one pass over all lists; and the invalid lines."""
    lines, delivery_log = Lines(), DeliveryLog(room.path)
    counts: dict[str, SessionCount] = {}
    with room.texts() as texts:
        for record in room.records(lines=lines):
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
