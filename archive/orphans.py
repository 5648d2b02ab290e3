"""Finds the rooms whose recorder has died: its handover note is recent but no longer rewritten, and nobody locks it.

The note is rewritten every second, and its lock ends with the recorder's process. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from archive.files import is_ordinary_or_none
from archive.handover_note import HandoverNote, NoteLock, read_note
from archive.names import HANDOVER_NOTE

RECENT_SECONDS = 300.0
"""An older note tells nothing about who is in the room now."""

SILENT_SECONDS = 1.5
"""A note that was rewritten since is from a living recorder, which may not have got the lock yet."""


@dataclass(frozen=True, eq=False)
class Orphan:
    """A room without its recorder."""

    note: HandoverNote
    written_at: float
    """When the note was last written (seconds since 1970)."""
    lock: NoteLock
    """Held from now on: nobody else finds this orphan until it is released."""


def find_orphans(output_dir: Path, agent_name: str) -> Iterator[Orphan]:
    """Yields the rooms in the output folder whose recorder, of this AGENT_NAME, has died.

    Raises:
        OSError: the output folder cannot be read.
    """
    with os.scandir(output_dir) as entries:
        folders = [
            Path(entry.path)
            for entry in entries
            if entry.is_dir(follow_symlinks=False) and _has_recent_note(entry.path)
        ]
    for folder in folders:
        with contextlib.suppress(OSError):  # a folder that cannot be used does not hide the others
            if (orphan := _orphan_in(folder, agent_name)) is not None:
                yield orphan


def _has_recent_note(folder: str) -> bool:
    """Asked of thousands of folders twice a second, and false of nearly all."""
    try:
        return time.time() - os.lstat(f"{folder}{os.sep}{HANDOVER_NOTE}").st_mtime < RECENT_SECONDS
    except OSError:
        return False


def _orphan_in(folder: Path, agent_name: str) -> Orphan | None:
    path = folder / HANDOVER_NOTE
    written_at = os.lstat(path).st_mtime
    is_recent = SILENT_SECONDS < time.time() - written_at < RECENT_SECONDS
    if not is_recent or not is_ordinary_or_none(path):
        return None
    lock = NoteLock(folder)
    if not lock.acquire():
        return None
    note = read_note(folder)
    if note is not None and note.recorder_sid and note.room_name and note.agent_name == agent_name:
        return Orphan(note, written_at, lock)
    lock.release()
    return None
