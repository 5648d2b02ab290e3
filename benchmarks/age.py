"""What one segment costs in a room that is old, and beside many others: commit, text and delivery.

Rooms with 100 to 100,000 segments that have their texts and are delivered, and 10 to 3,000 folders of other rooms, are
made from lines (their WAVs are empty). A process of its own joins the room, reads what it has to read once, and then
saves a segment a second, as a lesson does: the recorder's own writer, the text service with a model that answers at
once, and the delivery to a folder. Counted is the process's CPU time for each segment, and its highest memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from archive.delivery_log import DELIVERED
from archive.files import prepare_output_dir
from archive.handover_note import RoomProgress
from archive.jsonl import end_of
from archive.names import MANIFEST, TEXTS
from archive.outbox import Outbox
from benchmarks.figures import Figure, Options, Outcome
from benchmarks.old_rooms import BEGAN, TEACHER, make_room
from config import Settings
from core import notify
from core.records import (
    SAMPLE_RATE,
    EndReason,
    Pcm,
    RoomInfo,
    SegmentRecord,
    SpeechSegment,
    StreamClock,
    utc_now,
)
from core.text_records import Translation
from core.text_request import TextRequest
from delivery.folder_store import set_up
from delivery.items import ListsItem
from delivery.object_store import ObjectTarget
from delivery.service import DeliveryService
from delivery.targets import open_targets
from storage import RoomFolder
from text.service import TextService
from translator import TextResult, Usage

NAME = "age"

SEGMENTS = (100, 1_000, 20_000, 100_000)
ROOMS = (10, 1_000, 3_000)
MAX_MILLISECONDS = 20.0
MAX_RATIO = 1.2

OTHER_SEGMENTS = 5
"""In each of the other rooms."""
SEGMENT_SECONDS = 5
TIMEOUT_SECONDS = 900.0
ROOM = RoomInfo("math101", "RM_old", BEGAN)
ROOT = Path(__file__).resolve().parent.parent


class Pace(NamedTuple):
    """How a run goes on."""

    segments: int = 20
    """How many are measured."""
    seconds: float = 1.0
    """From one segment to the next."""
    quiet_seconds: float = 3.0
    """From what is read once to the first that is measured."""


class Cost(NamedTuple):
    """Of one run."""

    segment: float
    """CPU milliseconds for commit, text and delivery of one segment."""
    join: float
    """CPU milliseconds until the recorder can save in the room: its folder is opened and recovered, the first note
    written."""
    megabytes: float
    """The highest memory of the process."""


def measure(options: Options) -> Outcome:
    """Every run measures all sizes, each in a process of its own."""
    segments, rooms = ((10, 100), (1, 10)) if options.quick else (SEGMENTS, ROOMS)
    pace = Pace(2, 0.1, 0.5) if options.quick else Pace()
    by_segments = {count: [_cost(count, rooms[0], pace) for _ in range(options.runs)] for count in segments}
    by_rooms = {count: [_cost(segments[0], count, pace) for _ in range(options.runs)] for count in rooms[1:]}
    first = by_segments[segments[0]]
    figures = [
        figure
        for count, costs in by_segments.items()
        for figure in _figures(f"{count} segments", costs, first)
    ]
    figures += [
        figure for count, costs in by_rooms.items() for figure in _figures(f"{count} rooms", costs, first)
    ]
    return Outcome(NAME, figures)


def _figures(what: str, costs: list[Cost], first: list[Cost]) -> Iterator[Figure]:
    """The figures of one size; all but the first size are compared with it."""
    is_first = costs is first
    names = (("a segment", "CPU ms"), ("joining", "CPU ms"), ("highest memory", "MB"))
    for index, (name, unit) in enumerate(names):
        yield Figure(
            f"{what}: {name}",
            unit,
            [cost[index] for cost in costs],
            [] if is_first else [cost[index] for cost in first],
            other_name="the first",
            at_most=MAX_MILLISECONDS if name == "a segment" else None,
            ratio_at_most=None if is_first or name == "joining" else MAX_RATIO,
        )


def _cost(segments: int, rooms: int, pace: Pace) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        settings = _settings(Path(folder))
        _make(settings, segments, rooms)
        command = [sys.executable, "-m", "benchmarks.age", folder, json.dumps(pace)]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, env=environ, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=4 * TIMEOUT_SECONDS
        )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return Cost(*json.loads(done.stdout.splitlines()[-1]))


def _settings(folder: Path) -> Settings:
    shelf = folder / "shelf"
    shelf.mkdir(exist_ok=True)
    set_up(shelf)
    return Settings(
        output_dir=str(folder / "segments"),
        store_url=shelf.as_uri(),
        target_languages=("es",),
        save_translations=True,
    )


# --- making rooms ---


def _make(settings: Settings, segments: int, rooms: int) -> None:
    prepare_output_dir(Path(settings.output_dir))
    made = [make_room(settings, ROOM, segments)]
    for number in range(rooms):
        room = replace(ROOM, name=f"room {number}", sid=f"RM_{number}")
        made.append(make_room(settings, room, OTHER_SEGMENTS))
    asyncio.run(_deliver_lists(settings, made))


async def _deliver_lists(settings: Settings, folders: Sequence[Path]) -> None:
    target = ObjectTarget.at_store_url(settings)
    for lists in map(_lists_of, folders):
        await target.put(lists)
        await target.put(
            lists
        )  # a folder has no conditional writes: this sees that nobody has overwritten it
    for folder in folders:
        for name in (MANIFEST, TEXTS, DELIVERED):  # nothing has been written here for a long time
            os.utime(folder / name, (BEGAN.timestamp(), BEGAN.timestamp()))


def _lists_of(folder: Path) -> ListsItem:
    return ListsItem(folder, end_of(folder / MANIFEST).bytes, end_of(folder / TEXTS).bytes)


# --- the measured process ---


@dataclass
class _Model:
    """A text engine that answers at once."""

    async def translate(self, request: TextRequest) -> TextResult:
        said = "A sentence of a few words, as it is said in a lesson."
        return TextResult(Translation("en", said, {"es": said}), "model", Usage(100, 20, 0.1))

    async def aclose(self) -> None:
        pass


class _Worker:
    """What a worker has for one room, without the room itself."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._outbox = Outbox(Path(settings.output_dir))
        self._texts = TextService(settings, _Model(), self._outbox)
        self._delivery = DeliveryService(settings, open_targets(settings)[0], self._outbox)
        self._room = replace(ROOM, sid="RM_new", started_at=utc_now())
        self._pcm = (
            np.random.default_rng(1).integers(-3000, 3000, SEGMENT_SECONDS * SAMPLE_RATE).astype(np.int16)
        )

    async def costs(self, pace: Pace) -> Cost:
        joining = time.process_time()
        folder = await asyncio.to_thread(self._joined)
        joined = time.process_time()
        running = [asyncio.create_task(one) for one in (self._texts.run(), self._delivery.run())]
        await self._segments(
            folder, 0, 2, pace.seconds
        )  # what is read once is read before these are delivered
        await asyncio.sleep(pace.quiet_seconds)
        began = time.process_time()
        await self._segments(folder, 2, pace.segments, pace.seconds)
        used = time.process_time() - began
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._texts.aclose()
        await self._outbox.aclose()
        return Cost(1000 * used / pace.segments, 1000 * (joined - joining), _peak_megabytes())

    def _joined(self) -> RoomFolder:
        folder = RoomFolder.open(self._settings, self._room)
        folder.recover()
        folder.handover.write(RoomProgress(utc_now(), {}))
        return folder

    async def _segments(self, folder: RoomFolder, first: int, count: int, seconds: float) -> None:
        for number in range(first, first + count):
            due = time.monotonic() + seconds
            record = await asyncio.to_thread(self._save, folder, number, self._pcm + np.int16(number))
            notify.notify(folder.path / MANIFEST)
            await self._arrived(folder.path.name, record)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    def _save(self, folder: RoomFolder, number: int, pcm: Pcm) -> SegmentRecord:
        start = number * 60 * SAMPLE_RATE
        segment = SpeechSegment(start, start, pcm, 0.9, 0.5, EndReason.PAUSE)
        return folder.begin(TEACHER, StreamClock(self._room.started_at), start, start).commit(segment)

    async def _arrived(self, folder: str, record: SegmentRecord) -> None:
        """Waits until a segment's sound and both texts are in the target."""
        shelf = Path(self._settings.output_dir).parent / "shelf" / folder
        stem = Path(record.file).stem
        names = (record.file, f"{stem}_en.txt", f"{stem}_es.txt")
        await asyncio.to_thread(_until_all_are_there, [shelf / name for name in names])


def _until_all_are_there(paths: Sequence[Path]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not all(map(os.path.exists, paths)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{paths[0].name} is not delivered after {TIMEOUT_SECONDS:.0f} s")
        time.sleep(0.05)


def _peak_megabytes() -> float:
    import psutil

    memory = psutil.Process().memory_info()
    peak = getattr(memory, "peak_wset", 0)
    if not peak:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return float(peak) / 2**20


def _main(folder: str, pace: str) -> None:
    cost = asyncio.run(_Worker(_settings(Path(folder))).costs(Pace(*json.loads(pace))))
    print(json.dumps(cost), flush=True)
    os._exit(0)  # a native thread that still frees its last answer would abort the interpreter at its end


if __name__ == "__main__":
    _main(*sys.argv[1:])
