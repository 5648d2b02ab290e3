"""Runs both recipes on samples instead of rooms: which parts of a recording they save."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from livekit import rtc

from audio_processor import WINDOW_SAMPLES, Closed, Segmenter, SegmenterOptions
from core.records import SAMPLE_RATE, EndReason, SpeechSegment
from recording.speech_detector import DetectorFactory, SpeechDetector, load_detector

if TYPE_CHECKING:  # the framework takes four seconds to load, and only the stock recipe needs it here
    from livekit.agents.vad import VADEvent
    from livekit.plugins import silero

Pcm = npt.NDArray[np.int16]

STOCK_FRAME = SAMPLE_RATE // 100
"""The default frame of an AudioStream: 10 ms."""


class Saved(NamedTuple):
    """One file: samples start <= i < end of the recording."""

    start: int
    end: int


def ours(pcm: Pcm) -> list[Saved]:
    """What the recorder saves of a track that ends with the recording."""
    return [Saved(segment.start_sample, segment.end_sample) for segment in our_segments(pcm)]


def our_segments(pcm: Pcm, runtime: str = "native") -> list[SpeechSegment]:
    return segments(pcm, _detectors(runtime)(), SegmenterOptions())


def segments(pcm: Pcm, detector: SpeechDetector, options: SegmenterOptions) -> list[SpeechSegment]:
    segmenter = Segmenter(options)
    updates = []
    whole = pcm.size - pcm.size % WINDOW_SAMPLES
    for start in range(0, whole, WINDOW_SAMPLES):
        window = pcm[start : start + WINDOW_SAMPLES]
        updates += segmenter.push(window, detector.probability(window))
    updates += segmenter.finish(EndReason.LEFT, pcm[whole:])
    found = [update.segment for update in updates if isinstance(update, Closed)]
    for segment in found:
        _check(pcm, Saved(segment.start_sample, segment.end_sample), segment.pcm)
    return found


def stock(pcm: Pcm) -> list[Saved]:
    """What the stock recipe saves of it, from END_OF_SPEECH to END_OF_SPEECH."""
    from livekit.agents.vad import VADEventType

    saved = []
    start = 0
    for event in asyncio.run(plugin_events(pcm)):
        samples = _samples(event)
        if event.type == VADEventType.START_OF_SPEECH:
            start = event.samples_index - samples.size
        elif event.type == VADEventType.END_OF_SPEECH:
            saved.append(Saved(start, start + samples.size))
            _check(pcm, saved[-1], samples)
    return saved


async def plugin_events(
    pcm: Pcm, rate: int = SAMPLE_RATE, frame_samples: int = STOCK_FRAME
) -> list[VADEvent]:
    """Every event of the plugin's stream except INFERENCE_DONE."""
    from livekit.agents.vad import VADEventType

    stream = _plugin().stream()
    for frame in frames(pcm, rate, frame_samples):
        stream.push_frame(frame)
    stream.end_input()
    events = [event async for event in stream if event.type != VADEventType.INFERENCE_DONE]
    await stream.aclose()
    return events


async def ends_of_speech(
    pcm: Pcm, rate: int = SAMPLE_RATE, frame_samples: int = STOCK_FRAME
) -> list[VADEvent]:
    from livekit.agents.vad import VADEventType

    events = await plugin_events(pcm, rate, frame_samples)
    return [event for event in events if event.type == VADEventType.END_OF_SPEECH]


def frames(pcm: Pcm, rate: int, frame_samples: int) -> Iterator[rtc.AudioFrame]:
    for start in range(0, pcm.size, frame_samples):
        piece = pcm[start : start + frame_samples]
        yield rtc.AudioFrame(piece.tobytes(), rate, 1, piece.size)


def _samples(event: VADEvent) -> Pcm:
    return np.concatenate([np.frombuffer(frame.data, np.int16) for frame in event.frames])


@cache
def _plugin() -> silero.VAD:
    from livekit.plugins import silero

    plugin = silero.VAD.load()
    assert isinstance(plugin, silero.VAD)
    return plugin


@cache
def _detectors(runtime: str) -> DetectorFactory:
    return load_detector(runtime)


def _check(pcm: Pcm, place: Saved, saved: Pcm) -> None:
    """Checks that the saved samples are those of this place in the recording."""
    if not np.array_equal(pcm[place.start : place.end], saved):
        raise ValueError(f"what was saved is not samples {place.start} to {place.end} of the recording")
