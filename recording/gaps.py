"""Gaps: periods in which a track may have carried speech but was not received. ``gaps.jsonl`` lists them.

A gap without a start begins where the previous recorder stopped receiving. That time is read from disk when the gap is
written.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from core.records import GapReason, GapRecord, RoomInfo, TrackInfo
from storage import RoomFolder

JOINING_SECONDS = 2.0
"""The time for the first recorder of a room to join. In a room that is younger than this no gap is recorded."""

MIN_GAP_SECONDS = 0.1
"""A shorter gap is not recorded."""


@dataclass(frozen=True)
class Gap:
    """A gap that has ended. Dates are UTC. ``start`` None: from where the previous recorder stopped."""

    start: datetime | None
    end: datetime
    reason: GapReason


@dataclass(frozen=True)
class CurrentGap:
    """A gap that has not ended. Times are seconds of the monotonic clock, as the wall clock may be set meanwhile."""

    since: float | None
    """None: from where the previous recorder stopped."""
    reason: GapReason
    opened_at: float
    """When it was noticed."""

    def closed(self, now: datetime, monotonic: float) -> Gap:
        """The gap as it is if it ends now. ``now`` and ``monotonic`` are the same moment on the two clocks."""
        start = None if self.since is None else now - timedelta(seconds=monotonic - self.since)
        return Gap(start, now, self.reason)


def write_gap(folder: RoomFolder, room: RoomInfo, track: TrackInfo, gap: Gap) -> GapRecord:
    """Appends a gap to the room's ``gaps.jsonl``, unless it is too short. Does disk work: call it on a thread.

    Raises:
        OSError, StorageError: the disk refuses.
    """
    start = (
        gap.start
        or folder.handover.received_before(track.track_sid, gap.end)
        or _first_speech_possible(room, gap.end)
    )
    record = GapRecord(
        room_name=room.name,
        room_sid=room.sid,
        participant_identity=track.participant_identity,
        track_sid=track.track_sid,
        start=start,
        end=gap.end,
        reason=gap.reason,
    )
    if record.seconds >= MIN_GAP_SECONDS:
        folder.note_gap(record)
    return record


def _first_speech_possible(room: RoomInfo, now: datetime) -> datetime:
    age = (now - room.started_at).total_seconds()
    return room.started_at if age > JOINING_SECONDS else now
