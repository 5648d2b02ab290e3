"""Reads what lessons have left on disk: rooms, sessions, segments and their texts. Writes nothing.

Everything is read line by line and when it is asked for, so a room may hold hundreds of thousands of segments. A line
that is not one of ours is left out and counted; a name that leads out of the room's folder is no name.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any

from config import Settings
from files import FolderLock, is_abandoned
from manifest import record_in
from names import HEARD_FILE, MANIFEST, PART_SUFFIX, TEXTS, SegmentNames, is_plain_name, safe_name
from segments import InputError, SegmentRecord, StorageError, TextRecord

LANGUAGE_TAG = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
"""BCP 47 as far as it names spoken languages; also what makes a tag safe as part of a file name."""

LIVE_SECONDS = 10.0
"""A recorder leaves word every second that it listens; a busy disk may take longer."""

LINES_TO_KNOW_IT_BY = 100
"""A manifest has a line of ours among its first."""

LONGEST_LINE_BYTES = 1 << 20
"""No line of ours comes near; a file without line ends must not fill the memory."""


@dataclass(frozen=True)
class Text:
    """What is known of a segment's words."""

    spoken: str | None
    """BCP 47 tag of the language spoken; None where nothing tells."""
    by_language: Mapping[str, str]
    """Text by BCP 47 tag, the transcript among them; empty where nothing intelligible was said."""
    refused: str | None = None
    """Why there will never be a text."""
    model: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    """Names of the text files beside the WAV, by language."""
    is_audio_kept: bool = True
    """False: the WAV goes, or has gone, now that its text is safe (SAVE_AUDIO=false)."""

    @property
    def transcript(self) -> str | None:
        return self.by_language.get(self.spoken) if self.spoken is not None else None


@dataclass(frozen=True)
class Session:
    """One lesson in a room: what was recorded between the room's creation and its end, as LiveKit counts them."""

    room_sid: str
    """Empty for segments that a crash left without a name."""
    room_name: str
    started_at: datetime
    """When the room was created, where a segment tells, else the start of the first segment (UTC)."""
    first: datetime
    """Start of the first segment."""
    last: datetime
    """End of the last one."""
    segments: int
    speech_seconds: float
    participants: tuple[str, ...]
    """Identities, sorted."""

    @property
    def duration_seconds(self) -> float:
        """From the session's start to the end of its last segment."""
        return max(0.0, (self.last - self.started_at).total_seconds())


@dataclass
class Lines:
    """How the reading of a file went; filled while it is read."""

    read: int = 0
    broken: list[int] = field(default_factory=list)
    """Numbers of the lines that are not ours, counted from 1."""


class Archive:
    """The folder that holds one folder a room."""

    def __init__(self, path: Path, names: SegmentNames) -> None:
        self.path = path
        self._names = names

    @classmethod
    def from_settings(cls, settings: Settings) -> Archive:
        return cls(Path(settings.output_dir), SegmentNames.from_settings(settings))

    def rooms(self) -> list[Room]:
        """Every folder that holds something of ours, sorted by name.

        Raises:
            InputError: there is no such folder.
            StorageError: it cannot be read.
        """
        try:
            entries = sorted(os.scandir(self.path), key=lambda entry: entry.name)
        except FileNotFoundError:
            raise InputError(f"OUTPUT_DIR={self.path} is not there: nothing has been recorded yet") from None
        except OSError as error:
            raise StorageError(f"OUTPUT_DIR={self.path} cannot be read: {error.strerror or error}") from None
        folders = (Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
        return [Room(path) for path in folders if not path.name.startswith(".") and self._is_ours(path)]

    def find(self, name: str) -> list[Room]:
        """The room's folders, by the room's name or the folder's: more than one if ROOM_DIR parts the sessions.

        Raises:
            InputError: there is none.
        """
        for wanted in (name, safe_name(name)):
            path = self.path / wanted
            if is_plain_name(wanted) and path.is_dir() and not path.is_symlink():
                if not self._is_ours(path):
                    raise InputError(f"{path} holds no recording of ours")
                return [Room(path)]
        rooms = self.rooms()
        found = [room for room in rooms if room.name == name]
        if not found:
            near = [room.name for room in rooms if name.casefold() in room.name.casefold()]
            hint = f"perhaps {', '.join(map(repr, near[:5]))}" if near else "`lessons.py list` shows all"
            raise InputError(f"There is no room {name!r} in {self.path} ({hint})")
        return found

    def chosen(self, names: Iterable[str] | None) -> list[Room]:
        """The folders of the named rooms, each once; of all rooms if none is named."""
        if not names:
            return self.rooms()
        return list({room.path: room for name in names for room in self.find(name)}.values())

    def one(self, name: str) -> Room:
        """The room's only folder.

        Raises:
            InputError: there is none, or more than one.
        """
        found = self.find(name)
        if len(found) > 1:
            folders = ", ".join(room.path.name for room in found[:5])
            raise InputError(f"Room {name!r} has {len(found)} folders, name one of them: {folders} ...")
        return found[0]

    def _is_ours(self, path: Path) -> bool:
        if _is_manifest(path / MANIFEST):
            return True
        with contextlib.suppress(OSError), os.scandir(path) as entries:
            return any(
                entry.is_file(follow_symlinks=False) and self._names.number_in(entry.name) is not None
                for entry in entries
            )
        return False


def _is_manifest(path: Path) -> bool:
    """Whether a file is ours, and not another program's that has the same name: empty, or with a line of ours."""
    if not path.is_file():
        return False
    with contextlib.suppress(StorageError):  # what cannot be read is said where it is needed
        first = [line for _, line in itertools.islice(lines_of(path), LINES_TO_KNOW_IT_BY)]
        return not first or any(record_in(line) is not None for line in first)
    return True


class Room:
    """One room's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._name: str | None = None

    @property
    def name(self) -> str:
        """The room's name as LiveKit has it; the folder's where no segment tells."""
        if self._name is None:
            first = next(self.records(), None)
            self._name = first.room_name if first else self.path.name
        return self._name

    def records(self, session: str | None = None, lines: Lines | None = None) -> Iterator[SegmentRecord]:
        """The segments in the order of the manifest, which is the order they ended in; each file once.

        Args:
            session: only those of the session with this room sid.
            lines: told how many lines were read and which are broken.

        Raises:
            StorageError: the manifest cannot be read.
        """
        seen: set[str] = set()
        lines = lines if lines is not None else Lines()
        for _, line in lines_of(self.path / MANIFEST):
            lines.read += 1
            record = record_in(line)
            if record is None or not is_plain_name(record.file):
                lines.broken.append(lines.read)
            elif record.file not in seen and session in (None, record.room_sid):
                seen.add(record.file)
                yield record

    def sessions(self, records: Iterable[SegmentRecord] | None = None) -> list[Session]:
        """The sessions by their start, from one pass over the manifest (or over ``records``)."""
        found: dict[str, _Sum] = {}
        for record in self.records() if records is None else records:
            found.setdefault(record.room_sid, _Sum(record)).add(record)
        return sorted((one.session() for one in found.values()), key=lambda session: session.started_at)

    def texts(self) -> Texts:
        """All texts of the room, each read when it is asked for.

        Raises:
            StorageError: they cannot be read.
        """
        return Texts(self.path)

    def wav(self, record: SegmentRecord) -> Path | None:
        """The segment's WAV, None if it is not there (SAVE_AUDIO=false, retention) or no ordinary file."""
        path = self.path / record.file
        return path if is_plain_name(record.file) and path.is_file() and not path.is_symlink() else None

    def is_being_recorded(self) -> bool:
        """Whether a recorder is in the room at this moment, in its silences, too."""
        if self.parts_being_written():
            return True
        with contextlib.suppress(OSError):
            return abs(time.time() - (self.path / HEARD_FILE).stat().st_mtime) < LIVE_SECONDS
        return False

    def parts_being_written(self) -> list[str]:
        """Names of the files that a recorder has its hand on at this moment."""
        parts = self.parts()
        if not parts:
            return []
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # a folder that cannot be written has no recorder either
                stack.enter_context(
                    FolderLock(self.path)
                )  # our look must not meet a part that is being begun
            return [path.name for path in parts if not _is_let_go(path)]

    def line_count(self) -> int:
        """About how many segments there are: the manifest's lines, counted quickly."""
        try:
            with open(self.path / MANIFEST, "rb") as file:
                return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))
        except OSError:
            return 0

    def parts(self) -> list[Path]:
        """What has not become a segment: being spoken right now, or left by a crash."""
        with contextlib.suppress(OSError), os.scandir(self.path) as entries:
            return sorted(
                Path(entry.path)
                for entry in entries
                if entry.name.endswith(".wav" + PART_SUFFIX) and entry.is_file(follow_symlinks=False)
            )
        return []


def _is_let_go(path: Path) -> bool:
    try:
        return is_abandoned(path)
    except FileNotFoundError:
        return False  # it has just become a segment
    except OSError:
        return True  # a disk that cannot be written has no recorder either


def lines_of(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Lines of a file of ours with the byte each begins at; none if there is no file.

    Of a line that is far too long only the beginning.

    Raises:
        StorageError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            position = file.seek(start)
            while line := file.readline(LONGEST_LINE_BYTES):
                yield position, line
                while line and not line.endswith(b"\n"):
                    line = file.readline(LONGEST_LINE_BYTES)
                position = file.tell()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from None


class _Sum:
    """A session while it is being added up."""

    def __init__(self, record: SegmentRecord) -> None:
        self._sid, self._name = record.room_sid, record.room_name
        self._first, self._last = record.start, record.end
        self._started_at: datetime | None = None
        self._segments = 0
        self._seconds = 0.0
        self._participants: set[str] = set()

    def add(self, record: SegmentRecord) -> None:
        self._first = min(self._first, record.start)
        self._last = max(self._last, record.end)
        if self._started_at is None and record.offset_seconds is not None:
            with contextlib.suppress(OverflowError):
                self._started_at = record.start - timedelta(seconds=record.offset_seconds)
        self._segments += 1
        self._seconds += record.duration_seconds
        if record.participant_identity:
            self._participants.add(record.participant_identity)

    def session(self) -> Session:
        return Session(
            room_sid=self._sid,
            room_name=self._name,
            started_at=self._started_at or self._first,
            first=self._first,
            last=self._last,
            segments=self._segments,
            speech_seconds=self._seconds,
            participants=tuple(sorted(self._participants)),
        )


# --- texts ---


class Texts:
    """The texts of one room. Memory holds where each one lies, not what it says.

    ``texts.jsonl`` is the source, its last line about a segment counts. Where a segment has no line there, or one that
    does not quote the text, the ``.txt`` files beside the WAV are read.
    """

    def __init__(self, folder: Path) -> None:
        self.lines = Lines()
        """How the reading of texts.jsonl went."""
        self._folder = folder
        self._places = self._index()
        self._tags_of_stem: dict[str, list[str]] | None = None
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        """How many segments have a line in texts.jsonl."""
        return len(self._places)

    def __contains__(self, record: object) -> bool:
        """Whether a segment's text is settled: there, or refused for good."""
        return isinstance(record, SegmentRecord) and (
            record.number in self._places or bool(self._tags(record))
        )

    def get(self, record: SegmentRecord) -> Text | None:
        """What is known of a segment's words; None if its text is still to come."""
        line = self._line(record.number)
        if line is not None:
            return text_of_line(self._folder, record.file, line, self._tags(record))
        files = _files_of(record.file, self._tags(record))
        return Text(None, _contents(self._folder, files), files=files) if files else None

    def entry(self, record: SegmentRecord) -> TextRecord | None:
        """The segment's line in texts.jsonl as its writer had it."""
        try:
            line = self._line(record.number)
            return TextRecord.from_json(line) if line is not None else None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Texts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _index(self) -> dict[int, int]:
        """Where in texts.jsonl the last line about each segment begins."""
        places: dict[int, int] = {}
        for position, line in lines_of(self._folder / TEXTS):
            self.lines.read += 1
            entry = entry_in(line)
            if entry is None:
                self.lines.broken.append(self.lines.read)
            else:
                places[entry["number"]] = position
        return places

    def _line(self, number: int) -> dict[str, Any] | None:
        place = self._places.get(number)
        if place is None:
            return None
        try:
            if self._file is None:
                self._file = open(self._folder / TEXTS, "rb")
            self._file.seek(place)
            return entry_in(self._file.readline(LONGEST_LINE_BYTES))
        except OSError as error:
            raise StorageError(f"{self._folder / TEXTS} cannot be read: {error.strerror or error}") from None

    # The files beside the WAV.

    def _tags(self, record: SegmentRecord) -> list[str]:
        if self._tags_of_stem is None:
            self._tags_of_stem = _tags_by_stem(self._folder)
        return self._tags_of_stem.get(Path(record.file).stem, [])


def text_of_line(folder: Path, wav: str, line: Mapping[str, Any], tags: Iterable[str] = ()) -> Text:
    """What a line of texts.jsonl says of a segment's words.

    Where it does not quote them, the text files in these languages (and those that the line names) are read.
    """
    if line.get("refused") is not None:
        return Text(None, {}, refused=str(line["refused"]))
    spoken, named = _tag(line.get("language")), _named_files(wav, line)
    if isinstance(line.get("transcript"), str):
        texts = _quoted(line, spoken)
    else:
        texts = _contents(folder, {**named, **_files_of(wav, tags)})
    return Text(
        spoken,
        texts,
        model=line["model"] if isinstance(line.get("model"), str) else None,
        files=named,
        is_audio_kept=line.get("is_audio_kept") is not False,
    )


def _contents(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    found = {tag: _content(folder / file) for tag, file in files.items()}
    return {tag: text for tag, text in found.items() if text}


def _files_of(wav: str, tags: Iterable[str]) -> dict[str, str]:
    return {tag: f"{Path(wav).stem}_{tag}.txt" for tag in tags}


def _named_files(wav: str, line: Mapping[str, Any]) -> dict[str, str]:
    """Those of the files that a line names whose names are this segment's, by language."""
    names = line.get("files")
    stem = f"{Path(wav).stem}_"
    texts = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    tags = {name.removeprefix(stem).removesuffix(".txt"): name for name in texts}
    return {
        tag: name for tag, name in tags.items() if LANGUAGE_TAG.fullmatch(tag) and name == f"{stem}{tag}.txt"
    }


def entry_in(line: bytes) -> dict[str, Any] | None:
    """A line of texts.jsonl as a dictionary with a ``number``; None for anything else."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(entry, dict) and type(entry.get("number")) is int
    return entry if is_ours else None


def _quoted(line: Mapping[str, Any], spoken: str | None) -> dict[str, str]:
    """The texts that a line quotes, the transcript first."""
    texts = {spoken: line["transcript"]} if spoken is not None and line["transcript"] else {}
    translations = line.get("translations")
    for tag, text in translations.items() if isinstance(translations, dict) else ():
        if _tag(tag) is not None and isinstance(text, str) and text and tag not in texts:
            texts[tag] = text
    return texts


def _tag(value: object) -> str | None:
    return value if isinstance(value, str) and LANGUAGE_TAG.fullmatch(value) else None


def _tags_by_stem(folder: Path) -> dict[str, list[str]]:
    """Languages of the .txt files, by what stands before the language in their names."""
    found: dict[str, list[str]] = {}
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder)):
            stem, _, tag = name.removesuffix(".txt").rpartition("_")
            if name.endswith(".txt") and stem and LANGUAGE_TAG.fullmatch(tag):
                found.setdefault(stem, []).append(tag)
    return found


def _content(path: Path) -> str | None:
    try:
        if path.is_symlink():
            return None
        with open(path, "rb") as file:
            return file.read(LONGEST_LINE_BYTES).decode("utf-8", "replace").strip()
    except OSError:
        return None
