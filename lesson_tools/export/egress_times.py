"""Reads when a video was recorded from an HLS playlist with ``EXT-X-PROGRAM-DATE-TIME``, such as egress writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from core.errors import InputError
from core.records import parse_utc

JUMP_SECONDS = 0.5
"""If a playlist's dates and durations differ by no more than this, it was not interrupted."""


@dataclass(frozen=True)
class RecordedSpan:
    """A part of the video that was recorded without interruption."""

    video: float
    """Seconds into the video at which it begins."""
    recorded_at: datetime
    """When that was (UTC)."""
    seconds: float
    """How long it is; infinite if that is not known."""


def is_playlist(text: str) -> bool:
    return text.lstrip("\ufeff").startswith("#EXTM3U")


def recorded_spans(playlist: str) -> list[RecordedSpan]:
    """Reads from an HLS playlist when each part of the video was recorded, in order.

    Raises:
        InputError: the playlist does not say.
    """
    found = list(_in_playlist(playlist))
    if not found:
        raise InputError("the playlist has no EXT-X-PROGRAM-DATE-TIME")
    return found


def _in_playlist(text: str) -> Iterator[RecordedSpan]:
    """Yields each run of media segments whose dates follow from their durations."""
    position, duration = 0.0, 0.0
    run: RecordedSpan | None = None
    for line in text.splitlines():
        if line.startswith("#EXTINF:"):
            duration = _seconds(line)
        elif line.startswith("#EXT-X-PROGRAM-DATE-TIME:"):
            moment = _moment(line.partition(":")[2].strip())
            if moment is None or (run is not None and _follows(run, position, moment)):
                continue
            if run is None:  # what came before the first date was recorded just before it
                run = RecordedSpan(0.0, moment - timedelta(seconds=position), 0.0)
            else:
                yield replace(run, seconds=position - run.video)
                run = RecordedSpan(position, moment, 0.0)
        elif line.strip() and not line.startswith("#"):
            position, duration = position + duration, 0.0
    if run is not None:
        yield replace(run, seconds=position - run.video)


def _follows(run: RecordedSpan, position: float, moment: datetime) -> bool:
    expected = run.recorded_at + timedelta(seconds=position - run.video)
    return abs((moment - expected).total_seconds()) <= JUMP_SECONDS


def _seconds(line: str) -> float:
    found = re.match(r"#EXTINF:\s*(\d{1,6}(?:\.\d{1,9})?)", line)
    return float(found[1]) if found else 0.0


def _moment(text: str) -> datetime | None:
    zoned = re.sub(r"([+-]\d\d)(\d\d)$", r"\1:\2", text)
    fraction = re.fullmatch(r"(.*T\d\d:\d\d:\d\d)\.(\d+)(.*)", zoned)
    if fraction:  # Python 3.10 reads three or six digits only
        zoned = f"{fraction[1]}.{fraction[2][:6]:0<6}{fraction[3]}"
    try:
        return parse_utc(zoned)
    except ValueError:
        return None
