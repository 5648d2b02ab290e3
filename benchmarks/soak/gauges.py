"""Measures memory and CPU of the workers during the lecture."""

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
    """Memory and CPU of one worker and its child processes at one moment."""

    worker: int
    """Counted from 1, as in the name of its log."""
    at: float
    """Seconds since the epoch."""
    megabytes: float
    cpu_seconds: float
    """Since the process started."""


async def watch(room: Classroom, minutes: float, readings: list[Reading]) -> None:
    """Measures every few seconds until cancelled; in a thread, so that the speakers are not delayed."""
    while True:
        for number, worker in enumerate(room.workers, start=1):
            if worker.exit_code is None:
                with contextlib.suppress(psutil.Error):  # killed while it is measured
                    readings.append(await asyncio.to_thread(_read, number, worker.pid))
        await asyncio.sleep(max(MIN_SECONDS, minutes * 60 / SAMPLES_IN_A_RUN))


def _read(number: int, pid: int) -> Reading:
    return Reading(number, time.time(), meter.memory_megabytes(pid), meter.cpu_seconds(pid))
