"""Checks the segments of a room against each other: their numbers, and their times on each track. Pure."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.records import EndReason, SegmentRecord, format_utc
from lesson_tools.findings import Finding, Kind

ROUNDING = timedelta(milliseconds=2)
"""Times in the manifest are rounded to milliseconds, so neighbours may seem to be apart or to overlap by this much."""


@dataclass(frozen=True)
class _Span:
    start: datetime
    end: datetime
    number: int
    is_cut: bool
    """It was cut at the maximum length, so the next segment begins where it ends."""


class Series:
    """Collects numbers and times (by track) of a room's segments."""

    def __init__(self) -> None:
        self._numbers: Counter[int] = Counter()
        self._tracks: dict[tuple[str, str], list[_Span]] = {}
        self._odd: list[Finding] = []

    def add(self, record: SegmentRecord) -> None:
        self._numbers[record.number] += 1
        if abs((record.end - record.start).total_seconds() - record.duration_seconds) > 0.002:
            said = f"{format_utc(record.start)} to {format_utc(record.end)}"
            what = f"{record.file} lasts {record.duration_seconds:.3f} s, but its times are {said}"
            self._odd.append(Finding(Kind.TIMES, what, record.file))
        if record.track_sid:
            span = _Span(record.start, record.end, record.number, record.end_reason is EndReason.MAX_LENGTH)
            self._tracks.setdefault((record.room_sid, record.track_sid), []).append(span)

    def findings(self, known: set[int]) -> Iterator[Finding]:
        """Yields what is wrong with the series. ``known``: numbers that have a file, listed or not."""
        yield from self._odd
        for number, count in self._numbers.items():
            if count > 1:
                yield Finding(Kind.DUPLICATE_NUMBER, f"number {number} is {count} times in the manifest")
        for first, last in self._missing(known):
            which = f"number {first} is" if first == last else f"numbers {first} to {last} are"
            yield Finding(Kind.MISSING_NUMBER, f"{which} missing: never finished, lost or deleted")
        for spans in self._tracks.values():
            spans.sort(key=lambda span: (span.start, span.end))
            for before, after in zip(spans, spans[1:], strict=False):
                yield from _between(before, after)

    def _missing(self, known: set[int]) -> Iterator[tuple[int, int]]:
        """Yields runs of unused numbers as (first, last)."""
        last = max(self._numbers, default=0)
        there = sorted({0, *self._numbers, *(number for number in known if number < last)})
        for before, after in itertools.pairwise(number for number in there if number >= 0):
            if after - before > 1:
                yield before + 1, after - 1


def _between(before: _Span, after: _Span) -> Iterator[Finding]:
    apart = (after.start - before.end).total_seconds()
    pair = f"{before.number} and {after.number}"
    if after.start < before.end - ROUNDING:
        yield Finding(Kind.OVERLAP, f"segments {pair} overlap by {-apart:.3f} s on one track")
    elif before.is_cut and after.start > before.end + ROUNDING:
        yield Finding(Kind.GAP, f"between segments {pair} {apart:.3f} s of speech are missing")
