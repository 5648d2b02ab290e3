"""The command line of the soak: runs the lecture and its faults, then checks every word."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import old_rooms
from benchmarks.soak import gauges, report
from benchmarks.soak.classroom import ANNA, ROOM, Classroom
from benchmarks.soak.faults import DO
from benchmarks.soak.gauges import Reading
from benchmarks.soak.outcome import Done, Outcome
from benchmarks.soak.plan import Fault, Planned, plan
from benchmarks.soak.word_check import check_recordings
from config import Settings
from core.errors import InputError
from core.records import RoomInfo
from devtools.disks import NoSmallDisk, small_disk
from devtools.livekit_server import LiveKitServer, ServerUnavailable, find_or_build
from devtools.worker import WorkerFailed
from lesson_tools import console

MIN_MINUTES, MAX_MINUTES = 1.0, 300.0
MAX_WORKERS = 16
MAX_OLD_SEGMENTS = 1_000_000
OLD_SEGMENTS_A_MEGABYTE = 250
MEGABYTES_A_MINUTE, SPARE_MEGABYTES = 3, 16
"""The size of the small disk."""
TICK_SECONDS = 1.0
LAST_FAULT_SECONDS = 120.0
"""How long a fault may still take when the lecture is over."""
STOPPED = 130
OLD_SESSION = RoomInfo(ROOM, "RM_old", old_rooms.BEGAN)


def main(arguments: list[str] | None = None) -> int:
    try:
        options = _options(arguments)
        with _folder(options.output) as folder:
            outcome = soak(options.minutes, folder, options.workers, options.old_segments)
            for line in report.summary(outcome):
                console.say(line)
            for target in filter(None, (options.report, options.output)):
                report.write(outcome, target)
    except KeyboardInterrupt:
        return STOPPED
    except InputError as error:
        console.tell(str(error))
        return console.WRONG_INPUT
    except (ServerUnavailable, WorkerFailed, OSError) as error:
        console.tell(f"The soak failed: {error}")
        return console.TROUBLE
    if outcome.was_stopped:
        return STOPPED
    return console.ALL_WELL if outcome.is_well else console.TROUBLE


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python dev.py soak", description="A long lecture in real time, with faults in between."
    )
    parser.add_argument(
        "--minutes", type=_minutes, default=60.0, metavar="N", help="how long the lecture is (60)"
    )
    parser.add_argument(
        "--workers", type=_workers, default=1, metavar="N", help="processes of each worker, as WORKERS (1)"
    )
    parser.add_argument(
        "--old-segments",
        type=_segments,
        default=0,
        metavar="N",
        help="how many segments of earlier lessons are in the room's folder (0)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="keep recordings, logs and report in this new folder"
    )
    parser.add_argument("--report", type=Path, metavar="DIR", help="write soak.md and soak.svg there")
    options = parser.parse_args(arguments)
    if options.output and options.output.exists() and any(options.output.iterdir()):
        raise InputError(f"--output {options.output} is not empty")
    return options


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = float("nan")
    if not MIN_MINUTES <= minutes <= MAX_MINUTES:
        raise InputError(f"--minutes {text}: from {MIN_MINUTES:g} to {MAX_MINUTES:g}")
    return minutes


def _workers(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_WORKERS:
        raise InputError(f"--workers {text}: from 1 to {MAX_WORKERS}")
    return int(text)


def _segments(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_OLD_SEGMENTS:
        raise InputError(f"--old-segments {text}: from 0 to {MAX_OLD_SEGMENTS}")
    return int(text)


@contextlib.contextmanager
def _folder(output: Path | None) -> Iterator[Path]:
    if output:
        output.mkdir(parents=True, exist_ok=True)
        yield output.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def soak(minutes: float, folder: Path, workers: int = 1, old_segments: int = 0) -> Outcome:
    """Runs the lecture in real time; recordings and logs are in ``folder``. Ctrl-C ends it early, with a report.

    ``workers``: how many processes each worker has. ``old_segments``: how many are in the room's folder before.

    Raises:
        ServerUnavailable, WorkerFailed: the lecture could not begin.
    """
    with contextlib.ExitStack() as scene:
        disk = _disk(scene, folder, minutes, old_segments)
        server = scene.enter_context(
            LiveKitServer(find_or_build(console.tell), log=folder / "livekit-server.log")
        )
        room = Classroom(server, (disk or folder) / "segments", folder, disk, workers)
        if old_segments:
            console.tell(f"Making {old_segments} segments of an earlier lesson ...")
            old_rooms.make_room(Settings(output_dir=str(room.output_dir)), OLD_SESSION, old_segments)
        run = _Run(room, minutes)
        console.run(run.run())
        if disk and (disk / "segments").exists():
            shutil.copytree(disk / "segments", folder / "segments")
            room.output_dir = folder / "segments"
        said = [json.dumps(word._asdict()) + "\n" for word in room.said]
        (folder / "said.jsonl").write_text("".join(said), encoding="utf-8")
        console.tell("Searching the recordings for every word ...")
        return run.outcome()


def _disk(scene: contextlib.ExitStack, folder: Path, minutes: float, old_segments: int) -> Path | None:
    """A small disk for the recordings, which can be filled; None if this system cannot make one."""
    try:
        old_megabytes = old_segments / OLD_SEGMENTS_A_MEGABYTE
        megabytes = round(SPARE_MEGABYTES + MEGABYTES_A_MINUTE * minutes + old_megabytes)
        return scene.enter_context(small_disk(folder / "disk", megabytes))
    except NoSmallDisk as reason:
        console.tell(f"The disk cannot be filled in this run: {reason}.")
        return None


@dataclass
class _Run:
    room: Classroom
    minutes: float
    began: float = 0.0
    ended: float = 0.0
    faults: list[Done] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    was_stopped: bool = False

    async def run(self) -> None:
        """Runs from the first worker's start to the last one's end."""
        try:
            await self.room.another_worker()
            await self.room.enter()
            await self._lecture()
        except asyncio.CancelledError:
            self.was_stopped = True
        finally:
            self.ended = time.time()
            self._check_worker()
            await self.room.finish()

    async def _lecture(self) -> None:
        self.began = time.time()
        end = self.began + self.minutes * 60
        beside = [
            asyncio.create_task(work)
            for work in (gauges.watch(self.room, self.minutes, self.readings), _show(self.minutes))
        ]
        producing = asyncio.create_task(self._produce_faults(end))
        try:
            await self.room.lecture_until(end)
            await asyncio.wait({producing}, timeout=LAST_FAULT_SECONDS)
        except Exception as error:  # a report of what happened until then is better than none
            self.problems.append(f"the lecture was cut short: {_described(error)}")
        finally:
            await _cancelled(producing, *beside)

    async def _produce_faults(self, end: float) -> None:
        possible = [fault for fault in DO if fault is not Fault.DISK_FULL or self.room.disk]
        if sys.platform == "win32":
            possible.remove(Fault.HANG)
        for planned in plan(self.minutes, possible):
            await asyncio.sleep(max(0.0, self.began + planned.at_seconds - time.time()))
            if time.time() < end:
                await self._produce(planned)

    async def _produce(self, planned: Planned) -> None:
        began, problem = time.time(), ""
        try:
            await DO[planned.fault](self.room)
        except Exception as error:  # the lecture continues, and the report names the error
            problem = _described(error)
        self.faults.append(Done(planned.fault, began, time.time(), problem))
        if not sys.stderr.isatty():
            at = f"{console.duration(began - self.began)}  {planned.fault.value}"
            console.tell(f"{at}: {problem}" if problem else at)

    def _check_worker(self) -> None:
        if self.room.workers and self.room.worker.exit_code is not None:
            self.problems.append(f"the worker ended by itself with {self.room.worker.exit_code}")

    def outcome(self) -> Outcome:
        """Everything that happened, with the check of the words, which takes a minute for an hour of lecture."""
        said = self.room.said
        return Outcome(
            began=self.began or self.ended,
            ended=self.ended,
            faults=self.faults,
            readings=self.readings,
            stalls=self.room.stalls,
            words=check_recordings(
                said, self.room.room_dir, ANNA, self.room.unfinished_since, without_sid=OLD_SESSION.sid
            ),
            was_stopped=self.was_stopped,
            problems=self.problems,
        )


async def _show(minutes: float) -> None:
    with console.progress("Lecture", minutes * 60, "s") as advance:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            advance(TICK_SECONDS)


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    sys.exit(main())
