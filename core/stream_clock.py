"""What time it was when a sample was heard.

A stream's samples are counted, and their number is the time within it (fact 4): measured, even a process that stood
still for five seconds gets all of its frames afterwards, and loses not one sample. What is left to find out is when
sample 0 was, and whether it still is what it was: two crystals differ, and a machine's clock may be set. Both are
watched here, and apart: the samples against the monotonic clock, and that against the wall clock.

Pure: samples and instants in, a date out.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from core.records import SAMPLE_RATE, StreamClock, utc_now

STRETCH_SECONDS = 20
STRETCHES = 3
"""A frame can come late and never early: the promptest of the last 40 to 60 s is the one that tells the time. That is
longer than a busy machine is late with every single one."""

UNDISTURBED_SECONDS = 0.001
"""Two clocks that are read within this are read well enough."""
READINGS = 3

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Instant:
    """One moment, on two clocks of this machine."""

    monotonic: float
    """Seconds of a clock that nobody sets; its zero means nothing."""
    utc: datetime
    uncertainty: float = 0.0
    """Seconds that may lie between the two readings."""

    @classmethod
    def now(cls) -> Instant:
        """The best of a few readings: between two clocks the machine may do something else."""
        best = cls._read()
        for _ in range(READINGS - 1):
            if best.uncertainty < UNDISTURBED_SECONDS:
                break
            best = min(best, cls._read(), key=lambda reading: reading.uncertainty)
        return best

    @classmethod
    def _read(cls) -> Instant:
        # Not time.monotonic(): before Python 3.13 that one has steps of 16 ms on Windows.
        before, utc, after = time.perf_counter(), utc_now(), time.perf_counter()
        return cls((before + after) / 2, utc, (after - before) / 2)


@dataclass(frozen=True)
class Dating:
    """When a stream began."""

    began: float
    """Sample 0, in seconds of the monotonic clock."""
    wall_offset: float
    """What the wall clock shows beyond the monotonic one: seconds since 1970."""

    @property
    def clock(self) -> StreamClock:
        return StreamClock(EPOCH + timedelta(seconds=self.began + self.wall_offset))


class Timekeeper:
    """Dates one stream by its promptest frames, and by the wall clock as it is now."""

    def __init__(self) -> None:
        self._stretch = -1
        self._began: deque[float] = deque(maxlen=STRETCHES)
        """The earliest beginning that a frame speaks for, in each of the last stretches."""
        self._wall_offset = 0.0

    def heard(self, samples: int, now: Instant) -> None:
        """A frame has come in. ``samples`` of the stream so far, with this frame."""
        began = now.monotonic - samples / SAMPLE_RATE
        stretch = samples // (STRETCH_SECONDS * SAMPLE_RATE)
        if stretch == self._stretch:
            self._began[-1] = min(self._began[-1], began)
        else:
            self._stretch = stretch
            self._began.append(began)
        wall_offset = (now.utc - EPOCH).total_seconds() - now.monotonic
        if abs(wall_offset - self._wall_offset) > now.uncertainty:
            self._wall_offset = wall_offset

    @property
    def dating(self) -> Dating:
        """As of the last frame. Raises ValueError before the first."""
        return Dating(min(self._began), self._wall_offset)
