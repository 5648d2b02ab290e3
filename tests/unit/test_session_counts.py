"""What a session's record counts: pure sums over the lines of one session."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from archive.delivery_log import Undelivered
from archive.session_counts import Expected, SessionCount, gap_totals
from archive.session_files import encoded, session_of
from archive.texts import Text
from core.records import GapReason, GapRecord, SegmentRecord
from core.session_records import (
    ClosedBy,
    GapTotals,
    ParticipantTotals,
    SessionRecord,
    TargetTotals,
)
from support.segment_records import NOW, segment


def gap(start: float, end: float, reason: GapReason = GapReason.NO_MEDIA, track: str = "TR") -> GapRecord:
    at = NOW + timedelta(seconds=start), NOW + timedelta(seconds=end)
    return GapRecord("math101", "RM_1", "anna", track, *at, reason)


def counted(*records: SegmentRecord, expected: Expected | None = None) -> SessionRecord:
    count = SessionCount(expected or Expected())
    for record in records:
        count.add(record, None, ())
    return count.record(ClosedBy.RECORDER)


def said(**texts: str) -> Text:
    return Text(next(iter(texts), None), texts)


def test_who_spoke_how_long_and_when() -> None:
    records = [segment(3, "ben"), segment(1), segment(2), segment(4)]
    found = counted(*records, replace(segment(5, "ben"), participant_name="Ben"))
    assert found.participants == (
        ParticipantTotals("anna", "anna", 3, 15.0),
        ParticipantTotals("ben", "Ben", 2, 10.0),
    )
    assert (found.segments, found.speech_seconds) == (5, 25.0)
    assert (found.first_number, found.last_number) == (1, 5)
    assert (found.speech_began_at, found.speech_ended_at) == (records[1].start, segment(5).end)
    assert found.ended_at == segment(5).end, "nobody knows when the room ended"


def test_the_beginning_is_that_of_the_room() -> None:
    late = replace(segment(1), offset_seconds=10.0)
    assert counted(late).started_at == late.start - timedelta(seconds=10)
    unknown = replace(segment(1), offset_seconds=None)
    assert counted(unknown).started_at == unknown.start
    assert counted(replace(segment(1), offset_seconds=1e15)).started_at == segment(1).start


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ([gap(0, 2), gap(5, 6)], {"no_media": GapTotals(2, 3)}),
        ([gap(0, 4), gap(1, 3)], {"no_media": GapTotals(1, 4)}),
        ([gap(0, 4), gap(2, 6)], {"no_media": GapTotals(2, 6)}),
        ([gap(0, 4), gap(0, 4)], {"no_media": GapTotals(1, 4)}),
        ([gap(0, 4), gap(0, 4, track="TR_2")], {"no_media": GapTotals(2, 8)}),
        (
            [gap(2, 6), gap(0, 4, GapReason.NO_RECORDER)],
            {"no_recorder": GapTotals(1, 4), "no_media": GapTotals(1, 2)},
        ),
        ([gap(3, 3, GapReason.TRUNCATED)], {"truncated": GapTotals(1, 0)}),
        ([], {}),
    ],
)
def test_gaps_of_one_track_that_overlap_count_once(
    gaps: list[GapRecord], expected: dict[str, GapTotals]
) -> None:
    assert gap_totals(gaps) == expected


def test_texts_are_complete_when_every_segment_has_one_in_every_language() -> None:
    count = SessionCount(Expected(texts=True, languages=("es", "ar")))
    count.add(segment(1), said(en="One.", es="Uno.", ar="واحد"), ())
    assert count.record(ClosedBy.RECORDER).is_complete
    count.add(segment(2), Text("en", {}), ())
    assert count.record(ClosedBy.RECORDER).is_complete, "no words, so nothing to translate"
    count.add(segment(3), said(en="Three.", es="Tres."), ())
    found = count.record(ClosedBy.RECORDER)
    assert (found.texts.missing, found.are_texts_complete) == ({"es": 0, "ar": 1}, False)
    assert found.texts.languages == ("en", "es", "ar")


@pytest.mark.parametrize("text", [None, Text(None, {}, refused="blocked")])
def test_a_text_that_is_not_there_or_refused_is_not_complete(text: Text | None) -> None:
    count = SessionCount(Expected())
    count.add(segment(1), said(en="One."), ())
    count.add(segment(2), text, ())
    found = count.record(ClosedBy.RECORDER)
    assert (found.texts.is_wanted, found.without_text, found.texts.refused) == (
        True,
        text is None,
        text is not None,
    )
    assert not found.are_texts_complete


def test_texts_that_nobody_wants_are_complete() -> None:
    assert counted(segment(1)).are_texts_complete
    assert not counted(segment(1), expected=Expected(texts=True)).are_texts_complete


def test_delivery_counts_segments_and_not_files() -> None:
    count = SessionCount(Expected(targets=("s3", "db")))
    lacks = [Undelivered("a.wav", "s3", ""), Undelivered("a.txt", "s3", ""), Undelivered("a.wav", "db", "no")]
    count.add(segment(1), None, lacks)
    count.add(segment(2), None, [])
    delivery = count.record(ClosedBy.RECORDER).delivery
    assert (delivery.undelivered, delivery.dead_letters, delivery.is_complete) == (1, 1, False)
    assert delivery.targets == {"s3": TargetTotals(1, 0), "db": TargetTotals(0, 1)}


def test_a_record_is_the_same_after_it_was_written() -> None:
    count = SessionCount(Expected(True, ("es",), ("s3",)))
    count.add(
        replace(segment(1), participant_name='"\ud800\n'), said(en="One."), [Undelivered("a", "s3", "")]
    )
    count.add_gap(gap(0, 1.5))
    content = encoded(count.record(ClosedBy.IMPORT))
    found = session_of("session_RM_1.json", content)
    assert found is not None and encoded(found) == content
    assert session_of("session_RM_2.json", content) is None, "it is the file of another session"


@pytest.mark.parametrize(
    ("changed", "into"),
    [
        ('"schema_version": 1', '"schema_version": 2'),
        ('"segments": 1', '"segments": -1'),
        ('"segments": 1', '"segments": true'),
        ('"started_at": "2025', '"started_at": "x'),
        ('"closed_by": "recorder"', '"closed_by": "nobody"'),
        ('"participants": [', '"participants": 3, "x": ['),
        ('"gaps": {}', '"gaps": []'),
        ('"speech_seconds": 5', '"speech_seconds": 1e999'),
    ],
)
def test_what_is_no_record_is_not_taken_for_one(changed: str, into: str) -> None:
    content = encoded(counted(segment(1))).decode()
    assert changed in content
    assert session_of("session_RM_1.json", content.replace(changed, into, 1).encode()) is None


def test_a_record_without_one_participant() -> None:
    found = counted(segment(1), segment(2, "ben"))
    left = found.without("anna")
    assert left is not None and (left.segments, left.speech_seconds) == (1, 5.0)
    assert not left.has("anna")
    assert left.without("ben") is None
    assert found.without("") is None
