"""Decodes one track of a recording through PyAV, packet by packet, whatever is damaged in it.

Every error of PyAV, its decoders, its resampler or its filters ends at most one packet. livekit_compat.py must not have
been imported: it replaces PyAV with a placeholder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import av
import av.error
import numpy as np

from core.records import SAMPLE_RATE
from lesson_tools.container_file import ContainerFile, Part
from lesson_tools.container_parts import parts_of
from lesson_tools.mp3_header import mp3_seconds
from lesson_tools.timeline import Channels, Piece, Timeline

CONTAINERS = (
    "wav,w64,aiff,caf,au,mp3,aac,ac3,eac3,flac,ogg,mov,mp4,m4a,3gp,matroska,webm,avi,mpegts,mpeg,flv,asf,amr"
)
"""Formats that are opened. Playlists are not among them: they could name other files and servers."""

WITHOUT_TIMESTAMPS = frozenset("wav w64 aiff au caf mp3 aac ac3 eac3 amr".split())
"""FFmpeg computes their timestamps from a length or a rate that may be wrong."""

WITHOUT_LENGTH = frozenset("aac ac3 eac3 amr mpegts mpeg ogg".split())
"""FFmpeg estimates their length from a bit rate, or takes it from the last timestamp: nothing is promised by it."""

WITHOUT_LENGTH_IF_CUT = frozenset("wav w64 caf asf".split())
"""If bytes are missing, FFmpeg's length of them is that of the header, of what is there, or an estimate."""

WITHOUT_LENGTH_OF_TRACKS = frozenset("matroska webm flv asf".split())
"""These have one length for all tracks; in Matroska there may be a tag for each."""
PICTURE_SECONDS = 2.0
"""The last picture may begin this long before the end."""

WEB_PROTOCOLS = "http,https,tcp,tls,crypto"
WEB_SECONDS = 30.0
"""Timeout for a server's first answer, and for each further piece."""

MAX_ERRORS_IN_A_ROW = 200
"""Errors of the demuxer without a packet between them; then the rest is given up."""

RATES = range(1000, 1_000_001)
"""Sample rates that are believed, in Hz: resampling from others takes unbounded memory or time."""

CODECS_WITH_PAUSES = frozenset(
    "opus amrnb amrwb amr_nb amr_wb libopencore_amrnb libopencore_amrwb evs g729".split()
)
TINY_BYTES = 3
"""Size of a silence descriptor of Opus."""

MOSTLY_DAMAGED = 0.9
"""If this share of the packets cannot be decoded,"""
CHANCE_PACKETS = 10
"""and never so many in a row can, those that can are chance."""

AMR_FIRST_PAUSE_TYPE = {"amrnb": 8, "amr_nb": 8, "amrwb": 9, "amr_wb": 9}
"""From this frame type on an AMR frame is a silence descriptor or empty; FFmpeg cannot decode it."""
MAX_AMR_PAUSE_BYTES = 7
AMR_SECONDS = 0.02


@dataclass(frozen=True)
class Source:
    """A recording to be opened: a file with its parts, or an http(s) address."""

    name: str
    path: Path | None
    parts: tuple[Part, ...]
    problems: list[OSError] = field(default_factory=list)
    """Why the disk could not be read; the recording ends there."""

    @classmethod
    def of(cls, path: Path | str) -> Source:
        """Reads the structure of a file.

        Raises:
            OSError: it cannot be read.
        """
        if isinstance(path, str):
            return cls(path, None, (Part(0, 0, 0),))
        return cls(os.fspath(path), path, tuple(parts_of(path)))

    @contextlib.contextmanager
    def opened(self, part: Part) -> Iterator[av.container.InputContainer]:
        """Opens one part, and closes it at the end.

        Raises:
            Exception: whatever PyAV raises.
        """
        options = {"format_whitelist": CONTAINERS}
        if self.path is not None:
            with contextlib.closing(ContainerFile(self.path, part, self.problems)) as file:
                with av.open(file, "r", options=options, **_lenient()) as container:
                    yield container
            return
        with av.open(
            self.name,
            "r",
            options={**options, "protocol_whitelist": WEB_PROTOCOLS},
            timeout=(WEB_SECONDS, WEB_SECONDS),
            **_lenient(),
        ) as container:
            yield container


def _lenient() -> dict[str, Any]:
    """The option by which PyAV before 19 accepts metadata that is not UTF-8. Later ones have no such option."""
    return {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


class TrackReader:
    """Reads one of the tracks of sound, counted from 0, and lays it out in time."""

    def __init__(self, source: Source, number: int) -> None:
        self.packets = 0
        self.damaged = 0
        """Packets that could not be decoded."""
        self.longest_run = 0
        """The most packets in a row that could be decoded."""
        self.problem = ""
        """The last error, in one line."""
        self.decoded_seconds = 0.0
        self.promised_seconds: float | None = None
        """The length of the sound by the header of its container; None: it has none."""
        self.picture_seconds = 0.0
        """Until when there is a picture."""
        self.timeline = Timeline()
        self._source = source
        self._number = number
        self._resampler = _Resampler()
        self._start = 0.0
        self._shares_length = False

    @property
    def ends_before_picture(self) -> bool:
        """Whether the picture goes on to the promised end, which is that of all tracks together."""
        end = self.promised_seconds
        return self._shares_length and end is not None and self.picture_seconds > end - PICTURE_SECONDS

    @property
    def is_unreadable(self) -> bool:
        """Whether nothing was decoded, or so few single packets that it is chance: the recording is encrypted."""
        mostly_damaged = self.damaged >= MOSTLY_DAMAGED * self.packets and self.longest_run < CHANCE_PACKETS
        return not self.decoded_seconds or (self.packets >= CHANCE_PACKETS and mostly_damaged)

    def sound(self, *, resampled: bool = True) -> Iterator[Channels]:
        """Yields the track from the recording's beginning on, in pieces of any length.

        Args:
            resampled: False: yields empty pieces and silence, to find out how long the recording is.
        """
        with self._opened(self._source.parts[0]) as container:
            if container is None:
                return
            stream = container.streams.audio[self._number]
            self.promised_seconds = promised_seconds(container, stream, self._source)
            self._shares_length = _shares_length(container, stream)
            start = container.start_time
            self._start = (start or 0) / av.time_base
            self.timeline = Timeline(
                None if start is None else self._start,
                self.promised_seconds if len(self._source.parts) == 1 else None,
                is_timed=not set(container.format.name.split(",")) & WITHOUT_TIMESTAMPS,
                has_pauses=_codec_name(stream) in CODECS_WITH_PAUSES,
            )
            yield from self.timeline.laid_out(self._pieces(container, stream, resampled))

    @contextlib.contextmanager
    def _opened(self, part: Part) -> Iterator[av.container.InputContainer | None]:
        """Opens a part; None if it cannot be opened, or does not have this track."""
        with contextlib.ExitStack() as stack:
            container = None
            try:
                container = stack.enter_context(self._source.opened(part))
            except Exception as error:  # of any library below PyAV
                self._failed(error)
            has_track = container is not None and self._number < len(container.streams.audio)
            yield container if has_track else None

    def _pieces(
        self, container: av.container.InputContainer, stream: av.AudioStream, resampled: bool
    ) -> Iterator[Piece]:
        yield from self._pieces_of(container, stream, resampled)
        for part in self._source.parts[1:]:
            with self._opened(part) as other:
                if other is not None:
                    yield Piece(0.0, None, np.empty((0, 1), np.int16), begins_anew=True)
                    yield from self._pieces_of(other, other.streams.audio[self._number], resampled)
        yield from self._resampled(0.0, None, None)

    def _pieces_of(
        self, container: av.container.InputContainer, stream: av.AudioStream, resampled: bool
    ) -> Iterator[Piece]:
        run = 0
        pause_type = AMR_FIRST_PAUSE_TYPE.get(_codec_name(stream))
        for packet in self._demuxed(container, stream):
            self.packets += 1
            time = _seconds(packet.pts, packet.time_base)
            try:
                frames = packet.decode()
            except Exception as error:  # of any decoder
                if pause_type is not None and _is_amr_pause(packet, pause_type):
                    yield Piece(AMR_SECONDS, time, np.zeros((round(AMR_SECONDS * SAMPLE_RATE), 1), np.int16))
                    continue
                self._failed(error)
                run = 0
                yield Piece(_seconds(packet.duration, packet.time_base) or 0.0, time)
                continue
            run += 1
            self.longest_run = max(self.longest_run, run)
            for frame in frames:
                yield from self._piece(frame, packet.size <= TINY_BYTES, resampled)
        if self.packets == self.damaged:
            return
        with contextlib.suppress(Exception):  # what the decoder still holds
            for frame in stream.codec_context.decode(None):
                yield from self._piece(frame, False, resampled)

    def _demuxed(
        self, container: av.container.InputContainer, stream: av.AudioStream
    ) -> Iterator[av.Packet[av.AudioStream]]:
        """Yields the packets of a track. A demuxer that ends with an error is started again after the error."""
        errors = 0
        while errors < MAX_ERRORS_IN_A_ROW:
            try:
                for packet in container.demux(stream, *container.streams.video):
                    if packet.stream_index != stream.index:
                        time = _seconds(packet.pts, packet.time_base) or 0.0
                        self.picture_seconds = max(self.picture_seconds, time - self._start)
                    elif packet.size:
                        errors = 0
                        yield cast("av.Packet[av.AudioStream]", packet)
                return
            except Exception as error:  # PyAV raises others, too: IndexError for a stream that comes later
                self._failed(error)
                errors += 1 if self._source.path is not None else MAX_ERRORS_IN_A_ROW

    def _piece(self, frame: av.AudioFrame, is_tiny: bool, resampled: bool) -> Iterator[Piece]:
        if frame.sample_rate not in RATES or not frame.samples:
            self._failed(ValueError(f"a sample rate of {frame.sample_rate} Hz"))
            return
        seconds = frame.samples / frame.sample_rate
        self.decoded_seconds += seconds
        if resampled:
            yield from self._resampled(seconds, frame.time, frame, is_tiny)
        else:
            yield Piece(seconds, frame.time, np.empty((0, 1), np.int16), is_tiny)

    def _resampled(
        self, seconds: float, time: float | None, frame: av.AudioFrame | None, is_tiny: bool = False
    ) -> Iterator[Piece]:
        """Yields a frame's sound; at the end (None) what the resampler still holds."""
        try:
            pieces = self._resampler.rest() if frame is None else self._resampler.resampled(frame)
        except Exception as error:  # of the filters
            self._failed(error)
            self._resampler = _Resampler()
            yield Piece(seconds, time)
            return
        for pcm in pieces[:-1]:
            yield Piece(0.0, None, pcm)
        if pieces:
            yield Piece(seconds, time, pieces[-1], is_tiny)

    def _failed(self, error: Exception) -> None:
        self.damaged += 1
        self.problem = reason(error)


class _Resampler:
    """Resamples any frames to 16 kHz; rate and channels may change within a recording."""

    def __init__(self) -> None:
        self._format: tuple[str, str, int] | None = None
        self._resampler: av.AudioResampler | None = None
        self._channels = 1

    def resampled(self, frame: av.AudioFrame) -> list[Channels]:
        format_ = (frame.format.name, frame.layout.name, frame.sample_rate)
        before: list[Channels] = []
        if format_ != self._format:
            before = self.rest()
            self._format = format_
            self._channels = len(frame.layout.channels)
            # Packed: PyAV reads beyond its arrays in planar formats of more than eight channels.
            self._resampler = av.AudioResampler(format="s16", layout=frame.layout.name, rate=SAMPLE_RATE)
        assert self._resampler is not None
        frame.pts = None  # Timeline fills holes; the resampler must not stretch the sound for them
        return [
            *before,
            np.concatenate([self._nothing(), *map(self._samples, self._resampler.resample(frame))]),
        ]

    def rest(self) -> list[Channels]:
        """Returns the samples left in the resampler."""
        resampler, self._resampler = self._resampler, None
        if resampler is None:
            return []
        try:
            return [self._samples(frame) for frame in resampler.resample(None)]
        except av.error.EOFError:
            return []

    def _nothing(self) -> Channels:
        return np.empty((0, self._channels), np.int16)

    def _samples(self, frame: av.AudioFrame) -> Channels:
        samples: Channels = frame.to_ndarray().reshape(-1, self._channels).astype(np.int16, copy=False)
        return samples


def promised_seconds(
    container: av.container.InputContainer, stream: av.AudioStream, source: Source
) -> float | None:
    """Returns the length of a track by the headers; None if they do not say, or FFmpeg has only estimated it."""
    names = set(container.format.name.split(","))
    part = source.parts[0]
    is_corrected = part.patches and "mp4" not in names  # of an MP4 its index has the length
    if names & WITHOUT_LENGTH or is_corrected or part.is_live:
        return None
    if "mp3" in names:
        return mp3_seconds(source.path, part.start) if source.path is not None else None
    if names & WITHOUT_LENGTH_IF_CUT and part.share_there < 1:
        return None
    whole = container.duration / av.time_base if container.duration and container.duration > 0 else None
    start = (container.start_time or 0) / av.time_base
    length = _seconds(stream.duration, stream.time_base)
    if length is not None and whole is not None:  # of the track alone, which may begin later than the picture
        begins = (_seconds(stream.start_time, stream.time_base) or 0.0) - start
        length = max(length, min(length + max(0.0, begins), whole))
    length = length or _tagged_length(stream) or whole
    if "matroska" in names and length and start < length:  # it has the time of the end
        length -= start
    # FFmpeg shortens the length of an AVI by what is missing.
    return length / part.share_there if length and "avi" in names and part.share_there > 0 else length


def _shares_length(container: av.container.InputContainer, stream: av.AudioStream) -> bool:
    """Whether the promised length is that of all tracks together."""
    names = set(container.format.name.split(","))
    return bool(names & WITHOUT_LENGTH_OF_TRACKS) and _tagged_length(stream) is None


def _tagged_length(stream: av.AudioStream) -> float | None:
    """Reads the tag with which Matroska tells the length of one track, such as ``00:01:03.405000000``."""
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds) or None
    except ValueError:
        return None


def _is_amr_pause(packet: av.Packet[av.AudioStream], first_type: int) -> bool:
    """Whether it is a single frame without sound."""
    return 0 < packet.size <= MAX_AMR_PAUSE_BYTES and bytes(packet)[0] >> 3 & 15 >= first_type


def _codec_name(stream: av.AudioStream) -> str:
    return stream.codec_context.name if stream.codec_context is not None else ""


def _seconds(count: int | None, time_base: object) -> float | None:
    return None if count is None or time_base is None else float(count * time_base)  # type: ignore[operator]


def reason(error: Exception) -> str:
    """The error in a few words."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
