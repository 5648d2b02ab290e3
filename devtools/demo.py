"""The demo: a teacher lectures for a minute in a room, a student talks in between, and the worker records.

Everything runs on this machine: a livekit-server, the worker as ``python agent.py start`` runs it, and the two people.
Only the text is Gemini's, if a GEMINI_API_KEY is set (in the environment or in ``.env``); else a local stand-in, which
recognises the lecture by its sound and does not translate, shows how it comes and where it is written.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

import numpy as np
import soundfile

from config import environment
from devtools.demo_page import PageFailed, show_page
from devtools.gemini_server import KEY, GeminiServer
from devtools.known_speech import KnownSpeech
from devtools.listening import SAMPLE_RATE, share_heard
from devtools.livekit_server import LiveKitServer, ServerUnavailable, find_or_build
from devtools.speakers import Pcm, Said, Speaker, token
from devtools.worker import Worker, WorkerFailed

ROOT = Path(__file__).resolve().parent.parent
SPEECH = ROOT / "devtools" / "speech"

ROOM = "lesson"
TEACHER, STUDENT = "teacher", "student"
STUDENT_BEGINS_AT_SECONDS = 12.0
CONNECT_SECONDS = 30.0
SILENT_WORKER_SECONDS = 30.0
LAST_SEGMENT_SECONDS = 10.0
POLL_SECONDS = 0.1
SENTENCE_HEARD = 0.75
"""Share of a sentence that must be found; a busy machine may stretch the rest beyond recognition."""
LINE_CHARACTERS = 100
PROGRESS_SECONDS = 10.0
"""How often progress is told where it cannot be overwritten."""

LANGUAGES = ("es", "ar")
OF_THE_USER = ("GEMINI_API_KEY", "GEMINI_MODEL", "GEMINI_THINKING", "GOOGLE_GEMINI_BASE_URL")
"""Settings that the demo takes over from the user's environment."""
TEXT_SECONDS = 30.0
"""How long the last texts are waited for."""

Record = dict[str, Any]
"""One line of the manifest, or of the list of texts."""


class DemoFailed(Exception):
    """The demo could not show what it promises; the message says why."""


def main() -> int:
    options = _options()
    for number in _STOP_SIGNALS:
        signal.signal(number, _interrupt)
    try:
        binary = find_or_build(_say)
        return asyncio.run(_until_signal(_demo(binary, options)))
    except KeyboardInterrupt:
        _say("Stopped.")
        return 130
    except (ServerUnavailable, WorkerFailed, DemoFailed, PageFailed, OSError) as error:
        _say(f"The demo failed: {error}")
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python dev.py demo", description="Records a lecture on this machine."
    )
    parser.add_argument(
        "--keep", action="store_true", help="afterwards keep server and worker running, for a browser"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "demo-output",
        help="folder for the demo's folders (./demo-output)",
    )
    return parser.parse_args()


async def _demo(binary: Path, options: argparse.Namespace) -> int:
    folder = _fresh_folder(options.output)
    lesson = _Lesson(folder / ROOM)
    with LiveKitServer(binary, log=folder / "livekit-server.log") as server:
        _say(f"livekit-server runs on {server.url}")
        async with _gemini() as settings:
            worker = Worker(server, folder, settings=settings, log=folder / "worker.log")
            _say(f"Starting the worker, log in {folder / 'worker.log'} ...")
            async with worker:
                await _lesson_in(worker, server, lesson, options)
    _show_table(lesson)
    verdict = _verdict(lesson)
    show_page(folder, ROOM, _say)
    return verdict


async def _lesson_in(
    worker: Worker, server: LiveKitServer, lesson: _Lesson, options: argparse.Namespace
) -> None:
    await _unless_worker_fails(worker, lesson.take_place(server, worker))
    if options.keep:
        _show_table(lesson)
        _invite(server)
        await _unless_worker_fails(worker, lesson.show_segments(), may_be_silent=True)


@contextlib.asynccontextmanager
async def _gemini() -> AsyncIterator[dict[str, str]]:
    """The worker's settings for text: with the user's key the real service, else a stand-in that runs meanwhile."""
    text = {"SAVE_TRANSLATIONS": "true", "TARGET_LANGUAGES": ",".join(LANGUAGES)}
    users = environment(ROOT)
    if users.get("GEMINI_API_KEY", "").strip():
        _say("Text: the real Gemini, with your GEMINI_API_KEY (the lecture costs less than a cent).")
        yield {**text, **{name: users[name] for name in OF_THE_USER if users.get(name)}}
        return
    _say("Text: a local stand-in for Gemini, as no GEMINI_API_KEY is set. It knows the lecture by its sound,")
    _say("and only marks what the real one would translate.")
    lecture = KnownSpeech.load(SPEECH, "lecture")
    async with GeminiServer(hear=lecture.words_in) as server:
        yield {**text, "GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": server.url}


# --- the lesson ----------------------------------------------------------------------------------------------------


class _Lesson:
    """Who says what when, and what has been recorded of it so far."""

    def __init__(self, room_dir: Path) -> None:
        self.room_dir = room_dir
        self.lecture = _load(SPEECH / "lecture.flac")
        self.question = _load(SPEECH / "student.flac")
        self.sentences: list[Record] = json.loads((SPEECH / "lecture.json").read_text(encoding="utf-8"))[
            "sentences"
        ]
        self.lectured = Said(0.0, 0.0)
        self._shown = 0
        self._texts_shown = 0
        self._screen = _Screen()

    def records(self) -> list[Record]:
        """The manifest as it is now."""
        return _lines(self.room_dir / "segments.jsonl")

    def texts(self) -> list[Record]:
        """The texts there are by now."""
        return _lines(self.room_dir / "texts.jsonl")

    async def take_place(self, server: LiveKitServer, worker: Worker) -> None:
        """From the first join until everything that was said is on disk."""
        async with await _join(server, TEACHER) as teacher:
            await worker.wait_for(f"Connected to room {ROOM}", CONNECT_SECONDS)
            async with await _join(server, STUDENT) as student:
                await teacher.publish()
                await student.publish()
                await teacher.silence(1)
                await self._lecture(teacher, student)
        await self._last_segment()
        await self._last_text()

    async def show_segments(self) -> None:
        """Shows each segment the moment it is on disk, until cancelled."""
        while True:
            self._show_new()
            await asyncio.sleep(POLL_SECONDS)

    async def _lecture(self, teacher: Speaker, student: Speaker) -> None:
        length, question = _clock(len(self.lecture) / SAMPLE_RATE), _clock(STUDENT_BEGINS_AT_SECONDS)
        _say(f"The teacher lectures for {length}; a student talks in between, from {question} on.")
        talking = [
            asyncio.create_task(self._question(student)),
            asyncio.create_task(self.show_segments()),
            asyncio.create_task(self._show_progress()),
        ]
        try:
            self.lectured = await teacher.say(self.lecture)
            await talking[0]
        finally:
            for task in talking:
                task.cancel()
            await asyncio.wait(talking)
            self._screen.clear()

    async def _question(self, student: Speaker) -> None:
        await asyncio.sleep(STUDENT_BEGINS_AT_SECONDS)
        await student.say(self.question)

    async def _show_progress(self) -> None:
        began, length = time.monotonic(), len(self.lecture) / SAMPLE_RATE
        while True:
            self._screen.progress(f"  {_clock(min(length, time.monotonic() - began))} of {_clock(length)}")
            await asyncio.sleep(POLL_SECONDS)

    async def _last_segment(self) -> None:
        """The teacher has left in mid-breath: the open segment closes by itself."""
        deadline = time.monotonic() + LAST_SEGMENT_SECONDS
        while any(self.room_dir.glob("*.part")) and time.monotonic() < deadline:  # noqa: ASYNC110 - a folder has no event
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.sleep(2 * POLL_SECONDS)
        self._show_new()

    async def _last_text(self) -> None:
        deadline = time.monotonic() + TEXT_SECONDS
        while len(self.texts()) < len(self.records()) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)
        self._show_new()

    def _show_new(self) -> None:
        for record in self.records()[self._shown :]:
            self._shown += 1
            self._screen.line(
                f"  saved {record['file']}  {record['duration_seconds']:5.1f} s  "
                f"confidence {_confidence(record)}  {record['end_reason']}"
            )
        for text in self.texts()[self._texts_shown :]:
            self._texts_shown += 1
            said = text.get("transcript") or f"(no text: {text.get('refused') or 'no words'})"
            self._screen.line(f"  text  {text['number']:03d}: {_shortened(said)}")


def _lines(path: Path) -> list[Record]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]


def _shortened(text: str) -> str:
    return text if len(text) <= LINE_CHARACTERS else text[: LINE_CHARACTERS - 3] + "..."


async def _join(server: LiveKitServer, role: str) -> Speaker:
    return await Speaker.join(server, ROOM, role, name=role.title(), metadata=json.dumps({"role": role}))


def _load(path: Path) -> Pcm:
    pcm, rate = soundfile.read(path, dtype="int16")
    if rate != SAMPLE_RATE or pcm.ndim != 1:
        raise DemoFailed(f"{path} is not 16 kHz mono")
    return np.asarray(pcm, dtype=np.int16)


# --- when things go wrong ------------------------------------------------------------------------------------------


async def _unless_worker_fails(
    worker: Worker, work: Coroutine[Any, Any, None], *, may_be_silent: bool = False
) -> None:
    """Does the work, and gives up as soon as the worker has ended or says nothing any more."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_until_trouble(worker, may_be_silent))
    try:
        done, _ = await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.wait({working, watching})


async def _until_trouble(worker: Worker, may_be_silent: bool) -> None:
    while True:
        if worker.exit_code is not None:
            raise WorkerFailed(f"the worker ended with {worker.exit_code}. Its last lines:\n{worker.tail()}")
        silence = time.monotonic() - worker.last_line_at
        if silence > SILENT_WORKER_SECONDS and not may_be_silent:
            raise WorkerFailed(
                f"the worker has said nothing for {silence:.0f} s. Its last lines:\n{worker.tail()}"
            )
        await asyncio.sleep(POLL_SECONDS)


async def _until_signal(work: Coroutine[Any, Any, int]) -> int:
    """Ctrl-C and the like cancel the work, once; it then ends everything it started, undisturbed."""
    loop, working = asyncio.get_running_loop(), asyncio.create_task(work)

    def stop(number: int, frame: FrameType | None) -> None:
        for name in _STOP_SIGNALS:
            signal.signal(name, signal.SIG_IGN)
        loop.call_soon_threadsafe(working.cancel)

    for name in _STOP_SIGNALS:
        signal.signal(name, stop)
    try:
        return await working
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


_STOP_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
]


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


# --- what the person in front of it sees ---------------------------------------------------------------------------


class _Screen:
    """Lines, and below them one line of progress that is overwritten where that is possible."""

    def __init__(self) -> None:
        self._can_overwrite = sys.stdout.isatty()
        self._width = 0
        self._last_told_at = time.monotonic()

    def line(self, text: str) -> None:
        self.clear()
        _say(text)

    def progress(self, text: str) -> None:
        if self._can_overwrite:
            sys.stdout.write("\r" + text.ljust(self._width))
            sys.stdout.flush()
            self._width = len(text)
        elif time.monotonic() - self._last_told_at > PROGRESS_SECONDS:
            self._last_told_at = time.monotonic()
            _say(text)

    def clear(self) -> None:
        if self._width:
            sys.stdout.write("\r" + " " * self._width + "\r")
            self._width = 0


def _show_table(lesson: _Lesson) -> None:
    rows = [("file", "when (UTC)", "lecture", "length", "confidence", "ended by")]
    for record in lesson.records():
        start = _seconds(record["start"])
        rows.append(
            (
                record["file"],
                record["start"][11:21],
                _clock(start - lesson.lectured.start, tenths=True),
                f"{record['duration_seconds']:.1f} s",
                _confidence(record),
                record["end_reason"],
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    _say("")
    for row in rows:
        _say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _verdict(lesson: _Lesson) -> int:
    """Says what was recorded of whom, and whether that is what was promised."""
    records = lesson.records()
    strangers = sorted({record["participant_identity"] for record in records} - {TEACHER})
    heard = _sentences_heard(
        lesson, [record for record in records if record["participant_identity"] == TEACHER]
    )
    seconds = sum(record["duration_seconds"] for record in records)
    _say("")
    _say(f"{len(records)} files, {seconds:.1f} s of the teacher.")
    _say(f"{heard} of the teacher's {len(lesson.sentences)} sentences are in them, compared by their sound.")
    if strangers:
        _say(f"WRONG: also recorded: {', '.join(strangers)}.")
    else:
        _say(
            f"The student talked for {len(lesson.question) / SAMPLE_RATE:.0f} s in between and is in none of them."
        )
    has_text = _judge_texts(lesson)
    _say(f"Folder: {lesson.room_dir}")
    return 0 if heard == len(lesson.sentences) and not strangers and has_text else 1


def _judge_texts(lesson: _Lesson) -> bool:
    """Says whether every file has its text."""
    records, texts = lesson.records(), [text for text in lesson.texts() if "refused" not in text]
    files = len(list(lesson.room_dir.glob("*.txt")))
    _say(f"{len(texts)} of them have their text: {files} .txt files ({', '.join(('en', *LANGUAGES))}).")
    if len(texts) == len(records):
        return True
    _say(f"WRONG: {len(records) - len(texts)} have none, see the worker's log.")
    return False


def _sentences_heard(lesson: _Lesson, records: list[Record]) -> int:
    """How many of the teacher's sentences are in the files, by their sound."""
    line = np.zeros(
        len(lesson.lecture) + 5 * SAMPLE_RATE, np.int16
    )  # the files where the lecture's time puts them
    for record in records:
        pcm = _load(lesson.room_dir / record["file"])
        at = max(0, round((_seconds(record["start"]) - lesson.lectured.start) * SAMPLE_RATE))
        part = pcm[: max(0, len(line) - at)]
        line[at : at + len(part)] = part
    heard = 0
    for sentence in lesson.sentences:
        start, end = (round(sentence[edge] * SAMPLE_RATE) for edge in ("start", "end"))
        heard += share_heard(line, lesson.lecture[start:end], start) >= SENTENCE_HEARD
    return heard


def _invite(server: LiveKitServer) -> None:
    _say("")
    _say(f"Server and worker keep running. URL {server.url}, room {ROOM}. Ctrl-C ends both.")
    for role in (TEACHER, STUDENT):
        access = token(server, role, ROOM, name=role.title(), metadata=json.dumps({"role": role}))
        _say(f"\n{role} token: {access}")
        _say(
            f"{role} in a browser here: https://meet.livekit.io/custom?liveKitUrl={quote(server.url)}&token={access}"
        )
    _say("")


def _fresh_folder(parent: Path) -> Path:
    name = datetime.now(timezone.utc).strftime("%Y%m%d_%H%M%S")
    folder = (parent / name).resolve()
    folder.mkdir(parents=True)
    return folder


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()


def _clock(seconds: float, *, tenths: bool = False) -> str:
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    minutes, rest = divmod(round(seconds, 1) if tenths else int(seconds), 60)
    return f"{sign}{minutes:.0f}:{rest:04.1f}" if tenths else f"{sign}{minutes:.0f}:{rest:02.0f}"


def _confidence(record: Record) -> str:
    mean = record["mean_probability"]
    return "-" if mean is None else f"{mean:.2f}"


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Not sys.exit: a thread of the SDK that still talks to the ending interpreter would abort the process.
    os._exit(code)
