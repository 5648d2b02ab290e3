"""Gaps: times in which a track may have spoken and was not received, as ``gaps.jsonl`` lists them.

Where nothing is known of what the recorder before us received, a gap has no start: it is looked up on disk, when the
gap is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from core.records import GapReason, GapRecord, RoomInfo, TrackInfo
from storage import RoomFolder

JOINING_SECONDS = 2.0
"""What the first recorder of a room takes to get there; a room that is younger has no gap."""

MIN_GAP_SECONDS = 0.1
"""Less than this is not written down."""


@dataclass(frozen=True)
class Gap:
    """A gap that is over. Dates are UTC. Without a start: from where the recorder before us stopped."""

    start: datetime | None
    end: datetime
    reason: GapReason


@dataclass(frozen=True)
class CurrentGap:
    """A gap that lasts. Times are seconds of the monotonic clock: the other may be set meanwhile."""

    since: float | None
    """None: from where the recorder before us stopped."""
    reason: GapReason
    opened_at: float
    """When it was noticed."""

    def closed(self, now: datetime, monotonic: float) -> Gap:
        """The gap as it ends now, by both clocks."""
        start = None if self.since is None else now - timedelta(seconds=monotonic - self.since)
        return Gap(start, now, self.reason)


def write_gap(folder: RoomFolder, room: RoomInfo, track: TrackInfo, gap: Gap) -> GapRecord:
    """Adds a gap to the room's ``gaps.jsonl``, unless it is too short. Does disk work: call it on a thread.

    Raises:
        OSError, StorageError: the disk refuses.
    """
    start = (
        gap.start or folder.received_before(track.track_sid, gap.end) or _first_word_possible(room, gap.end)
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


def _first_word_possible(room: RoomInfo, now: datetime) -> datetime:
    age = (now - room.started_at).total_seconds()
    return room.started_at if age > JOINING_SECONDS else now
