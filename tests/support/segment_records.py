"""Lines of manifests whose segments have no file, for tests that read manifests and texts only."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from core.records import EndReason, SegmentRecord

NOW = datetime(2025, 10, 8, 14, 5, 23, tzinfo=UTC)


def segment(number: int, who: str = "anna", at: float | None = None) -> SegmentRecord:
    """A segment of 5 s. ``at``: seconds after NOW; by default ten for each number."""
    start = NOW + timedelta(seconds=10 * number if at is None else at)
    return SegmentRecord(
        number=number,
        file=f"segment_{number:03d}.wav",
        room_name="math101",
        room_sid="RM_1",
        participant_identity=who,
        participant_name=who,
        track_sid="TR",
        track_source="microphone",
        start=start,
        end=start + timedelta(seconds=5),
        offset_seconds=0,
        duration_seconds=5,
        mean_probability=None,
        lowest_probability=None,
        end_reason=EndReason.PAUSE,
        sha256="",
    )
