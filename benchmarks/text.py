"""The delay of texts in the recorder: from a segment's manifest line to the call for its text, and from the answer to
the text's line.

Ten rooms save segments as in a lesson. The text service calls, through the real SDK, a local stand-in for Gemini that
takes one second for each answer; that second is not counted.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from archive.names import MANIFEST, TEXTS
from archive.outbox import Outbox
from benchmarks.figures import Figure, Options, Outcome
from config import Settings
from core import notify
from core.records import SAMPLE_RATE, EndReason, Pcm, RoomInfo, SpeechSegment, StreamClock, TrackInfo
from devtools import sound
from devtools.gemini_server import KEY, Call, GeminiServer
from storage import RoomFolder
from text.service import TextService
from translator import GeminiTranslator

NAME = "text"

ROOMS = 10
MODEL_SECONDS = 1.0
MAX_MILLISECONDS = 100.0
TEACHER = TrackInfo("teacher", "Teacher", "TR_1", "microphone")


@dataclass
class _Times:
    """Times of events, by the length of the segment in samples, which is different for each."""

    saved: dict[int, float] = field(default_factory=dict)
    called: dict[int, float] = field(default_factory=dict)
    written: list[float] = field(default_factory=list)

    def on_call(self, call: Call) -> str:
        self.called[len(call.pcm)] = call.at
        return ""

    def to_call(self) -> list[float]:
        return [1000 * (at - self.saved[length]) for length, at in self.called.items()]

    def to_line(self) -> list[float]:
        """Answers come in the order of the calls, as all take the same time."""
        answered = sorted(at + MODEL_SECONDS for at in self.called.values())
        return [1000 * (written - at) for at, written in zip(answered, sorted(self.written), strict=True)]


def measure(options: Options) -> Outcome:
    runs = [asyncio.run(_measured(2 if options.quick else 8)) for _ in range(options.runs)]
    to_call, to_line = [_p95(run.to_call()) for run in runs], [_p95(run.to_line()) for run in runs]
    return Outcome(
        NAME,
        [
            Figure("saved to called, p95", "ms", to_call, at_most=MAX_MILLISECONDS, digits=0),
            Figure("answered to written, p95", "ms", to_line, digits=0),
        ],
    )


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


async def _measured(per_room: int) -> _Times:
    times = _Times()
    async with GeminiServer(latency_seconds=MODEL_SECONDS, spoil=times.on_call) as gemini:
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(
                gemini_api_key=KEY,
                google_gemini_base_url=gemini.url,
                save_translations=True,
                target_languages=("es", "ar"),
                output_dir=folder,
                gemini_max_at_once=2 * ROOMS,
            )
            await _lessons(settings, times, per_room)
    return times


async def _lessons(settings: Settings, times: _Times, per_room: int) -> None:
    outbox = Outbox(Path(settings.output_dir))
    service = TextService(settings, GeminiTranslator(settings), outbox)
    running = asyncio.create_task(service.run())
    stop_listening = notify.listen(TEXTS, lambda _: times.written.append(time.monotonic()))
    rooms = [
        threading.Thread(target=_lesson, args=(settings, number, per_room, times)) for number in range(ROOMS)
    ]
    try:
        for room in rooms:
            room.start()
        while len(times.written) < ROOMS * per_room:
            if running.done():
                raise RuntimeError("the text service ended")
            await asyncio.sleep(0.05)
    finally:
        stop_listening()
        for room in rooms:
            await asyncio.to_thread(room.join)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await service.aclose()
        await outbox.aclose()


def _lesson(settings: Settings, number: int, segments: int, times: _Times) -> None:
    """One room: a segment every two seconds, each a little longer than all others. On a thread."""
    now = datetime.now(UTC)
    folder = RoomFolder.open(settings, RoomInfo(f"room {number}", f"RM_{number}", now))
    lecture = sound.load("lecture")
    for index in range(segments):
        time.sleep(2 + number / ROOMS)
        length = 5 * SAMPLE_RATE + 100 * (index * ROOMS + number)
        times.saved[length] = _save(folder, lecture[:length], index)
        notify.notify(folder.path / MANIFEST)


def _save(folder: RoomFolder, pcm: Pcm, index: int) -> float:
    start = index * 60 * SAMPLE_RATE
    segment = SpeechSegment(start, start, pcm, 0.9, 0.5, EndReason.PAUSE)
    folder.begin(TEACHER, StreamClock(datetime.now(UTC)), start, start).commit(segment)
    return time.monotonic()
