"""The VAD path alone, as fast as possible: from 96 ms frames to segments; CPU seconds per hour of audio.

Ours is a `TrackProcessor` with Silero's native runtime or its ONNX model, on a stream that always has the next frame.
Stock is the plugin's own `stream()`, fed with the same frames. CPU is that of the whole process, with the plugin's
executor threads.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from livekit import rtc

from audio_processor import Closed, Segmenter, SegmenterOptions, Update
from benchmarks import offline
from benchmarks.figures import Figure, Options, Outcome
from core.records import SAMPLE_RATE, StreamClock, TrackInfo
from core.stream_clock import Instant
from devtools import sound
from recording.speech_detector import load_detector
from recording.track_processor import TrackProcessor

NAME = "vad"

RATIO = 0.15
QUICK_SECONDS = 20
FRAME_SAMPLES = SAMPLE_RATE * 96 // 1000


@dataclass
class Frames:
    """A stream in which every frame has arrived already."""

    frames: list[rtc.AudioFrame]

    def __aiter__(self) -> AsyncIterator[rtc.AudioFrameEvent]:
        return self._events()

    async def aclose(self) -> None:
        pass

    async def _events(self) -> AsyncIterator[rtc.AudioFrameEvent]:
        for frame in self.frames:
            yield rtc.AudioFrameEvent(frame)


@dataclass
class Counter:
    """A sink that counts segments."""

    segments: int = 0

    def take(self, update: Update, clock: StreamClock) -> None:
        if isinstance(update, Closed):
            self.segments += 1


def paced() -> Callable[[], Instant]:
    """Clocks by which frames arrive one after another, as in a lesson; reading the real clocks is measured, too."""
    began, frames = Instant.now(), itertools.count(1)

    def now() -> Instant:
        Instant.now()
        seconds = next(frames) * FRAME_SAMPLES / SAMPLE_RATE
        return Instant(began.monotonic + seconds, began.utc + timedelta(seconds=seconds))

    return now


def measure(options: Options) -> Outcome:
    lecture = sound.load("lecture")
    pcm = lecture[: QUICK_SECONDS * SAMPLE_RATE] if options.quick else np.tile(lecture, 5)
    paths: dict[str, Callable[[], int]] = {
        "native": lambda: _ours(pcm, "native"),
        "onnx": lambda: _ours(pcm, "onnx"),
        "stock": lambda: _stock(pcm),
    }
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for path in paths.values():
        path()  # loads everything that is loaded only once
    for run in range(options.runs):
        options.say(f"  run {run + 1} of {options.runs} ...")
        for name, path in paths.items():
            seconds[name].append(_cpu_seconds(path) * 3600 * SAMPLE_RATE / pcm.size)
    unit = "CPU s per audio hour"
    return Outcome(
        NAME,
        [
            Figure(
                "VAD path, native", unit, seconds["native"], seconds["stock"], digits=2, ratio_at_most=RATIO
            ),
            Figure("VAD path, ONNX", unit, seconds["onnx"], seconds["stock"], digits=2),
        ],
    )


def _cpu_seconds(path: Callable[[], int]) -> float:
    began = time.process_time()
    segments = path()
    used = time.process_time() - began
    if not segments:
        raise RuntimeError("no segment came out")
    return used


def _ours(pcm: offline.Pcm, runtime: str) -> int:
    return asyncio.run(_process(pcm, runtime))


async def _process(pcm: offline.Pcm, runtime: str) -> int:
    counter = Counter()
    processor = TrackProcessor(
        track=TrackInfo("teacher", "", "TR", "microphone"),
        stream=Frames(list(offline.frames(pcm, SAMPLE_RATE, FRAME_SAMPLES))),
        detector=load_detector(runtime)(),
        segmenter=Segmenter(SegmenterOptions()),
        sink=counter,
        now=paced(),
    )
    processor.start()
    await processor.aclose()
    return counter.segments


def _stock(pcm: offline.Pcm) -> int:
    return len(asyncio.run(offline.ends_of_speech(pcm, SAMPLE_RATE, FRAME_SAMPLES)))
