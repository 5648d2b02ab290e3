"""Sums up a room's manifest by LiveKit's sessions of the room: each is one lesson."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.records import SegmentRecord


@dataclass(frozen=True)
class Session:
    """One lesson in a room: what was recorded between the room's creation and its end in LiveKit."""

    room_sid: str
    """Empty for recovered segments whose session is not known."""
    room_name: str
    started_at: datetime
    """When the room was created, if a segment has an offset, otherwise the start of the first segment (UTC)."""
    first: datetime
    """Start of the first segment."""
    last: datetime
    """End of the last segment."""
    segments: int
    speech_seconds: float
    participants: tuple[str, ...]
    """Identities, sorted."""

    @property
    def duration_seconds(self) -> float:
        """From the session's start to the end of its last segment."""
        return max(0.0, (self.last - self.started_at).total_seconds())


def sessions_of(records: Iterable[SegmentRecord]) -> list[Session]:
    """The sessions sorted by their start, from one pass over the records of a room."""
    found: dict[str, _Sum] = {}
    for record in records:
        found.setdefault(record.room_sid, _Sum(record)).add(record)
    return sorted((one.session() for one in found.values()), key=lambda session: session.started_at)


class _Sum:
    """The sums of a session while its records are added."""

    def __init__(self, record: SegmentRecord) -> None:
        self._sid, self._name = record.room_sid, record.room_name
        self._first, self._last = record.start, record.end
        self._started_at: datetime | None = None
        self._segments = 0
        self._seconds = 0.0
        self._participants: set[str] = set()

    def add(self, record: SegmentRecord) -> None:
        self._first = min(self._first, record.start)
        self._last = max(self._last, record.end)
        if self._started_at is None and record.offset_seconds is not None:
            with contextlib.suppress(OverflowError):
                self._started_at = record.start - timedelta(seconds=record.offset_seconds)
        self._segments += 1
        self._seconds += record.duration_seconds
        if record.participant_identity:
            self._participants.add(record.participant_identity)

    def session(self) -> Session:
        return Session(
            room_sid=self._sid,
            room_name=self._name,
            started_at=self._started_at or self._first,
            first=self._first,
            last=self._last,
            segments=self._segments,
            speech_seconds=self._seconds,
            participants=tuple(sorted(self._participants)),
        )
