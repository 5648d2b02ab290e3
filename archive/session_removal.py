"""What retention and erasure do with session files, before they remove the lines: an interruption then leaves lines
that the next run finds. Everything here blocks, and raises OSError or StorageError where the disk refuses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from archive.files import FolderLock, write_private
from archive.manifest import read_manifest
from archive.names import session_file
from archive.session_counts import Expected
from archive.session_files import SessionFiles, all_session_files, encoded, read_session, remove_session
from archive.tombstones import open_erasures
from core.session_records import SessionRecord


def prune_sessions(folder: Path, sounds: Iterable[str]) -> None:
    """Before the lines of these WAVs' segments are removed: removes the files of sessions of which nothing is left
    then, and marks those of which something is left: their totals do not change any more."""
    going = set(sounds)
    is_whole: dict[str, bool] = {}
    for record in read_manifest(folder):
        is_whole[record.room_sid] = is_whole.get(record.room_sid, True) and record.file in going
    touched = {record.room_sid for record in read_manifest(folder) if record.file in going}
    with FolderLock(folder):
        for room_sid in touched:
            if is_whole[room_sid]:
                remove_session(folder, room_sid)
            elif (session := read_session(folder, room_sid)) is not None and not session.is_pruned:
                pruned = replace(session, is_pruned=True)
                write_private(folder / session_file(room_sid), encoded(pruned))


def erase_from_sessions(folder: Path, expected: Expected, participant: str, room_sids: Iterable[str]) -> None:
    """While an erasure is open: counts every session of the folder again without what it covers. A file that cannot be
    read is removed if it is that of one of the sessions ``room_sids``."""
    files = SessionFiles(folder, expected)
    sids = {
        session.room_sid
        for _, session in all_session_files(folder)
        if not participant or session.has(participant)
    }
    for room_sid in sids | set(room_sids):
        files.erase(room_sid, participant)


def remove_all_sessions(folder: Path) -> list[str]:
    """Removes all session files of a folder, and returns their names. The caller holds the folder's lock."""
    paths = [path for path, _ in all_session_files(folder)]
    for path in paths:
        path.unlink(missing_ok=True)
    return [path.name for path in paths]


def is_session_being_erased(folder: Path, session: SessionRecord) -> bool:
    """Whether an open erasure covers what one of the session's participants said in it."""
    began_at = session.speech_began_at
    return any(
        erasure.covers(folder.name, session.room_name, one.identity, began_at)
        for erasure in open_erasures(folder.parent)
        for one in session.participants
    )
