"""What the workers use while the lecture goes on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import NamedTuple

import psutil

from benchmarks import meter
from benchmarks.soak.classroom import Classroom

SAMPLES_IN_A_RUN = 720
MIN_SECONDS = 1.0


class Reading(NamedTuple):
    """One worker with everything it started, at one moment."""

    worker: int
    """Counted from 1, as its log is called."""
    at: float
    """Seconds since the epoch."""
    megabytes: float
    cpu_seconds: float
    """So far."""


async def watch(room: Classroom, minutes: float, readings: list[Reading]) -> None:
    """Reads every few seconds, until cancelled; in a thread, so that nobody's speech waits."""
    while True:
        for number, worker in enumerate(room.workers, start=1):
            if worker.exit_code is None:
                with contextlib.suppress(psutil.Error):  # killed while it is looked at
                    readings.append(await asyncio.to_thread(_read, number, worker.pid))
        await asyncio.sleep(max(MIN_SECONDS, minutes * 60 / SAMPLES_IN_A_RUN))


def _read(number: int, pid: int) -> Reading:
    return Reading(number, time.time(), meter.memory_megabytes(pid), meter.cpu_seconds(pid))
