"""Bytes on disk per second of saved speech, with everything that the room's folder contains at the end.

The shipped lecture goes through the recorder's own writer into a real folder. The stock recipe writes what it gets:
its stream's 48 kHz.
"""

from __future__ import annotations

import asyncio
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from livekit import rtc

from archive.files import prepare_output_dir
from audio_processor import Closed, Opened
from benchmarks import offline
from benchmarks.figures import Figure, Options, Outcome
from config import Settings
from core.records import SAMPLE_RATE, RoomInfo, StreamClock, TrackInfo
from devtools import sound
from devtools.speakers import resampled
from recording.segment_writer import SegmentWriter

NAME = "disk"

MAX_KILOBYTES = 35.0
STOCK_RATE = 48_000
START = datetime(2026, 1, 1, tzinfo=UTC)


def measure(options: Options) -> Outcome:
    """The same lecture gives the same files: once is enough."""
    pcm = sound.load("lecture")
    if options.quick:
        pcm = pcm[: 20 * SAMPLE_RATE]
    with tempfile.TemporaryDirectory() as folder:
        ours = asyncio.run(_our_bytes_per_second(pcm, Path(folder) / "ours"))
        stock = asyncio.run(_stock_bytes_per_second(pcm, Path(folder) / "stock"))
    figure = Figure(
        "a second of speech saved", "kB", [ours / 1000], [stock / 1000], digits=2, at_most=MAX_KILOBYTES
    )
    return Outcome(NAME, [figure])


async def _our_bytes_per_second(pcm: offline.Pcm, folder: Path) -> float:
    settings = Settings(output_dir=str(folder))
    prepare_output_dir(folder)
    writer = SegmentWriter(settings, RoomInfo("lesson", "RM_1", START))
    sink = writer.sink(TrackInfo("teacher", "Teacher", "TR_1", "microphone"))
    segments = offline.our_segments(pcm)
    for segment in segments:
        sink.take(Opened(segment.start_sample, segment.speech_start_sample), StreamClock(START))
        sink.take(Closed(segment), StreamClock(START))
    totals = await writer.aclose()
    if totals.segments != len(segments):
        raise RuntimeError(f"{totals.segments} of {len(segments)} segments were saved")
    return _bytes(folder) / totals.speech_seconds


async def _stock_bytes_per_second(pcm: offline.Pcm, folder: Path) -> float:
    from benchmarks.stock_agent import save

    at_48_khz = resampled(pcm, SAMPLE_RATE, STOCK_RATE)
    ended = await offline.ends_of_speech(at_48_khz, STOCK_RATE, STOCK_RATE // 100)
    for number, event in enumerate(ended):
        save(folder / f"{number}.wav", event.frames)
    samples = sum(_samples(event.frames) for event in ended)
    return _bytes(folder) * STOCK_RATE / samples


def _samples(frames: list[rtc.AudioFrame]) -> int:
    return int(np.sum([frame.samples_per_channel for frame in frames]))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
