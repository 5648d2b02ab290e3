"""Finds the session files that are to be delivered to one target, and adds them to the outbox."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

from archive.delivery_log import Key, SettledItems
from archive.files import state_of
from archive.folder_watch import is_text
from archive.manifest import BROKEN, listed_segments
from archive.names import LOST_AND_FOUND, session_file, session_file_of
from archive.outbox import Outbox, Work
from archive.session_files import encoded, session_in
from config import Settings
from core.session_records import SessionRecord
from delivery.items import expired_before

logger = logging.getLogger("recorder")

LOOK_SECONDS = 60.0
"""How often all folders are looked at: a command may have written a session file in any of them."""
SETTLED_SECONDS = 2.0
"""A change of a folder that is not older may be followed by another one with the same time."""


class SessionReader:
    """Adds session files that have changed to the outbox, each time as a new item."""

    def __init__(self, settings: Settings, outbox: Outbox, target: str, kind: str) -> None:
        self._output_dir = Path(settings.output_dir)
        self._remote_retention_days = settings.remote_retention_days
        self._outbox = outbox
        self._target = target
        self._kind = kind
        self._notified: set[str] = set()
        self._look_at = 0.0
        self._generation = 0
        self._changes: dict[str, int] = {}
        """The times of the last change (ns) of folders whose session files were looked at since, by folder."""
        self._states: dict[str, int] = {}
        """What the session files of each folder were when they were read."""

    def notify(self, folder: str) -> None:
        """A session file in a folder has changed."""
        self._notified.add(folder)

    async def look(self, *, everything: bool) -> bool:
        """Adds what is new, now and then or with ``everything``; whether there was anything.

        Raises:
            OSError, StorageError: the disk refuses.
        """
        if not everything and time.monotonic() < self._look_at:
            return False
        self._look_at = time.monotonic() + LOOK_SECONDS
        generation = await self._outbox.generation()
        if generation != self._generation:
            self._generation = generation
            self._changes, self._states = {}, {}
        changes = await asyncio.to_thread(self._changed_folders)
        self._changes = {folder: change for folder, change in self._changes.items() if folder in changes}
        self._states = {folder: state for folder, state in self._states.items() if folder in changes}
        due = {folder for folder, change in changes.items() if change != self._changes.get(folder)}
        has_news = await self._add(due)
        self._changes |= {
            folder: change
            for folder, change in changes.items()
            if time.time() - change / 1e9 > SETTLED_SECONDS
        }
        return has_news

    async def look_at_notified(self) -> bool:
        """Does the same in the folders of which a change was notified."""
        notified, self._notified = self._notified, set()
        return await self._add(notified)

    async def _add(self, folders: Iterable[str]) -> bool:
        added = 0
        for folder in folders:
            state, works = await asyncio.to_thread(self._works, folder)
            added += await self._outbox.add(works) if works else 0
            self._states[folder] = state
        return added > 0

    # What reads the disk runs on a thread.

    def _changed_folders(self) -> dict[str, int]:
        """The times of the last change of all folders: each file that is written anew changes its folder."""
        changes = {}
        with os.scandir(self._output_dir) as entries:
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False) and entry.name != LOST_AND_FOUND
                if is_folder and is_text(entry.name):
                    with contextlib.suppress(OSError):
                        changes[entry.name] = entry.stat().st_mtime_ns
        return changes

    def _works(self, folder: str) -> tuple[int, list[Work]]:
        """The state of a folder's session files, and what is to be delivered of them if it is another one."""
        path = self._output_dir / folder
        try:
            files = [path / session_file_of(tag) for tag in listed_segments(path).tags() if tag != BROKEN]
            state = hash(tuple(map(state_of, files)))
        except OSError:  # recovery says what cannot be read; the other folders are looked at
            return 0, []
        if state == self._states.get(folder):
            return state, []
        settled = SettledItems(path)
        sessions = [session for file in files if (session := session_in(file)) is not None]
        return state, [
            Work(self._kind, folder, key.item, time.time(), {"session": session.room_sid})
            for session in sessions
            if not self._is_expired(session)
            and not settled.is_settled(self._target, key := key_of_session(session))
        ]

    def _is_expired(self, session: SessionRecord) -> bool:
        before = expired_before(self._remote_retention_days)
        return before is not None and session.speech_ended_at < before


def key_of_session(session: SessionRecord) -> Key:
    """The key of a session's file in its present state."""
    digest = hashlib.sha256(encoded(session)).hexdigest()
    return Key(f"{session_file(session.room_sid)}#{digest[:16]}")
