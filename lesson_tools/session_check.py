"""Compares the session files of a room with what its lists say."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from archive.delivery_log import DELIVERED
from archive.names import MANIFEST, TEXTS, session_file
from archive.session_counts import SessionCount
from archive.session_files import all_session_files, is_going_on, read_session
from core.errors import StorageError
from core.session_records import SessionRecord
from lesson_tools.findings import Finding, Kind

BUSY_SECONDS = 900.0
"""If the lists have changed since, a worker may be about to write the file, or the session may still be going on."""

TOTALS = (
    "room_name",
    "speech_began_at",
    "speech_ended_at",
    "segments",
    "first_number",
    "last_number",
    "speech_seconds",
    "participants",
    "gaps",
)
PROGRESS = frozenset({"texts", "delivery"})
"""What of a record changes after the session is over."""


def check_sessions(folder: Path, counts: Mapping[str, SessionCount]) -> Iterator[Finding]:
    """Yields what is wrong with the files of a folder's sessions, by what was counted in its lists.

    Raises:
        StorageError: the folder cannot be read.
    """
    try:
        over = [sid for sid in counts if sid and not is_going_on(folder, sid)]
        changed_at = max(_changed_at(folder, name) for name in (MANIFEST, TEXTS, DELIVERED))
        is_busy = time.time() - changed_at < BUSY_SECONDS
        for room_sid in over:
            if (finding := _finding(folder, room_sid, counts[room_sid], is_busy=is_busy)) is not None:
                yield finding
        for path, session in all_session_files(folder):
            if session.room_sid not in counts:
                what = f"{path.name} is about a session that the manifest does not have"
                yield Finding(Kind.SESSION_FILE_WRONG, what, path.name, room_sid=session.room_sid)
    except OSError as error:
        raise StorageError(f"{folder} cannot be read: {error.strerror or error}") from None


def _finding(folder: Path, room_sid: str, count: SessionCount, *, is_busy: bool) -> Finding | None:
    name, session = session_file(room_sid), read_session(folder, room_sid)
    if session is None and not os.path.lexists(folder / name):
        if is_busy:
            return None
        what = f"the session {room_sid} is over and has no {name}"
        return Finding(Kind.SESSION_FILE_MISSING, what, name, room_sid=room_sid)
    if session is None:
        what = f"{name} is not the file of the session {room_sid}"
        return Finding(Kind.SESSION_FILE_DAMAGED, what, name, room_sid=room_sid)
    counted = count.record(session.closed_by, session.ended_at)
    differs = [] if session.is_pruned else differences(session, counted)
    if not differs or (is_busy and PROGRESS.issuperset(differs)):
        return None
    what = f"{name} says something else than the lists: {', '.join(differs)}"
    return Finding(Kind.SESSION_FILE_WRONG, what, name, room_sid=room_sid)


def differences(session: SessionRecord, counted: SessionRecord) -> list[str]:
    """The names of the fields in which a file differs from its lists. Other languages and targets may be expected now
    than when it was written: only those are compared that both tell."""
    here, there = _compared(session, counted), _compared(counted, session)
    return [name for name in here if here[name] != there[name]]


def _compared(session: SessionRecord, other: SessionRecord) -> dict[str, Any]:
    texts, targets = session.texts, session.delivery.targets
    document = session.to_json()
    return {
        **{name: document[name] for name in TOTALS},
        "texts": (
            texts.settled,
            texts.refused,
            set(texts.languages),
            {tag: count for tag, count in texts.missing.items() if tag in other.texts.missing},
        ),
        "delivery": {name: one for name, one in targets.items() if name in other.delivery.targets},
    }


def _changed_at(folder: Path, name: str) -> float:
    try:
        return (folder / name).stat().st_mtime
    except FileNotFoundError:
        return 0.0
