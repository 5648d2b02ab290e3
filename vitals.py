"""What the worker knows of itself: what it has saved and lost since it started, and what is wrong just now.

One :class:`Vitals` a worker, here as ``vitals``. Rooms are threads and write into it from their own event loops, so
it has a lock; every call is short and none raises, waits, or does I/O.

No name of a room or a person is kept: what is told here may be read by whoever reaches the port. The log has the names.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger("recorder")

WORKER = "worker"
"""Stands where a room would, for what belongs to no room."""

STUCK_SECONDS = 30.0
"""An event loop that has not run for so long is stuck; so is a disk that has not answered."""

DEAF_PATIENCE_SECONDS = 60.0
"""For so long a deaf room tries to hear again by itself, before only a restart is left."""

SERVER_PATIENCE_SECONDS = 120.0
"""How long the worker may be without its server before that is a sickness: restarts of a server are none."""

LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram of disk steps, in seconds."""


@dataclass
class Totals:
    """Counted since the start, never less than before."""

    segments: int = 0
    speech_seconds: float = 0.0
    """Saved."""
    gaps: int = 0
    gap_seconds: float = 0.0
    """Of time that a manifest owns up to not having heard."""
    lost_seconds: float = 0.0
    """Of speech that was heard and could not be kept."""
    reconnects: int = 0
    adoptions: int = 0
    """Rooms without a recorder that were found, and one asked for."""
    refused_rooms: int = 0
    """Offered while the worker was full."""
    clock_corrections: int = 0
    """Of a stream's date: the machine's clock was set, or its samples and its clocks drifted apart."""
    undecipherable: int = 0
    """Participants whose sound is encrypted, and we have no passphrase or a wrong one."""
    over_bound: int = 0
    """Tracks that had no place: MAX_TEACHERS_PER_ROOM or MAX_TRACKS_PER_TEACHER."""
    disk_seconds: float = 0.0
    disk_steps: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))
    """How many took no longer than each of ``LATENCY_BOUNDS`` and longer than the one before; the rest last."""


@dataclass
class RoomState:
    """How a room is just now. Times are of the monotonic clock; None: not so."""

    alive_at: float
    """When its event loop ran last."""
    teachers: int = 0
    unsaved_seconds: float = 0.0
    deaf_since: float | None = None
    disk_trouble: str = ""
    disk_asked_at: float | None = None
    """Since when the disk owes an answer."""
    failing_tasks: tuple[str, ...] = ()
    """The names of long-lived tasks that have failed and do not work again yet."""


@dataclass(frozen=True)
class Snapshot:
    """Everything at one moment. ``rooms`` does not hold the worker itself."""

    totals: Totals
    rooms: list[RoomState]
    problems: list[str]
    """What makes the worker sick, a plain sentence each. Empty: it is healthy."""
    needs_restart: bool
    """Whether a restart is the cure. For a disk or a server it is none, and would lose what memory holds."""


@dataclass(frozen=True)
class Figure:
    """One number of another part of the worker, for whoever measures. ``name`` begins with that part's name."""

    name: str
    help: str
    value: float
    is_total: bool = False
    """Counted since the start, never less than before."""
    labels: tuple[tuple[str, str], ...] = ()


Source = Callable[[], Awaitable[Iterable[Figure]]]
"""Another part of the worker that has figures of its own. Where it raises, its figures are missing."""


class Vitals:
    """The record. A room is known by its sid, from ``room_opened`` to ``room_closed``; what is said of any other is
    left unheard, so that a late word about a room that is over makes nobody sick."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._totals = Totals()
        self._rooms: dict[str, RoomState] = {}
        self._server_lost_at: float | None = None
        self._sources: list[Source] = []

    # Rooms, and how they are. ``room`` is a sid, or WORKER.

    def room_opened(self, room: str) -> None:
        with self._lock:
            self._rooms[room] = RoomState(alive_at=self._clock())

    def room_closed(self, room: str) -> None:
        with self._lock:
            self._rooms.pop(room, None)

    def alive(self, room: str) -> None:
        """Its event loop runs. To be said once a second."""
        self._set(room, alive_at=self._clock())

    def teachers(self, room: str, count: int) -> None:
        """So many participants are being recorded."""
        self._set(room, teachers=count)

    def unsaved(self, room: str, seconds: float) -> None:
        """So much speech waits in memory for the disk."""
        self._set(room, unsaved_seconds=seconds)

    def deaf(self, room: str, since: float) -> None:
        """No sound comes from a track that should have some, since this moment of ``time.monotonic()``."""
        self._set(room, deaf_since=since)

    def hears(self, room: str) -> None:
        """The end of being deaf."""
        self._set(room, deaf_since=None)

    def disk_refuses(self, room: str, why: str) -> None:
        self._set(room, disk_trouble=why)

    def disk_works(self, room: str) -> None:
        self._set(room, disk_trouble="")

    def task_failed(self, room: str, name: str) -> None:
        """A long-lived task has failed and is being restarted."""
        with self._lock:
            if room in self._rooms:
                self._rooms[room].failing_tasks += (name,)

    def task_works(self, room: str, name: str) -> None:
        """It works again, or is needed no more. To be said once for each ``task_failed``."""
        with self._lock:
            if room in self._rooms and name in self._rooms[room].failing_tasks:
                failing = list(self._rooms[room].failing_tasks)
                failing.remove(name)
                self._rooms[room].failing_tasks = tuple(failing)

    @contextlib.contextmanager
    def disk_step(self, room: str) -> Iterator[None]:
        """Around everything that waits for the disk: measures it, and notices when it does not end."""
        started = self._clock()
        self._set(room, disk_asked_at=started)
        try:
            yield
        finally:
            seconds = self._clock() - started
            self._set(room, disk_asked_at=None)
            if room != WORKER:  # it only tries the disk; what counts is what speech waits for
                with self._lock:
                    self._totals.disk_seconds += seconds
                    self._totals.disk_steps[bisect_left(LATENCY_BOUNDS, seconds)] += 1

    def _set(self, room: str, **values: Any) -> None:
        with self._lock:
            if room in self._rooms:
                for name, value in values.items():
                    setattr(self._rooms[room], name, value)

    # What is counted.

    def segment_saved(self, seconds: float) -> None:
        self._count(segments=1, speech_seconds=seconds)

    def gap(self, seconds: float) -> None:
        """So much time was not heard, and the manifest says so."""
        self._count(gaps=1, gap_seconds=seconds)

    def lost(self, seconds: float) -> None:
        """So much speech was heard and could not be kept."""
        self._count(lost_seconds=seconds)

    def reconnected(self) -> None:
        """A room has its connection back."""
        self._count(reconnects=1)

    def adopted(self) -> None:
        """A recorder was asked for, for a room that had none."""
        self._count(adoptions=1)

    def refused_room(self) -> None:
        """A room was offered while the worker was full."""
        self._count(refused_rooms=1)

    def clock_corrected(self) -> None:
        """A stream is dated anew: a clock was set, or has drifted."""
        self._count(clock_corrections=1)

    def undecipherable(self) -> None:
        """A participant's sound is encrypted, and cannot be deciphered."""
        self._count(undecipherable=1)

    def over_bound(self) -> None:
        """A track is to be recorded, and there is no place for it."""
        self._count(over_bound=1)

    def _count(self, **amounts: float) -> None:
        with self._lock:
            for name, amount in amounts.items():
                setattr(self._totals, name, getattr(self._totals, name) + amount)

    # The worker.

    def server_lost(self) -> None:
        """The worker has no connection to its server. Repeating it changes nothing."""
        with self._lock:
            if self._server_lost_at is None:
                self._server_lost_at = self._clock()

    def server_found(self) -> None:
        with self._lock:
            self._server_lost_at = None

    def add_source(self, source: Source) -> None:
        """``source`` is asked for its figures whenever somebody measures, on the worker's event loop."""
        self._sources.append(source)

    async def figures(self) -> list[Figure]:
        """What the other parts tell of themselves just now. One that cannot does not silence the others."""
        found: list[Figure] = []
        for source in self._sources:
            try:
                found += await source()
            except Exception as error:
                logger.debug("Figures are missing", exc_info=error)
        return found

    # Reading it.

    def snapshot(self) -> Snapshot:
        now = self._clock()
        with self._lock:
            totals = copy.deepcopy(self._totals)
            every = [copy.copy(state) for state in self._rooms.values()]
            rooms = [copy.copy(state) for sid, state in self._rooms.items() if sid != WORKER]
            server_lost_at = self._server_lost_at
        return Snapshot(totals, rooms, _problems(every, server_lost_at, now), _needs_restart(every, now))


def _problems(rooms: list[RoomState], server_lost_at: float | None, now: float) -> list[str]:
    """What is wrong, the worst first."""
    problems = []
    refused = sorted({state.disk_trouble for state in rooms if state.disk_trouble})
    if refused:
        problems.append(f"the disk refuses: {', '.join(refused)}")
    waits = _longest([state.disk_asked_at for state in rooms], now)
    if waits > STUCK_SECONDS:
        problems.append(f"the disk has not answered for {waits:.0f} s")
    stuck = [state.alive_at for state in rooms if now - state.alive_at > STUCK_SECONDS]
    if stuck:
        problems.append(f"{len(stuck)} of {len(rooms)} event loops stuck for {now - min(stuck):.0f} s")
    failing = sorted({name for state in rooms for name in state.failing_tasks})
    if failing:
        problems.append(f"failing and being restarted: {', '.join(failing)}")
    deaf = [state.deaf_since for state in rooms if state.deaf_since is not None]
    if deaf:
        problems.append(
            f"deaf in {_rooms(len(deaf))}: no sound from a recorded track for {_longest(deaf, now):.0f} s"
        )
    apart = _longest([server_lost_at], now)
    if apart > SERVER_PATIENCE_SECONDS:
        problems.append(f"no connection to the LiveKit server for {apart:.0f} s")
    return problems


def _needs_restart(rooms: list[RoomState], now: float) -> bool:
    is_stuck = any(now - state.alive_at > STUCK_SECONDS for state in rooms)
    return is_stuck or _longest([state.deaf_since for state in rooms], now) > DEAF_PATIENCE_SECONDS


def _longest(moments: Iterable[float | None], now: float) -> float:
    return max((now - moment for moment in moments if moment is not None), default=0.0)


def _rooms(count: int) -> str:
    return f"{count} room{'' if count == 1 else 's'}"


vitals = Vitals()
"""This process's own."""
