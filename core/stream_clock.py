"""Finds the date (UTC) of each sample of an audio stream.

Time within a stream is its number of samples (fact 4): in a measurement, a process that was stopped for five seconds
received all of its frames afterwards, without losing a sample. What has to be found is the date of sample 0. It
changes, as the sampling clock drifts against this machine's clock, and the machine's clock may be set. The two are
tracked separately: samples against the monotonic clock, and the monotonic clock against the wall clock.

Pure: takes samples and instants, and returns a date.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from core.records import SAMPLE_RATE, StreamClock, utc_now

STRETCH_SECONDS = 20
STRETCHES = 3
"""A frame can arrive late but never early, so the date is taken from the least delayed frame of the last 40 to 60 s.
Even on a busy machine at least one frame arrives without delay in that time."""

UNDISTURBED_SECONDS = 0.001
"""Two clocks count as read at the same moment if both readings took less than this."""
READINGS = 3

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Instant:
    """One moment as read on two clocks of this machine."""

    monotonic: float
    """Seconds of a clock that is never set, from an arbitrary zero."""
    utc: datetime
    uncertainty: float = 0.0
    """Largest possible time between the two readings, in seconds."""

    @classmethod
    def now(cls) -> Instant:
        """Reads both clocks. Repeats a reading that was interrupted between the two, and returns the best."""
        best = cls._read()
        for _ in range(READINGS - 1):
            if best.uncertainty < UNDISTURBED_SECONDS:
                break
            best = min(best, cls._read(), key=lambda reading: reading.uncertainty)
        return best

    @classmethod
    def _read(cls) -> Instant:
        # Not time.monotonic(): before Python 3.13 it has steps of 16 ms on Windows.
        before, utc, after = time.perf_counter(), utc_now(), time.perf_counter()
        return cls((before + after) / 2, utc, (after - before) / 2)


@dataclass(frozen=True)
class Dating:
    """The date of sample 0 of a stream."""

    began: float
    """The time of sample 0, in seconds of the monotonic clock."""
    wall_offset: float
    """Wall clock (seconds since 1970) minus monotonic clock."""

    @property
    def clock(self) -> StreamClock:
        return StreamClock(EPOCH + timedelta(seconds=self.began + self.wall_offset))


class Timekeeper:
    """Dates one stream from its least delayed frames and the current wall clock."""

    def __init__(self) -> None:
        self._stretch = -1
        self._began: deque[float] = deque(maxlen=STRETCHES)
        """The earliest date of sample 0 that a frame implies, for each of the last stretches."""
        self._wall_offset = 0.0
        self.delay_seconds = 0.0
        """How much later the last frame came than the promptest of the last stretches."""

    def received(self, samples: int, now: Instant) -> None:
        """Notes that a frame has arrived. ``samples``: the length of the stream so far, this frame included."""
        began = now.monotonic - samples / SAMPLE_RATE
        stretch = samples // (STRETCH_SECONDS * SAMPLE_RATE)
        if stretch == self._stretch:
            self._began[-1] = min(self._began[-1], began)
        else:
            self._stretch = stretch
            self._began.append(began)
        self.delay_seconds = began - min(self._began)
        wall_offset = (now.utc - EPOCH).total_seconds() - now.monotonic
        if abs(wall_offset - self._wall_offset) > now.uncertainty:
            self._wall_offset = wall_offset

    @property
    def dating(self) -> Dating:
        """The dating as of the last frame. Raises ValueError before the first."""
        return Dating(min(self._began), self._wall_offset)
