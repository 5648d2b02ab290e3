"""Keeps the session files of one OUTPUT_DIR up to date while a worker runs.

It is told of sessions that are over and of segments that have got a text or were delivered. A session is counted again
when nothing in its folder is waiting any more, and now and then while something is. At the start and now and then it
looks for sessions that nobody records and that have no file: their recorder was killed, or stopped before the room
ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from archive import line_index
from archive.delivery_log import DELIVERED
from archive.files import Reservation, state_of
from archive.folder_watch import is_text
from archive.manifest import BROKEN
from archive.names import (
    LOST_AND_FOUND,
    MANIFEST,
    NOTE_FRESH_SECONDS,
    TEXTS,
    session_file,
    session_file_of,
)
from archive.outbox import Outbox
from archive.session_counts import Expected
from archive.session_files import SessionFiles, has_recorder, is_going_on, session_in
from core.errors import InputError, StorageError
from core.session_records import ClosedBy, SessionRecord

logger = logging.getLogger("recorder")

LOOK_SECONDS = 1.0
"""How often sessions in which something was done are looked at."""
BUSY_SECONDS = 60.0
"""After this long a session is counted although something is still waiting in its folder."""
MAX_SHARE = 0.01
"""The greatest part of the time that this counting may take."""
RECOVERY_SECONDS = 600.0
"""How often sessions without a file are looked for."""
AFTER_CRASH_SECONDS = NOTE_FRESH_SECONDS + 1
"""How soon they are looked for again where a recorder has just left: another may take the session over."""
MAX_RECOVERY_SHARE = 0.25
"""The greatest part of the time that writing files of old sessions may take."""


@dataclass(frozen=True)
class _Session:
    folder: str
    room_sid: str


class SessionKeeper:
    """Counts sessions and writes their files. :meth:`over` and :meth:`progressed` may be called on any thread."""

    def __init__(self, output_dir: Path, expected: Expected, outbox: Outbox, kinds: Sequence[str]) -> None:
        """``kinds``: the kinds of work in the outbox that make a session complete."""
        self._output_dir = output_dir
        self._expected = expected
        self._outbox = outbox
        self._kinds = tuple(kinds)
        self._index: object = None
        """Keeps the index open while this works."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._over: dict[_Session, datetime] = {}
        """When sessions ended that have no file yet."""
        self._due: dict[_Session, float] = {}
        """When sessions in which something was done are counted at the latest (monotonic clock)."""
        self._busy_seconds = BUSY_SECONDS
        self._refused: set[_Session] = set()
        """Sessions whose file could not be written."""
        self._has_left = False
        """Whether a recorder has just left a session, which another may take over."""
        self._known: dict[str, tuple[int, ...]] = {}
        """The manifests in which every session has a file, as they were, by folder."""

    def over(self, folder: str, room_sid: str, ended_at: datetime) -> None:
        """A session has ended while it was recorded."""
        self._over[_Session(folder, room_sid)] = ended_at
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the worker has just stopped
                self._loop.call_soon_threadsafe(self._news.set)

    def progressed(self, folder: str, room_sid: str) -> None:
        """A segment of a session has got its text, or was delivered or refused."""
        self._due.setdefault(_Session(folder, room_sid), time.monotonic() + self._busy_seconds)

    # Sessions that were announced.

    async def run(self) -> None:
        """Writes what was announced, until cancelled."""
        self._loop, self._index = asyncio.get_running_loop(), line_index.keep_open(self._output_dir)
        while True:
            await self._close()
            await self._refresh()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._news.wait()
            self._news.clear()

    async def _close(self) -> None:
        for session, ended_at in list(self._over.items()):
            del self._over[session]
            await self._write(session, partial(_close, ended_at=ended_at))

    async def _refresh(self) -> None:
        for session, latest in list(self._due.items()):
            is_time_up = time.monotonic() >= latest
            if not (self._output_dir / session.folder / session_file(session.room_sid)).exists():
                if is_time_up:  # it is still recorded
                    del self._due[session]
            elif is_time_up or not await self._is_waiting(session.folder):
                del self._due[session]
                took, is_done = await self._write(session, SessionFiles.refresh)
                self._busy_seconds = max(BUSY_SECONDS, took / MAX_SHARE)
                if not is_done:
                    self._known.pop(session.folder, None)  # it is looked at again
                await asyncio.sleep(min(LOOK_SECONDS, took / MAX_RECOVERY_SHARE))

    async def _is_waiting(self, folder: str) -> bool:
        try:
            return await self._outbox.has_pending(self._kinds, folder)
        except StorageError:
            return True

    async def _write(
        self, session: _Session, step: Callable[[SessionFiles, str], bool]
    ) -> tuple[float, bool]:
        """Runs a step on a session's file; returns how long it took (seconds), and whether the disk has not refused it,
        which is only logged."""
        files = SessionFiles(self._output_dir / session.folder, self._expected)
        began = time.monotonic()
        try:
            await asyncio.to_thread(step, files, session.room_sid)
            self._refused.discard(session)
        except (OSError, StorageError) as error:
            self._log_refusal(session, error)
        return time.monotonic() - began, session not in self._refused

    def _log_refusal(self, session: _Session, error: Exception) -> None:
        """Logs once that a session's file cannot be written."""
        if session not in self._refused:
            self._refused.add(session)
            name = f"{session.folder}/{session_file(session.room_sid)}"
            reason = getattr(error, "strerror", None) or error
            logger.warning("The session file %s cannot be written now: %s", name, reason)

    # Sessions of which nobody has said that they are over.

    async def recover(self) -> None:
        """Looks for sessions without a file, until cancelled. Begin when the manifests have what a crash has left."""
        while True:
            self._has_left = False
            await self.recover_once()
            await asyncio.sleep(AFTER_CRASH_SECONDS if self._has_left else RECOVERY_SECONDS)

    async def recover_once(self) -> None:
        """Does so once, in the folders whose manifests have changed since the last time. Of several workers on a disk
        one does it at a time."""
        try:
            with Reservation(self._output_dir, "sessions"):
                await self._recover_changed()
        except InputError:
            pass  # another worker does it
        except OSError as error:
            logger.warning("Sessions without a file cannot be looked for: %s", error.strerror or error)

    async def _recover_changed(self) -> None:
        for folder, state in (await asyncio.to_thread(self._changed_manifests)).items():
            sids, is_all = await asyncio.to_thread(self._without_file, folder)
            for room_sid in sids:
                took, is_done = await self._write(_Session(folder, room_sid), SessionFiles.recover)
                is_all &= is_done
                await asyncio.sleep(took / MAX_RECOVERY_SHARE)
            if is_all:
                self._known[folder] = state

    def _changed_manifests(self) -> dict[str, tuple[int, ...]]:
        """The states of the manifests in which there may be sessions without a file, by folder."""
        try:
            with os.scandir(self._output_dir) as entries:
                folders = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:  # the health answer and the recorders of the rooms report the disk
            logger.debug("The output folder cannot be read", exc_info=error)
            return {}
        states = {}
        for folder in sorted(filter(is_text, set(folders) - {LOST_AND_FOUND})):
            with contextlib.suppress(OSError):  # recovery says what cannot be read
                states[folder] = state_of(self._output_dir / folder / MANIFEST)
        self._known = {folder: state for folder, state in self._known.items() if folder in states}
        return {
            folder: state for folder, state in states.items() if state and state != self._known.get(folder)
        }

    def _without_file(self, folder: str) -> tuple[list[str], bool]:
        """The sids of a folder's sessions that nobody records and that have no file, and whether nobody records any.
        Sessions whose file may be out of date are counted again soon."""
        path = self._output_dir / folder
        files = SessionFiles(path, self._expected)
        found, is_all = [], True
        try:
            for tag, span in files.spans().items():
                session = session_in(path / session_file_of(tag)) if tag != BROKEN else None
                if session is not None:
                    is_older = _has_open_work(session) and _is_older(path, session)
                    if not session.is_pruned and (session.segments != span.lines or is_older):
                        self.progressed(folder, session.room_sid)
                elif tag != BROKEN and (room_sid := files.sid_of(tag)):
                    if is_going_on(path, room_sid):
                        is_all = False
                        self._has_left |= not has_recorder(path)
                    else:
                        found.append(room_sid)
        except (OSError, StorageError) as error:
            reason = getattr(error, "strerror", None) or error
            logger.warning("The sessions of %s cannot be read now: %s", folder, reason)
            return [], False
        return found, is_all


def _close(files: SessionFiles, room_sid: str, ended_at: datetime) -> bool:
    return files.close(room_sid, ClosedBy.RECORDER, ended_at)


def _is_older(folder: Path, session: SessionRecord) -> bool:
    """Whether a text or a delivery of any session was noted since the session's file was written."""
    *_, written = state_of(folder / session_file(session.room_sid)) or (0,)
    changed = [state[-1] for name in (TEXTS, DELIVERED) if (state := state_of(folder / name))]
    return max(changed, default=0) >= written


def _has_open_work(session: SessionRecord) -> bool:
    """Whether something is still to be done by itself; what was refused waits for a command."""
    return bool(session.delivery.undelivered or (session.texts.is_wanted and session.without_text))
