"""The bell rings: 10, 20 and 30 rooms open within one second, and in each a teacher is speaking already.

Measured for each room: how long after its track was published recording begins, how much is lost after that, and
whether the worker says that it receives no audio. The teachers are a program that sends packets encoded beforehand
(`devtools/publishers.py`), so the machine is left to the worker. They say all markers in turn, so every word that is
missing is known.

Each run begins with a worker that has just registered. Ours runs as ``WORKERS=0`` does on this machine. "One process"
is the same recorder with ``WORKERS=1``, which takes all rooms although it would refuse some by default; it and the
stock recipe are measured once.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from benchmarks import meter
from benchmarks.classrooms import Scene, scene
from benchmarks.figures import Figure, Options, Outcome
from benchmarks.recipes import OURS, STOCK_UNLIMITED, Recipe, RecipeWorker
from benchmarks.soak.lecture import Word
from benchmarks.soak.word_check import MIN_LOSS_SECONDS, check_recordings
from devtools import publishers, sound
from devtools.publishers import TEACHER_IDENTITY, Publishers
from devtools.speakers import resampled
from devtools.worker import Worker

NAME = "bell"

COUNTS = (10, 20, 30)
FROM_AT_MOST_SECONDS = {10: 2.0, 20: 8.0, 30: 8.0}
CORE_PER_ROOM_AT_MOST = 3.5
"""Percent of a core for each of ten rooms."""

GAP_SECONDS = 0.15
SETTLED_SECONDS = 20.0
"""The CPU is measured from so long after the bell to the end of the lecture."""
STOP_SECONDS = 3.0
QUICK_MARKERS = 12

BELL = Recipe("ours", OURS.script, settings={"WORKERS": "0"})
ONE_PROCESS = Recipe("one process", OURS.script, settings={"WORKERS": "1", "MAX_ROOMS": str(max(COUNTS))})


@dataclass(frozen=True)
class Lecture:
    """What every teacher says: its file, and where each marker is, in seconds since the beginning."""

    file: Path
    words: Sequence[Word]
    seconds: float


@dataclass(frozen=True)
class RoomResult:
    """How one room was recorded, in seconds."""

    recorded_after: float | None
    """From the publication of the track to the first word recorded; None: no word is."""
    lost_seconds: float = 0.0
    """Speech that is missing after that."""

    def is_in_time(self, seconds: float) -> bool:
        """Whether it is recorded from at most so many seconds on, and nothing is lost after that."""
        return self.recorded_after is not None and self.recorded_after <= seconds and not self.lost_seconds


@dataclass(frozen=True)
class Run:
    """The result of one bell."""

    rooms: Sequence[RoomResult]
    without_audio: int
    """Rooms of which the worker said that it receives no audio."""
    core_percent: float
    """CPU of the worker and everything it started, while all rooms are recorded."""
    others_percent: float
    """What other programs used at the same time, without the teachers and the server."""
    opened_within_seconds: float
    teachers_late_seconds: float
    """The greatest delay of a teacher's packet."""
    load_average: float
    lecture_seconds: float = field(repr=False, default=0.0)

    @property
    def last_recorded_after(self) -> float:
        """A room of which nothing is recorded counts as recorded after the whole lecture."""
        return max(
            self.lecture_seconds if room.recorded_after is None else room.recorded_after
            for room in self.rooms
        )

    @property
    def lost_seconds(self) -> float:
        return sum(room.lost_seconds for room in self.rooms)

    def in_time(self) -> int:
        """Rooms that are recorded in time, and without loss."""
        return sum(room.is_in_time(FROM_AT_MOST_SECONDS.get(len(self.rooms), 8.0)) for room in self.rooms)

    def described(self) -> str:
        after = [room.recorded_after for room in self.rooms if room.recorded_after is not None]
        spread = (
            f"{min(after):.1f} / {statistics.median(after):.1f} / {max(after):.1f} s" if after else "never"
        )
        return (
            f"{len(after)} of {len(self.rooms)} rooms recorded from {spread} (least, median, most); "
            f"{self.lost_seconds:.1f} s lost after that in {sum(room.lost_seconds > 0 for room in self.rooms)} rooms; "
            f"{self.without_audio} called deaf; CPU {self.core_percent:.0f} % of a core, others "
            f"{self.others_percent:.0f} %; opened within {self.opened_within_seconds:.2f} s, teachers late by at most "
            f"{self.teachers_late_seconds:.2f} s, load average {self.load_average:.1f}"
        )


def measure(options: Options) -> Outcome:
    recipes = (BELL, ONE_PROCESS, STOCK_UNLIMITED)
    counts = COUNTS[:1] if options.quick else COUNTS
    found: dict[tuple[str, int], list[Run]] = {(one.name, count): [] for one in recipes for count in counts}
    for number in range(options.runs):
        for count in counts:
            for recipe in recipes if number == 0 else (BELL,):
                run = ring(recipe, count, options)
                found[recipe.name, count].append(run)
                options.say(f"  run {number + 1} of {options.runs}: {recipe.name}: {run.described()}")
    figures = [figure for count in counts for figure in _figures(count, found)]
    return Outcome(NAME, figures, list(_notes(found)))


def _figures(count: int, found: dict[tuple[str, int], list[Run]]) -> Iterator[Figure]:
    ours, stock = found[BELL.name, count], found[STOCK_UNLIMITED.name, count]
    rooms = f"{count} rooms"
    yield Figure(
        f"{rooms}: the last is recorded from",
        "s",
        [run.last_recorded_after for run in ours],
        [run.last_recorded_after for run in stock],
        at_most=FROM_AT_MOST_SECONDS[count],
        judged_by_worst=True,
    )
    yield Figure(
        f"{rooms}: speech lost after that, all rooms",
        "s",
        [run.lost_seconds for run in ours],
        [run.lost_seconds for run in stock],
        at_most=0,
        judged_by_worst=True,
    )
    yield Figure(
        f"{rooms}: called without audio",
        "rooms",
        [float(run.without_audio) for run in ours],
        digits=0,
        at_most=0,
        judged_by_worst=True,
    )
    yield Figure(
        f"{rooms}: CPU for each room",
        "% of a core",
        [run.core_percent / count for run in ours],
        [run.core_percent / count for run in stock],
        at_most=CORE_PER_ROOM_AT_MOST if count == min(COUNTS) else None,
    )


def _notes(found: dict[tuple[str, int], list[Run]]) -> Iterator[str]:
    for (name, count), runs in found.items():
        in_time = ", ".join(str(run.in_time()) for run in runs)
        last = max(run.last_recorded_after for run in runs)
        percent = statistics.median(run.core_percent for run in runs)
        yield (
            f"{name}, {count} rooms: {in_time} in time and without loss; the last from {last:.1f} s on; "
            f"{percent:.0f} % of a core."
        )


def ring(recipe: Recipe, count: int, options: Options) -> Run:
    """Opens so many rooms at once with a worker that has just registered, and looks at what it has recorded."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, scene(options.say) as place:
        lecture = lecture_in(Path(folder), quick=options.quick)
        return asyncio.run(_ring(recipe, count, place, lecture, options))


async def _ring(recipe: Recipe, count: int, place: Scene, lecture: Lecture, options: Options) -> Run:
    binary, folder = publishers.find_or_build(options.say), place.fresh_folder()
    async with RecipeWorker(recipe, place.server, folder) as worker:
        await all_ready(worker, recipe)
        await meter.settled_memory_megabytes(worker.pid)
        await meter.calm(options.say)
        load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        async with Publishers(
            binary, place.server, lecture.file, count, place.fresh_name() + "-"
        ) as teachers:
            core, others = await _cpu(worker.pid, lecture)
            await teachers.wait()
        await asyncio.sleep(STOP_SECONDS)
        lines = list(worker.lines)
    deaf = {
        name
        for name in teachers.names
        for line in lines
        if "NO AUDIO" in line and f"room={name} " in line + " "
    }
    if teachers.errors:
        raise RuntimeError(f"a teacher could not speak: {teachers.errors[0]}")
    published = teachers.published_at
    rooms = await asyncio.to_thread(_results, recipe, folder, published, lecture)
    opened = max(published.values()) - min(published.values())
    return Run(rooms, len(deaf), core, others, opened, teachers.late_seconds, load_average, lecture.seconds)


async def all_ready(worker: Worker, recipe: Recipe) -> None:
    """Waits until every process of the worker has registered."""
    wanted = 1
    for line in worker.lines:
        if "Running " in line and " workers for up to" in line:
            wanted = int(line.partition("Running ")[2].split()[0])
    deadline = time.monotonic() + 30
    while sum(recipe.ready in line for line in worker.lines) < wanted:
        if time.monotonic() > deadline:
            raise RuntimeError("a worker process has not registered")
        await asyncio.sleep(0.1)


async def _cpu(pid: int, lecture: Lecture) -> tuple[float, float]:
    """Percent of a core of the worker and of other programs, from when all rooms are recorded to the end."""
    settled = min(SETTLED_SECONDS, lecture.seconds / 2)
    await asyncio.sleep(settled)
    others, began, used = meter.Others(), time.monotonic(), meter.cpu_seconds(pid)
    await asyncio.sleep(lecture.seconds - settled - 1)
    used, passed = meter.cpu_seconds(pid) - used, time.monotonic() - began
    return 100 * used / passed, 100 * others.cores()


# --- what is said, and what of it is recorded ---


def lecture_in(folder: Path, *, quick: bool = False) -> Lecture:
    """All markers in turn, in an Ogg/Opus file in this folder."""
    markers = sound.markers()
    pcm, placed = sound.sequence(markers[:QUICK_MARKERS] if quick else markers, GAP_SECONDS, lead_seconds=0)
    file = folder / "lecture.ogg"
    file.write_bytes(publishers.opus(pcm))
    rate = sound.SAMPLE_RATE
    words = [
        Word(one.marker_index, one.start_sample / rate, (one.end_sample - one.start_sample) / rate)
        for one in placed
    ]
    return Lecture(file, words, len(pcm) / rate)


def _results(
    recipe: Recipe, folder: Path, published_at: dict[str, float], lecture: Lecture
) -> list[RoomResult]:
    judge = _by_sound if recipe.script == STOCK_UNLIMITED.script else _by_manifest
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        waiting = [pool.submit(judge, folder / name, at, lecture.words) for name, at in published_at.items()]
        return [one.result() for one in waiting]


def _by_manifest(folder: Path, published_at: float, words: Sequence[Word]) -> RoomResult:
    said = [word._replace(start=published_at + word.start) for word in words]
    found = check_recordings(said, folder, TEACHER_IDENTITY).results
    lost = [min(one.lost_seconds, one.word.seconds) for one in found]
    return result(words, lost)


def _by_sound(folder: Path, _: float, words: Sequence[Word]) -> RoomResult:
    """Of the stock recipe's files, which have no times: a word is there or it is not."""
    parts = [_read(path) for path in sorted(folder.glob("*.wav"))]
    whole = np.concatenate(parts) if parts else np.zeros(0, np.int16)
    heard = set(sound.heard(whole, _markers()))
    return result(words, [0.0 if word.marker in heard else word.seconds for word in words])


def result(words: Sequence[Word], lost: Sequence[float]) -> RoomResult:
    """Judges a room by what is lost of each word, in seconds. Less than can be measured counts as nothing."""
    pairs = list(zip(words, lost, strict=True))
    while pairs and pairs[0][1] > pairs[0][0].seconds - MIN_LOSS_SECONDS:
        pairs.pop(0)
    if not pairs:
        return RoomResult(None)
    (first, missing), *after = pairs
    # Speech before the first word that is recorded may have been recorded, too: half a second at most.
    return RoomResult(first.start + missing, sum(one for _, one in after if one > MIN_LOSS_SECONDS))


@cache
def _markers() -> list[sound.Marker]:
    return sound.markers()


def _read(path: Path) -> sound.IntArray:
    pcm, rate = soundfile.read(path, dtype="int16")
    return resampled(np.asarray(pcm, np.int16), rate, sound.SAMPLE_RATE)
