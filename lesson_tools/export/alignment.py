"""Data types for the alignment of a lesson with a video: segments with their sound, time maps, aligned spans.

All times are in seconds: of the lesson from its beginning, of the video as a player counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from core.errors import RecorderError
from core.records import Pcm

CUT_SECONDS = 0.25
"""A moment less than this before the next span counts as cut out of the video, like what precedes it."""


class CannotAlign(RecorderError):
    """The video cannot be aligned with the lesson. The text says why, in one line."""


@dataclass(frozen=True)
class Sound:
    """One segment: when it began, how long it is, and how to get its sound (PCM s16le, shape (n,), 16 kHz)."""

    start: float
    seconds: float
    load: Callable[[], Pcm]

    @property
    def end(self) -> float:
        return self.start + self.seconds


@dataclass(frozen=True)
class TimeMap:
    """Video time as a straight line over lesson time: ``offset + (1 + drift) * lesson time``."""

    offset: float
    drift: float = 0.0

    def at(self, moment: float) -> float:
        return self.offset + (1 + self.drift) * moment


@dataclass(frozen=True)
class AlignedSpan:
    """A part of the lesson that is in the video without interruption."""

    time_map: TimeMap
    first: float = -math.inf
    last: float = math.inf
    """Lesson times of the first and the last segment that was found."""
    since: float = -math.inf
    until: float = math.inf
    """Lesson times of the nearest segments before and after it that were searched for and not found."""


@dataclass(frozen=True)
class Alignment:
    """Where a lesson lies in a video, and how that is known."""

    spans: tuple[AlignedSpan, ...]
    """In order of time; more than one if the video was cut or paused."""
    source: str
    """``sound``, ``offset``, or where a start time was read."""
    video_seconds: float = math.inf
    agreeing: int = 0
    """How many of the ``measured`` segments agree."""
    measured: int = 0
    residual_seconds: float = 0.0
    """Median distance of the agreeing segments from their time map."""

    def video_time(self, moment: float) -> float | None:
        """Converts a lesson time to video time; None if that moment is not in the video."""
        time = self._mapped(moment)
        return time if time is not None and 0 <= time <= self.video_seconds else None

    def _mapped(self, moment: float) -> float | None:
        earlier = [span for span in self.spans if span.first <= moment]
        later = [span for span in self.spans if span.first > moment]
        before, after = earlier[-1] if earlier else None, later[0] if later else None
        if before is not None:
            time = before.time_map.at(moment)
            if moment <= before.last or after is None:
                return time
            if moment < before.until and time < after.time_map.at(after.first) - CUT_SECONDS:
                return time
        if after is not None:
            time = after.time_map.at(moment)
            if before is None or (moment > after.since and time > before.time_map.at(before.last)):
                return time
        return None

    @classmethod
    def from_offset(cls, offset: float) -> Alignment:
        """Makes an alignment in which the lesson begins ``offset`` seconds into the video (below 0: before it)."""
        return cls((AlignedSpan(TimeMap(offset)),), "offset")
