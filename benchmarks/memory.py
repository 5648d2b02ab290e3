"""Memory of the worker and everything it starts: idle, with one and with ten rooms recorded, and over many rooms that
come and go, five at a time.

It is the PSS of the process tree, but libraries count in full, although the speakers on the same machine use them, too:
as if the worker ran alone in a container. Memory is measured after half a minute of speech in every room. The stock
recipe is configured to take all ten rooms; by default it refuses some on a busy machine (see `joins`).
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence

from benchmarks import meter
from benchmarks.classrooms import Classroom, Scene, leave, scene
from benchmarks.figures import Figure, Options, Outcome
from benchmarks.loads import MANY, Session, Sessions, sessions
from benchmarks.recipes import OURS, STOCK_UNLIMITED, RecipeWorker
from devtools import sound
from devtools.worker import Worker

NAME = "memory"

MAX_MEGABYTES_ONE, MAX_MEGABYTES_MANY = 150, 200
FLAT = 1.05
"""Highest ratio of the last quarter of the readings to the first."""
AT_ONCE = 5
ROOM_OVER_SECONDS = 30.0


def measure(options: Options) -> Outcome:
    found = sessions(options)
    ours, stock = found[OURS.name], found[STOCK_UNLIMITED.name]
    rooms, looks = _come_and_go(options)
    figures = [
        Figure("idle", "MB", _idle(ours), _idle(stock), digits=0),
        Figure("one room", "MB", _one(ours), _one(stock), digits=0, at_most=MAX_MEGABYTES_ONE),
        Figure(f"{MANY} rooms", "MB", _many(ours), _many(stock), digits=0, at_most=MAX_MEGABYTES_MANY),
        _flatness(rooms, looks),
    ]
    return Outcome(NAME, figures, [_shown(found), _told(rooms, looks)])


def _shown(found: Sessions) -> str:
    """The PSS as the system shows it, for comparison with other tools."""
    parts = []
    for name, listed in found.items():
        one = [session.one.pss_megabytes or 0.0 for session in listed]
        many = [session.many.pss_megabytes or 0.0 for session in listed]
        parts.append(f"{name} {statistics.median(one):.0f} and {statistics.median(many):.0f}")
    return (
        f"PSS as the system shows it, besides the speakers, MB for one and {MANY} rooms: {'; '.join(parts)}."
    )


def _idle(found: Sequence[Session]) -> list[float]:
    return [session.idle_megabytes for session in found]


def _one(found: Sequence[Session]) -> list[float]:
    return [session.one.memory_megabytes for session in found]


def _many(found: Sequence[Session]) -> list[float]:
    return [session.many.memory_megabytes for session in found]


# --- rooms that come and go ---


def _come_and_go(options: Options) -> tuple[int, list[float]]:
    """The number of rooms, and the memory after every AT_ONCE of them."""
    rooms = 10 if options.quick else 200 if options.full else 50
    options.say(f"  {rooms} rooms come and go ...")
    with scene(options.say) as place:
        return rooms, asyncio.run(_looks(rooms, place))


async def _looks(rooms: int, place: Scene) -> list[float]:
    seen = []
    async with RecipeWorker(OURS, place.server, place.fresh_folder()) as worker:
        one_by_one = asyncio.Semaphore()
        for done in range(0, rooms, AT_ONCE):
            await asyncio.gather(*(_lesson(place, number, one_by_one) for number in range(AT_ONCE)))
            await _rooms_over(worker, done + AT_ONCE)
            seen.append(await meter.settled_memory_megabytes(worker.pid))
    return seen


async def _lesson(place: Scene, number: int, one_by_one: asyncio.Semaphore) -> None:
    room = await Classroom.open(place.server, place.fresh_name(), one_by_one)
    try:
        await room.teacher.say(sound.sequence(sound.markers()[number : number + 2], 0.3)[0])
    finally:
        await leave([room])


async def _rooms_over(worker: Worker, count: int) -> None:
    async def over() -> None:
        while sum("Room over" in line for line in worker.lines) < count:  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.1)

    async with asyncio.timeout(ROOM_OVER_SECONDS):
        await over()


def _flatness(rooms: int, seen: list[float]) -> Figure:
    first, last = _quarters(seen)
    what = f"after {rooms} rooms come and gone, last quarter to first"
    return Figure(what, "MB", [last], [first], "first quarter", digits=1, ratio_at_most=FLAT)


def _quarters(seen: list[float]) -> tuple[float, float]:
    """Medians of the first and of the last quarter of the readings."""
    count = max(1, len(seen) // 4)
    return statistics.median(seen[:count]), statistics.median(seen[-count:])


def _told(rooms: int, seen: list[float]) -> str:
    course = ", ".join(f"{one:.0f}" for one in seen)
    return f"Ours, MB after every {AT_ONCE} of {rooms} rooms: {course}."
