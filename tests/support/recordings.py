"""Recordings in common containers, made with PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from core.records import SAMPLE_RATE, Pcm

CODECS = {
    "wav": ("pcm_s16le", 48_000, "stereo"),
    "flac": ("flac", 44_100, "mono"),
    "mp3": ("libmp3lame", 44_100, "stereo"),
    "m4a": ("aac", 48_000, "stereo"),
    "opus": ("libopus", 48_000, "mono"),
    "mp4": ("aac", 44_100, "stereo"),
    "webm": ("libopus", 48_000, "stereo"),
    "mkv": ("pcm_s16le", 16_000, "mono"),
}
"""Codec, rate and channels by the file's ending."""


def write_recording(
    path: Path, pcm: Pcm, *, sound_from: float = 0.0, video: bool = False, **metadata: str
) -> Path:
    """Writes speech into a container. With ``video`` there are pictures from 0 s on."""
    return write_pieces(path, [(sound_from, pcm)], video=video, **metadata)


def write_pieces(
    path: Path, pieces: Sequence[tuple[float, Pcm]], *, video: bool = False, **metadata: str
) -> Path:
    """Does the same with pieces that each begin at a time in seconds; nothing is written between them."""
    codec, rate, layout = CODECS[path.suffix[1:]]
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata)
        picture = (
            container.add_stream("mpeg4" if path.suffix == ".mp4" else "libvpx", rate=5) if video else None
        )
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream(codec, rate=rate)
        assert isinstance(sound, av.AudioStream)
        sound.layout = layout
        seconds = 0.0
        for begin, pcm in pieces:
            _encode(container, sound, pcm, begin, rate, layout)
            seconds = begin + len(pcm) / SAMPLE_RATE
        container.mux(sound.encode(None))
        if picture is not None:
            for number in range(int(seconds * 5)):
                frame = av.VideoFrame.from_ndarray(np.zeros((72, 64), np.uint8), "yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, 5)
                container.mux(picture.encode(frame))
            container.mux(picture.encode(None))
    return path


def _encode(
    container: av.container.OutputContainer,
    sound: av.AudioStream,
    pcm: Pcm,
    begin: float,
    rate: int,
    layout: str,
) -> None:
    size = sound.codec_context.frame_size or 960
    resampler = av.AudioResampler(format=sound.format.name, layout=layout, rate=rate, frame_size=size)
    whole = av.AudioFrame.from_ndarray(pcm[None], "s16", "mono")
    whole.sample_rate = SAMPLE_RATE
    position = round(begin * rate)
    for frame in [*resampler.resample(whole), *resampler.resample(None)]:
        frame.pts, frame.time_base = position, Fraction(1, rate)
        position += frame.samples
        container.mux(sound.encode(frame))
