"""The handover notes of a room that is recorded: reads the one before, and writes its own every second.

A note is written only when all speech that it covers is on disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from archive.handover_note import HandoverNote, RoomProgress
from core.errors import StorageError
from core.records import RoomInfo, utc_now
from core.supervised import supervised
from recording.disk_thread import DiskThread
from recording.open_segments import OpenSegments

logger = logging.getLogger("recorder")

NOTE_SECONDS = 1.0
"""How often the note is written. From it the next recorder knows since when audio has not been received."""

DISK_SECONDS = 1.0
"""How long reading or writing a note is waited for. While one write hangs, no other is started."""

Progress = Callable[[], RoomProgress]
"""Returns until when the room has been received and passed on. Must not block."""


def all_received() -> RoomProgress:
    """Everything has been received until now. For rooms without tracks of their own."""
    return RoomProgress(utc_now(), {})


class HandoverNotes:
    """The notes of one room. It is used on the room's event loop only."""

    def __init__(
        self,
        room: RoomInfo,
        progress: Progress,
        disk: DiskThread,
        segments: OpenSegments,
        on_due: Callable[[], None],
    ) -> None:
        """``on_due`` is called when a note is due: it passes all speech so far to the disk, and then has
        :meth:`write_due` called."""
        self._room = room
        self._progress = progress
        self._disk = disk
        self._segments = segments
        self._on_due = on_due
        self._task: asyncio.Task[None] | None = None
        self._left_at: datetime | None = None
        self._due: RoomProgress | None = None
        """The next note, to be written when all speech that it covers is on disk."""
        self._writing: asyncio.Future[None] | None = None

    async def before(self) -> HandoverNote | None:
        """The note of an earlier recorder of this session. None: there was none, or the disk does not answer."""
        try:
            async with asyncio.timeout(DISK_SECONDS):
                return await self._disk.run(self._segments.note_before)
        except (TimeoutError, OSError, StorageError):  # reported when the folder is opened
            return None

    def start(self) -> None:
        """Writes the note regularly from now on. Call it when the recorder has joined the room."""
        self._task = supervised(self._keep, "handover note", room=self._room.sid, room_name=self._room.name)

    def stop(self) -> None:
        """Stops the regular note. Call it when the recorder has left the room, or is about to. Idempotent."""
        if self._task is not None and self._left_at is None:
            self._task.cancel()
            self._left_at = utc_now()

    async def write_due(self) -> None:
        """Writes the note that is due, without a retry: it must not delay speech."""
        note, self._due = self._due, None
        is_hanging = self._writing is not None and not self._writing.done()
        is_covered = self._segments.has_folder and not self._disk.trouble and self._segments.are_all_on_disk
        if note is None or is_hanging or not is_covered:
            return
        self._writing = self._disk.run(lambda: self._segments.write_progress(note))
        try:
            async with asyncio.timeout(DISK_SECONDS):
                await asyncio.shield(self._writing)
        except (TimeoutError, OSError):
            pass
        except Exception as error:  # a failing note must not stop the saving of speech
            logger.error("The handover note could not be written", exc_info=error)

    async def write_last(self) -> None:
        """Writes the note as of the moment in which the recorder left. Call it when all speech is saved."""
        if self._left_at is not None:
            received, left_at = self._progress(), self._left_at
            self._due = received._replace(until=min(received.until, left_at), now=left_at)
            await self.write_due()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(NOTE_SECONDS)
            self._on_due()
            self._due = self._progress()
