"""Decodes the sound of recordings (WAV, MP3, M4A, Opus, MP4, WebM, ...) through PyAV (FFmpeg's libraries).

    file ──► TrackReader (packets, frames) ──► Timeline (holes become silence) ──► Mixer (the channels with speech)

A recording is read piece by piece, so its length does not matter. A sample's index tells its time: as a player counts,
from the beginning of the recording (its picture).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from types import TracebackType
from typing import Any

import av

from core.errors import InputError
from core.records import GapReason, Pcm
from lesson_tools.channels import Chooser, Mixer
from lesson_tools.console import progress
from lesson_tools.recorded_at import began_at
from lesson_tools.timeline import HOLE_SECONDS, Channels, Loss
from lesson_tools.track_reader import Source, TrackReader, promised_seconds, reason
from recording.speech_detector import DetectorFactory, load_detector

MIN_MISSING_SECONDS, MIN_MISSING_SHARE = 0.5, 0.005
"""A recording may be shorter than its header says by this much, as encoders and muxers round."""

MAX_HELD = 60
"""Blocks that are held back until something can be decoded: ten minutes."""

PROGRESS_SECONDS = 10.0
"""So much of a recording is measured between two reports of the progress."""

TAKEN_SHARE = 0.02
"""A channel that was taken for less than this share of the time is not named."""


@dataclass(frozen=True)
class Metadata:
    """Metadata of a recording."""

    duration_seconds: float | None
    """The length by its headers; None: they do not say."""
    estimated_seconds: float | None
    """The length by its headers, or as FFmpeg estimates it by the bit rate."""
    tags: dict[str, str]
    sample_rate: int | None

    def began_at(self, zone: tzinfo = UTC) -> datetime | None:
        """Returns when it began (UTC), if its tags say so. ``zone``: of times without one."""
        return began_at(self.tags, zone, self.sample_rate)


@dataclass(frozen=True)
class _Track:
    """What is known of a track before it is read."""

    channels: int
    language: str
    codec: str


class Recording:
    """A recording that is open for reading: ``with Recording(path) as recording: for pcm in recording.sound(): ...``

    Args:
        path: the path of a file, or an http(s) address as a string.
        track: the track of sound to take, counted from 1; None: those with speech.
        channel: the channel to take, counted from 1; None: those with speech.
        new_detector: makes speech detectors, to choose by.

    Raises:
        InputError: it is not a recording, has no sound, or does not have that track or channel.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        track: int | None = None,
        channel: int | None = None,
        new_detector: DetectorFactory | None = None,
    ) -> None:
        self.path = Path(path)
        self.name = str(path)
        self._new_detector = new_detector
        self._channel = channel
        self._mixer: Mixer | None = None
        self._readers: list[TrackReader] = []
        self._source = Source(self.name, None, ())
        try:
            self._source = Source.of(path)
            with self._source.opened(self._source.parts[0]) as container:
                self._tracks = [_track(stream) for stream in container.streams.audio]
                if not self._tracks:
                    raise InputError(f"{path} has no sound")
                best = container.streams.best("audio")
                self._best = next(
                    (number for number, one in enumerate(container.streams.audio) if one == best), 0
                )
                self.metadata = self._read_metadata(container, container.streams.audio[self._best])
        except InputError:
            raise
        except Exception as error:  # of any library below PyAV
            raise InputError(
                f"{path} cannot be read as a recording: {_incomplete(self._source)}{reason(error)}"
            ) from None
        self._numbers = self._numbers_of(track)

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Nothing is open between two readings."""

    def _read_metadata(self, container: av.container.InputContainer, stream: av.AudioStream) -> Metadata:
        tags = {**stream.metadata, **container.metadata}
        rate = stream.codec_context.sample_rate if stream.codec_context is not None else None
        estimated = (
            container.duration / av.time_base if container.duration and container.duration > 0 else None
        )
        return Metadata(promised_seconds(container, stream, self._source), estimated, tags, rate)

    def _numbers_of(self, track: int | None) -> list[int]:
        """Returns the tracks to be read, counted from 0.

        Raises:
            InputError: the track or the channel that is wanted is not there.
        """
        if track is not None and not 1 <= track <= len(self._tracks):
            raise InputError(
                f"{self.name} has no track {track} of sound: --track from 1 to {len(self._tracks)}"
            )
        numbers = range(len(self._tracks)) if track is None else [track - 1]
        found = [
            number for number in numbers if (self._channel or 1) <= max(1, self._tracks[number].channels)
        ]
        if not found:
            most = max(self._tracks[number].channels for number in numbers)
            raise InputError(f"{self.name} has no channel {self._channel}: --channel from 1 to {most}")
        return found

    # Reading.

    def sound(self) -> Iterator[Pcm]:
        """Yields all of it as PCM s16le mono, 16 kHz, in pieces of any length, with silence where nothing is.

        Raises:
            InputError: nothing of it can be decoded.
        """
        self._readers = [TrackReader(self._source, number) for number in self._numbers]
        mixer = self._mixer = Mixer(self._chooser())
        held: list[Pcm] = []
        for pcm in mixer.mixed([self._chosen_channels(reader) for reader in self._readers]):
            held.append(pcm)
            if not self._is_unreadable() or len(held) > MAX_HELD:
                yield from held
                held.clear()
        if self._is_unreadable():
            raise InputError(f"{self.name}: nothing of it can be decoded: {self._why_unreadable()}")
        yield from held

    def _is_unreadable(self) -> bool:
        return all(reader.is_unreadable for reader in self._readers)

    def length_seconds(self) -> float:
        """Reads all of it, shows the progress, and returns how long it is."""
        readers = [TrackReader(self._source, number) for number in self._numbers]
        total = (self.metadata.estimated_seconds or 0.0) * len(readers)
        with progress(f"Measuring {self.path.name}", total, "s") as advance:
            for reader in readers:
                reported = 0.0
                for _ in reader.sound(resampled=False):
                    if reader.timeline.seconds - reported >= PROGRESS_SECONDS:
                        advance(reader.timeline.seconds - reported)
                        reported = reader.timeline.seconds
                advance(reader.timeline.seconds - reported)
        return max(reader.timeline.seconds for reader in readers)

    def _chooser(self) -> Chooser:
        languages = []
        for number in self._numbers:
            count = 1 if self._channel is not None else max(1, self._tracks[number].channels)
            languages += [self._tracks[number].language] * count
        has_several = len(self._numbers) > 1 and len(set(languages) - {""}) > 1
        return Chooser(self._detectors, languages if has_several else ())

    def _detectors(self) -> DetectorFactory:
        return self._new_detector or load_detector("native")

    def _chosen_channels(self, reader: TrackReader) -> Iterator[Channels]:
        for piece in reader.sound():
            if self._channel is None:
                yield piece
            else:
                index = min(self._channel, piece.shape[1]) - 1
                yield piece[:, index : index + 1]

    def _why_unreadable(self) -> str:
        reader = max(self._readers, key=lambda one: one.packets)
        codec = self._tracks[self._numbers[self._readers.index(reader)]].codec
        if reader.packets and not codec:
            return "its codec is not known here"
        problem = next(map(reason, self._source.problems), reader.problem)
        why = f" ({problem})" if problem else ""
        return (
            f"{reader.packets} packets, protected or damaged{why}" if reader.packets else f"it is empty{why}"
        )

    # What was found while it was read.

    @property
    def seconds_read(self) -> float:
        """How far the reading has come."""
        return max((reader.timeline.seconds for reader in self._readers), default=0.0)

    @property
    def damaged(self) -> int:
        """Packets that could not be decoded so far; where they were is silence."""
        return sum(reader.damaged for reader in self._readers)

    @property
    def losses(self) -> list[Loss]:
        """What is missing of the sound that was taken: holes, damaged places, the end. Complete after the reading."""
        reader = self._main_reader()
        seconds, promised = reader.timeline.seconds, self._promised_seconds(reader)
        found = list(reader.timeline.losses.all)
        is_short = promised is not None and promised - seconds > self._tolerance(promised)
        if promised is not None and is_short and not reader.ends_before_picture:
            found.append(Loss(seconds, promised, GapReason.TRUNCATED))
        elif self._source.parts[-1].breaks_off or self._source.problems:
            found.append(Loss(seconds, seconds, GapReason.TRUNCATED))
        return found

    @property
    def excess_seconds(self) -> float:
        """How much more there was than the header promises; 0: not more."""
        reader = self._main_reader()
        part, promised = self._source.parts[0], reader.promised_seconds
        if part.patches:
            promised = reader.timeline.seconds * part.promised_share
        excess = reader.timeline.seconds - promised if promised else 0.0
        return excess if promised and excess > max(MIN_MISSING_SECONDS, MIN_MISSING_SHARE * promised) else 0.0

    @property
    def restarts(self) -> int:
        """How often its timestamps restart: recordings were joined."""
        return self._main_reader().timeline.restarts

    def _tolerance(self, promised: float) -> float:
        is_known_by_bytes = self._source.parts[-1].share_there < 1
        return HOLE_SECONDS if is_known_by_bytes else max(MIN_MISSING_SECONDS, MIN_MISSING_SHARE * promised)

    def _promised_seconds(self, reader: TrackReader) -> float | None:
        """The length by the header, or by the share of the promised bytes that is there."""
        if reader.promised_seconds is not None:
            return reader.promised_seconds
        last = self._source.parts[-1]
        return reader.timeline.seconds / last.share_there if 0 < last.share_there < 1 else None

    def _main_reader(self) -> TrackReader:
        """The track that was taken most."""
        taken = self._mixer.seconds if self._mixer is not None else {}
        sums = [0.0] * len(self._readers)
        for (track, _), seconds in taken.items():
            sums[track] += seconds
        if any(sums):
            return self._readers[sums.index(max(sums))]
        return self._readers[self._numbers.index(self._best) if self._best in self._numbers else 0]

    @property
    def taken(self) -> str:
        """Which tracks and channels were taken, in words; empty: all that there are, as they are."""
        mixer = self._mixer
        if mixer is None or (len(self._tracks) == 1 and self._tracks[0].channels <= 1):
            return ""
        most = max(mixer.seconds.values(), default=0.0)
        places = sorted(place for place, seconds in mixer.seconds.items() if seconds >= TAKEN_SHARE * most)
        every = sum(mixer.sizes)
        if self._channel is None and len(self._tracks) == len(self._numbers) and not mixer.upside_down:
            if not places or len(places) == every:
                return ""
        return ", ".join(self._place_name(track, channel, mixer) for track, channel in places)

    def _place_name(self, track: int, channel: int, mixer: Mixer) -> str:
        number = self._numbers[track]
        names = [f"track {number + 1} of {len(self._tracks)}"] if len(self._tracks) > 1 else []
        if self._tracks[number].channels > 1:
            names.append(f"channel {self._channel or channel + 1} of {self._tracks[number].channels}")
        turned = " (turned over)" if (track, channel) in mixer.upside_down else ""
        return " ".join(names) + turned


def _track(stream: av.AudioStream) -> _Track:
    context: Any = stream.codec_context
    language = stream.metadata.get("language", "")
    return _Track(
        context.channels if context is not None else 1,
        "" if language == "und" else language.casefold(),
        context.name if context is not None else "",
    )


def _incomplete(source: Source) -> str:
    """Says how much of a recording is there; empty if all of it is."""
    share = source.parts[-1].share_there if source.parts else 1.0
    return f"it is incomplete, {share:.0%} of it is there: " if share < 1 else ""
