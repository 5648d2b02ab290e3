"""The state of the worker: its rooms, its disk and its server, and what is wrong with them.

Each worker has one :class:`WorkerState`, here as ``worker_state``. Rooms are threads and write to it from their own
event loops, so it has a lock; every call is short and none raises, waits, or does I/O. Totals are in its ``counters``.

No name of a room or a person is kept: anyone who can reach the port may read the health answer. The log has the names.
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
"""Used in place of a room's sid for the worker itself."""

STUCK_SECONDS = 30.0
"""An event loop that has not run for this long is stuck; so is a disk that has not answered for this long."""

MAX_NO_AUDIO_SECONDS = 60.0
"""After this long without audio from a recorded track a restart of the worker is needed. Until then the room itself
subscribes again."""

MAX_SERVER_LOST_SECONDS = 120.0
"""A worker without its server for longer than this has a problem. A restart of the server takes less."""


@dataclass
class RoomState:
    """The current state of a room. Times are seconds of the monotonic clock; None: does not apply."""

    alive_at: float
    """When its event loop last ran."""
    teachers: int = 0
    unsaved_seconds: float = 0.0
    no_audio_since: float | None = None
    """Since when a recorded track has delivered no audio."""
    audio_delay_seconds: float = 0.0
    """The greatest delay with which frames of a recorded track were processed in the last second."""
    disk_problem: str = ""
    disk_step_at: float | None = None
    """When the disk step that is running began."""
    failing_tasks: tuple[str, ...] = ()
    """The names of supervised tasks that have failed and do not work again yet."""


@dataclass(frozen=True)
class Snapshot:
    """The state at one moment. ``rooms`` does not contain the worker itself."""

    rooms: list[RoomState]
    problems: list[str]
    """Why the worker is not healthy, one sentence each; the worst first."""
    needs_restart: bool
    """Whether a restart helps. For a disk or a server it does not, and would lose the speech held in memory."""
    notes: tuple[str, ...] = ()
    """What is worth knowing of a healthy worker, one sentence each."""


class WorkerState:
    """The state of one worker. A room exists from ``room_opened`` to ``room_closed``, by its sid; calls about any other
    room are ignored, so that a late call about a closed room does no harm."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self.counters = Counters(self.registry)
        self._clock = clock
        self._lock = threading.Lock()
        self._rooms: dict[str, RoomState] = {}
        self._server_lost_at: float | None = None
        self._notes: dict[str, str] = {}
        self._sources: list[MetricSource] = []
        self._add_gauges()

    # The state of rooms. ``room`` is a sid, or WORKER.

    def room_opened(self, room: str) -> None:
        with self._lock:
            self._rooms[room] = RoomState(alive_at=self._clock())

    def room_closed(self, room: str) -> None:
        with self._lock:
            self._rooms.pop(room, None)

    def alive(self, room: str) -> None:
        """The room's event loop runs. Call it once a second."""
        self._set(room, alive_at=self._clock())

    def teachers(self, room: str, count: int) -> None:
        """Sets how many participants are being recorded."""
        self._set(room, teachers=count)

    def unsaved(self, room: str, seconds: float) -> None:
        """Sets how many seconds of speech wait in memory for the disk."""
        self._set(room, unsaved_seconds=seconds)

    def audio_delay(self, room: str, seconds: float) -> None:
        """Sets how late frames are processed. Call it once a second."""
        self._set(room, audio_delay_seconds=seconds)

    def no_audio(self, room: str, since: float) -> None:
        """A track that should deliver audio has delivered none since this moment of ``time.monotonic()``."""
        self._set(room, no_audio_since=since)

    def has_audio(self, room: str) -> None:
        """All recorded tracks deliver audio again."""
        self._set(room, no_audio_since=None)

    def disk_refuses(self, room: str, why: str) -> None:
        self._set(room, disk_problem=why)

    def disk_works(self, room: str) -> None:
        self._set(room, disk_problem="")

    def task_failed(self, room: str, name: str) -> None:
        """A supervised task has failed and is being restarted."""
        with self._lock:
            if room in self._rooms:
                self._rooms[room].failing_tasks += (name,)

    def task_works(self, room: str, name: str) -> None:
        """The task works again, or has ended. Call it once for each ``task_failed``."""
        with self._lock:
            if room in self._rooms and name in self._rooms[room].failing_tasks:
                failing = list(self._rooms[room].failing_tasks)
                failing.remove(name)
                self._rooms[room].failing_tasks = tuple(failing)

    @contextlib.contextmanager
    def disk_step(self, room: str) -> Iterator[None]:
        """Measures an operation of the disk, and makes it visible as long as it has not ended."""
        started = self._clock()
        self._set(room, disk_step_at=started)
        try:
            yield
        finally:
            self._set(room, disk_step_at=None)
            if room != WORKER:  # the worker's steps only test the disk, no speech waits for them
                self.counters.disk_step_seconds.observe(self._clock() - started)

    def _set(self, room: str, **values: Any) -> None:
        with self._lock:
            if room in self._rooms:
                for name, value in values.items():
                    setattr(self._rooms[room], name, value)

    # The worker.

    def server_lost(self) -> None:
        """The worker has no connection to its server. Repeated calls change nothing."""
        with self._lock:
            if self._server_lost_at is None:
                self._server_lost_at = self._clock()

    def server_found(self) -> None:
        with self._lock:
            self._server_lost_at = None

    def note(self, name: str, text: str) -> None:
        """Sets a sentence of the health answer that is no problem of the worker; empty: there is none any more."""
        with self._lock:
            if text:
                self._notes[name] = text
            else:
                self._notes.pop(name, None)

    # Reading it.

    def snapshot(self) -> Snapshot:
        now = self._clock()
        with self._lock:
            states = {sid: copy.copy(state) for sid, state in self._rooms.items()}
            server_lost_at, notes = self._server_lost_at, tuple(self._notes.values())
        every = list(states.values())
        rooms = [state for sid, state in states.items() if sid != WORKER]
        return Snapshot(rooms, _problems(every, server_lost_at, now), _needs_restart(every, now), notes)

    def add_source(self, source: MetricSource) -> None:
        """Adds metrics, which are refreshed on the worker's event loop whenever they are read."""
        self._sources.append(source)

    async def registries(self) -> list[CollectorRegistry]:
        """All metrics, up to date: the worker's own, then those of the other parts."""
        found = [self.registry]
        for source in self._sources:
            try:
                await source.refresh()
            except Exception as error:  # an error in one part does not hide the metrics of the others
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
            "Rooms where a recorded track delivers no audio",
            lambda seen: sum(room.no_audio_since is not None for room in seen.rooms),
        )
        show(
            "audio_delay_seconds",
            "Greatest delay with which this machine processes audio",
            lambda seen: max((room.audio_delay_seconds for room in seen.rooms), default=0.0),
        )
        show(
            "unsaved_seconds",
            "Speech in memory that waits for the disk",
            lambda seen: sum(room.unsaved_seconds for room in seen.rooms),
        )


def _problems(rooms: list[RoomState], server_lost_at: float | None, now: float) -> list[str]:
    """The problems, the worst first."""
    problems = []
    refused = sorted({state.disk_problem for state in rooms if state.disk_problem})
    if refused:
        problems.append(f"the disk refuses: {', '.join(refused)}")
    waits = _longest([state.disk_step_at for state in rooms], now)
    if waits > STUCK_SECONDS:
        problems.append(f"the disk has not answered for {waits:.0f} s")
    stuck = [state.alive_at for state in rooms if now - state.alive_at > STUCK_SECONDS]
    if stuck:
        problems.append(f"{len(stuck)} of {len(rooms)} event loops stuck for {now - min(stuck):.0f} s")
    failing = sorted({name for state in rooms for name in state.failing_tasks})
    if failing:
        problems.append(f"failing and being restarted: {', '.join(failing)}")
    without_audio = [state.no_audio_since for state in rooms if state.no_audio_since is not None]
    if without_audio:
        problems.append(
            f"no audio from a recorded track in {_rooms(len(without_audio))} for {_longest(without_audio, now):.0f} s"
        )
    lost = _longest([server_lost_at], now)
    if lost > MAX_SERVER_LOST_SECONDS:
        problems.append(f"no connection to the LiveKit server for {lost:.0f} s")
    return problems


def _needs_restart(rooms: list[RoomState], now: float) -> bool:
    is_stuck = any(now - state.alive_at > STUCK_SECONDS for state in rooms)
    return is_stuck or _longest([state.no_audio_since for state in rooms], now) > MAX_NO_AUDIO_SECONDS


def _longest(moments: Iterable[float | None], now: float) -> float:
    return max((now - moment for moment in moments if moment is not None), default=0.0)


def _rooms(count: int) -> str:
    return f"{count} room{'' if count == 1 else 's'}"


worker_state = WorkerState()
"""The state of this process."""
