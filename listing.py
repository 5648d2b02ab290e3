"""`lessons.py list`: what there is, and what is still undone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

import console
from archive import Archive, Lines, Room, Session, Texts
from console import AsJson, duration, say, say_json, say_table, tell
from segments import SegmentRecord, format_utc


@dataclass(frozen=True)
class TextFacts:
    """How far the texts of some segments are."""

    segments: int
    settled: int
    """Segments whose text is there or has been refused for good."""
    refused: int
    languages: tuple[str, ...]
    """BCP 47 tags, the most frequent first."""
    missing: dict[str, int]
    """By wanted language: how many segments with words have no text in it."""


@dataclass(frozen=True)
class RoomFacts:
    """What a room's folder holds."""

    room: str
    folder: str
    sessions: tuple[tuple[Session, TextFacts], ...]
    being_recorded: bool
    parts_left: int
    """Parts that nobody writes any more: the worker's next start, or `check --repair`, makes segments of them."""
    broken_lines: int


def list_lessons(
    room: Annotated[str | None, typer.Argument(help="Show this room's sessions one by one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rooms and sessions: when, how long, how much speech, which languages, what is still undone.

    TEXTS is how many segments have their text (or never will), out of how many. Times are in TIMEZONE.
    """
    settings = console.settings()
    rooms = Archive.from_settings(settings).chosen([room] if room is not None else None)
    facts = [facts_of(one, settings.target_languages) for one in rooms]
    if as_json:
        say_json({"rooms": [_as_json(one) for one in facts]})
    elif not facts:
        tell(f"No lessons in {settings.output_dir} yet")
    elif room is None:
        _say_rooms(facts, ZoneInfo(settings.timezone))
    else:
        _say_sessions(facts, ZoneInfo(settings.timezone))


def facts_of(room: Room, wanted: Sequence[str] = ()) -> RoomFacts:
    """One pass over a room's manifest and texts.

    Raises:
        StorageError: they cannot be read.
    """
    lines = Lines()
    with room.texts() as texts:
        counts: dict[str, _TextCount] = {}

        def counted() -> Iterable[SegmentRecord]:
            for record in room.records(lines=lines):
                counts.setdefault(record.room_sid, _TextCount(wanted)).add(record, texts)
                yield record

        sessions = room.sessions(counted())
        broken = len(lines.broken) + len(texts.lines.broken)
    living = room.parts_being_written()
    return RoomFacts(
        room=room.name,
        folder=room.path.name,
        sessions=tuple((session, counts[session.room_sid].facts()) for session in sessions),
        being_recorded=room.is_being_recorded(),
        parts_left=len(room.parts()) - len(living),
        broken_lines=broken,
    )


class _TextCount:
    """Counts the texts of one session."""

    def __init__(self, wanted: Sequence[str]) -> None:
        self._segments = self._settled = self._refused = 0
        self._languages: Counter[str] = Counter()
        self._missing: Counter[str] = Counter()
        self._wanted = wanted

    def add(self, record: SegmentRecord, texts: Texts) -> None:
        self._segments += 1
        text = texts.get(record)
        if text is None:
            return
        self._settled += 1
        self._refused += text.refused is not None
        self._languages.update(list(text.by_language))
        if text.by_language:
            self._missing.update(language for language in self._wanted if language not in text.by_language)

    def facts(self) -> TextFacts:
        languages = tuple(language for language, _ in self._languages.most_common())
        return TextFacts(self._segments, self._settled, self._refused, languages, dict(self._missing))


def _together(parts: Iterable[TextFacts]) -> TextFacts:
    total = TextFacts(0, 0, 0, (), {})
    for part in parts:
        total = replace(
            total,
            segments=total.segments + part.segments,
            settled=total.settled + part.settled,
            refused=total.refused + part.refused,
            languages=tuple(dict.fromkeys(total.languages + part.languages)),
            missing=dict(Counter(total.missing) + Counter(part.missing)),
        )
    return total


# --- for people ---


def _say_rooms(facts: Sequence[RoomFacts], zone: tzinfo) -> None:
    rows = []
    for one in facts:
        texts = _together(text for _, text in one.sessions)
        last = max((session.last for session, _ in one.sessions), default=None)
        length = sum(session.duration_seconds for session, _ in one.sessions)
        rows.append([
            one.room if one.room == one.folder else f"{one.room} ({one.folder})",
            str(len(one.sessions)),
            _time(last, zone),
            duration(length),
            duration(sum(session.speech_seconds for session, _ in one.sessions)),
            *_about(texts),
            "; ".join(_undone_in_folder(one) + _undone_texts(texts)) or "-",
        ])  # fmt: skip
    head = ["Room", "SESSIONS", "Last speech", "LENGTH", "SPEECH", "SEGMENTS", "TEXTS", "Languages", "Undone"]
    say_table(head, rows)


def _say_sessions(facts: Sequence[RoomFacts], zone: tzinfo) -> None:
    head = ["Began", "LENGTH", "SPEECH", "SEGMENTS", "TEXTS", "Languages", "Who", "Session", "Undone"]
    for one in facts:
        say(f"{one.room}, in {one.folder}")
        rows = [
            [
                _time(session.started_at, zone),
                duration(session.duration_seconds),
                duration(session.speech_seconds),
                *_about(texts),
                ", ".join(session.participants) or "-",
                session.room_sid or "-",
                "; ".join(_undone_texts(texts)) or "-",
            ]
            for session, texts in one.sessions
        ]
        say_table(head, rows)
        for line in _undone_in_folder(one):
            say(line)


def _about(texts: TextFacts) -> list[str]:
    share = f"{texts.settled}/{texts.segments}" if texts.settled else "none"
    return [str(texts.segments), share, ",".join(texts.languages) or "-"]


def _undone_texts(texts: TextFacts) -> list[str]:
    """Not where nobody has asked for text: the TEXTS column says so already."""
    lines = []
    if 0 < texts.settled < texts.segments:
        lines.append(f"{texts.segments - texts.settled} without text")
    lines += [f"{count} without {language}" for language, count in texts.missing.items()]
    if texts.refused:
        lines.append(f"{texts.refused} refused")
    return lines


def _undone_in_folder(facts: RoomFacts) -> list[str]:
    lines = ["being recorded"] if facts.being_recorded else []
    if facts.parts_left:
        lines.append(f"{facts.parts_left} left by a crash (check --repair)")
    if facts.broken_lines:
        lines.append(f"{facts.broken_lines} broken lines (check)")
    return lines


def _time(moment: datetime | None, zone: tzinfo) -> str:
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M}" if moment is not None else "-"


# --- for scripts ---


def _as_json(facts: RoomFacts) -> dict[str, Any]:
    return {
        "room": facts.room,
        "folder": facts.folder,
        "being_recorded": facts.being_recorded,
        "parts_left": facts.parts_left,
        "broken_lines": facts.broken_lines,
        "sessions": [
            {
                "room_sid": session.room_sid,
                "started_at": format_utc(session.started_at),
                "first": format_utc(session.first),
                "last": format_utc(session.last),
                "duration_seconds": round(session.duration_seconds, 3),
                "speech_seconds": round(session.speech_seconds, 3),
                "participants": list(session.participants),
                **vars(texts),
            }
            for session, texts in facts.sessions
        ],
    }
