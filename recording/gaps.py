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


def gap_records(folder: RoomFolder, room: RoomInfo, track: TrackInfo, gap: Gap) -> list[GapRecord]:
    """The lines of ``gaps.jsonl`` for a gap, without those that are too short. Reads the disk: call it on a thread.

    A gap that begins before this recorder is in two parts if the recorder before was paused when it ended.

    Raises:
        OSError, StorageError: the disk refuses.
    """

    def record(start: datetime, end: datetime, reason: GapReason) -> GapRecord:
        identity, sid = track.participant_identity, track.track_sid
        return GapRecord(room.name, room.sid, identity, sid, start, end, reason)

    start = (
        gap.start
        or folder.handover.received_before(track.track_sid, gap.end)
        or _first_speech_possible(room, gap.end)
    )
    paused_until = folder.handover.paused_before() if gap.start is None else None
    middle = min(max(start, paused_until or start), gap.end)
    records = [record(start, middle, GapReason.PAUSED), record(middle, gap.end, gap.reason)]
    if gap.reason is GapReason.PAUSED:
        records = [record(start, gap.end, gap.reason)]
    return [one for one in records if one.seconds >= MIN_GAP_SECONDS]


def write_gap(folder: RoomFolder, record: GapRecord) -> GapRecord:
    """Appends a line to the room's ``gaps.jsonl``. Does disk work: call it on a thread.

    Raises:
        OSError, StorageError: the disk refuses.
    """
    folder.note_gap(record)
    return record


def _first_speech_possible(room: RoomInfo, now: datetime) -> datetime:
    age = (now - room.started_at).total_seconds()
    return room.started_at if age > JOINING_SECONDS else now
