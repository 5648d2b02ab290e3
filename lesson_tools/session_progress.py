"""Counts sessions again in which a command has completed something."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from archive.names import session_file
from archive.session_counts import Expected
from archive.session_files import SessionFiles
from config import Settings
from core.errors import StorageError
from lesson_tools.console import tell

if TYPE_CHECKING:
    from lesson_tools.transcription import Task

Sessions = set[tuple[str, str]]
"""Sessions by the names of their folders and their sids."""


def count_again(settings: Settings, expected: Expected, sessions: Iterable[tuple[str, str]]) -> int:
    """Writes the files of these sessions anew, where they have one, and returns how many have changed. What the disk
    refuses is only told."""
    changed = 0
    for folder, room_sid in sorted(sessions):
        try:
            changed += SessionFiles(Path(settings.output_dir) / folder, expected).refresh(room_sid)
        except (OSError, StorageError) as error:
            reason = getattr(error, "strerror", None) or error
            tell(f"{folder}/{session_file(room_sid)} cannot be written: {reason}")
    return changed


def noted(tasks: Iterable[Task], into: Sessions) -> Iterator[Task]:
    """Yields the same tasks, and adds their sessions to ``into``."""
    for task in tasks:
        into.add((task.folder.name, task.record.room_sid))
        yield task
