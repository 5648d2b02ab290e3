"""Ten rooms open within the same second. In each a teacher joins, publishes, and speaks as soon as somebody listens:
in how many rooms the files contain the whole speech, from the first word on.

Each run begins with a worker that has just registered. The teacher waits half a second after the server reports a
listener, and says three markers that no other teacher says. A room without a listener after 15 s is not recorded.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from livekit import api

from benchmarks import meter
from benchmarks.classrooms import Classroom, Scene, leave, scene
from benchmarks.figures import Figure, Options, Outcome
from benchmarks.recipes import OURS, STOCK, Recipe, RecipeWorker
from devtools import sound
from devtools.speakers import Pcm, administration, resampled

NAME = "joins"

ROOMS = 10
FULL_RUNS = 20
AT_ONCE = 4
"""How many teachers join at the same time: one process cannot join with all ten."""
SENTENCES = 3
MARKERS = sound.markers()
BREATH_SECONDS = 0.5
AFTERWARDS_SECONDS = 1.5
"""How long the stock recipe needs to notice the end of a room; the recorder needs less."""
SAVED_SECONDS = 10.0
LOOK_SECONDS = 3.0


@dataclass(frozen=True)
class Run:
    """The result of ten rooms."""

    recorded: int
    opened_within_seconds: float
    """From the first room's creation to the last one's, by the server's clock."""
    waits: Sequence[float]
    """From each teacher's join to the subscription to its microphone, in seconds."""


def measure(options: Options) -> Outcome:
    runs = FULL_RUNS if options.full else options.runs
    found: dict[str, list[Run]] = {OURS.name: [], STOCK.name: []}
    with scene(options.say) as place:
        for number in range(runs):
            for recipe in (OURS, STOCK):
                run = asyncio.run(_run(recipe, place, options))
                found[recipe.name].append(run)
                options.say(f"  run {number + 1} of {runs}: {recipe.name}: {_described(run)}")
    ours, stock = found[OURS.name], found[STOCK.name]
    spread = max(run.opened_within_seconds for run in [*ours, *stock])
    return Outcome(
        NAME,
        [
            Figure(
                f"rooms recorded of {ROOMS} that open together",
                "rooms",
                _recorded(ours),
                _recorded(stock),
                digits=0,
                at_least=ROOMS,
                judged_by_worst=True,
            ),
            Figure("from a teacher's join to the subscription", "s", _waits(ours), _waits(stock), digits=2),
        ],
        [f"The rooms opened within {spread:.2f} s. {_told('Ours', ours)} {_told('Stock', stock)}"],
    )


async def _run(recipe: Recipe, place: Scene, options: Options) -> Run:
    folder = place.fresh_folder()
    async with RecipeWorker(recipe, place.server, folder) as worker:
        await meter.settled_memory_megabytes(worker.pid)  # its idle processes are ready
        await meter.calm(options.say)
        names = [place.fresh_name() for _ in range(ROOMS)]
        looking = asyncio.create_task(_opened_within_seconds(place, names))
        together = asyncio.Semaphore(AT_ONCE)
        lessons = [_lesson(place, name, index, together) for index, name in enumerate(names)]
        rooms = await asyncio.gather(*lessons)
        recorded = await _recorded_rooms(folder, names)
    waits = [room.listened_to_at - room.joined_at for room in rooms if room.listened_to_at is not None]
    return Run(recorded, await looking, waits)


async def _opened_within_seconds(place: Scene, names: list[str]) -> float:
    """Called while all rooms are open: every teacher speaks for some seconds."""
    await asyncio.sleep(LOOK_SECONDS)
    async with administration(place.server) as livekit:
        found = await livekit.room.list_rooms(api.ListRoomsRequest(names=names))
    created = [room.creation_time_ms / 1000 for room in found.rooms]
    return max(created) - min(created)


async def _lesson(place: Scene, name: str, index: int, together: asyncio.Semaphore) -> Classroom:
    room = await Classroom.open(place.server, name, together)
    try:
        await room.teacher.silence(BREATH_SECONDS)
        await room.teacher.say(_sentences(index))
        await room.teacher.silence(AFTERWARDS_SECONDS)
    finally:
        await leave([room])
    return room


def _sentences(index: int) -> Pcm:
    first = index * SENTENCES
    return sound.sequence(MARKERS[first : first + SENTENCES], 0.3, lead_seconds=0, tail_seconds=0)[0]


async def _recorded_rooms(folder: Path, names: list[str]) -> int:
    """How many rooms contain everything that was said in them, in order, and nothing else."""
    deadline = time.monotonic() + SAVED_SECONDS
    missing = dict(enumerate(names))
    while missing and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        for index, name in list(missing.items()):
            if await asyncio.to_thread(_is_recorded, folder / name, index):
                del missing[index]
    return len(names) - len(missing)


def _is_recorded(folder: Path, index: int) -> bool:
    first = index * SENTENCES
    parts = [_read(path) for path in sorted(folder.glob("*.wav"))]
    whole = np.concatenate(parts) if parts else np.zeros(0, np.int16)
    return sound.heard(whole, MARKERS) == list(range(first, first + SENTENCES))


def _read(path: Path) -> Pcm:
    pcm, rate = soundfile.read(path, dtype="int16")
    return resampled(np.asarray(pcm, np.int16), rate, sound.SAMPLE_RATE)


def _recorded(runs: Sequence[Run]) -> list[float]:
    return [float(run.recorded) for run in runs]


def _waits(runs: Sequence[Run]) -> list[float]:
    return [statistics.median(run.waits) for run in runs if run.waits]


def _described(run: Run) -> str:
    opened = f"opened within {run.opened_within_seconds:.2f} s"
    return f"{run.recorded} of {ROOMS} rooms, {opened}, subscribed after {_range(run.waits)}"


def _told(name: str, runs: Sequence[Run]) -> str:
    waits = [wait for run in runs for wait in run.waits]
    return f"{name}: {', '.join(f'{run.recorded}' for run in runs)} rooms, subscribed after {_range(waits)}."


def _range(waits: Sequence[float]) -> str:
    return f"{min(waits):.1f} to {max(waits):.1f} s" if waits else "never"
