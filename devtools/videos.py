"""Makes videos for the tests: real files with a lesson's sound as a camera or another recorder may have it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

from devtools.correlation import FloatArray
from devtools.sound import SAMPLE_RATE

PICTURES_A_SECOND = 5
SIZE = (320, 180)
PART = 10 * SAMPLE_RATE


def write_video(
    path: Path, heard: FloatArray, codec: str = "libopus", rate: int = 48_000, *, picture: str = ""
) -> Path:
    """Writes a file with this sound (-1 to 1, 16 kHz), and with moving pictures if a ``picture`` codec is given."""
    with av.open(str(path), "w") as container:
        audio = container.add_stream(codec, rate=rate, layout="mono")
        if picture:
            draw(container, picture, len(heard) / SAMPLE_RATE)
        assert isinstance(audio, AudioStream)
        context = audio.codec_context
        if not context.is_open:
            context.open()
        pcm = np.round(np.clip(heard, -1, 1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        resampler = av.AudioResampler(
            format=context.format.name, layout="mono", rate=rate, frame_size=context.frame_size or 1024
        )
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(audio.encode(part))
        container.mux(audio.encode(None))
    return path


def draw(container: OutputContainer, codec: str, seconds: float) -> None:
    """Draws a grey field that gets lighter from left to right over time."""
    video = container.add_stream(codec, rate=PICTURES_A_SECOND)
    assert isinstance(video, VideoStream)
    video.width, video.height = SIZE
    video.pix_fmt = "yuv420p"
    video.options = {"deadline": "realtime", "cpu-used": "8"} if codec == "libvpx" else {}
    count = max(1, round(seconds * PICTURES_A_SECOND))
    for number in range(count):
        shown = np.full((SIZE[1], SIZE[0], 3), 40, np.uint8)
        shown[:, : round(SIZE[0] * number / count)] = 200
        frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, PICTURES_A_SECOND)
        container.mux(video.encode(frame))
    container.mux(video.encode(None))


def noise(seconds: float, loudness: float = 0.001, seed: int = 0) -> FloatArray:
    """White noise; by default that of a quiet room."""
    samples = np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE), np.float32)
    return samples * np.float32(loudness)


def between(before: float, heard: FloatArray, after: float = 5.0) -> FloatArray:
    """A recording that began ``before`` seconds earlier and ended ``after`` seconds later."""
    return np.concatenate([noise(before, seed=1), heard, noise(after, seed=2)])


def stretched(heard: FloatArray, factor: float) -> FloatArray:
    """The same sound as a recorder has it whose clock runs at ``factor`` times the speed."""
    length = round(len(heard) * factor)
    parts = [_stretched(heard, begin, min(begin + PART, length), factor) for begin in range(0, length, PART)]
    return np.concatenate(parts)


def _stretched(heard: FloatArray, begin: int, end: int, factor: float) -> FloatArray:
    """The samples begin <= i < end of the stretched sound. A part at a time needs little memory, and is quicker."""
    at = np.arange(begin, end) / factor
    first = int(at[0])
    known = heard[first : int(at[-1]) + 2]
    return np.interp(at - first, np.arange(len(known)), known).astype(np.float32)


def music(seconds: float, loudness: float = 0.1, seed: int = 0) -> FloatArray:
    """Plucked notes of some overtones, four a second."""
    random = np.random.default_rng(seed)
    tune = np.zeros(round(seconds * SAMPLE_RATE))
    notes = [_note(220 * 2 ** (halftones / 12)) for halftones in range(24)]
    for begin in range(0, len(tune), SAMPLE_RATE // 4):
        note = notes[random.integers(0, 24)][: len(tune) - begin]
        tune[begin : begin + len(note)] += note
    return np.asarray(tune * loudness / max(float(np.std(tune)), 1e-9), np.float32)


def _note(pitch: float) -> npt.NDArray[np.float64]:
    """A plucked note of this pitch in hertz, of half a second."""
    time = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    overtones = [np.sin(2 * np.pi * pitch * overtone * time) / overtone for overtone in (1, 2, 3)]
    return np.asarray(np.sum(overtones, axis=0) * np.exp(-3 * time))
