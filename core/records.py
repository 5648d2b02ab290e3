"""The records of rooms, tracks, segments and gaps. Those of texts are in :mod:`core.text_records`.

Everything here is data: frozen, without behaviour beyond derived values, and without imports from the rest of the
project. Times within an audio stream are counted in samples at ``SAMPLE_RATE``; wall-clock times are aware UTC
datetimes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000
"""Samples per second of everything recorded: the rate that Silero VAD and speech recognisers expect."""

BYTES_PER_SAMPLE = 2
MANIFEST_SCHEMA_VERSION = 1

Pcm = npt.NDArray[np.int16]
"""PCM s16le, mono, shape (n,), at ``SAMPLE_RATE``."""


class EndReason(StrEnum):
    """Why a segment ended."""

    PAUSE = "pause"
    """A natural pause."""
    MAX_LENGTH = "max_length"
    """The longest allowed length; the next segment begins at exactly the next sample."""
    MUTED = "muted"
    UNPUBLISHED = "unpublished"
    LEFT = "left"
    """The participant left or lost the connection."""
    ROLE_LOST = "role_lost"
    """The participant's role changed, or it declined to be recorded."""
    RECORDING_PAUSED = "recording_paused"
    """A teacher or the app paused the recording of the room."""
    SHUTDOWN = "shutdown"
    """The room or the recorder ended."""
    RECOVERED = "recovered"
    """Recovered after a crash: it contains what had been written until then."""


@dataclass(frozen=True)
class SpeechSegment:
    """One piece of speech as cut by the segmenter. Sample numbers count from the start of its stream."""

    start_sample: int
    """First sample of ``pcm`` (pre-roll included)."""
    speech_start_sample: int
    """Where the first word began."""
    pcm: Pcm
    """PCM s16le mono, shape (n,), 16 kHz."""
    mean_probability: float
    """Mean speech probability (0 to 1) over the windows that counted as speech."""
    lowest_probability: float
    """Lowest speech probability (0 to 1) among the windows that counted as speech."""
    end_reason: EndReason

    @property
    def end_sample(self) -> int:
        """One past the last sample."""
        return self.start_sample + len(self.pcm)

    @property
    def duration_seconds(self) -> float:
        return len(self.pcm) / SAMPLE_RATE


@dataclass(frozen=True)
class RoomInfo:
    """The LiveKit room in which a segment was spoken."""

    name: str
    sid: str
    started_at: datetime
    """When the session began (the room's creation, UTC); segment offsets count from here."""


@dataclass(frozen=True)
class TrackInfo:
    """A track and its participant."""

    participant_identity: str
    participant_name: str
    track_sid: str
    source: str
    """``microphone``, ``screen_share_audio`` or ``unknown``."""


@dataclass(frozen=True)
class StreamClock:
    """Converts sample numbers into wall-clock time, from one anchor per stream (fact 4: samples are wall time)."""

    anchor: datetime
    """UTC time of sample 0."""

    def at(self, sample: int) -> datetime:
        return self.anchor + timedelta(seconds=sample / SAMPLE_RATE)


@dataclass(frozen=True)
class TextOptions:
    """The languages that a segment's text needs, as they were when the segment ended. Checked BCP 47 tags."""

    speaking_language: str = ""
    """The language in the speaker's attribute, as a hint. Empty: not known."""
    caption_languages: tuple[str, ...] = ()
    """The languages that students request, besides the configured ones."""


NO_TEXT_OPTIONS = TextOptions()


@dataclass(frozen=True)
class SegmentRecord:
    """One committed segment: a line of the manifest.

    ``start`` and ``end`` bound the audio in the file. ``None``: unknown after a crash. Lines without
    ``speaking_language`` and ``caption_languages`` were written by older versions, and mean the empty value.
    """

    number: int
    file: str
    room_name: str
    room_sid: str
    participant_identity: str
    participant_name: str
    track_sid: str
    track_source: str
    start: datetime
    end: datetime
    offset_seconds: float | None
    duration_seconds: float
    mean_probability: float | None
    lowest_probability: float | None
    end_reason: EndReason
    sha256: str
    sample_rate: int = SAMPLE_RATE
    speaking_language: str = ""
    """BCP 47 tag in the speaker's attribute; empty: not known."""
    caption_languages: tuple[str, ...] = ()
    """BCP 47 tags of the languages that students requested when the segment ended."""
    schema_version: int = MANIFEST_SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values, keys in a fixed and readable order."""
        return {
            "schema_version": self.schema_version,
            "number": self.number,
            "file": self.file,
            "room_name": self.room_name,
            "room_sid": self.room_sid,
            "participant_identity": self.participant_identity,
            "participant_name": self.participant_name,
            "track_sid": self.track_sid,
            "track_source": self.track_source,
            "start": format_utc(self.start),
            "end": format_utc(self.end),
            "offset_seconds": _rounded(self.offset_seconds, 3),
            "duration_seconds": round(self.duration_seconds, 3),
            "sample_rate": self.sample_rate,
            "mean_probability": _rounded(self.mean_probability, 4),
            "lowest_probability": _rounded(self.lowest_probability, 4),
            "end_reason": self.end_reason.value,
            "sha256": self.sha256,
            "speaking_language": self.speaking_language,
            "caption_languages": list(self.caption_languages),
        }

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> SegmentRecord:
        """Reads a record from a manifest line.

        Raises:
            ValueError, KeyError, TypeError: the line is not a segment record.
        """
        return cls(
            number=segment_number_in(line),
            file=str(line["file"]),
            room_name=str(line["room_name"]),
            room_sid=str(line["room_sid"]),
            participant_identity=str(line["participant_identity"]),
            participant_name=str(line["participant_name"]),
            track_sid=str(line["track_sid"]),
            track_source=str(line["track_source"]),
            start=parse_utc(line["start"]),
            end=parse_utc(line["end"]),
            offset_seconds=_optional_float(line["offset_seconds"]),
            duration_seconds=float(line["duration_seconds"]),
            mean_probability=_optional_float(line["mean_probability"]),
            lowest_probability=_optional_float(line["lowest_probability"]),
            end_reason=EndReason(line["end_reason"]),
            sha256=str(line["sha256"]),
            sample_rate=int(line["sample_rate"]),
            speaking_language=str(line.get("speaking_language", "")),
            caption_languages=tuple(str(tag) for tag in line.get("caption_languages", ())),
            schema_version=int(line["schema_version"]),
        )


class GapReason(Enum):
    """Why a track was not received or not saved."""

    NO_RECORDER = "no_recorder"
    """No recorder wrote to this disk: the room is older than the worker, or its recorder was killed or replaced."""
    RECONNECT = "reconnect"
    """The recorder's connection broke and was restored."""
    NO_FRAMES = "deaf"
    """The track was subscribed to and delivered no audio frames."""
    NO_MEDIA = "no_media"
    """No packets of the track arrived for a while: the publisher's network or this worker's was down, or the worker's
    process did not run."""
    UNSUBSCRIBED = "unsubscribed"
    """The subscription ended although the track was published, for example through the server's API."""
    FORBIDDEN = "forbidden"
    """The server did not deliver the track although it was requested: usually its publisher does not permit it."""
    ENCRYPTED = "encrypted"
    """The audio is encrypted end to end, and the passphrase was missing or wrong."""
    OVER_BOUND = "over_bound"
    """More tracks were published than MAX_TEACHERS_PER_ROOM and MAX_TRACKS_PER_TEACHER allow."""
    PAUSED = "paused"
    """A teacher or the app paused the recording of the room: nothing was to be recorded."""
    UNSAVED = "unsaved"
    """The disk refused writes until more speech was waiting in memory than MAX_UNSAVED_SECONDS allows."""
    TRUNCATED = "truncated"
    """An imported recording ends earlier than its header says."""
    DAMAGED = "damaged"
    """Sound is missing within an imported recording: packets cannot be decoded, or its timestamps leave a hole."""


@dataclass(frozen=True)
class GapRecord:
    """A period in which speech of a participant may be missing: a line of ``gaps.jsonl`` beside the manifest."""

    room_name: str
    room_sid: str
    participant_identity: str
    track_sid: str
    start: datetime
    end: datetime
    reason: GapReason

    @property
    def seconds(self) -> float:
        return (self.end - self.start).total_seconds()

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values."""
        return {
            "schema_version": MANIFEST_SCHEMA_VERSION,
            "room_name": self.room_name,
            "room_sid": self.room_sid,
            "participant_identity": self.participant_identity,
            "track_sid": self.track_sid,
            "start": format_utc(self.start),
            "end": format_utc(self.end),
            "reason": self.reason.value,
        }

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> GapRecord:
        """Reads a record from a manifest line.

        Raises:
            ValueError, KeyError, TypeError: the line is not a gap record.
        """
        return cls(
            room_name=str(line["room_name"]),
            room_sid=str(line["room_sid"]),
            participant_identity=str(line["participant_identity"]),
            track_sid=str(line["track_sid"]),
            start=parse_utc(line["start"]),
            end=parse_utc(line["end"]),
            reason=GapReason(line["reason"]),
        )


def segment_number_in(line: dict[str, Any]) -> int:
    """The number of the segment that a JSON line is about. Raises KeyError or ValueError if it has none."""
    number = line["number"]
    if not isinstance(number, int):
        raise ValueError(f"no segment number: {number!r}")
    return number


def utc_now() -> datetime:
    return datetime.now(UTC)


def format_utc(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds, such as ``2025-10-08T14:05:23.120Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_utc(text: str) -> datetime:
    """The inverse of :func:`format_utc`. Raises ValueError for anything else."""
    if not isinstance(text, str):
        raise ValueError(f"no time: {text!r}")
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        raise ValueError(f"a time without a zone: {text!r}")
    return moment


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _optional_float(value: Any) -> float | None:
    return None if value is None else float(value)
