"""Teachers in many rooms at once who cost almost nothing: a program in Go sends packets that were encoded beforehand.

Ten teachers of :mod:`devtools.speakers` take a whole core, thirty of these a seventh of one.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from devtools.go_programs import GoProgram, built
from devtools.livekit_server import LiveKitServer
from devtools.progress import Report
from devtools.sound import SAMPLE_RATE, IntArray

MODULE = Path(__file__).resolve().parent / "livekit-publishers"

OPUS_RATE = 48_000
PACKET_MICROSECONDS = 20_000
BITS_PER_SECOND = 32_000

TEACHER_IDENTITY = "teacher"
LINGER_SECONDS = 4
"""How long the teachers stay after the last packet: a jitter buffer plays it later."""


def find_or_build(report: Report) -> Path:
    """The path of the program; it is built into the cache if need be.

    Raises:
        BuildFailed: it cannot be built.
    """
    return built(GoProgram("livekit-publishers", _version(), MODULE, ".", "1 to 3 minutes"), report)


def _version() -> str:
    """Changes with the sources."""
    sources = [(MODULE / name).read_bytes() for name in ("main.go", "go.mod", "go.sum")]
    return hashlib.sha256(b"".join(sources)).hexdigest()[:12]


def opus(pcm: IntArray) -> bytes:
    """An Ogg/Opus file of PCM s16le mono, shape (n,), 16 kHz, in packets of 20 ms, each in a page of its own."""
    import av

    target = io.BytesIO()
    with av.open(target, "w", format="ogg", options={"page_duration": str(PACKET_MICROSECONDS)}) as file:
        stream = file.add_stream("libopus", rate=OPUS_RATE, layout="mono")
        stream.bit_rate = BITS_PER_SECOND
        resampler = av.AudioResampler(format="s16", layout="mono", rate=OPUS_RATE)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm[None, :]), format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return target.getvalue()


@dataclass
class Publishers:
    """Teachers who send the same file in real time, each in a room of its own: ``async with Publishers(...)``."""

    binary: Path
    server: LiveKitServer
    file: Path
    rooms: int
    prefix: str
    """The rooms are named PREFIX0, PREFIX1, ..."""
    published_at: dict[str, float] = field(default_factory=dict)
    """By room: when its teacher's microphone was published and the file began, in seconds since the epoch."""
    late_seconds: float = 0.0
    """The greatest delay of a packet by this machine: what is measured then is not the worker alone."""
    errors: list[str] = field(default_factory=list)
    _process: asyncio.subprocess.Process | None = None
    _reading: asyncio.Task[None] | None = None

    @property
    def names(self) -> Sequence[str]:
        return [f"{self.prefix}{number}" for number in range(self.rooms)]

    async def __aenter__(self) -> Publishers:
        self._process = await asyncio.create_subprocess_exec(
            str(self.binary),
            *("-rooms", str(self.rooms), "-prefix", self.prefix, "-identity", TEACHER_IDENTITY),
            *("-linger", f"{LINGER_SECONDS}s", str(self.file)),
            env={**os.environ, **self.server.environment()},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process and self._reading
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reading

    async def wait(self) -> None:
        """Waits until all have sent everything and left."""
        assert self._process and self._reading
        await self._reading
        await self._process.wait()

    async def _read(self) -> None:
        assert self._process and self._process.stdout
        async for text in self._process.stdout:
            self._take(json.loads(text))

    def _take(self, line: dict[str, Any]) -> None:
        if "error" in line:
            self.errors.append(f"{line['room']}: {line['error']}")
        if "published_at" in line:
            self.published_at[line["room"]] = float(line["published_at"])
        self.late_seconds = max(self.late_seconds, float(line.get("late_seconds", 0.0)))
