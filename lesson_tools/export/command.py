"""`lessons.py export`: a lesson as files that people read, hear and share, lined up with its video if there is one."""

from __future__ import annotations

import base64
import io
import json
import math
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import numpy as np
import soundfile
import typer

from archive.files import PRIVATE_FOLDER, write_private
from archive.jsonl import Lines
from archive.rooms import Archive, Room
from archive.sessions import Session
from core.errors import InputError
from core.records import SAMPLE_RATE, Pcm, format_utc
from lesson_tools import console
from lesson_tools.console import AsJson, progress, say, say_json, tell
from lesson_tools.decoding import Recording
from lesson_tools.export import egress_times, page, subtitles
from lesson_tools.export.video_alignment import AlignedSpan, Alignment, CannotAlign, Sound, TimeMap, align
from lesson_tools.lesson import Lesson, Utterance, chosen_session, file_stem, read_lesson

FORMATS = ("html", "vtt", "srt", "txt", "json")
ALL_FORMATS = ",".join(FORMATS)
LARGEST_SIDE_FILE = 1 << 24
"""Bytes of a playlist or of egress' JSON; ten hours of HLS are some hundred thousand."""
FETCH_SECONDS = 30.0
MP3_COMPRESSION = 0.9
"""Of soundfile's scale: 24 kbit/s for 16 kHz mono, so that an hour of speech is 14 MB in the page."""


@dataclass(frozen=True)
class Video:
    """The video as it was named: a file's path, or an http(s) address."""

    name: str

    @property
    def is_remote(self) -> bool:
        return urlsplit(self.name).scheme.casefold() in ("http", "https")

    @property
    def is_playlist(self) -> bool:
        return urlsplit(self.name).path.casefold().endswith(".m3u8")

    @property
    def source(self) -> Path | str:
        """What can be opened."""
        return self.name if self.is_remote else Path(self.name)

    def address(self, folder: Path) -> str:
        """How a page in ``folder`` names it."""
        return self.name if self.is_remote else page.address(Path(self.name).resolve(), folder)


RoomName = Annotated[str, typer.Argument(metavar="ROOM", help="The room, by its name or its folder's.")]
WhichSession = Annotated[
    str | None,
    typer.Option("--session", metavar="SESSION", help="Its number, date or sid; `all`. Else the last one."),
]
Folder = Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Instead of the room's folder.")]
Formats = Annotated[str, typer.Option("--format", metavar="LIST", help=f"Some of {ALL_FORMATS}; else all.")]
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

    With --video, the lesson's place in it is found by its sound, unless --offset or --egress tells it. If that is not
    sure, nothing is written.
    """  # fmt: skip
    files, source = _formats(formats), _source(video, offset, egress_file)
    settings = console.settings()
    zone = ZoneInfo(settings.timezone)
    found = Archive.from_settings(settings).one(room)
    lines = Lines()
    sessions = found.sessions(found.records(lines=lines))
    chosen = sessions if session == "all" and sessions else [chosen_session(sessions, session, zone)]
    if source is not None and len(chosen) > 1:
        raise InputError("one video belongs to one session: name that with --session")
    if found.parts_being_written():
        tell(f"{room} is being recorded right now: this is what has been said so far")
    if lines.broken:
        count = console.counted(len(lines.broken), "broken line")
        tell(f"{count} of the manifest left out: see `lessons.py check`")
    target = (to or found.path).expanduser().resolve()
    target.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    answers = []
    for one in chosen:
        wanted = Wanted(target, file_stem(one, sessions, zone), files, zone, embed)
        answers.append(_exported(found, one, source, wanted))
        if not as_json:
            _say_answer(answers[-1], earlier=len(sessions) - len(chosen))
    if as_json:
        say_json({"lessons": answers})


@dataclass(frozen=True)
class Wanted:
    """Which files of a session, and where."""

    folder: Path
    stem: str
    """What their names begin with."""
    formats: Sequence[str]
    zone: tzinfo
    embed: bool
    """Whether the page holds the sound itself."""


def _exported(room: Room, session: Session, source: Source | None, wanted: Wanted) -> dict[str, Any]:
    """Reads, lines up and writes one session; returns what there is to say of it."""
    lesson, film = read_lesson(room, session), None
    if source is not None:
        film = _film(source, lesson)
        lesson = _in_video(lesson, film.alignment)
    return _answer(lesson, film, wanted.folder, _write(lesson, film, wanted))


def _formats(text: str) -> tuple[str, ...]:
    wanted = tuple(part.strip().casefold() for part in text.split(",") if part.strip())
    unknown = [part for part in wanted if part not in FORMATS]
    if unknown or not wanted:
        raise InputError(
            f"--format={text} is wrong: it must be some of {', '.join(FORMATS)}, separated by commas"
        )
    return wanted


# --- the video ---


@dataclass(frozen=True)
class Source:
    """A video, and what was said of where the lesson is in it."""

    video: Video
    offset: float | None
    egress_file: Path | None


@dataclass(frozen=True)
class Film:
    """A video and where the lesson is in it."""

    video: Video
    alignment: Alignment


def _source(video: str | None, offset: float | None, egress_file: Path | None) -> Source | None:
    if offset is not None and (egress_file is not None or not math.isfinite(offset)):
        raise InputError("--offset must be a number of seconds, and without --egress")
    if video is not None:
        return Source(Video(video), offset, egress_file)
    if offset is not None or egress_file is not None:
        raise InputError("--offset and --egress say where a --video begins: name it, too")
    return None


def _film(source: Source, lesson: Lesson) -> Film:
    video = source.video
    if not video.is_remote and not Path(video.name).is_file():
        state = "is no file" if Path(video.name).exists() else "is not there"
        raise InputError(f"--video={video.name} {state}")
    alignment = _aligned(source, lesson)
    if all(alignment.video_time(one.start) is None for one in lesson.utterances):
        raise InputError(
            f"--video={video.name} was made at another time than this lesson, by {alignment.source}"
        )
    return Film(video, alignment)


def _aligned(source: Source, lesson: Lesson) -> Alignment:
    """The surest way there is: what we were told, else what egress noted, else what can be heard."""
    video, egress_file = source.video, source.egress_file
    if source.offset is not None:
        return _bounded(Alignment.from_offset(source.offset), video)
    if egress_file is not None:
        return _bounded(_by_egress(_side_file(str(egress_file), False), egress_file.name, lesson), video)
    if video.is_playlist:
        try:
            return _by_egress(_side_file(video.name, video.is_remote), "the playlist", lesson)
        except InputError as without_date:
            tell(f"{without_date}: listening instead")
    return _by_sound(video, lesson)


def _bounded(alignment: Alignment, video: Video) -> Alignment:
    if video.is_remote or video.is_playlist:
        return alignment
    with Recording(video.source) as recording:
        return replace(alignment, video_seconds=recording.about.duration_seconds or math.inf)


def _by_egress(text: str, name: str, lesson: Lesson) -> Alignment:
    try:
        found = egress_times.stretches(text)
    except InputError as problem:
        raise InputError(f"{name}: {problem}") from None
    parts = []
    for one in found:
        began = (one.recorded_at - lesson.started_at).total_seconds()
        parts.append(AlignedSpan(TimeMap(one.video - began), began, began + one.seconds))
    return Alignment(tuple(parts), "egress", max(one.video + one.seconds for one in found))


def _side_file(name: str, is_remote: bool) -> str:
    try:
        if is_remote:
            with urllib.request.urlopen(name, timeout=FETCH_SECONDS) as answer:
                data = answer.read(LARGEST_SIDE_FILE)
        else:
            with open(name, "rb") as file:
                data = file.read(LARGEST_SIDE_FILE)
    except (OSError, ValueError) as error:
        raise InputError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return str(data.decode("utf-8-sig", "replace"))


def _by_sound(video: Video, lesson: Lesson) -> Alignment:
    sounds = [
        Sound(one.start, one.end - one.start, _loader(one.wav))
        for one in lesson.utterances
        if one.wav is not None
    ]
    if not sounds:
        raise InputError("the lesson has no WAVs to find in the video: say where it begins with --offset")
    with Recording(video.source) as recording:
        length = recording.about.duration_seconds or 0.0
        with progress("Listening to the video", length, "s") as advance:
            try:
                return align(sounds, _heard(recording, advance))
            except CannotAlign as reason:
                raise CannotAlign(
                    f"{video.name}: {reason}. If it is the right one, use --offset or --egress"
                ) from None


def _heard(recording: Recording, advance: console.Advance) -> Iterator[Pcm]:
    for piece in recording.sound(from_start=True):
        advance(len(piece) / SAMPLE_RATE)
        yield piece


def _loader(wav: Path) -> Callable[[], Pcm]:
    def load() -> Pcm:
        """A damaged WAV counts as one without sound."""
        try:
            pcm, rate = soundfile.read(wav, dtype="int16")
        except (soundfile.SoundFileError, OSError):
            return np.zeros(0, np.int16)
        return np.asarray(pcm if rate == SAMPLE_RATE and pcm.ndim == 1 else [], np.int16)

    return load


def _in_video(lesson: Lesson, alignment: Alignment) -> Lesson:
    return replace(
        lesson,
        utterances=tuple(replace(one, video=alignment.video_time(one.start)) for one in lesson.utterances),
    )


# --- the files ---


def _write(lesson: Lesson, film: Film | None, wanted: Wanted) -> list[str]:
    written = []
    for ending, content in _contents(lesson, film, wanted):
        written.append(f"{wanted.stem}.{ending}")
        write_private(wanted.folder / written[-1], content)
    return written


def _contents(lesson: Lesson, film: Film | None, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    """Each file's ending and what is in it."""
    formats = wanted.formats
    if "html" in formats:
        yield "html", _page(lesson, film, wanted).encode()
    for language in lesson.languages:
        said = lesson.said(language, in_video=film is not None)
        if "vtt" in formats:
            yield f"{language}.vtt", subtitles.webvtt(said, language, lesson.room).encode()
        if "srt" in formats:  # with a byte order mark: the format does not say which encoding it is in
            yield f"{language}.srt", subtitles.srt(said).encode("utf-8-sig")
        if "txt" in formats:
            yield f"{language}.txt", subtitles.plain_text(lesson.said(language)).encode()
    if "json" in formats:
        document = json.dumps(_document(lesson, film), ensure_ascii=False, indent=1)
        yield "json", f"{document}\n".encode("utf-8", "replace")


def _page(lesson: Lesson, film: Film | None, wanted: Wanted) -> str:
    video = film.video.address(wanted.folder) if film is not None else None

    def beside(one: Utterance) -> str | None:
        return None if one.wav is None else page.address(one.wav.resolve(), wanted.folder)

    if not wanted.embed:
        return page.page(lesson, page.Media(video, beside), wanted.zone)
    with progress("Compressing", len(lesson.utterances), "segments") as advance:

        def embedded(one: Utterance) -> str | None:
            advance(1)
            return None if one.wav is None else _as_data(one.wav)

        return page.page(lesson, page.Media(video, embedded), wanted.zone)


def _as_data(wav: Path) -> str | None:
    """A WAV as an address that holds its sound as MP3, which every browser plays; None if it is damaged."""
    pcm = _loader(wav)()
    if not len(pcm):
        return None
    compressed = io.BytesIO()
    soundfile.write(
        compressed,
        pcm,
        SAMPLE_RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="CONSTANT",
        compression_level=MP3_COMPRESSION,
    )
    return f"data:audio/mpeg;base64,{base64.b64encode(compressed.getvalue()).decode()}"


def _document(lesson: Lesson, film: Film | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "room": lesson.room,
        "session": lesson.session,
        "started_at": format_utc(lesson.started_at),
        "duration_seconds": round(lesson.seconds, 3),
        "languages": list(lesson.languages),
        "speakers": list(lesson.speakers),
    }
    if film is not None:
        document["video"] = {"name": film.video.name, **_alignment_json(film.alignment)}
    document["lines"] = [
        {
            "number": one.number,
            "start_seconds": round(one.start, 3),
            "end_seconds": round(one.end, 3),
            **({} if film is None else {"video_seconds": None if one.video is None else round(one.video, 3)}),
            "speaker": one.speaker,
            "file": one.file if one.wav is not None else None,
            "language": one.spoken,
            "texts": dict(one.texts),
        }
        for one in lesson.utterances
    ]
    return document


def _alignment_json(alignment: Alignment) -> dict[str, Any]:
    return {
        "aligned_by": alignment.source,
        "parts": [
            {
                "offset_seconds": round(part.line.offset, 4),
                "drift_seconds_an_hour": round(part.line.drift * 3600, 4),
                "from_seconds": round(part.first, 3) if math.isfinite(part.first) else None,
                "to_seconds": round(part.last, 3) if math.isfinite(part.last) else None,
            }
            for part in alignment.parts
        ],
        "segments_agreeing": alignment.agreeing,
        "segments_compared": alignment.measured,
        "residual_milliseconds": round(alignment.residual_seconds * 1000, 1),
    }


# --- the answer ---


def _answer(lesson: Lesson, film: Film | None, target: Path, files: Sequence[str]) -> dict[str, Any]:
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
    if film is not None:
        answer["video"] = _alignment_json(film.alignment)
        answer["not_in_video"] = sum(one.video is None for one in lesson.utterances)
    return answer


def _say_answer(answer: dict[str, Any], earlier: int) -> None:
    if "video" in answer:
        say(_about_video(answer["video"]))
    for key, what in (
        ("without_text", "have no text"),
        ("without_sound", "have no WAV any more"),
        ("not_in_video", "are not in the video"),
    ):
        if answer.get(key):
            say(f"{answer[key]} of {answer['lines']} lines {what}")
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
