"""`lessons.py play`: opens a lesson or a segment in the system's player."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from archive.rooms import Archive, Room
from core.errors import InputError, StorageError
from core.records import SegmentRecord
from lesson_tools import console
from lesson_tools.console import duration, say, tell
from lesson_tools.lesson import chosen_session, date_of, file_stem

PLAYLIST_FOLDER = "voice-segmenter"
OPENERS = ("xdg-open", "wslview", "gio")


def play(
    room: Annotated[str, typer.Argument(help="The room's name, or its folder's.")],
    number: Annotated[int | None, typer.Argument(metavar="[N]", help="This segment only.")] = None,
    session: Annotated[
        str | None,
        typer.Option("--session", metavar="SESSION", help="Its number, date or sid; default: the last one."),
    ] = None,
    show: Annotated[bool, typer.Option("--print", help="Only print which file would be opened.")] = False,
) -> None:
    """Open a segment in the system's player; without N the room's last lesson: the exported page, else a playlist."""
    settings = console.settings()
    if number is not None and session is not None:
        raise InputError(f"Segment {number} is in one session only: leave out --session")
    found = Archive.from_settings(settings).one(room)
    if number is not None:
        target = _segment(found, number)
    else:
        target = _lesson(found, session, ZoneInfo(settings.timezone))
    say(str(target))
    if not show:
        _open(target)


def _segment(room: Room, number: int) -> Path:
    record = next((record for record in room.records() if record.number == number), None)
    if record is None:
        raise InputError(f"Room {room.name!r} has no segment {number}")
    wav = room.wav(record)
    if wav is None:
        raise InputError(f"{record.file} no longer exists: only its text was kept, or it was lost")
    with room.texts() as texts:
        text = texts.get(record)
    for language, words in text.by_language.items() if text is not None else ():
        tell(f"{language}: {words}")
    return wav


def _lesson(room: Room, session: str | None, zone: ZoneInfo) -> Path:
    """Returns the exported page if there is one, else a new playlist of the session's segments in order of time."""
    sessions = room.sessions()
    chosen = chosen_session(sessions, session, zone)
    if len(sessions) > 1:
        tell(f"session {sessions.index(chosen) + 1} of {len(sessions)}, {date_of(chosen, zone)}")
    page = room.path / f"{file_stem(chosen, sessions, zone)}.html"
    if page.is_file():
        return page
    playable = (record for record in room.records(chosen.room_sid) if room.wav(record) is not None)
    records = sorted(playable, key=lambda record: record.start)
    if not records:
        raise InputError(f"Nothing of this session of {room.name!r} can be played: its WAVs are gone")
    tell(f"{len(records)} segments, {duration(sum(record.duration_seconds for record in records))}")
    return _playlist(room, records, zone)


def _playlist(room: Room, records: Iterable[SegmentRecord], zone: ZoneInfo) -> Path:
    """Writes an M3U playlist to the system's temporary folder; the room's folder is not changed."""
    lines = ["#EXTM3U"]
    for record in records:
        lines.append(f"#EXTINF:{record.duration_seconds:.3f},{_title(record, record.start.astimezone(zone))}")
        lines.append((room.path / record.file).resolve().as_uri())
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{PLAYLIST_FOLDER}-"))
        path = folder / "lesson.m3u8"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"No playlist can be written: {error.strerror or error}") from None
    return path


def _title(record: SegmentRecord, moment: datetime) -> str:
    """Formats a title on one line, whatever characters a name has."""
    who = " ".join((record.participant_name or record.participant_identity).split())
    return f"{moment:%H:%M:%S} {''.join(character for character in who if character.isprintable())}".strip()


def _open(path: Path) -> None:
    """Opens a file with the system's program for it.

    Raises:
        StorageError: the system has no program to open it with.
    """
    try:
        if sys.platform == "win32":
            os.startfile(path)
        else:
            subprocess.run(
                [*_opener(), str(path)],
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
    except (OSError, subprocess.CalledProcessError):
        raise StorageError(f"This system has no program to open it with: {path}") from None


def _opener() -> Sequence[str]:
    if sys.platform == "darwin":
        return ["open"]
    found = next((name for name in OPENERS if shutil.which(name)), None)
    if found is None:
        raise OSError("no opener")
    return [found, "open"] if found == "gio" else [found]
