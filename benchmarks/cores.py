"""How many rooms are recorded without loss by one worker process and by two, if all open within one second.

The number of rooms is raised step by step until speech is lost, or a room is not recorded within eight seconds. Every
process takes as many rooms as it is offered (``MAX_ROOMS``), as its own limit is what is to be found. The teachers are
those of `bell`.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bell import Run, ring
from benchmarks.figures import Figure, Options, Outcome
from benchmarks.recipes import OURS, Recipe

NAME = "cores"

WORKERS = (1, 2)
STEP_ROOMS = 5
FIRST_ROOMS = 10
MOST_ROOMS = 60
IN_TIME_SECONDS = 8.0


def measure(options: Options) -> Outcome:
    found: dict[int, list[Run]] = {workers: [] for workers in WORKERS}
    for _ in range(options.runs):
        for workers in WORKERS:
            found[workers].append(_most_rooms(workers, options))
    return Outcome(NAME, list(_figures(found)), [_note(workers, runs) for workers, runs in found.items()])


def _most_rooms(workers: int, options: Options) -> Run:
    """The bell with the most rooms of which nothing was lost."""
    settings = {"WORKERS": str(workers), "MAX_ROOMS": str(MOST_ROOMS)}
    recipe = Recipe(f"{workers} workers", OURS.script, settings=settings)
    best: Run | None = None
    for rooms in range(FIRST_ROOMS, FIRST_ROOMS + 1 if options.quick else MOST_ROOMS + 1, STEP_ROOMS):
        run = ring(recipe, rooms, options)
        options.say(f"  WORKERS={workers}: {run.described()}")
        if not all(room.is_in_time(IN_TIME_SECONDS) for room in run.rooms):
            break
        best = run
    if best is None:
        raise RuntimeError(f"speech is lost with {FIRST_ROOMS} rooms: is the machine busy?")
    return best


def _figures(found: dict[int, list[Run]]) -> Iterator[Figure]:
    for workers, runs in found.items():
        what = f"WORKERS={workers}"
        yield Figure(f"{what}: rooms without loss", "rooms", [len(run.rooms) for run in runs], digits=0)
        per_room = [run.core_percent / len(run.rooms) for run in runs]
        yield Figure(f"{what}: CPU for each of these rooms", "% of a core", per_room)


def _note(workers: int, runs: list[Run]) -> str:
    rooms = ", ".join(str(len(run.rooms)) for run in runs)
    others = max(run.others_percent for run in runs)
    return f"WORKERS={workers}: {rooms} rooms; other programs used up to {others:.0f} % of a core."
