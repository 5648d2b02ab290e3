"""The room of the lecture: its server, workers, teacher and students."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.soak.lecture import Word, script, words
from devtools import sound
from devtools.livekit_server import LiveKitServer
from devtools.room_folders import STUDENT, TEACHER
from devtools.speakers import Microphone, Speaker
from devtools.worker import Worker, WorkerFailed

ROOM, ANNA, SAM = "lecture", "anna", "sam"
LISTEN_SECONDS = 60.0
"""How long to wait for a recorder."""
JOIN_SECONDS = 30.0
BREATH_SECONDS = 0.5
"""Silence before the teacher does something: audio that is still in transit would be lost."""
LAST_BREATH_SECONDS = 3.0
ROOM_OVER_SECONDS = 40.0
POLL_SECONDS = 0.05


@dataclass
class Classroom:
    """The participants and programs that the faults act on."""

    server: LiveKitServer
    output_dir: Path
    logs: Path
    disk: Path | None
    """The small file system that the recordings are on, if there is one."""
    processes: int = 1
    """How many processes each worker has (WORKERS)."""
    workers: list[Worker] = field(default_factory=list)
    """All workers that were started; the last one records the room."""
    said: list[Word] = field(default_factory=list)
    """What the teacher has said so far."""
    floor: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the teacher speaks, or does something else."""
    speaking: asyncio.Event = field(default_factory=asyncio.Event)
    unfinished_since: float | None = None
    """When the current sentence began, in seconds since the epoch; None once it is in ``said``."""
    _microphones: list[Microphone] = field(default_factory=list)
    _teacher: Speaker | None = None

    @property
    def teacher(self) -> Speaker:
        assert self._teacher, "no teacher has joined"
        return self._teacher

    @property
    def worker(self) -> Worker:
        return self.workers[-1]

    @property
    def stalls(self) -> int:
        """How often the teacher's own process stalled so long that words were late."""
        return sum(microphone.stalls for microphone in self._microphones)

    @property
    def room_dir(self) -> Path:
        return self.output_dir / ROOM

    def recording_process(self) -> psutil.Process:
        """The process that records the room."""
        return self.worker.process(self.worker.number_of(ROOM))

    # --- people ---

    async def lecture_until(self, end: float) -> None:
        """Speaks until this time (seconds since the epoch), and always to the end of the sentence."""
        markers = sound.markers()
        for utterance in script(len(markers)):
            if time.time() >= end:
                return
            pcm, placed = utterance.sound(markers)
            async with self.floor:
                self.unfinished_since = time.time()
                self.speaking.set()
                try:
                    said = await self.teacher.say(pcm)
                finally:
                    self.speaking.clear()
                self.said += words(said, placed, pcm)
                self.unfinished_since = None
                await self.teacher.silence(utterance.pause_seconds)

    async def enter(self) -> None:
        """The teacher joins, publishes, and waits until a recorder has subscribed."""
        deadline = time.monotonic() + JOIN_SECONDS
        while True:
            try:
                self._teacher = await Speaker.join(self.server, ROOM, ANNA, metadata=TEACHER)
                break
            except Exception:  # the client has no narrower one; a restarting server refuses at first
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.5)
        await self.publish()

    async def publish(self) -> None:
        microphone = await self.teacher.publish()
        self._microphones.append(microphone)
        await self.until_subscribed(microphone.sid)
        await self.teacher.silence(BREATH_SECONDS)

    async def leave(self) -> None:
        if self._teacher:
            teacher, self._teacher = self._teacher, None
            await teacher.leave()

    @contextlib.asynccontextmanager
    async def interrupted(self) -> AsyncIterator[Speaker]:
        """Waits for the end of a sentence; the teacher is silent as long as this context lasts."""
        async with self.floor:
            await self.teacher.silence(BREATH_SECONDS)
            yield self.teacher

    async def mid_word(self) -> None:
        """Returns at a moment when the teacher is speaking."""
        await self.speaking.wait()
        await asyncio.sleep(0.7)
        while not self.speaking.is_set():  # the sentence was short
            await self.speaking.wait()
            await asyncio.sleep(0.7)

    async def student(self, number: int = 0) -> Speaker:
        return await Speaker.join(
            self.server, ROOM, f"{SAM}-{number}", metadata=STUDENT, can_update_metadata=True
        )

    # --- workers ---

    async def another_worker(self) -> Worker:
        """Starts another worker; returns when it is ready for rooms."""
        log = self.logs / f"worker-{len(self.workers) + 1}.log"
        settings = {"WORKERS": str(self.processes)}
        worker = Worker(self.server, self.output_dir, settings=settings, log=log)
        await worker.start()
        self.workers.append(worker)
        return worker

    async def until_subscribed(self, sid: str) -> None:
        """Returns when a worker has subscribed to a track.

        Raises:
            WorkerFailed: none did within LISTEN_SECONDS.
        """
        await self._until_logged(f"Track subscribed: microphone {sid}", self.workers)

    async def until_taken_over(self, worker: Worker) -> None:
        """Returns when this worker has subscribed to the teacher's track.

        Raises:
            WorkerFailed: it did not within LISTEN_SECONDS.
        """
        await self._until_logged("Track subscribed", [worker])

    @contextlib.asynccontextmanager
    async def replaced(self) -> AsyncIterator[psutil.Process]:
        """Gives the process that records the room, in mid-word; at the end waits until another one does: of another
        worker, which is started before, or of the same one if that has several.

        Raises:
            WorkerFailed: none does within LISTEN_SECONDS.
        """
        recording = self.recording_process()
        if self.processes == 1:
            await self.another_worker()
        before = self._subscriptions(self.worker)
        await self.mid_word()
        yield recording
        if not await _until(lambda: self._subscriptions(self.worker) > before, LISTEN_SECONDS):
            raise WorkerFailed(f"no recorder within {LISTEN_SECONDS:.0f} s")

    def _subscriptions(self, worker: Worker) -> int:
        return sum("Track subscribed" in line for line in worker.lines)

    async def _until_logged(self, what: str, workers: Sequence[Worker]) -> None:
        if not await _until(
            lambda: any(what in line for one in workers for line in one.lines), LISTEN_SECONDS
        ):
            raise WorkerFailed(f"no recorder within {LISTEN_SECONDS:.0f} s")

    async def finish(self) -> None:
        """The teacher leaves, the last segment is saved, and the workers end."""
        if self._teacher:
            with contextlib.suppress(Exception):
                await self.teacher.silence(LAST_BREATH_SECONDS)
        await self.leave()
        if self.workers and self.worker.exit_code is None:
            await _until(lambda: not any(self.room_dir.glob("*.part")), ROOM_OVER_SECONDS)
        await self.end_workers()

    async def end_workers(self) -> None:
        for worker in self.workers:
            if worker.exit_code is None:
                await worker.stop()


async def _until(condition: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110 - a log has no event
        await asyncio.sleep(POLL_SECONDS)
    return condition()
