"""The records: what is written can be read again, and foreign content is refused."""

from __future__ import annotations

import functools
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import RetryLater
from core.records import (
    EndReason,
    SegmentRecord,
    SpeechSegment,
    StreamClock,
    format_utc,
    parse_utc,
)
from core.text_records import TextRecord

BEGINNING = datetime(2025, 10, 8, 14, 5, 23, 120_000, tzinfo=UTC)
MOMENTS = st.integers(-(10**12), 10**12).map(lambda value: BEGINNING + timedelta(milliseconds=value))
PROBABILITIES = st.none() | st.floats(0, 1).map(lambda value: round(value, 4))
RECORDS = st.builds(
    SegmentRecord,
    number=st.integers(1, 10**9),
    file=st.text(),
    room_name=st.text(),
    room_sid=st.text(),
    participant_identity=st.text(),
    participant_name=st.text(),
    track_sid=st.text(),
    track_source=st.text(),
    start=MOMENTS,
    end=MOMENTS,
    offset_seconds=st.none() | st.integers(0, 10**8).map(lambda value: value / 1000),
    duration_seconds=st.integers(0, 60_000).map(lambda value: value / 1000),
    mean_probability=PROBABILITIES,
    lowest_probability=PROBABILITIES,
    end_reason=st.sampled_from(EndReason),
    sha256=st.text(),
    speaking_language=st.text(),
    caption_languages=st.lists(st.text()).map(tuple),
)
NEWER_FIELDS = {"speaking_language", "caption_languages"}
_texts = functools.partial(
    st.builds,
    TextRecord,
    number=st.integers(1, 10**9),
    file=st.text(),
    at=MOMENTS,
    start=MOMENTS,
    participant_identity=st.text(),
)
TEXTS = _texts(
    language=st.text(),
    transcript=st.text(),
    translations=st.dictionaries(st.text(), st.text()),
    files=st.lists(st.text()).map(tuple),
    model=st.text(),
    latency_seconds=st.integers(0, 60_000).map(lambda value: value / 1000),
    audio_seconds=st.integers(0, 60_000).map(lambda value: value / 1000),
    input_tokens=st.integers(0, 10**6),
    output_tokens=st.integers(0, 10**6),
    is_audio_kept=st.booleans(),
) | _texts(refused=st.text(min_size=1))
RECORD = SegmentRecord(
    1, "a.wav", "r", "RM", "anna", "Anna", "TR", "microphone", BEGINNING, BEGINNING, 0, 1, 0.9, 0.5,
    EndReason.PAUSE, "",
)  # fmt: skip


@pytest.mark.slow
@settings(deadline=None)
@given(RECORDS)
def test_a_record_comes_back_from_its_line_as_it_was(record: SegmentRecord) -> None:
    assert SegmentRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


@settings(deadline=None)
@given(TEXTS)
def test_a_text_comes_back_from_its_line_as_it_was(text: TextRecord) -> None:
    assert TextRecord.from_json(json.loads(json.dumps(text.to_json()))) == text


@pytest.mark.parametrize("line", [{}, {"number": "1"}, {"number": 1, "file": "a", "at": "never"}, []])
def test_a_line_that_is_no_text_is_not_ours(line: Any) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        TextRecord.from_json(line)


def test_a_line_without_text_options_has_none() -> None:
    line = RECORD.to_json()
    for field in NEWER_FIELDS:
        del line[field]
    assert SegmentRecord.from_json(line) == RECORD


@pytest.mark.parametrize("field", sorted(RECORD.to_json().keys() - NEWER_FIELDS))
def test_a_line_without_a_field_is_not_ours(field: str) -> None:
    line = RECORD.to_json()
    del line[field]
    with pytest.raises(KeyError):
        SegmentRecord.from_json(line)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", "one"),
        ("number", None),
        ("number", float("inf")),
        ("start", "yesterday"),
        ("start", "2025-10-08T14:05:23"),
        ("start", 5),
        ("end", None),
        ("end", ["2025-10-08T14:05:23Z"]),
        ("duration_seconds", "long"),
        ("offset_seconds", {}),
        ("end_reason", "fun"),
        ("sample_rate", None),
        ("schema_version", "x"),
    ],
)
def test_a_line_with_a_wrong_field_is_not_ours(field: str, value: Any) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        SegmentRecord.from_json({**RECORD.to_json(), field: value})


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (BEGINNING, "2025-10-08T14:05:23.120Z"),
        (BEGINNING.replace(microsecond=0), "2025-10-08T14:05:23.000Z"),
        (BEGINNING.astimezone(timezone(timedelta(hours=-7))), "2025-10-08T14:05:23.120Z"),
    ],
)
def test_a_time_is_written_in_utc_with_milliseconds(moment: datetime, text: str) -> None:
    assert format_utc(moment) == text
    assert parse_utc(text) == moment


def test_a_clock_counts_samples() -> None:
    clock = StreamClock(BEGINNING)
    assert clock.at(0) == BEGINNING
    assert clock.at(16_000 * 3_600 + 8) == BEGINNING + timedelta(hours=1, microseconds=500)


def test_a_segment_knows_its_end_and_duration() -> None:
    segment = SpeechSegment(100, 200, np.zeros(8_000, np.int16), 0.9, 0.5, EndReason.PAUSE)
    assert (segment.end_sample, segment.duration_seconds) == (8_100, 0.5)


def test_an_error_may_say_when_to_try_again() -> None:
    assert (RetryLater("busy", 2.5).after_seconds, RetryLater("busy").after_seconds) == (2.5, None)
