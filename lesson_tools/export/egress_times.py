"""Reads when a LiveKit egress began to record, from the files that egress writes.

Either the JSON of an ``EgressInfo`` or ``FileInfo`` (from the API, a webhook, or the manifest that egress puts beside
the file: camel case or snake case, nanoseconds as a number or as text), or an HLS playlist with
``EXT-X-PROGRAM-DATE-TIME``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

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


def recorded_spans(text: str) -> list[RecordedSpan]:
    """Reads from a file that egress wrote when each part of a video was recorded, in order.

    Raises:
        InputError: the file does not say.
    """
    if text.lstrip("\ufeff").startswith("#EXTM3U"):
        found = list(_in_playlist(text))
        if not found:
            raise InputError("the playlist has no EXT-X-PROGRAM-DATE-TIME")
        return found
    try:
        info = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("it is neither JSON nor an HLS playlist") from None
    nanoseconds = _started_at(info)
    if nanoseconds is None:
        raise InputError("the JSON has no started_at of an egress file")
    try:
        return [RecordedSpan(0.0, datetime.fromtimestamp(nanoseconds / 1e9, UTC), float("inf"))]
    except (OverflowError, ValueError, OSError):
        raise InputError("the JSON's started_at is no time in nanoseconds") from None


def _started_at(info: Any) -> int | None:
    """Finds the start of the file in nanoseconds since the epoch; the egress itself begins some seconds earlier."""
    if not isinstance(info, dict):
        return None
    for outer in ("egressInfo", "egress_info"):
        if isinstance(info.get(outer), dict):
            return _started_at(info[outer])
    for results in ("fileResults", "file_results", "segmentResults", "segment_results"):
        listed = info.get(results)
        if isinstance(listed, list) and listed:
            return _started_at(listed[0])
    for result in ("file", "segments"):
        if isinstance(info.get(result), dict):
            return _started_at(info[result])
    for name in ("startedAt", "started_at"):
        value = info.get(name)
        if isinstance(value, (int, str)) and re.fullmatch(r"[1-9]\d{17,18}", str(value)):
            return int(value)
    return None


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
