"""Decodes the sound of recordings (WAV, MP3, M4A, Opus, MP4, WebM, ...) through PyAV (FFmpeg's libraries).

A recording is read once, from its beginning, piece by piece, so its length does not matter. Holes in its timestamps
become silence, so that a sample's index tells its time. livekit_compat.py must not have been imported: it replaces PyAV
with a placeholder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

import av
import av.error
import numpy as np

from core.errors import InputError
from core.records import SAMPLE_RATE, Pcm

CONTAINERS = (
    "wav,w64,aiff,caf,au,mp3,aac,ac3,flac,ogg,mov,mp4,m4a,3gp,matroska,webm,avi,mpegts,mpeg,flv,asf,amr"
)
"""Formats that are opened. Playlists are not among them: they could name other files and servers."""

WEB_PROTOCOLS = "http,https,tcp,tls,crypto"
WEB_SECONDS = 30.0
"""Timeout for a server's first answer, and for each further piece."""

HOLE_SECONDS = 0.1
"""If a timestamp is this far ahead of the samples, sound is missing; less is jitter of the muxer."""

MAX_HOLE_SECONDS = 6 * 3600.0
"""A longer hole is a broken timestamp."""

OLDEST_RECORDING = datetime(1990, 1, 1, tzinfo=UTC)
"""Containers without a creation time give the year 1904 or 1970."""

_SILENCE = np.zeros(SAMPLE_RATE, np.int16)


@dataclass(frozen=True)
class Metadata:
    """Metadata of a recording."""

    duration_seconds: float | None
    created_at: datetime | None
    """When it began (UTC)."""
    sound_begins_seconds: float
    """How much later than the recording (its picture) its sound begins."""


class Recording:
    """A recording that is open for reading: ``with Recording(path) as recording: for pcm in recording.sound(): ...``

    ``path`` is the path of a file, or an http(s) address as a string.

    Raises:
        InputError: it is not a recording, or has no sound.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.name = str(path)
        self.damaged = 0
        """Packets that could not be decoded so far; where they were is silence."""
        self.seconds_read = 0.0
        """How far the reading has come."""
        try:
            self._container = _opened(path)
        except (av.error.FFmpegError, OSError) as error:
            raise InputError(f"{path} cannot be read as a recording: {_reason(error)}") from None
        if not self._container.streams.audio:
            self._container.close()
            raise InputError(f"{path} has no sound")
        self._stream = self._container.streams.best("audio") or self._container.streams.audio[0]
        self.metadata = self._read_metadata()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._container.close()

    def _read_metadata(self) -> Metadata:
        duration = self._container.duration
        begins = self._container.start_time or 0
        sound_begins = (
            float((self._stream.start_time or 0) * (self._stream.time_base or 0)) - begins / av.time_base
        )
        return Metadata(
            duration_seconds=duration / av.time_base if duration and duration > 0 else None,
            created_at=_creation_time(self._container.metadata.get("creation_time", "")),
            sound_begins_seconds=min(max(0.0, sound_begins), MAX_HOLE_SECONDS),
        )

    def sound(self, *, from_start: bool = False) -> Iterator[Pcm]:
        """Yields all of it as PCM s16le mono, 16 kHz, in pieces of any length.

        ``from_start``: with silence first where the picture begins earlier, so that time is a player's time.

        Raises:
            InputError: the file becomes unreadable before its end.
        """
        resampler = _Resampler()
        clock = _Clock((self._container.start_time or 0) / av.time_base if from_start else None)
        for frame in self._frames():
            yield from clock.hole_before(frame)
            clock.add(frame)
            self.seconds_read = clock.seconds
            yield from resampler.resampled(frame)
        yield from resampler.rest()

    def _frames(self) -> Iterator[av.AudioFrame]:
        """Yields decoded frames; skips damaged packets."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.InvalidDataError:
                self.damaged += 1
                continue
            except (av.error.FFmpegError, OSError) as error:
                raise InputError(f"{self.name} cannot be read to its end: {_reason(error)}") from None
            if packet is None:
                return
            try:
                for frame in packet.decode():
                    assert isinstance(frame, av.AudioFrame)
                    yield frame
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                self.damaged += 1


def _opened(path: Path | str) -> av.container.InputContainer:
    options = {"format_whitelist": CONTAINERS}
    if isinstance(path, Path):  # "file:" keeps a name like "http:x" from being an address
        return av.open(f"file:{path.absolute()}", options=options)
    return av.open(
        path, options={**options, "protocol_whitelist": WEB_PROTOCOLS}, timeout=(WEB_SECONDS, WEB_SECONDS)
    )


class _Clock:
    """Compares the number of samples with their timestamps."""

    def __init__(self, offset: float | None) -> None:
        self.seconds = 0.0
        """Length of the sound so far, holes included."""
        self._offset = offset
        """Timestamp of the first sample; None before it."""

    def hole_before(self, frame: av.AudioFrame) -> Iterator[Pcm]:
        """Yields silence for the hole before a frame, if there is one."""
        time = frame.time
        if time is None:
            return
        if self._offset is None:
            self._offset = time
        hole = time - self._offset - self.seconds
        if not -HOLE_SECONDS <= hole <= MAX_HOLE_SECONDS:
            self._offset = time - self.seconds  # timestamps start again: no hole
            return
        if hole < HOLE_SECONDS:
            return
        missing = round(hole * SAMPLE_RATE)
        self.seconds += missing / SAMPLE_RATE
        while missing > 0:
            yield _SILENCE[:missing]
            missing -= len(_SILENCE)

    def add(self, frame: av.AudioFrame) -> None:
        self.seconds += frame.samples / frame.sample_rate


class _Resampler:
    """Resamples any frames to 16 kHz mono; the format may change within a recording."""

    def __init__(self) -> None:
        self._format: tuple[str, str, int] | None = None
        self._resampler: av.AudioResampler | None = None

    def resampled(self, frame: av.AudioFrame) -> Iterator[Pcm]:
        format_ = (frame.format.name, frame.layout.name, frame.sample_rate)
        if format_ != self._format:
            yield from self.rest()
            self._format = format_
            self._resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        assert self._resampler is not None
        frame.pts = None  # _Clock fills holes; the resampler must not stretch the sound for them
        yield from map(_samples, self._resampler.resample(frame))

    def rest(self) -> Iterator[Pcm]:
        """Yields the samples left in the resampler."""
        if self._resampler is not None:
            with contextlib.suppress(av.error.EOFError):
                yield from map(_samples, self._resampler.resample(None))
            self._resampler = None


def _samples(frame: av.AudioFrame) -> Pcm:
    samples: Pcm = frame.to_ndarray().reshape(-1).astype(np.int16, copy=False)
    return samples


def _creation_time(text: str) -> datetime | None:
    """Parses a container's creation time; None if it is not plausible."""
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    return moment.astimezone(UTC) if OLDEST_RECORDING < moment < tomorrow else None


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
