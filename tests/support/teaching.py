"""Helpers for end-to-end tests: a teacher who says known sentences, and which of them are in the recordings."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from devtools import sound
from devtools.livekit_server import LiveKitServer
from devtools.room_folders import TEACHER, recorded
from devtools.speakers import Said, Speaker
from devtools.worker import WorkerLog

MARKERS = sound.markers()

TAIL_SECONDS = 0.5


def sentences(first: int, count: int, gap: float = 0.3, tail: float = TAIL_SECONDS) -> sound.IntArray:
    """Markers ``first`` to ``first + count - 1``, in sequence, and silence after the last.

    Audio in the jitter buffer is lost when its track ends, so only the test of that has no silence at the end.
    """
    return sound.sequence(MARKERS[first : first + count], gap, lead_seconds=0, tail_seconds=tail)[0]


class Spoken(NamedTuple):
    """When a marker was said, by the clock on the wall."""

    marker: int
    start: datetime
    end: datetime

    def overlap_seconds(self, start: datetime, end: datetime) -> float:
        """How much of it was said between these times; at most 0 if nothing was."""
        return (min(self.end, end) - max(self.start, start)).total_seconds()

    @property
    def seconds(self) -> float:
        return (self.end - self.start).total_seconds()


def spoken(said: Said, first: int, count: int, gap: float = 0.3) -> list[Spoken]:
    """When each of these :func:`sentences` was said."""
    _, placed = sound.sequence(MARKERS[first : first + count], gap, lead_seconds=0)
    began = datetime.fromtimestamp(said.start, UTC)

    def at(sample: int) -> datetime:
        return began + timedelta(seconds=sample / sound.SAMPLE_RATE)

    return [Spoken(one.marker_index, at(one.start_sample), at(one.end_sample)) for one in placed]


def heard(room_dir: Path, identity: str | None = None, **wanted: object) -> list[int]:
    """The numbers of all markers in a room's files, in order; of one participant, and with these values in the
    manifest.
    """
    return list(_heard(recorded(room_dir, identity, **wanted).tobytes()))


@functools.lru_cache(maxsize=8)  # a test that waits for a word asks again and again
def _heard(pcm: bytes) -> tuple[int, ...]:
    return tuple(sound.heard(np.frombuffer(pcm, np.int16), MARKERS))


async def teacher_in(
    server: LiveKitServer, recorder: WorkerLog, room: str, identity: str = "anna", metadata: str = TEACHER
) -> Speaker:
    """A teacher whose microphone the recorder already listens to."""
    speaker = await Speaker.join(server, room, identity, metadata=metadata)
    await listened_to(recorder, speaker)
    return speaker


async def listened_to(recorder: WorkerLog, speaker: Speaker) -> None:
    """Publishes a microphone and waits until the recorder has subscribed to it and hears it."""
    await subscribed(recorder, speaker)
    await speaker.silence(0.5)


async def subscribed(recorder: WorkerLog, speaker: Speaker) -> None:
    """Publishes a microphone and waits until the recorder has subscribed to it."""
    before = len(recorder.lines)
    microphone = await speaker.publish()
    await recorder.wait_for(f"Track subscribed: microphone {microphone.sid}", timeout=40, skip_lines=before)
