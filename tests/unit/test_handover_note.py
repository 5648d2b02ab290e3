"""The handover note: until when a recorder has received each track. A gap begins where it ends."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from archive.handover import EarlierRecorders
from archive.handover_note import HandoverNote, TrackProgress

NOON = datetime(2025, 10, 8, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


NOTE = HandoverNote(
    "RM_1", after(10), {"TR_1": TrackProgress(after(9), 0.25), "TR_2": TrackProgress(after(3))}, after(10)
)


def test_a_note_is_read_as_it_was_written() -> None:
    line = NOTE.to_line()
    assert line.count(b"\n") == 1
    assert HandoverNote.in_line(line) == NOTE
    assert HandoverNote.in_line(line + b'2}, "TR_9": {"until"') == NOTE, "the end of a longer, older one"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"RM_1",
        b"RM_1\n",
        b"{}\n",
        b"[" * 100_000 + b"\n",
        NOTE.to_line()[:-1],
        NOTE.to_line().replace(b"Z", b""),
        NOTE.to_line().replace(b"2025-10-08T12:00:10.000Z", b"0001-01-01T00:00:00+14:00"),
        NOTE.to_line().replace(b"2025-10-08T12:00:03.000Z", b"9999-12-31T23:59:59Z"),
        NOTE.to_line().replace(b"0.25", b"NaN"),
        NOTE.to_line().replace(b"0.25", b"-1"),
        NOTE.to_line().replace(b"0.25", b"1e300"),
        NOTE.to_line().replace(b"0.25", b'"0.25"'),
        json.dumps({"room_sid": "RM_1", "until": "2025-10-08T12:00:00Z", "tracks": []}).encode() + b"\n",
    ],
)
def test_an_invalid_line_is_no_note(line: bytes) -> None:
    assert HandoverNote.in_line(line) is None


def test_a_jitter_buffer_delay_that_is_too_long_is_shortened() -> None:
    note = HandoverNote("RM_1", after(10), {"TR_1": TrackProgress(after(9), 1e9)})
    read = HandoverNote.in_line(note.to_line())
    assert read is not None
    assert read.tracks["TR_1"].jitter_delay_seconds == 60


def test_times_in_the_future_are_ignored_since_the_clock_was_set_back() -> None:
    ends = {"TR_1": after(-4_000), "TR_2": after(9)}
    before = EarlierRecorders(NOTE, ends)
    assert before.progress("TR_1", after(-3_600)) == TrackProgress(after(-4_000))
    assert EarlierRecorders(NOTE, {}).progress("TR_1", after(-3_600)) is None
    assert before.progress("TR_1", after(9.9)) == NOTE.tracks["TR_1"], (
        "two machines' clocks are never quite the same"
    )


def test_a_gap_begins_where_each_track_was_received_last() -> None:
    before = EarlierRecorders(NOTE, {})
    received = {sid: before.progress(sid, after(20)) for sid in ("TR_1", "TR_2", "TR_new")}
    assert {sid: one.everything_until for sid, one in received.items() if one} == {
        "TR_1": after(8.75),
        "TR_2": after(3),
        "TR_new": after(10),
    }


def test_after_a_crash_a_segment_may_end_later_than_the_note() -> None:
    before = EarlierRecorders(NOTE, {"TR_1": after(10.5), "TR_2": after(9.5), "TR_3": after(11)})
    assert before.progress("TR_1", after(20)) == TrackProgress(after(10.5), 0.25)
    assert before.progress("TR_2", after(20)) == TrackProgress(after(3)), "the note is later"
    assert before.progress("TR_3", after(20)) == TrackProgress(after(11))
    assert before.progress("TR_new", after(20)) == TrackProgress(after(10)), "not another track's end"


def test_the_note_includes_segments_that_ended_before_it_was_written() -> None:
    """The track times in a note are earlier than the time at which it is written (``left_at``)."""
    before = EarlierRecorders(
        HandoverNote("RM_1", after(0), {"TR_1": TrackProgress(after(-1))}, after(6)), {"TR_1": after(0.4)}
    )
    assert before.progress("TR_1", after(20)) == TrackProgress(after(-1))
    before = EarlierRecorders(
        HandoverNote("RM_1", after(0), {"TR_1": TrackProgress(after(20))}, after(20)), {"TR_1": after(10)}
    )
    assert before.progress("TR_1", after(30)) == TrackProgress(after(20))


def test_without_a_note_the_last_segment_counts_and_without_both_nothing_is_known() -> None:
    assert EarlierRecorders(None, {"TR_1": after(1), "TR_2": after(2)}).progress(
        "TR_1", after(20)
    ) == TrackProgress(after(2))
    assert EarlierRecorders(None, {}).progress("TR_1", after(20)) is None
