"""Memory of the worker and everything it starts: idle, with one and with ten rooms recorded, and over many rooms that
come and go, five at a time.

It is the tree's PSS, except that libraries count in full although those who speak on the same machine use them, too: as
if the worker ran alone, in a container. Memory is looked at after half a minute of speech in every room. The stock
recipe is made to take all ten rooms; by itself it refuses some on a busy machine (see `joins`).
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence

import sound

from benchmarks import meter
from benchmarks.classrooms import Classroom, Scene, leave, scene
from benchmarks.figures import Figure, Options, Outcome
from benchmarks.loads import MANY, Session, Sessions, sessions
from benchmarks.recipes import PROCESSES, STOCK_UNLIMITED, THREADS, Recipe, RecipeWorker
from deadline import within
from devtools.worker import Worker

NAME = "memory"

MOST_MEGABYTES = {THREADS.name: (150, 200), PROCESSES.name: (250, 430)}
FLAT = 1.05
"""How much more the last quarter of the looks may show than the first."""
AT_ONCE = 5
ROOM_OVER_SECONDS = 30.0


def measure(options: Options) -> Outcome:
    found = sessions(options)
    stock = found[STOCK_UNLIMITED.name]
    figures = []
    for recipe in (THREADS, PROCESSES):
        ours, (one, many) = found[recipe.name], MOST_MEGABYTES[recipe.name]
        figures += [
            Figure(f"{recipe.name}: idle", "MB", _idle(ours), _idle(stock), digits=0),
            Figure(f"{recipe.name}: one room", "MB", _one(ours), _one(stock), digits=0, at_most=one),
            Figure(f"{recipe.name}: {MANY} rooms", "MB", _many(ours), _many(stock), digits=0, at_most=many),
        ]
    looks = {recipe.name: _come_and_go(recipe, options) for recipe in (THREADS, PROCESSES)}
    figures += [_flatness(name, rooms, seen) for name, (rooms, seen) in looks.items()]
    notes = [_told(name, rooms, seen) for name, (rooms, seen) in looks.items()]
    return Outcome(NAME, figures, [_shown(found), *notes])


def _shown(found: Sessions) -> str:
    """The plain PSS, for whoever compares with other tools."""
    parts = []
    for name, listed in found.items():
        one = [session.one.pss_megabytes or 0.0 for session in listed]
        many = [session.many.pss_megabytes or 0.0 for session in listed]
        parts.append(f"{name} {statistics.median(one):.0f} and {statistics.median(many):.0f}")
    return f"PSS as the system shows it, beside those who speak, MB for one and {MANY} rooms: {'; '.join(parts)}."


def _idle(found: Sequence[Session]) -> list[float]:
    return [session.idle_megabytes for session in found]


def _one(found: Sequence[Session]) -> list[float]:
    return [session.one.memory_megabytes for session in found]


def _many(found: Sequence[Session]) -> list[float]:
    return [session.many.memory_megabytes for session in found]


# --- rooms that come and go ---


def _come_and_go(recipe: Recipe, options: Options) -> tuple[int, list[float]]:
    """How many rooms there were, and the memory after each handful of them."""
    rooms = 10 if options.quick else 200 if options.full else 50
    options.say(f"  {rooms} rooms come and go: {recipe.name} ...")
    with scene(options.say) as place:
        return rooms, asyncio.run(_looks(recipe, rooms, place))


async def _looks(recipe: Recipe, rooms: int, place: Scene) -> list[float]:
    seen = []
    async with RecipeWorker(recipe, place.server, place.fresh_folder()) as worker:
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

    await within(ROOM_OVER_SECONDS, over())


def _flatness(name: str, rooms: int, seen: list[float]) -> Figure:
    first, last = _quarters(seen)
    what = f"{name}: after {rooms} rooms come and gone, last quarter to first"
    return Figure(what, "MB", [last], [first], "first quarter", digits=1, ratio_at_most=FLAT)


def _quarters(seen: list[float]) -> tuple[float, float]:
    """Medians of the first and of the last quarter of the looks."""
    count = max(1, len(seen) // 4)
    return statistics.median(seen[:count]), statistics.median(seen[-count:])


def _told(name: str, rooms: int, seen: list[float]) -> str:
    course = ", ".join(f"{one:.0f}" for one in seen)
    return f"{name}, MB after every {AT_ONCE} of {rooms} rooms: {course}."
