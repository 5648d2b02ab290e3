"""Reads and writes the handover note: until when each track has been received, for the next recorder of the room.

A recorder rewrites it every second in the room's folder. The next recorder records a gap from that time on. So the note
never goes beyond what is on disk, and it has a time for each track: a track whose connection is cut must not cause gaps
in the others.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, NamedTuple

from archive import jsonl
from archive.files import is_ordinary_or_none, is_still_at, open_private, try_lock, write_all
from archive.names import HANDOVER_NOTE
from core.records import format_utc, parse_utc

logger = logging.getLogger("recorder")

MAX_NOTE_BYTES = 2**20
MAX_JITTER_DELAY_SECONDS = 60.0
PLAUSIBLE_YEARS = range(1970, 9000)
"""Years of dates from files that are accepted: calculations with them do not overflow."""


@dataclass(frozen=True)
class TrackProgress:
    """Until when a track has been received."""

    until: datetime
    """The time of its last sample that is on disk or known not to be speech."""
    jitter_delay_seconds: float = 0.0
    """The jitter buffer's delay: the sample was spoken this much earlier."""

    @property
    def everything_until(self) -> datetime:
        """Everything said before this time has been received."""
        return self.until - timedelta(seconds=self.jitter_delay_seconds)


class RoomProgress(NamedTuple):
    """Until when this recorder has received the tracks of a room."""

    until: datetime
    """For all tracks that are not in ``tracks``."""
    tracks: Mapping[str, TrackProgress | None]
    """By track sid. None: this recorder has received nothing of it yet."""
    now: datetime | None = None
    """When this was the state; None: at ``until``."""
    recorder_sid: str = ""
    """The recorder's own participant sid."""
    no_teachers: tuple[str, ...] = ()
    """The sids of participants who were no teachers when they were first seen, and may change their own role."""
    unstored_pause: bool | None = None
    """What a teacher has requested (True: a pause) and the room's metadata does not say; None: nothing."""
    is_paused: bool = False
    """Whether the recording is paused."""


@dataclass(frozen=True)
class HandoverNote:
    """The content of the note."""

    room_sid: str
    until: datetime
    """For all tracks that are not in ``tracks``."""
    tracks: Mapping[str, TrackProgress] = field(default_factory=dict)
    """By track sid."""
    left_at: datetime | None = None
    """When this was the state; None: at ``until``."""
    room_name: str = ""
    recorder_sid: str = ""
    """The participant sid of the recorder that wrote it; empty if an older version did."""
    agent_name: str = ""
    """Its AGENT_NAME."""
    no_teachers: tuple[str, ...] = ()
    """The sids of participants who were no teachers when they were first seen, and may change their own role."""
    unstored_pause: bool | None = None
    """What a teacher has requested (True: a pause) and the room's metadata does not say; None: nothing."""
    is_paused: bool = False
    """Whether the recording was paused."""

    @property
    def paused_until(self) -> datetime | None:
        """Until when the recording is known to have been paused; None: it was not."""
        return (self.left_at or self.until) if self.is_paused else None

    def to_line(self) -> bytes:
        """Encodes the note as one line of JSON."""
        tracks = {
            sid: {
                "until": format_utc(progress.until),
                "held_seconds": round(min(progress.jitter_delay_seconds, MAX_JITTER_DELAY_SECONDS), 3),
            }
            for sid, progress in self.tracks.items()
        }
        left_at = format_utc(self.left_at or self.until)
        return jsonl.encoded(
            {
                "room_sid": self.room_sid,
                "left_at": left_at,
                "until": format_utc(self.until),
                "tracks": tracks,
                "room_name": self.room_name,
                "recorder_sid": self.recorder_sid,
                "agent_name": self.agent_name,
                "no_teachers": self.no_teachers,
                "unstored_pause": self.unstored_pause,
                "is_paused": self.is_paused,
            }
        )

    @classmethod
    def in_line(cls, text: bytes) -> HandoverNote | None:
        """Decodes the note in the first line; the rest may be the end of an older note. None: it is not a note."""
        line, is_complete, _ = text.partition(b"\n")
        return jsonl.parsed(line, cls._from_json) if is_complete else None

    @classmethod
    def _from_json(cls, note: Mapping[str, Any]) -> HandoverNote:
        tracks = {
            sid: TrackProgress(_date(one["until"]), _jitter_delay(one["held_seconds"]))
            for sid, one in note["tracks"].items()
        }
        return cls(
            str(note["room_sid"]),
            _date(note["until"]),
            tracks,
            _date(note["left_at"]),
            str(note.get("room_name", "")),
            str(note.get("recorder_sid", "")),
            str(note.get("agent_name", "")),
            tuple(str(sid) for sid in note.get("no_teachers", ())),
            pause if isinstance(pause := note.get("unstored_pause"), bool) else None,
            note.get("is_paused") is True,
        )


def read_note(folder: Path, room_sid: str | None = None) -> HandoverNote | None:
    """Reads the note in a room's folder; None if there is none, or none of this session. Blocks.

    Also None if it cannot be read: recording must not wait for it, and a gap that is recorded is then too long.
    """
    path = folder / HANDOVER_NOTE
    try:
        if not path.exists() or not is_ordinary_or_none(path):
            return None
        with open_private(path, os.O_RDONLY) as file:
            text, changed_at = file.read(MAX_NOTE_BYTES), os.fstat(file.fileno()).st_mtime
        if room_sid and text == room_sid.encode():  # written by an older version
            return HandoverNote(room_sid, datetime.fromtimestamp(changed_at, UTC))
    except (OSError, ValueError, OverflowError) as error:
        logger.warning("%s cannot be read: %s", path, error)
        return None
    note = HandoverNote.in_line(text)
    return note if note and room_sid in (None, note.room_sid) else None


class NoteLock:
    """A lock on the note in a room's folder, held by the recorder for as long as it is in the room.

    A recorder whose note is recent, and can be locked by another, has died. Everything here blocks.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / HANDOVER_NOTE
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Takes the lock of the note that is there now, unless another holds it. Returns whether it is held.

        Raises:
            OSError: there is no note, or it cannot be opened.
        """
        if self._file is not None and is_still_at(self._file, self._path):
            return True
        self.release()
        if not is_ordinary_or_none(self._path):
            return False
        try:
            # A file that is open for writing would keep an administrator from mounting the disk read-only.
            return self._lock(os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe of this name blocks nobody
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            return self._lock(os.O_RDWR)  # NFS locks only what is open for writing (flock(2))

    def _lock(self, flags: int) -> bool:
        file = open_private(self._path, flags)
        try:
            if try_lock(file):
                self._file = file
        finally:
            if self._file is not file:
                file.close()
        return self._file is file

    def release(self) -> None:
        """Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None


def write_note(folder: Path, note: HandoverNote) -> None:
    """Replaces the note in a room's folder, without a sync: a power cut may lose it, a crash does not. Blocks.

    Raises:
        OSError: the disk refuses.
    """
    path = folder / HANDOVER_NOTE
    if not is_ordinary_or_none(path):
        return
    line = note.to_line()
    with open_private(path, os.O_RDWR | os.O_CREAT) as file:
        write_all(file, line)  # overwritten in place, so that there is a note at every moment
        file.truncate(len(line))


def _date(value: object) -> datetime:
    moment = parse_utc(str(value))
    if not is_plausible(moment):
        raise ValueError(f"not a plausible time: {value!r}")
    return moment


def is_plausible(moment: datetime) -> bool:
    """Whether calculations with a date from a file do not overflow."""
    return moment.year in PLAUSIBLE_YEARS


def _jitter_delay(value: object) -> float:
    if isinstance(value, (int, float)) and 0 <= value <= MAX_JITTER_DELAY_SECONDS:
        return float(value)
    raise ValueError(f"not a plausible jitter-buffer delay: {value!r}")
