"""The lesson of the demo: the teacher and the student speak, and each segment is shown when it is saved."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import numpy as np
import soundfile

from archive import jsonl
from devtools.demo_screen import Record, Screen, clock, confidence, say
from devtools.listening import SAMPLE_RATE
from devtools.livekit_server import LiveKitServer
from devtools.speakers import Pcm, Said, Speaker
from devtools.worker import Worker

SPEECH = Path(__file__).resolve().parent / "speech"

ROOM = "lesson"
TEACHER, STUDENT = "teacher", "student"
STUDENT_BEGINS_AT_SECONDS = 12.0
CONNECT_SECONDS = 30.0
LAST_SEGMENT_SECONDS = 10.0
"""How long to wait until the last segment is saved."""
TEXT_SECONDS = 30.0
"""How long to wait for the last texts."""
POLL_SECONDS = 0.1
MAX_LINE_CHARACTERS = 100


class DemoFailed(Exception):
    """The demo cannot run; the message says why."""


class Lesson:
    """What the teacher and the student say and when, and what has been recorded of it so far."""

    def __init__(self, room_dir: Path) -> None:
        self.room_dir = room_dir
        self.lecture = load(SPEECH / "lecture.flac")
        self.question = load(SPEECH / "student.flac")
        described = json.loads((SPEECH / "lecture.json").read_text(encoding="utf-8"))
        self.sentences: list[Record] = described["sentences"]
        self.lectured = Said(0.0, 0.0)
        """When the lecture was spoken."""
        self._records_shown = 0
        self._texts_shown = 0
        self._screen = Screen()

    def records(self) -> list[Record]:
        """The manifest as it is now."""
        return _entries(self.room_dir / "segments.jsonl")

    def texts(self) -> list[Record]:
        """The texts that have been written so far."""
        return _entries(self.room_dir / "texts.jsonl")

    async def run(self, server: LiveKitServer, worker: Worker) -> None:
        """Holds the lesson; returns when all segments are saved and have their texts, or the time for that is over."""
        async with await _join(server, TEACHER) as teacher:
            await worker.wait_for(f"Connected to room {ROOM}", CONNECT_SECONDS)
            async with await _join(server, STUDENT) as student:
                await teacher.publish()
                await student.publish()
                await teacher.silence(1)
                await self._lecture(teacher, student)
        await self._wait_for_last_segment()
        await self._wait_for_last_text()

    async def show_segments(self) -> None:
        """Shows each segment as soon as it is on disk, until cancelled."""
        while True:
            self._show_new()
            await asyncio.sleep(POLL_SECONDS)

    async def _lecture(self, teacher: Speaker, student: Speaker) -> None:
        length, question = clock(len(self.lecture) / SAMPLE_RATE), clock(STUDENT_BEGINS_AT_SECONDS)
        say(f"The teacher lectures for {length}; a student talks at the same time, from {question} on.")
        tasks = [
            asyncio.create_task(self._ask(student)),
            asyncio.create_task(self.show_segments()),
            asyncio.create_task(self._show_progress()),
        ]
        try:
            self.lectured = await teacher.say(self.lecture)
            await tasks[0]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._screen.clear()

    async def _ask(self, student: Speaker) -> None:
        await asyncio.sleep(STUDENT_BEGINS_AT_SECONDS)
        await student.say(self.question)

    async def _show_progress(self) -> None:
        began, length = time.monotonic(), len(self.lecture) / SAMPLE_RATE
        while True:
            self._screen.progress(f"  {clock(min(length, time.monotonic() - began))} of {clock(length)}")
            await asyncio.sleep(POLL_SECONDS)

    async def _wait_for_last_segment(self) -> None:
        """Waits until the segment that was open when the teacher left is saved."""
        deadline = time.monotonic() + LAST_SEGMENT_SECONDS
        while any(self.room_dir.glob("*.part")) and time.monotonic() < deadline:  # noqa: ASYNC110 - a folder has no event
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.sleep(2 * POLL_SECONDS)
        self._show_new()

    async def _wait_for_last_text(self) -> None:
        deadline = time.monotonic() + TEXT_SECONDS
        while len(self.texts()) < len(self.records()) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)
        self._show_new()

    def _show_new(self) -> None:
        for record in self.records()[self._records_shown :]:
            self._records_shown += 1
            self._screen.line(
                f"  saved {record['file']}  {record['duration_seconds']:5.1f} s  "
                f"confidence {confidence(record)}  {record['end_reason']}"
            )
        for text in self.texts()[self._texts_shown :]:
            self._texts_shown += 1
            transcript = text.get("transcript") or f"(no text: {text.get('refused') or 'no words'})"
            self._screen.line(f"  text  {text['number']:03d}: {_shortened(transcript)}")


def load(path: Path) -> Pcm:
    """PCM s16le mono, shape (n,), 16 kHz.

    Raises:
        DemoFailed: the file has another format.
    """
    pcm, rate = soundfile.read(path, dtype="int16")
    if rate != SAMPLE_RATE or pcm.ndim != 1:
        raise DemoFailed(f"{path} is not 16 kHz mono")
    return np.asarray(pcm, dtype=np.int16)


def _entries(path: Path) -> list[Record]:
    """The entries of all complete lines."""
    lines = (line for _, line in jsonl.lines_of(path) if line.endswith(b"\n"))
    return [entry for line in lines if (entry := jsonl.entry_in(line)) is not None]


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_LINE_CHARACTERS else text[: MAX_LINE_CHARACTERS - 3] + "..."


async def _join(server: LiveKitServer, role: str) -> Speaker:
    return await Speaker.join(server, ROOM, role, name=role.title(), metadata=json.dumps({"role": role}))
