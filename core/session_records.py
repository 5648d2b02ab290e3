"""The record of a session: who spoke how long, what is missing, and whether everything is done that was to be done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Any

from core.records import format_utc, parse_utc

SESSION_SCHEMA_VERSION = 1

OnSettled = Callable[[str, str], None]
"""Called with a folder and the sid of a session when one of its segments has its text, or one of its items is delivered
or refused."""


def ignore_settled(folder: str, room_sid: str) -> None:
    """Does nothing: where no session files are kept up to date."""


class ClosedBy(Enum):
    """Who has found that a session is over."""

    RECORDER = "recorder"
    """The room ended while it was recorded."""
    RECOVERY = "recovery"
    """Nobody records it any more: a crash, or a worker that stopped before the room ended."""
    IMPORT = "import"
    """It is a recording that was imported."""


@dataclass(frozen=True)
class ParticipantTotals:
    """What one participant said."""

    identity: str
    name: str
    segments: int
    speech_seconds: float


@dataclass(frozen=True)
class GapTotals:
    """The gaps of one reason. What overlaps on one track is counted once."""

    count: int
    seconds: float


@dataclass(frozen=True)
class TextTotals:
    """The state of the session's texts."""

    is_wanted: bool
    """Whether every segment is to have a text."""
    settled: int = 0
    """Segments whose text is there."""
    refused: int = 0
    """Segments whose text was refused: `transcribe --refused` asks for it again."""
    languages: tuple[str, ...] = ()
    """BCP 47 tags of the texts, the most frequent first."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """By expected language: how many segments with words have no text in it."""


@dataclass(frozen=True)
class TargetTotals:
    """What one target of delivery lacks."""

    undelivered: int
    """Segments that it has not received completely yet."""
    dead_letters: int
    """Segments of which it has refused a file for good."""


@dataclass(frozen=True)
class DeliveryTotals:
    """The state of the session's delivery."""

    undelivered: int = 0
    """Segments that some target has not received completely yet."""
    dead_letters: int = 0
    """Segments of which some target has refused a file for good."""
    targets: Mapping[str, TargetTotals] = field(default_factory=dict)
    """By the target's name."""

    @property
    def is_complete(self) -> bool:
        """Whether every target has everything."""
        return not (self.undelivered or self.dead_letters)


@dataclass(frozen=True)
class SessionRecord:
    """One session of a room: a lesson, from the room's creation to its end in LiveKit. Dates are UTC."""

    room_name: str
    room_sid: str
    started_at: datetime
    """When the room was created; the start of the first segment if that is not known."""
    ended_at: datetime
    """When the recorder left the room; the end of the last segment if that is not known."""
    closed_by: ClosedBy
    speech_began_at: datetime
    """Start of the first segment."""
    speech_ended_at: datetime
    """End of the last segment."""
    segments: int
    first_number: int
    """The lowest number of a segment."""
    last_number: int
    """The highest one."""
    speech_seconds: float
    participants: tuple[ParticipantTotals, ...]
    """By identity."""
    gaps: Mapping[str, GapTotals]
    """By reason (:class:`~core.records.GapReason`): times from which speech may be missing."""
    texts: TextTotals
    delivery: DeliveryTotals
    is_pruned: bool = False
    """Whether retention has removed some of its lines here. The totals include these, and do not change any more."""
    schema_version: int = SESSION_SCHEMA_VERSION

    @property
    def duration_seconds(self) -> float:
        """From the session's start to the end of its last segment."""
        return max(0.0, (self.speech_ended_at - self.started_at).total_seconds())

    @property
    def without_text(self) -> int:
        """Segments that have no text and are not refused, whether or not texts are wanted."""
        return self.segments - self.texts.settled - self.texts.refused

    @property
    def are_texts_complete(self) -> bool:
        """Whether every segment has its text in every expected language, or texts are not wanted."""
        texts = self.texts
        return not texts.is_wanted or not (self.without_text or texts.refused or any(texts.missing.values()))

    @property
    def is_complete(self) -> bool:
        """Whether text and delivery are complete."""
        return self.are_texts_complete and self.delivery.is_complete

    def has(self, participant: str) -> bool:
        """Whether a participant of this identity spoke in it."""
        return any(one.identity == participant for one in self.participants)

    def without(self, participant: str) -> SessionRecord | None:
        """The record without one participant; None if there is no other. For a session whose lines are not all there:
        gaps, texts and delivery stay as they are."""
        gone = [one for one in self.participants if participant in ("", one.identity)]
        kept = tuple(one for one in self.participants if one not in gone)
        return (
            replace(
                self,
                participants=kept,
                segments=sum(one.segments for one in kept),
                speech_seconds=sum(one.speech_seconds for one in kept),
            )
            if kept
            else None
        )

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values, keys in a fixed and readable order."""
        return {
            "schema_version": self.schema_version,
            "room_name": self.room_name,
            "room_sid": self.room_sid,
            "started_at": format_utc(self.started_at),
            "ended_at": format_utc(self.ended_at),
            "closed_by": self.closed_by.value,
            "is_complete": self.is_complete,
            "is_pruned": self.is_pruned,
            "speech_began_at": format_utc(self.speech_began_at),
            "speech_ended_at": format_utc(self.speech_ended_at),
            "segments": self.segments,
            "first_number": self.first_number,
            "last_number": self.last_number,
            "speech_seconds": round(self.speech_seconds, 3),
            "participants": [
                {**vars(one), "speech_seconds": round(one.speech_seconds, 3)} for one in self.participants
            ],
            "gaps": {
                reason: {"count": one.count, "seconds": round(one.seconds, 3)}
                for reason, one in self.gaps.items()
            },
            "texts": {
                "is_complete": self.are_texts_complete,
                "is_wanted": self.texts.is_wanted,
                "settled": self.texts.settled,
                "refused": self.texts.refused,
                "without_text": self.without_text,
                "languages": list(self.texts.languages),
                "missing": dict(self.texts.missing),
            },
            "delivery": {
                "is_complete": self.delivery.is_complete,
                "undelivered": self.delivery.undelivered,
                "dead_letters": self.delivery.dead_letters,
                "targets": {name: dict(vars(one)) for name, one in self.delivery.targets.items()},
            },
        }

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> SessionRecord:
        """Reads a record.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is not one, or has another schema.
        """
        if found["schema_version"] != SESSION_SCHEMA_VERSION:
            raise ValueError(f"another schema: {found['schema_version']!r}")
        texts, delivery = found["texts"], found["delivery"]
        return cls(
            room_name=_text(found["room_name"]),
            room_sid=_text(found["room_sid"]),
            started_at=parse_utc(found["started_at"]),
            ended_at=parse_utc(found["ended_at"]),
            closed_by=ClosedBy(found["closed_by"]),
            speech_began_at=parse_utc(found["speech_began_at"]),
            speech_ended_at=parse_utc(found["speech_ended_at"]),
            segments=_count(found["segments"]),
            first_number=_count(found["first_number"]),
            last_number=_count(found["last_number"]),
            speech_seconds=_seconds(found["speech_seconds"]),
            participants=tuple(map(_participant, found["participants"])),
            gaps={
                str(reason): GapTotals(_count(one["count"]), _seconds(one["seconds"]))
                for reason, one in found["gaps"].items()
            },
            texts=TextTotals(
                texts["is_wanted"] is True,
                _count(texts["settled"]),
                _count(texts["refused"]),
                tuple(map(_text, texts["languages"])),
                _counts(texts["missing"]),
            ),
            delivery=DeliveryTotals(
                _count(delivery["undelivered"]),
                _count(delivery["dead_letters"]),
                {str(name): TargetTotals(**_counts(one)) for name, one in delivery["targets"].items()},
            ),
            is_pruned=found["is_pruned"] is True,
        )


def _participant(found: Mapping[str, Any]) -> ParticipantTotals:
    return ParticipantTotals(
        _text(found["identity"]),
        _text(found["name"]),
        _count(found["segments"]),
        _seconds(found["speech_seconds"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"no text: {value!r}")
    return value


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"no count: {value!r}")
    return value


def _counts(found: Mapping[str, object]) -> dict[str, int]:
    return {str(name): _count(value) for name, value in found.items()}


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
        raise ValueError(f"no duration: {value!r}")
    return float(value)
