"""A fleet of machines whose workers keep each other's rooms recorded: the real reconciler, 1,000 times, against a
stand-in server.

10,000 rooms, each with a teacher; 250 machines with four worker processes each, of which every one takes 16 rooms.
Time is simulated, so an hour of a fleet takes minutes and the machine's speed changes nothing. The stand-in answers in
5 ms, sends a dispatched recorder to a random worker within half a second, and lists a killed recorder for twenty
seconds more, as livekit-server 1.13.3 does.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import selectors
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar

from livekit import api
from livekit.protocol import models

from benchmarks.figures import Figure, Options, Outcome
from config import Settings
from recording import recorder_ping
from worker import reconciler

NAME = "fleet"

ROOMS, MACHINES = 10_000, 250
PROCESSES = 4
"""Worker processes of each machine."""
CAPACITY = 16
"""Rooms of each process."""
STEADY_SECONDS = 40.0
AFTER_SECONDS = 30.0
CALL_SECONDS = 0.005
JOIN_SECONDS = (0.2, 0.5)
LISTED_SECONDS = 20.0
ABSENT_SECONDS = 3.0
"""How long livekit-server takes to answer that no participant has that identity."""
ADOPTED_WITHIN_SECONDS = 10.0

T = TypeVar("T")


def measure(options: Options) -> Outcome:
    runs = [_simulated(options, seed) for seed in range(options.runs if options.full else 1)]
    calls = [run.calls_per_second for run in runs]
    return Outcome(
        NAME,
        [
            Figure(
                "server: calls a second, nothing happening",
                "1/s",
                [sum(one.values()) for one in calls],
                digits=0,
            ),
            Figure(
                "worker: calls a second, nothing happening",
                "1/s",
                [sum(one.values()) / run.workers for run, one in zip(runs, calls, strict=True)],
            ),
            Figure(
                "rooms of killed machines: median time to a new recorder",
                "s",
                [run.adoption(0.5) for run in runs],
            ),
            Figure(
                "rooms of killed machines: 99 of 100 have one within",
                "s",
                [run.adoption(0.99) for run in runs],
                at_most=ADOPTED_WITHIN_SECONDS,
            ),
            Figure(
                "rooms never dispatched: 99 of 100 have one within", "s", [run.found(0.99) for run in runs]
            ),
            Figure("recorders sent where one was already", "", [run.doubled for run in runs], digits=0),
        ],
        [_by_kind(calls[0])],
    )


def _by_kind(calls: dict[str, float]) -> str:
    return (
        "Calls a second by kind: "
        + ", ".join(f"{kind} {rate:.0f}" for kind, rate in sorted(calls.items()))
        + "."
    )


@dataclass
class Run:
    """The result of one simulation."""

    calls_per_second: dict[str, float]
    adopted_after: list[float]
    found_after: list[float]
    doubled: int
    workers: int

    def adoption(self, share: float) -> float:
        return _quantile(self.adopted_after, share)

    def found(self, share: float) -> float:
        return _quantile(self.found_after, share)


def _quantile(values: Sequence[float], share: float) -> float:
    return statistics.quantiles(values, n=100)[round(100 * share) - 1]


# --- simulated time ---


class _Leaping(selectors.DefaultSelector):
    """An event loop with simulated time: it never waits."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.now += timeout or 0.0
        return super().select(0)


class _SimulatedLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.now


def _in_simulated_time(work: Callable[[asyncio.AbstractEventLoop], Any]) -> Any:
    loop = _SimulatedLoop()
    clock = SimpleNamespace(monotonic=loop.time, time=lambda: 1_000_000 + loop.time())
    real = reconciler.__dict__["time"]
    reconciler.__dict__["time"] = clock
    try:
        return loop.run_until_complete(work(loop))
    finally:
        reconciler.__dict__["time"] = real
        loop.close()


# --- the stand-in ---


@dataclass
class _Room:
    proto: models.Room
    recorder: int | None
    dead_since: float | None = None
    missing_since: float | None = None
    dispatches: list[api.AgentDispatch] = field(default_factory=list)


class _Server:
    """The LiveKit API that the reconciler uses; counts every call."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rooms: int, workers: int) -> None:
        self.calls: Counter[str] = Counter()
        self.doubled = 0
        self.adopted_after: list[float] = []
        self.found_after: list[float] = []
        self.living = set(range(workers))
        self.load: Counter[int] = Counter()
        self.rooms = {f"room-{number}": self._room(number, number % workers) for number in range(rooms)}
        self._loop = loop
        self._numbers = itertools.count()
        self._joining: set[asyncio.Task[None]] = set()
        self.room = self
        self.agent_dispatch = self
        self._client = self

    def _room(self, number: int, recorder: int) -> _Room:
        self.load[recorder] += 1
        name = f"room-{number}"
        return _Room(
            models.Room(sid=f"RM_{number}", name=name, creation_time=1, num_participants=2), recorder
        )

    def kill(self, workers: set[int]) -> None:
        self.living -= workers
        for room in self.rooms.values():
            if room.recorder in workers:
                room.dead_since = self._loop.time()

    def miss(self, count: int) -> None:
        """Rooms whose first recorder never joined."""
        healthy = [room for room in self.rooms.values() if room.dead_since is None]
        for room in random.sample(healthy, count):
            self.load[room.recorder or 0] -= 1
            room.recorder, room.missing_since = None, self._loop.time()

    async def _called(self, kind: str) -> None:
        self.calls[kind] += 1
        await asyncio.sleep(CALL_SECONDS)

    # RoomService.

    async def list_rooms(self, _: object) -> object:
        await self._called("list_rooms")
        return SimpleNamespace(rooms=[room.proto for room in self.rooms.values()])

    async def get_participant(self, who: api.RoomParticipantIdentity) -> object:
        await self._called("get_participant")
        room = self.rooms[who.room]
        if not self._is_listed(room):
            raise api.TwirpError(api.TwirpErrorCode.NOT_FOUND, "not there", status=404)
        return SimpleNamespace(sid=f"PA_{room.recorder}")

    def _is_listed(self, room: _Room) -> bool:
        is_forgotten = room.dead_since is not None and self._loop.time() > room.dead_since + LISTED_SECONDS
        return room.recorder is not None and not is_forgotten

    async def list_participants(self, request: api.ListParticipantsRequest) -> object:
        await self._called("list_participants")
        teacher = models.ParticipantInfo(identity="anna", sid="PA_1", metadata='{"role": "teacher"}')
        return SimpleNamespace(participants=[teacher])

    async def remove_participant(self, who: api.RoomParticipantIdentity) -> None:
        await self._called("remove_participant")
        room = self.rooms[who.room]
        if not self._is_listed(room):
            raise api.TwirpError(api.TwirpErrorCode.NOT_FOUND, "not there", status=404)
        room.recorder = None

    def _auth_header(self, _: object) -> dict[str, str]:
        return {}

    async def request(self, _: str, __: str, request: Any, *___: object) -> object:
        await self._called("perform_rpc")
        room = self.rooms[request.room]
        if not self._is_listed(room):
            await asyncio.sleep(ABSENT_SECONDS)
            raise api.TwirpError(api.TwirpErrorCode.UNAVAILABLE, "no response from servers", status=503)
        if room.dead_since is not None:
            await asyncio.sleep(recorder_ping.ANSWER_SECONDS)
            raise api.TwirpError("canceled", "RpcError 1502: Response timeout", status=408)
        return SimpleNamespace(payload=recorder_ping.ALIVE)

    # AgentDispatchService.

    async def list_dispatch(self, room: str) -> list[api.AgentDispatch]:
        await self._called("list_dispatch")
        return list(self.rooms[room].dispatches)

    async def create_dispatch(self, request: api.CreateAgentDispatchRequest) -> None:
        await self._called("create_dispatch")
        room = self.rooms[request.room]
        dispatch = api.AgentDispatch(id=f"AD_{next(self._numbers)}")
        dispatch.state.jobs.add()  # accepted by a worker, and pending
        room.dispatches.append(dispatch)
        task = self._loop.create_task(self._join(room))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _join(self, room: _Room) -> None:
        takers = [worker for worker in self.living if self.load[worker] < CAPACITY]
        worker = random.choice(takers)
        self.load[worker] += 1
        await asyncio.sleep(random.uniform(*JOIN_SECONDS))
        now = self._loop.time()
        if room.recorder is not None and room.dead_since is None:
            self.doubled += 1
            self.load[room.recorder] -= 1
        elif room.dead_since is not None:
            self.adopted_after.append(now - room.dead_since)
        elif room.missing_since is not None:
            self.found_after.append(now - room.missing_since)
        room.recorder, room.dead_since, room.missing_since = worker, None, None


# --- the fleet ---


def _simulated(options: Options, seed: int) -> Run:
    rooms, machines = (400, 10) if options.quick else (ROOMS, MACHINES)
    options.say(f"  {rooms} rooms, {machines} machines, a tenth of them killed ...")
    random.seed(seed)
    run: Run = _in_simulated_time(lambda loop: _fleet(loop, rooms, machines))
    return run


async def _fleet(loop: asyncio.AbstractEventLoop, rooms: int, machines: int) -> Run:
    workers = PROCESSES * machines
    server = _Server(loop, rooms, workers)
    tasks = [loop.create_task(_worker(server, number)) for number in range(workers)]
    await asyncio.sleep(STEADY_SECONDS / 2)  # until every worker has its list
    server.calls.clear()
    await asyncio.sleep(STEADY_SECONDS / 2)
    steady = {kind: count / (STEADY_SECONDS / 2) for kind, count in server.calls.items()}
    dead = set(random.sample(range(machines), machines // 10))
    killed = {worker for worker in range(workers) if worker // PROCESSES in dead}
    for number in killed:
        tasks[number].cancel()
    server.kill(killed)
    server.miss(rooms // 100)
    await asyncio.sleep(AFTER_SECONDS)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return Run(steady, server.adopted_after, server.found_after, server.doubled, workers)


async def _worker(server: _Server, number: int) -> None:
    await asyncio.sleep(random.uniform(0, 3))
    here = reconciler.Reconciler(
        server,  # type: ignore[arg-type]
        Settings(),
        is_recorded_here=lambda sid: server.rooms[f"room-{sid[3:]}"].recorder == number,
        rooms_taken=lambda: server.load[number],
        rooms_joining=lambda: 0,
        has_capacity=lambda: server.load[number] < CAPACITY,
    )
    await here.run()
