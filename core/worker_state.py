"""The state of the worker: how its rooms, its disk and its server are, and which of that is a problem.

One :class:`WorkerState` a worker, here as ``worker_state``. Rooms are threads and write into it from their own event
loops, so it has a lock; every call is short and none raises, waits, or does I/O. What is only counted goes to its
``counters``.

No name of a room or a person is kept: the health answer may be read by whoever reaches the port. The log has the names.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry

from core.metrics import Counters, MetricSource, gauge

logger = logging.getLogger("recorder")

WORKER = "worker"
"""Stands where a room would, for what belongs to no room."""

STUCK_SECONDS = 30.0
"""An event loop that has not run for so long is stuck; so is a disk that has not answered."""

MAX_NO_AUDIO_SECONDS = 60.0
"""A room without audio tries for so long to get it back by itself; then only a restart is left."""

MAX_SERVER_LOST_SECONDS = 120.0
"""How long the worker may be without its server before that is a problem: restarts of a server are none."""


@dataclass
class RoomState:
    """How a room is at this moment. Times are of the monotonic clock; None: not so."""

    alive_at: float
    """When its event loop ran last."""
    teachers: int = 0
    unsaved_seconds: float = 0.0
    no_audio_since: float | None = None
    """Since when a recorded track has brought no audio."""
    disk_problem: str = ""
    disk_asked_at: float | None = None
    """When the disk step began that is not over yet."""
    failing_tasks: tuple[str, ...] = ()
    """The names of long-lived tasks that have failed and do not work again yet."""


@dataclass(frozen=True)
class Snapshot:
    """Everything at one moment. ``rooms`` does not hold the worker itself."""

    rooms: list[RoomState]
    problems: list[str]
    """What keeps the worker from being healthy, a plain sentence each."""
    needs_restart: bool
    """Whether a restart helps. For a disk or a server it does not, and would lose what memory holds."""


class WorkerState:
    """The state of one worker. A room is known by its sid, from ``room_opened`` to ``room_closed``; calls about any
    other are ignored, so that a late one about a closed room causes no problem."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self.counters = Counters(self.registry)
        self._clock = clock
        self._lock = threading.Lock()
        self._rooms: dict[str, RoomState] = {}
        self._server_lost_at: float | None = None
        self._sources: list[MetricSource] = []
        self._add_gauges()

    # Rooms, and how they are. ``room`` is a sid, or WORKER.

    def room_opened(self, room: str) -> None:
        with self._lock:
            self._rooms[room] = RoomState(alive_at=self._clock())

    def room_closed(self, room: str) -> None:
        with self._lock:
            self._rooms.pop(room, None)

    def alive(self, room: str) -> None:
        """Its event loop runs. To be called once a second."""
        self._set(room, alive_at=self._clock())

    def teachers(self, room: str, count: int) -> None:
        """So many participants are being recorded."""
        self._set(room, teachers=count)

    def unsaved(self, room: str, seconds: float) -> None:
        """So much speech waits in memory for the disk."""
        self._set(room, unsaved_seconds=seconds)

    def no_audio(self, room: str, since: float) -> None:
        """A track that should bring audio has brought none since this moment of ``time.monotonic()``."""
        self._set(room, no_audio_since=since)

    def has_audio(self, room: str) -> None:
        """All recorded tracks bring audio again."""
        self._set(room, no_audio_since=None)

    def disk_refuses(self, room: str, why: str) -> None:
        self._set(room, disk_problem=why)

    def disk_works(self, room: str) -> None:
        self._set(room, disk_problem="")

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
            self._set(room, disk_asked_at=None)
            if room != WORKER:  # it only tries the disk; what counts is what speech waits for
                self.counters.disk_step_seconds.observe(self._clock() - started)

    def _set(self, room: str, **values: Any) -> None:
        with self._lock:
            if room in self._rooms:
                for name, value in values.items():
                    setattr(self._rooms[room], name, value)

    # The worker.

    def server_lost(self) -> None:
        """The worker has no connection to its server. Repeating it changes nothing."""
        with self._lock:
            if self._server_lost_at is None:
                self._server_lost_at = self._clock()

    def server_found(self) -> None:
        with self._lock:
            self._server_lost_at = None

    # Reading it.

    def snapshot(self) -> Snapshot:
        now = self._clock()
        with self._lock:
            states = {sid: copy.copy(state) for sid, state in self._rooms.items()}
            server_lost_at = self._server_lost_at
        every = list(states.values())
        rooms = [state for sid, state in states.items() if sid != WORKER]
        return Snapshot(rooms, _problems(every, server_lost_at, now), _needs_restart(every, now))

    def add_source(self, source: MetricSource) -> None:
        """``source`` is refreshed whenever somebody measures, on the worker's event loop."""
        self._sources.append(source)

    async def registries(self) -> list[CollectorRegistry]:
        """All metrics, up to date: the worker's own, then those of the other parts."""
        found = [self.registry]
        for source in self._sources:
            try:
                await source.refresh()
            except Exception as error:  # one part's trouble does not hide the others' metrics
                logger.debug("Metrics are missing", exc_info=error)
            else:
                found.append(source.registry)
        return found

    def _add_gauges(self) -> None:
        def show(name: str, help: str, value: Callable[[Snapshot], float]) -> None:
            gauge(self.registry, name, help).set_function(lambda: value(self.snapshot()))

        show("healthy", "1 while the health answer is OK", lambda seen: not seen.problems)
        show("rooms", "Rooms with a recorder of this worker", lambda seen: len(seen.rooms))
        show(
            "teachers",
            "Participants being recorded",
            lambda seen: sum(room.teachers for room in seen.rooms),
        )
        show(
            "deaf_rooms",
            "Rooms where a recorded track brings no audio",
            lambda seen: sum(room.no_audio_since is not None for room in seen.rooms),
        )
        show(
            "unsaved_seconds",
            "Speech in memory that waits for the disk",
            lambda seen: sum(room.unsaved_seconds for room in seen.rooms),
        )


def _problems(rooms: list[RoomState], server_lost_at: float | None, now: float) -> list[str]:
    """What is wrong, the worst first."""
    problems = []
    refused = sorted({state.disk_problem for state in rooms if state.disk_problem})
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
    deaf = [state.no_audio_since for state in rooms if state.no_audio_since is not None]
    if deaf:
        problems.append(
            f"no audio from a recorded track in {_rooms(len(deaf))} for {_longest(deaf, now):.0f} s"
        )
    apart = _longest([server_lost_at], now)
    if apart > MAX_SERVER_LOST_SECONDS:
        problems.append(f"no connection to the LiveKit server for {apart:.0f} s")
    return problems


def _needs_restart(rooms: list[RoomState], now: float) -> bool:
    is_stuck = any(now - state.alive_at > STUCK_SECONDS for state in rooms)
    return is_stuck or _longest([state.no_audio_since for state in rooms], now) > MAX_NO_AUDIO_SECONDS


def _longest(moments: Iterable[float | None], now: float) -> float:
    return max((now - moment for moment in moments if moment is not None), default=0.0)


def _rooms(count: int) -> str:
    return f"{count} room{'' if count == 1 else 's'}"


worker_state = WorkerState()
"""This worker's own."""
