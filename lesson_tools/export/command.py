"""`lessons.py export`: writes a lesson as page, subtitles, text and JSON, aligned with its video if there is one."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from archive.exports import note_export
from archive.files import PRIVATE_FOLDER, FolderLock, write_private
from archive.rooms import Archive, Room
from archive.session_list import sessions_in
from core.errors import InputError, StorageError
from core.records import format_utc
from core.session_records import SessionRecord
from lesson_tools import console
from lesson_tools.console import AsJson, duration, say, say_json, tell
from lesson_tools.expected import expected_of
from lesson_tools.export.contents import ExportOptions, alignment_json, contents
from lesson_tools.export.video import AlignedVideo, Source, aligned_video, in_video_time, source_of
from lesson_tools.lesson import Lesson, chosen_session, file_stem, not_done, read_lesson

FORMATS = ("html", "vtt", "srt", "txt", "json")
ALL_FORMATS = ",".join(FORMATS)
RoomName = Annotated[str, typer.Argument(metavar="ROOM", help="The room, by its name or its folder's.")]
WhichSession = Annotated[
    str | None,
    typer.Option(
        "--session", metavar="SESSION", help="Its number, date or sid, or `all`; default: the last one."
    ),
]
Folder = Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Instead of the room's folder.")]
Formats = Annotated[
    str, typer.Option("--format", metavar="LIST", help=f"Some of {ALL_FORMATS}; default: all.")
]
VideoName = Annotated[
    str | None,
    typer.Option("--video", metavar="FILE|URL", help="Play this video, and line up all times with it."),
]
Offset = Annotated[
    float | None,
    typer.Option(
        "--offset", metavar="SECONDS", help="Where in the video the lesson begins (may be negative)."
    ),
]
EgressFile = Annotated[
    Path | None,
    typer.Option("--egress", metavar="FILE", help="LiveKit's EgressInfo as JSON, or the HLS playlist."),
]
Embed = Annotated[
    bool,
    typer.Option("--embed", help="Put the sound into lesson.html (about 15 MB for an hour of speech)."),
]


def export(
    room: RoomName,
    session: WhichSession = None,
    to: Folder = None,
    formats: Formats = ALL_FORMATS,
    video: VideoName = None,
    offset: Offset = None,
    egress_file: EgressFile = None,
    embed: Embed = False,
    as_json: AsJson = False,
) -> None:
    """Write a lesson as lesson.html, WebVTT and SRT for each language, plain text and JSON.

    lesson.html opens from disk: it plays, searches and shows the lesson. The WAVs stay where they are, beside it.

    With --video, the lesson's place in it is found by its sound, unless --offset or --egress gives it. If the result
    is not certain, nothing is written.
    """  # fmt: skip
    files, source = _formats(formats), source_of(video, offset, egress_file)
    settings = console.settings()
    zone = ZoneInfo(settings.timezone)
    found = Archive.from_settings(settings).one(room)
    sessions, broken = sessions_in(found, expected_of(settings))
    chosen = sessions if session == "all" and sessions else [chosen_session(sessions, session, zone)]
    if source is not None and len(chosen) > 1:
        raise InputError("a video belongs to one session: choose it with --session")
    if found.parts_being_written():
        tell(f"{room} is being recorded right now: this is what has been said so far")
    if broken:
        tell(f"{console.counted(broken, 'broken line')} of the lists left out: see `lessons.py check`")
    target = (to or found.path).expanduser().resolve()
    target.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    answers = []
    for one in chosen:
        options = ExportOptions(target, file_stem(one, sessions, zone), files, zone, embed)
        answers.append(_exported(found, one, source, options) | _state(one))
        if not as_json:
            _say_answer(answers[-1], earlier=len(sessions) - len(chosen))
    if as_json:
        say_json({"lessons": answers})


def _exported(
    room: Room, session: SessionRecord, source: Source | None, options: ExportOptions
) -> dict[str, Any]:
    """Reads, aligns and writes one session; returns the command's answer."""
    lesson, aligned = read_lesson(room, session), None
    if source is not None:
        aligned = aligned_video(source, lesson)
        lesson = in_video_time(lesson, aligned.alignment)
    made = {f"{options.stem}.{ending}": content for ending, content in contents(lesson, aligned, options)}
    _write(room, session, lesson, options.folder, made)
    return _answer(lesson, aligned, options.folder, list(made))


def _state(session: SessionRecord) -> dict[str, Any]:
    """The totals of a session, and what is not done in it."""
    return {
        "speech_seconds": round(session.speech_seconds, 3),
        "gap_seconds": round(sum(gap.seconds for gap in session.gaps.values()), 3),
        "is_complete": session.is_complete,
        "not_done": not_done([session], wants_texts=session.texts.is_wanted),
    }


def _formats(text: str) -> tuple[str, ...]:
    wanted = tuple(part.strip().casefold() for part in text.split(",") if part.strip())
    unknown = [part for part in wanted if part not in FORMATS]
    if unknown or not wanted:
        raise InputError(
            f"--format={text} is wrong: it must be some of {', '.join(FORMATS)}, separated by commas"
        )
    return wanted


def _write(
    room: Room, session: SessionRecord, lesson: Lesson, target: Path, made: Mapping[str, bytes]
) -> None:
    """Writes the files, unless something in them has been erased meanwhile; an erasure after this removes them.

    Raises:
        StorageError: something has been erased.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(FolderLock(room.path))
            if not {one.file for one in lesson.utterances} <= {record.file for record in room.records()}:
                raise StorageError(f"{lesson.room}: something has just been erased: export it again")
            note_export(room.path, target, session.speech_ended_at, made)
        except OSError:
            if target == room.path.resolve():
                raise
            # The archive may be a copy that cannot be written; the lesson goes elsewhere.
        for name, content in made.items():
            write_private(target / name, content)


def _answer(
    lesson: Lesson, aligned: AlignedVideo | None, target: Path, files: Sequence[str]
) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "room": lesson.room,
        "session": lesson.session,
        "started_at": format_utc(lesson.started_at),
        "lines": len(lesson.utterances),
        "without_text": sum(not one.texts for one in lesson.utterances),
        "without_sound": sum(one.wav is None for one in lesson.utterances),
        "languages": list(lesson.languages),
        "folder": str(target),
        "files": list(files),
    }
    if aligned is not None:
        answer["video"] = alignment_json(aligned.alignment)
        answer["not_in_video"] = sum(one.video is None for one in lesson.utterances)
    return answer


def _say_answer(answer: dict[str, Any], earlier: int) -> None:
    if "video" in answer:
        say(_about_video(answer["video"]))
    for key, what in (
        ("without_text", "have no text"),
        ("without_sound", "no longer have a WAV"),
        ("not_in_video", "are not in the video"),
    ):
        if answer.get(key):
            say(f"{answer[key]} of {answer['lines']} lines {what}")
    gaps = f", {duration(answer['gap_seconds'])} of gaps" if answer["gap_seconds"] else ""
    say(f"{duration(answer['speech_seconds'])} of speech{gaps}")
    if answer["not_done"]:
        tell(f"The lesson is not complete: {'; '.join(answer['not_done'])}")
    say(f"Wrote {', '.join(answer['files'])} to {answer['folder']}")
    if earlier:
        tell(
            f"{earlier} other session(s) of this room are left out: see --session and `lessons.py list ROOM`"
        )


def _about_video(video: dict[str, Any]) -> str:
    places = []
    for part in video["parts"]:
        seconds = part["offset_seconds"]
        place = f"{abs(seconds):.2f} s {'into' if seconds >= 0 else 'before'} the video"
        drift = part["drift_seconds_an_hour"]
        places.append(place + (f" (drift {drift:+.2f} s an hour)" if abs(drift) >= 0.005 else ""))
    line = f"The lesson begins {', after a cut '.join(places)}"
    if video["aligned_by"] == "sound":
        line += (
            f"; {video['segments_agreeing']} of {video['segments_compared']} segments agree, "
            f"half of them within {max(1.0, video['residual_milliseconds']):.0f} ms of that"
        )
    return line
