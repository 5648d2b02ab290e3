"""A whole lesson: all segments of a session in order of time, with texts and WAVs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from pathlib import Path

from archive.rooms import Room
from core.errors import InputError
from core.session_records import SessionRecord
from lesson_tools.export.subtitles import Spoken


@dataclass(frozen=True)
class Utterance:
    """One segment. Times in seconds from the lesson's beginning."""

    number: int
    start: float
    end: float
    speaker: str
    """The participant's name, or identity where there is no name."""
    spoken: str | None
    """BCP 47 tag of the language spoken, where that is known."""
    texts: Mapping[str, str]
    """Text by BCP 47 tag, the transcript among them."""
    file: str
    """Name of its WAV, whether or not it is there."""
    wav: Path | None
    """Its WAV, None if it is not there."""
    video: float | None = None
    """When it begins in the video (seconds), None if it is not in it."""


@dataclass(frozen=True)
class Lesson:
    """A session of a room."""

    room: str
    session: str
    started_at: datetime
    """Lesson time 0 (UTC)."""
    utterances: tuple[Utterance, ...]
    """In order of time."""
    languages: tuple[str, ...]
    """BCP 47 tags of the texts: what was spoken first, then by number of texts."""

    @property
    def seconds(self) -> float:
        return max((one.end for one in self.utterances), default=0.0)

    @property
    def speakers(self) -> tuple[str, ...]:
        """In the order in which they first speak."""
        return tuple(dict.fromkeys(one.speaker for one in self.utterances))

    def said(self, language: str, *, in_video: bool = False) -> list[Spoken]:
        """Returns the texts in one language. ``in_video``: with video times, and only what is in the video."""
        chosen = [one for one in self.utterances if one.texts.get(language)]
        if not in_video:
            return [Spoken(one.start, one.end, one.texts[language], one.speaker) for one in chosen]
        return [
            Spoken(one.video, one.video + one.end - one.start, one.texts[language], one.speaker)
            for one in chosen
            if one.video is not None
        ]


def chosen_session(sessions: Sequence[SessionRecord], wanted: str | None, zone: tzinfo) -> SessionRecord:
    """Finds a session by its number, sid or (the beginning of its) date; None is the last one.

    Raises:
        InputError: there is none, or more than one.
    """
    if not sessions:
        raise InputError("nothing has been recorded in this room yet")
    if wanted is None:
        return sessions[-1]
    if wanted.isdecimal() and 1 <= int(wanted) <= len(sessions):
        return sessions[int(wanted) - 1]
    dates = [date_of(one, zone) for one in sessions]
    found = [
        (one, date)
        for one, date in zip(sessions, dates, strict=True)
        if one.room_sid == wanted or (wanted and date.startswith(wanted))
    ]
    if len(found) != 1:
        there = ", ".join([date for _, date in found][-5:] or dates[-5:])
        raise InputError(
            f"--session={wanted} names {len(found)} of {len(sessions)} sessions; there are: {there}"
        )
    return found[0][0]


def date_of(session: SessionRecord, zone: tzinfo) -> str:
    """Formats when a session began."""
    return f"{session.started_at.astimezone(zone):%Y-%m-%d %H:%M}"


def not_done(sessions: Sequence[SessionRecord], *, wants_texts: bool) -> list[str]:
    """Formats what is not done in some sessions; leaves out zeros."""
    missing = sum((Counter(session.texts.missing) for session in sessions), Counter[str]())
    counts = {
        "without text": sum(session.without_text for session in sessions) if wants_texts else 0,
        **{f"without {language}": count for language, count in missing.items()},
        "refused": sum(session.texts.refused for session in sessions),
        "undelivered": sum(session.delivery.undelivered for session in sessions),
        "dead letters (check)": sum(session.delivery.dead_letters for session in sessions),
    }
    return [f"{count} {what}" for what, count in counts.items() if count]


def file_stem(session: SessionRecord, sessions: Sequence[SessionRecord], zone: tzinfo) -> str:
    """Returns the stem of a session's exported files, with its date if the room has more sessions."""
    return "lesson" if len(sessions) == 1 else f"lesson_{session.started_at.astimezone(zone):%Y%m%d_%H%M%S}"


def read_lesson(room: Room, session: SessionRecord) -> Lesson:
    """Reads a session from its room's folder.

    Raises:
        StorageError: the folder cannot be read.
    """
    utterances = []
    spoken: Counter[str] = Counter()
    written: Counter[str] = Counter()
    with room.texts() as texts:
        for record in room.records(session.room_sid):
            text = texts.get(record)
            found = {tag: words for tag, words in text.by_language.items() if words} if text else {}
            spoken.update([text.spoken] if text and text.spoken in found else [])
            written.update(found.keys())  # a mapping would be taken for counts
            start = (record.start - session.started_at).total_seconds()
            utterances.append(
                Utterance(
                    record.number,
                    start,
                    start + record.duration_seconds,
                    record.participant_name or record.participant_identity,
                    text.spoken if text else None,
                    found,
                    record.file,
                    room.wav(record),
                )
            )
    utterances.sort(key=lambda one: (one.start, one.number))
    ranked = dict.fromkeys(_by_use(spoken) + _by_use(written))
    return Lesson(session.room_name, session.room_sid, session.started_at, tuple(utterances), tuple(ranked))


def _by_use(languages: Counter[str]) -> list[str]:
    """Languages by how often they are used; those that are used equally often by their tags."""
    return sorted(languages, key=lambda tag: (-languages[tag], tag))
