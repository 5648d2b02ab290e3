"""Runs a worker that records no room, one room and ten rooms: one session gives the figures for memory and CPU."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import cache

from benchmarks import meter
from benchmarks.classrooms import Classroom, Scene, classrooms, scene
from benchmarks.figures import Options
from benchmarks.recipes import OURS, RECEIVE_ONLY, STOCK_UNLIMITED, Recipe, RecipeWorker
from devtools.worker import Worker

MANY = 10
SETTLE_SECONDS = 4.0
RECIPES = (OURS, STOCK_UNLIMITED, RECEIVE_ONLY)


@dataclass(frozen=True)
class Load:
    """Memory and CPU of a worker while it records some rooms."""

    rooms: int
    memory_megabytes: float
    pss_megabytes: float | None
    """As the system shows it."""
    cpu_seconds_per_hour: float
    """Of the whole worker."""
    others_cores: float
    """What other programs used at the same time; it should be small."""

    @property
    def cores(self) -> float:
        return self.cpu_seconds_per_hour / 3600


@dataclass(frozen=True)
class Session:
    """One worker from its start to its end."""

    idle_megabytes: float
    one: Load
    many: Load


Sessions = dict[str, list[Session]]
"""By recipe, run by run."""


@cache
def sessions(options: Options) -> Sessions:
    """Measures all recipes in turn, once per run. The result is cached for all benchmarks."""
    with scene(options.say) as place:
        return asyncio.run(_sessions(options, place))


async def _sessions(options: Options, place: Scene) -> Sessions:
    found: Sessions = {recipe.name: [] for recipe in RECIPES}
    for run in range(options.runs):
        for recipe in RECIPES:
            options.say(f"  run {run + 1} of {options.runs}: {recipe.name} ...")
            await meter.calm(options.say)
            session = await _session(recipe, place, window_seconds(options))
            found[recipe.name].append(session)
            options.say(f"    {_described(session)}")
    return found


def window_seconds(options: Options) -> float:
    if options.quick:
        return 5.0
    return 60.0 if options.full else 30.0


async def _session(recipe: Recipe, place: Scene, seconds: float) -> Session:
    async with RecipeWorker(recipe, place.server, place.fresh_folder()) as worker, classrooms() as rooms:
        idle = await meter.settled_memory_megabytes(worker.pid)
        await _open(rooms, 1, place)
        one = await _load(rooms, worker, seconds)
        await _open(rooms, MANY, place)
        many = await _load(rooms, worker, seconds)
    return Session(idle, one, many)


async def _open(rooms: list[Classroom], count: int, place: Scene) -> None:
    """Opens rooms one after another, so that every recipe is given all of them."""
    while len(rooms) < count:
        room = await Classroom.open(place.server, place.fresh_name())
        rooms.append(room)
        if not room.is_listened_to:
            raise RuntimeError(f"room {len(rooms)} of {count} was not recorded")


async def _load(rooms: list[Classroom], worker: Worker, seconds: float) -> Load:
    """Measures while all teachers lecture. The window begins a moment later, and covers the same words every time."""
    talking = [asyncio.create_task(room.lecture(SETTLE_SECONDS + seconds)) for room in rooms]
    try:
        await asyncio.sleep(SETTLE_SECONDS)
        others, began, used = meter.Others(), time.monotonic(), meter.cpu_seconds(worker.pid)
        await asyncio.sleep(seconds)
        used, passed = meter.cpu_seconds(worker.pid) - used, time.monotonic() - began
        others_cores = others.cores()
        memory = await asyncio.to_thread(meter.memory_megabytes, worker.pid)
        pss = await asyncio.to_thread(meter.pss_megabytes, worker.pid)
    finally:
        await asyncio.gather(*talking)
    return Load(len(rooms), memory, pss, 3600 * used / passed, others_cores)


def _described(session: Session) -> str:
    one, many = session.one, session.many
    return (
        f"{session.idle_megabytes:.0f} MB idle; one room {one.memory_megabytes:.0f} MB, {one.cores:.1%} of a core; "
        f"{many.rooms} rooms {many.memory_megabytes:.0f} MB, {many.cores:.1%} of a core "
        f"(others used {max(one.others_cores, many.others_cores):.0%})"
    )
