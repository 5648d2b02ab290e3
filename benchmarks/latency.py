"""The time from a frame's arrival to its probabilities, in the real worker with ten rooms that are recorded as threads.

It is measured in two ways, over all frames but the first two seconds of each track. "From the hand-over": from the
moment at which the native client gives the frame to Python until its last window has gone through detector and
segmenter. "From when it was due": how late the frame was processed by the track's own clock, which ticks every 96 ms
and is set by the track's earliest frame. This includes every wait, also that of the native client for Python, and the
target is for this one. The clock is in the worker (`benchmarks/timed_agent.py`), which is otherwise the recorder.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import meter
from benchmarks.classrooms import Classroom, Scene, classrooms, scene
from benchmarks.figures import Figure, Options, Outcome
from benchmarks.loads import MANY
from benchmarks.recipes import HERE, Recipe, RecipeWorker

NAME = "latency"

MAX_MILLISECONDS = 50.0
FRAME_SECONDS = 0.096
SKIPPED_FRAMES = 20

Times = npt.NDArray[np.float64]
"""Shape (n, 2): when each frame of a track was handed over, and when it was processed; seconds."""


def measure(options: Options) -> Outcome:
    hand_overs, dues = [], []
    with scene(options.say) as place:
        for run in range(options.runs):
            options.say(f"  run {run + 1} of {options.runs} ...")
            tracks = asyncio.run(_run(place, options))
            hand_overs.append(np.concatenate([_since_hand_over(track) for track in tracks]))
            dues.append(np.concatenate([_since_due(track) for track in tracks]))
    return Outcome(
        NAME,
        [
            *_figures("from the hand-over", hand_overs),
            *_figures("from when it was due", dues, at_most=MAX_MILLISECONDS),
        ],
        [f"{min(len(one) for one in dues)} frames or more in each run."],
    )


async def _run(place: Scene, options: Options) -> list[Times]:
    seconds = 5.0 if options.quick else 30.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames"
        recipe = Recipe("timed", HERE / "timed_agent.py", settings={"FRAME_TIMES": str(path)})
        await meter.calm(options.say)
        async with RecipeWorker(recipe, place.server, place.fresh_folder()), classrooms() as rooms:
            for _ in range(MANY):
                rooms.append(await Classroom.open(place.server, place.fresh_name()))
            await asyncio.gather(*(room.lecture(2 + seconds) for room in rooms))
        tracks = [np.array(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    if len(tracks) != MANY:
        raise RuntimeError(f"{len(tracks)} of {MANY} rooms were recorded")
    return [track[SKIPPED_FRAMES:] for track in tracks]


def _since_hand_over(track: Times) -> Times:
    lag: Times = 1000 * (track[:, 1] - track[:, 0])
    return lag


def _since_due(track: Times) -> Times:
    """A track's clock shows the earliest time each frame can have arrived, given when all others did."""
    late = track - FRAME_SECONDS * np.arange(len(track))[:, None]
    lag: Times = 1000 * (late[:, 1] - late[:, 0].min())
    return lag


def _figures(what: str, lags: list[Times], at_most: float | None = None) -> list[Figure]:
    def percentile(rank: float) -> list[float]:
        return [float(np.percentile(one, rank)) for one in lags]

    name = f"frame to probabilities {what}, {MANY} rooms"
    return [
        Figure(f"{name}: p50", "ms", percentile(50), digits=2),
        Figure(f"{name}: p99", "ms", percentile(99), digits=2, at_most=at_most),
    ]
