"""Plans which faults happen when."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from itertools import cycle, islice
from typing import NamedTuple


class Fault(Enum):
    """A kind of fault; the value is its description in the report."""

    MUTE = "the teacher mutes and unmutes"
    ROLLING_RESTART = "rolling restart: SIGTERM in mid-word, another worker is ready"
    REJOIN = "the teacher leaves and joins again"
    WORKER_KILLED = "SIGKILL of the worker in mid-word, another is ready"
    HANG = "the worker hangs (SIGSTOP), another is ready"
    DOUBLED = "two more recorders are dispatched, with another worker ready; then SIGTERM to the first"
    REPUBLISH = "the teacher unpublishes and publishes again"
    STUDENT = "a student speaks at the same time"
    RESUME = "the teacher's connection breaks and is resumed"
    DISK_FULL = "the disk is full for 8 s"
    FULL_RECONNECT = "the teacher's connection breaks and is made again"
    CROWD = "20 students come, change their attributes 20 times each, and go"
    SERVER_RESTART = "the server restarts"


ENDS_A_WORKER = (Fault.ROLLING_RESTART, Fault.WORKER_KILLED, Fault.HANG, Fault.DOUBLED)

FIRST_SECONDS = 15.0
LAST_SECONDS = 30.0
"""No fault is planned in the first and the last seconds of a lecture."""
MIN_DISTANCE_SECONDS = 25.0
MAX_FAULTS = 36
"""Three rounds: every kind of fault, then those that do not end a worker, then every kind again."""


class Planned(NamedTuple):
    """A fault, and how many seconds after the lecture's beginning it is due."""

    at_seconds: float
    fault: Fault


def plan(minutes: float, possible: Collection[Fault] = tuple(Fault)) -> list[Planned]:
    """Faults at equal distances, each kind in its turn: four in two minutes, three dozen in an hour.

    In a long lecture one worker runs for most of the time between the first round of faults and the last.
    """
    seconds = minutes * 60 - FIRST_SECONDS - LAST_SECONDS
    apart = max(MIN_DISTANCE_SECONDS, seconds / (MAX_FAULTS - 1))
    count = max(0, int(seconds / apart + 1e-9) + 1) if seconds >= 0 else 0
    ordered = _in_order([fault for fault in Fault if fault in possible], count)
    return [Planned(FIRST_SECONDS + number * apart, fault) for number, fault in enumerate(ordered)]


def _in_order(kinds: list[Fault], count: int) -> list[Fault]:
    """The faults in order. The last round is reversed, so that the faults that end workers are near both ends."""
    if count < 2 * len(kinds):
        return [*kinds, *kinds][:count]
    harmless = [fault for fault in kinds if fault not in ENDS_A_WORKER]
    between = count - 2 * len(kinds)
    return [*kinds, *islice(cycle(harmless), between), *reversed(kinds)]
