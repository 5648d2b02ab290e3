"""`lessons.py list`: shows rooms and sessions, and what is not done yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from archive.rooms import Archive, Room
from archive.session_counts import Expected
from archive.session_list import sessions_in
from core.errors import StorageError
from core.records import format_utc
from core.session_records import SessionRecord
from lesson_tools import console
from lesson_tools.console import AsJson, counted, duration, say, say_json, say_table, tell
from lesson_tools.expected import expected_of
from lesson_tools.lesson import date_of, not_done


@dataclass(frozen=True)
class RoomFacts:
    """What a room's folder holds."""

    room: str
    folder: str
    sessions: tuple[SessionRecord, ...]
    wants_texts: bool
    """Whether texts are expected, or some segment of the room has one; then all should have one."""
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
    expected = expected_of(settings)
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
    """Reads the sessions of a room.

    Raises:
        StorageError: its lists cannot be read.
    """
    sessions, broken = sessions_in(room, expected)
    being_written = room.parts_being_written()
    return RoomFacts(
        room=sessions[0].room_name if sessions else room.name,
        folder=room.path.name,
        sessions=tuple(sessions),
        wants_texts=expected.texts or any(one.texts.settled or one.texts.refused for one in sessions),
        being_recorded=room.is_being_recorded(),
        parts_left=len(room.parts()) - len(being_written),
        broken_lines=broken,
    )


# --- for people ---


def _say_rooms(facts: Sequence[RoomFacts], zone: tzinfo) -> None:
    rows = []
    for one in facts:
        last = max((session.speech_ended_at for session in one.sessions), default=None)
        rows.append([
            one.room if one.room == one.folder else f"{one.room} ({one.folder})",
            str(len(one.sessions)),
            f"{last.astimezone(zone):%Y-%m-%d %H:%M}" if last is not None else "-",
            duration(sum(session.duration_seconds for session in one.sessions)),
            duration(sum(session.speech_seconds for session in one.sessions)),
            *_progress_cells(one.sessions),
            "; ".join(_not_done_in_folder(one) + not_done(one.sessions, wants_texts=one.wants_texts)) or "-",
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
                *_progress_cells([session]),
                ", ".join(_identities(session)) or "-",
                session.room_sid or "-",
                "; ".join(not_done([session], wants_texts=one.wants_texts)) or "-",
            ]
            for session in one.sessions
        ]
        say_table(head, rows)
        for line in _not_done_in_folder(one):
            say(line)


def _progress_cells(sessions: Sequence[SessionRecord]) -> list[str]:
    segments = sum(session.segments for session in sessions)
    settled = sum(session.texts.settled for session in sessions)
    languages = dict.fromkeys(tag for session in sessions for tag in session.texts.languages)
    return [str(segments), f"{settled}/{segments}" if settled else "none", ",".join(languages) or "-"]


def _identities(session: SessionRecord) -> list[str]:
    return [one.identity for one in session.participants if one.identity]


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
        "sessions": [_session_as_json(facts, session) for session in facts.sessions],
    }


def _session_as_json(facts: RoomFacts, session: SessionRecord) -> dict[str, Any]:
    return {
        "room_sid": session.room_sid,
        "started_at": format_utc(session.started_at),
        "first": format_utc(session.speech_began_at),
        "last": format_utc(session.speech_ended_at),
        "duration_seconds": round(session.duration_seconds, 3),
        "speech_seconds": round(session.speech_seconds, 3),
        "participants": _identities(session),
        "segments": session.segments,
        "settled": session.texts.settled,
        "without_text": session.without_text if facts.wants_texts else 0,
        "refused": session.texts.refused,
        "languages": list(session.texts.languages),
        "missing": {language: count for language, count in session.texts.missing.items() if count},
        "undelivered": session.delivery.undelivered,
        "dead_letters": session.delivery.dead_letters,
        "is_complete": session.is_complete,
    }
