"""`lessons.py list`: shows rooms and sessions, and what is not done yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from archive.delivery_log import DeliveryLog, Key, Undelivered, keys_of
from archive.jsonl import Lines
from archive.rooms import Archive, Room
from archive.sessions import Session
from archive.texts import Texts
from core.errors import StorageError
from core.records import SegmentRecord, format_utc
from lesson_tools import console
from lesson_tools.console import AsJson, counted, duration, say, say_json, say_table, tell
from lesson_tools.expected import Expected
from lesson_tools.lesson import date_of


@dataclass(frozen=True)
class Progress:
    """How much is done for some segments."""

    segments: int
    settled: int
    """Segments whose text is there."""
    without_text: int
    """Segments without text, if texts are expected or other segments of the room have one; not those refused."""
    refused: int
    """Segments whose text was refused: `transcribe --refused` asks for it again."""
    languages: tuple[str, ...]
    """BCP 47 tags, the most frequent first."""
    missing: dict[str, int]
    """By expected language: how many segments with words have no text in it."""
    undelivered: int
    """Segments that some target has not received completely."""
    dead_letters: int
    """Segments of which some target has refused a file for good."""


@dataclass(frozen=True)
class RoomFacts:
    """What a room's folder holds."""

    room: str
    folder: str
    sessions: tuple[tuple[Session, Progress], ...]
    being_recorded: bool
    parts_left: int
    """Parts that no recorder is writing: the worker's next start, or `check --repair`, makes segments of them."""
    broken_lines: int


def list_lessons(
    room: Annotated[str | None, typer.Argument(help="Show this room's sessions one by one.")] = None,
    as_json: AsJson = False,
) -> None:
    """List rooms and sessions: when, how long, how much speech, which languages, and what is not done yet.

    TEXTS is how many of the segments have their text; `transcribe --refused` asks again for texts that were refused.
    Undelivered is how many segments a target in the settings has not received yet. Times are in TIMEZONE.
    """
    settings = console.settings()
    rooms = Archive.from_settings(settings).chosen([room] if room is not None else None)
    expected = Expected.from_settings(settings)
    facts, is_well = [], True
    for one in rooms:
        try:
            facts.append(facts_of(one, expected))
        except StorageError as error:  # the other rooms are shown
            tell(str(error))
            is_well = False
    if as_json:
        say_json({"rooms": [_as_json(one) for one in facts]})
    elif not rooms:
        tell(f"No lessons in {settings.output_dir} yet")
    elif room is None:
        _say_rooms(facts, ZoneInfo(settings.timezone))
    else:
        _say_sessions(facts, ZoneInfo(settings.timezone))
    if not is_well:
        raise typer.Exit(console.TROUBLE)


def facts_of(room: Room, expected: Expected) -> RoomFacts:
    """Counts everything in one pass over a room's manifest and texts.

    Raises:
        StorageError: they cannot be read.
    """
    lines, delivery_log = Lines(), DeliveryLog(room.path)
    with room.texts() as texts:
        counts: dict[str, _Count] = {}

        def counted() -> Iterable[SegmentRecord]:
            for record in room.records(lines=lines):
                count = counts.setdefault(record.room_sid, _Count(expected))
                count.add(record, texts)
                count.add_deliveries(
                    delivery_log.undelivered(_keys(record, texts, expected), expected.targets)
                )
                yield record

        sessions = room.sessions(counted())
        broken = len(lines.broken) + len(texts.lines.broken)
    wants_texts = expected.texts or any(count.settled or count.refused for count in counts.values())
    being_written = room.parts_being_written()
    return RoomFacts(
        room=room.name,
        folder=room.path.name,
        sessions=tuple((session, counts[session.room_sid].progress(wants_texts)) for session in sessions),
        being_recorded=room.is_being_recorded(),
        parts_left=len(room.parts()) - len(being_written),
        broken_lines=broken,
    )


def _keys(record: SegmentRecord, texts: Texts, expected: Expected) -> list[Key]:
    return keys_of(record, texts.entry(record), save_audio=expected.audio) if expected.targets else []


class _Count:
    """Counts what is done with the segments of one session."""

    def __init__(self, expected: Expected) -> None:
        self.settled = self.refused = 0
        self._segments = self._undelivered = self._dead_letters = 0
        self._languages: Counter[str] = Counter()
        self._missing: Counter[str] = Counter()
        self._expected = expected.languages

    def add(self, record: SegmentRecord, texts: Texts) -> None:
        self._segments += 1
        text = texts.get(record)
        if text is None:
            return
        self.settled += text.refused is None
        self.refused += text.refused is not None
        self._languages.update(list(text.by_language))
        if text.by_language:
            self._missing.update(language for language in self._expected if language not in text.by_language)

    def add_deliveries(self, undelivered: Iterable[Undelivered]) -> None:
        """Counts what some target has not received of one segment."""
        states = {bool(one.refused) for one in undelivered}
        self._undelivered += False in states
        self._dead_letters += True in states

    def progress(self, wants_texts: bool) -> Progress:
        return Progress(
            segments=self._segments,
            settled=self.settled,
            without_text=self._segments - self.settled - self.refused if wants_texts else 0,
            refused=self.refused,
            languages=tuple(language for language, _ in self._languages.most_common()),
            missing=dict(self._missing),
            undelivered=self._undelivered,
            dead_letters=self._dead_letters,
        )


def _total(parts: Sequence[Progress]) -> Progress:
    return Progress(
        segments=sum(part.segments for part in parts),
        settled=sum(part.settled for part in parts),
        without_text=sum(part.without_text for part in parts),
        refused=sum(part.refused for part in parts),
        languages=tuple(dict.fromkeys(tag for part in parts for tag in part.languages)),
        missing=dict(sum((Counter(part.missing) for part in parts), Counter[str]())),
        undelivered=sum(part.undelivered for part in parts),
        dead_letters=sum(part.dead_letters for part in parts),
    )


# --- for people ---


def _say_rooms(facts: Sequence[RoomFacts], zone: tzinfo) -> None:
    rows = []
    for one in facts:
        total = _total([progress for _, progress in one.sessions])
        last = max((session.last for session, _ in one.sessions), default=None)
        length = sum(session.duration_seconds for session, _ in one.sessions)
        rows.append([
            one.room if one.room == one.folder else f"{one.room} ({one.folder})",
            str(len(one.sessions)),
            f"{last.astimezone(zone):%Y-%m-%d %H:%M}" if last is not None else "-",
            duration(length),
            duration(sum(session.speech_seconds for session, _ in one.sessions)),
            *_progress_cells(total),
            "; ".join(_not_done_in_folder(one) + _not_done(total)) or "-",
        ])  # fmt: skip
    head = [
        "Room",
        "SESSIONS",
        "Last speech",
        "LENGTH",
        "SPEECH",
        "SEGMENTS",
        "TEXTS",
        "Languages",
        "Not done",
    ]
    say_table(head, rows)


def _say_sessions(facts: Sequence[RoomFacts], zone: tzinfo) -> None:
    head = ["Began", "LENGTH", "SPEECH", "SEGMENTS", "TEXTS", "Languages", "Who", "Session", "Not done"]
    for one in facts:
        say(f"{one.room}, in {one.folder}")
        rows = [
            [
                date_of(session, zone),
                duration(session.duration_seconds),
                duration(session.speech_seconds),
                *_progress_cells(progress),
                ", ".join(session.participants) or "-",
                session.room_sid or "-",
                "; ".join(_not_done(progress)) or "-",
            ]
            for session, progress in one.sessions
        ]
        say_table(head, rows)
        for line in _not_done_in_folder(one):
            say(line)


def _progress_cells(progress: Progress) -> list[str]:
    share = f"{progress.settled}/{progress.segments}" if progress.settled else "none"
    return [str(progress.segments), share, ",".join(progress.languages) or "-"]


def _not_done(progress: Progress) -> list[str]:
    """Formats what is not done; leaves out zeros."""
    counts = {
        "without text": progress.without_text,
        **{f"without {language}": count for language, count in progress.missing.items()},
        "refused": progress.refused,
        "undelivered": progress.undelivered,
        "dead letters (check)": progress.dead_letters,
    }
    return [f"{count} {what}" for what, count in counts.items() if count]


def _not_done_in_folder(facts: RoomFacts) -> list[str]:
    lines = ["being recorded"] if facts.being_recorded else []
    if facts.parts_left:
        lines.append(f"{facts.parts_left} left by a crash (check --repair)")
    if facts.broken_lines:
        lines.append(f"{counted(facts.broken_lines, 'broken line')} (check)")
    return lines


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
                **vars(progress),
            }
            for session, progress in facts.sessions
        ],
    }
