"""How far a room has been heard: the word that a recorder leaves every second for whoever comes after it.

Where it ends, a gap begins. So it never says more than what is on disk by then, and it is given for each track: one
whose wire is cut must not make the others look missed.

Pure: what is said in a line, and what follows from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from segments import format_utc, parse_utc

MOST_WORD_BYTES = 2**20
MOST_HELD_SECONDS = 60.0
PLAUSIBLE_YEARS = range(1970, 9000)
"""Of dates from files: nothing that is reckoned with them overflows."""

CLOCKS_APART = timedelta(seconds=5)
"""What was heard so far in the future was heard by another clock: this one has been set back since."""


@dataclass(frozen=True)
class Hearing:
    """How far a track has been heard."""

    until: datetime
    """The date of its last sample that is on disk, or is known not to be speech."""
    held_seconds: float = 0.0
    """A jitter buffer holds sound back: what that sample brought was so much older."""

    @property
    def everything_until(self) -> datetime:
        """All that was said before this has been heard."""
        return self.until - timedelta(seconds=self.held_seconds)


class Heard(NamedTuple):
    """How far a room has been heard."""

    until: datetime
    """Of all tracks that are not named."""
    tracks: Mapping[str, Hearing | None]
    """By sid. None: no farther than by the recorder before us."""
    now: datetime | None = None
    """When that was so; else at ``until``."""


@dataclass(frozen=True)
class Word:
    """What a recorder leaves for the one after it."""

    room_sid: str
    until: datetime
    """Of all tracks that are not named."""
    tracks: Mapping[str, Hearing] = field(default_factory=dict)
    """By sid."""
    left_at: datetime | None = None
    """When that was so; else at ``until``."""

    def to_line(self) -> bytes:
        """One line of JSON."""
        tracks = {
            sid: {
                "until": format_utc(hearing.until),
                "held_seconds": round(min(hearing.held_seconds, MOST_HELD_SECONDS), 3),
            }
            for sid, hearing in self.tracks.items()
        }
        left_at = format_utc(self.left_at or self.until)
        word = {
            "room_sid": self.room_sid,
            "left_at": left_at,
            "until": format_utc(self.until),
            "tracks": tracks,
        }
        return json.dumps(word).encode() + b"\n"

    @classmethod
    def in_line(cls, text: bytes) -> Word | None:
        """The word in the first line; a crash may leave the end of an older one behind it. None: it is none of ours."""
        line, is_whole, _ = text.partition(b"\n")
        try:
            return cls._from_json(json.loads(line)) if is_whole else None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None

    @classmethod
    def _from_json(cls, word: Mapping[str, object]) -> Word:
        tracks = word["tracks"]
        if not isinstance(tracks, dict):
            raise ValueError("no tracks")
        heard = {sid: Hearing(_date(one["until"]), _held(one["held_seconds"])) for sid, one in tracks.items()}
        return cls(str(word["room_sid"]), _date(word["until"]), heard, _date(word["left_at"]))


def _date(value: object) -> datetime:
    moment = parse_utc(str(value))
    if not is_plausible(moment):
        raise ValueError(f"nobody listened then: {value!r}")
    return moment


def is_plausible(moment: datetime) -> bool:
    """Whether a date from a file can be reckoned with."""
    return moment.year in PLAUSIBLE_YEARS


def _held(value: object) -> float:
    if isinstance(value, (int, float)) and 0 <= value <= MOST_HELD_SECONDS:
        return float(value)
    raise ValueError(f"no buffer holds sound for so long: {value!r}")


@dataclass(frozen=True)
class Before:
    """What the recorders before us have left of this session."""

    word: Word | None
    last_ends: Mapping[str, datetime]
    """When the last segment of each track ends. After a crash that may be later than the word."""

    def hearing(self, track_sid: str, now: datetime) -> Hearing | None:
        """How far they have heard a track; None: nobody was there."""
        latest = now + CLOCKS_APART
        ends = {sid: end for sid, end in self.last_ends.items() if end < latest}
        word = self.word
        if word is None or word.until >= latest:
            last_end = max(ends.values(), default=None)
            return Hearing(last_end) if last_end else None
        said = word.tracks.get(track_sid, Hearing(word.until))
        left_at = word.left_at or word.until
        end = ends.get(track_sid, left_at)
        # An end from before the word was known to whoever left it; a segment's last silence may be a cut wire's.
        return Hearing(end, said.held_seconds) if end > left_at else said
