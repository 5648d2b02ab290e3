"""The handover between two recorders of a room: what the earlier ones left, and what this one leaves.

Everything here blocks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from archive.handover_note import (
    HandoverNote,
    NoteLock,
    RoomProgress,
    TrackProgress,
    is_plausible,
    read_note,
    write_note,
)
from archive.manifest import last_records
from core.records import RoomInfo

MAX_CLOCK_DIFFERENCE = timedelta(seconds=5)
"""A note from farther in the future is ignored: the clock has been set back since."""


@dataclass(frozen=True)
class EarlierRecorders:
    """What earlier recorders of this session left: the note, and the ends of their segments."""

    note: HandoverNote | None
    last_ends: Mapping[str, datetime]
    """When the last segment of each track ends, by track sid. After a crash this may be later than the note."""

    def paused_until(self) -> datetime | None:
        """Until when the recording is known to have been paused; None: it was not."""
        return self.note.paused_until if self.note else None

    def progress(self, track_sid: str, now: datetime) -> TrackProgress | None:
        """Until when they received a track; None: there was no earlier recorder."""
        latest = now + MAX_CLOCK_DIFFERENCE
        ends = {sid: end for sid, end in self.last_ends.items() if end < latest}
        note = self.note
        if note is None or note.until >= latest:
            last_end = max(ends.values(), default=None)
            return TrackProgress(last_end) if last_end else None
        noted = note.tracks.get(track_sid, TrackProgress(note.until))
        left_at = note.left_at or note.until
        end = ends.get(track_sid, left_at)
        # The note includes every end before it. A segment may end with the silence of a cut connection, so its end
        # counts only if it is later than the note.
        return TrackProgress(end, noted.jitter_delay_seconds) if end > left_at else noted


class RoomHandover:
    """The handover note of one room: read as the earlier recorders left it, then written by this one."""

    def __init__(self, folder: Path, room: RoomInfo, agent_name: str) -> None:
        self._folder = folder
        self._room = room
        self._agent_name = agent_name
        self._lock = NoteLock(folder)
        self._earlier: EarlierRecorders | None = None
        self._has_written = False

    def note_before(self) -> HandoverNote | None:
        """The note of an earlier recorder of this session; None: there was none on this disk, or it cannot be read."""
        return read_note(self._folder, self._room.sid)

    def received_before(self, track_sid: str, now: datetime) -> datetime | None:
        """Until when earlier recorders of this session on this disk received a track; None: there was none."""
        progress = self._earlier_recorders().progress(track_sid, now)
        return progress.everything_until if progress else None

    def paused_before(self) -> datetime | None:
        """Until when an earlier recorder of this session on this disk was paused when it ended; None: it was not."""
        return self._earlier_recorders().paused_until()

    def write(self, progress: RoomProgress) -> None:
        """Writes the note.

        Raises:
            OSError: the disk refuses.
        """
        before, now = self._earlier_recorders(), progress.now or progress.until
        self._has_written = True
        first = TrackProgress(self._room.started_at)
        tracks = {sid: one or before.progress(sid, now) or first for sid, one in progress.tracks.items()}
        note = HandoverNote(
            self._room.sid,
            progress.until,
            tracks,
            now,
            self._room.name,
            progress.recorder_sid,
            self._agent_name,
            progress.no_teachers,
            progress.unstored_pause,
            progress.is_paused,
        )
        write_note(self._folder, note)

    def hold(self) -> None:
        """Locks the note, unless the recorder before still does: a free lock tells that a recorder has died.

        Raises:
            OSError: the disk refuses.
        """
        self._lock.acquire()

    def leave(self) -> None:
        """Releases the note: the recorder is no longer in the room, or its worker ends. Idempotent."""
        self._lock.release()

    def _earlier_recorders(self) -> EarlierRecorders:
        if self._earlier is None or not self._has_written:
            self._earlier = EarlierRecorders(self.note_before(), self._last_ends())
        return self._earlier

    def _last_ends(self) -> dict[str, datetime]:
        """When each track's last segment ended, from the end of the manifest: the note includes what is older."""
        ends = {}
        with contextlib.suppress(PermissionError):  # of another owner: the recorded gap is then too long
            for record in last_records(self._folder):
                if record.room_sid == self._room.sid and is_plausible(record.end):
                    ends[record.track_sid] = record.end
        return ends
