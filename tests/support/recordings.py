"""Recordings in common containers, made with PyAV."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
import numpy.typing as npt

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
    path: Path, pcm: Pcm, *, sound_from: float = 0.0, video: bool = False, **metadata: Any
) -> Path:
    """Writes speech into a container. With ``video`` there are pictures from 0 s on."""
    return write_pieces(path, [(sound_from, pcm)], video=video, **metadata)


def write_pieces(
    path: Path,
    pieces: Sequence[tuple[float, Pcm]],
    *,
    video: bool = False,
    until: float = 0.0,
    **metadata: str,
) -> Path:
    """Does the same with pieces that each begin at a time in seconds; nothing is written between them.

    ``until``: there are pictures at least until then.
    """
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
            for number in range(int(max(seconds, until) * 5)):
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


TRACK_CODECS = {
    "wav": "pcm_s16le",
    "w64": "pcm_s16le",
    "aiff": "pcm_s16be",
    "caf": "pcm_s16le",
    "au": "pcm_s16be",
    "mkv": "pcm_s16le",
    "mov": "pcm_s16le",
    "flac": "flac",
    "oga": "flac",
    "mp3": "libmp3lame",
    "avi": "libmp3lame",
    "opus": "libopus",
    "webm": "libopus",
    "ac3": "ac3",
    "mpg": "mp2",
    "wma": "wmav2",
}
"""Codec by the file's ending; for all others AAC."""

FORMATS = {"aac": "adts", "ts": "mpegts", "wma": "asf", "mpg": "mpeg", "mkv": "matroska"}


def write_tracks(
    path: Path,
    tracks: Sequence[npt.NDArray[np.int16]],
    *,
    rate: int | None = None,
    languages: Sequence[str] = (),
    faststart: bool = False,
    is_live: bool = False,
) -> Path:
    """Writes tracks of sound, each PCM s16le at 16 kHz of shape (n, channels), into a container.

    Args:
        is_live: as a program writes that cannot go back to its header.
    """
    ending = path.suffix[1:]
    codec = TRACK_CODECS.get(ending, "aac")
    rate = rate or (48_000 if codec in ("libopus", "ac3", "mp2", "wmav2", "libmp3lame") else SAMPLE_RATE)
    options = {"movflags": "+faststart"} if faststart and ending in ("mp4", "m4a", "mov") else {}
    if is_live and ending == "mp3":
        options["write_xing"] = "0"
    with (
        _target(path, is_live) as target,
        av.open(target, "w", format=FORMATS.get(ending, ending if is_live else None), options=options) as out,
    ):
        streams = [_track_stream(out, codec, rate, track.shape[1]) for track in tracks]
        for stream, language in zip(streams, languages, strict=False):
            stream.metadata["language"] = language
        packets = [
            packet
            for stream, track in zip(streams, tracks, strict=True)
            for packet in _packets(stream, track, rate)
        ]
        for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
            out.mux(packet)
    return path


class _Pipe:
    """A file that cannot be sought in."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        return self._file.write(data)


@contextlib.contextmanager
def _target(path: Path, is_live: bool) -> Iterator[Any]:
    if not is_live:
        yield str(path)
        return
    with open(path, "wb") as file:
        yield _Pipe(file)


def _track_stream(out: av.container.OutputContainer, codec: str, rate: int, channels: int) -> av.AudioStream:
    stream = out.add_stream(codec, rate=rate)
    assert isinstance(stream, av.AudioStream)
    if codec == "wmav2":
        stream.bit_rate = 96_000
    stream.layout = {1: "mono", 2: "stereo"}.get(channels, f"{channels} channels")
    return stream


def _packets(
    stream: av.AudioStream, track: npt.NDArray[np.int16], rate: int
) -> Iterator[av.Packet[av.AudioStream]]:
    channels = track.shape[1]
    layout = stream.layout.name
    resampler = av.AudioResampler(
        format=stream.format.name, layout=layout, rate=rate, frame_size=stream.codec_context.frame_size or 960
    )
    whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(track).reshape(1, -1), "s16", layout)
    assert whole.samples == len(track) and channels
    whole.sample_rate = SAMPLE_RATE
    position = 0
    for frame in [*resampler.resample(whole), *resampler.resample(None)]:
        frame.pts, frame.time_base = position, Fraction(1, rate)
        position += frame.samples
        yield from stream.encode(frame)
    yield from stream.encode(None)
