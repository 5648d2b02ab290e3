"""Real rooms on a real server, with a teacher in each, for a worker to record."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from livekit import rtc

from benchmarks.figures import Report
from devtools import sound
from devtools.livekit_server import LiveKitServer, find_or_build
from devtools.room_folders import TEACHER
from devtools.speakers import Pcm, Speaker, token

SUBSCRIBE_SECONDS = 15.0
"""How long a teacher waits for a subscriber."""

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Scene:
    """A server, and a folder for what is recorded."""

    server: LiveKitServer
    folder: Path

    def fresh_folder(self) -> Path:
        return self.folder / str(next(_numbers))

    def fresh_name(self) -> str:
        return f"room-{next(_numbers)}"


@contextlib.contextmanager
def scene(say: Report) -> Iterator[Scene]:
    """Starts a server and creates a folder, which is deleted afterwards."""
    binary = find_or_build(say)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, LiveKitServer(binary) as server:
        yield Scene(server, Path(folder))


@dataclass
class Classroom:
    """One room and its teacher, who publishes a microphone at once."""

    name: str
    teacher: Speaker
    joined_at: float
    """Monotonic seconds: the teacher was in the room."""
    listened_to_at: float | None = None
    """Monotonic seconds: a participant has subscribed to the microphone."""

    @classmethod
    async def open(
        cls, server: LiveKitServer, name: str, together: asyncio.Semaphore | None = None
    ) -> Classroom:
        """Returns when the microphone has a subscriber, or after SUBSCRIBE_SECONDS.

        ``together`` limits how many join at once.
        """
        async with together or asyncio.Semaphore():
            teacher = await _join(server, name)
        room = cls(name, teacher, time.monotonic())
        microphone = await teacher.publish()
        publication = teacher.room.local_participant.track_publications[microphone.sid]
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(SUBSCRIBE_SECONDS):
                await publication.wait_for_subscription()
            room.listened_to_at = time.monotonic()
        return room

    @property
    def is_listened_to(self) -> bool:
        return self.listened_to_at is not None

    async def lecture(self, seconds: float) -> None:
        """Says the shipped lecture repeatedly."""
        await self.teacher.say(lecture(seconds))


async def _join(server: LiveKitServer, name: str) -> Speaker:
    """Joins as a speaker does, but without waiting for other joins."""
    room = rtc.Room()
    access = token(server, "teacher", name, metadata=TEACHER)
    await room.connect(server.url, access, rtc.RoomOptions(auto_subscribe=False))
    return Speaker(room, "teacher")


def lecture(seconds: float) -> Pcm:
    pcm: Pcm = np.resize(sound.load("lecture"), round(seconds * sound.SAMPLE_RATE))
    return pcm


@contextlib.asynccontextmanager
async def classrooms() -> AsyncIterator[list[Classroom]]:
    """A list to put classrooms into; their teachers leave at its end."""
    rooms: list[Classroom] = []
    try:
        yield rooms
    finally:
        await leave(rooms)


async def leave(rooms: Sequence[Classroom]) -> None:
    await asyncio.gather(*(room.teacher.leave() for room in rooms))
