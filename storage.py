"""Names, files and the manifest: what makes a spoken word safe.

A segment lives through these files, all in the room's folder:

    .segment_007_20251008_140951.json      who speaks since when (so that a crash forgets nothing); then
    segment_007_20251008_140951.wav.part   the audio so far: a valid WAV at every moment (fact 29), locked; then
    segment_007_20251008_140951.wav        the same file renamed, when the segment has ended; then
    segments.jsonl                         one line more, and the first file goes.

Each step is on the disk before the next begins, so whatever stops the process, :meth:`RoomFolder.recover` can tell
from the files alone how far it came. Everything here blocks and belongs on a disk thread; nothing here is shared
between threads, and :class:`FolderLock` keeps other processes and threads of the same folder apart.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
import string
import struct
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from zoneinfo import ZoneInfo

import numpy as np
import soundfile

from config import DEVICE_NAME, Settings
from hearing import MOST_WORD_BYTES, Before, Heard, Hearing, Word, is_plausible
from segments import (
    BYTES_PER_SAMPLE,
    NO_WISHES,
    SAMPLE_RATE,
    EndReason,
    GapRecord,
    InputError,
    Pcm,
    RoomInfo,
    SegmentRecord,
    SpeechSegment,
    StorageError,
    StreamClock,
    TextWishes,
    TrackInfo,
    format_utc,
    parse_utc,
)

logger = logging.getLogger("recorder")

MANIFEST = "segments.jsonl"
GAPS = "gaps.jsonl"
"""The manifest's other half, what may be missing: a file of its own, so that every line of MANIFEST is a segment."""
TEXTS = "texts.jsonl"
HEARD_FILE = ".heard"
"""One line of JSON: which room is being listened to, and how far each track has been heard. Changes every second."""
LOCK_FILE = ".lock"
PART_SUFFIX = ".part"
WAV_HEADER_BYTES = 44

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


# --- names ---

_LOOKS_HASHED = re.compile(r"-[0-9a-f]{10}\Z", re.IGNORECASE)
_NAME_BYTES = 80
"""Leaves room for the rest of a file name within 255 bytes, and of a path within Windows' 260 characters."""


def is_plain_name(name: str) -> bool:
    """Whether a name that a file gave us is the name of an ordinary file in the same folder."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:  # half a character: no name of ours
        return False
    return 0 < length <= 255 and not name.startswith(".") and not set(name) & set("/\\:\0")


def safe_name(text: str) -> str:
    """A file name for ``text`` that every system takes, and no other text has.

    A harmless text stays as it is. Any other is cleaned and gets a dash and ten digits of its SHA-256; a text that
    already looks so gets them too, hence two texts never share a name. Letter case is not looked at here.
    """
    cleaned = "".join(character if _is_harmless(character) else "_" for character in text)
    cleaned = _shortened(unicodedata.normalize("NFC", cleaned)).strip(" .") or "_"
    if DEVICE_NAME.fullmatch(cleaned):
        cleaned = f"_{cleaned}"
    if cleaned == text and not _LOOKS_HASHED.search(text):
        return text
    return f"{cleaned}-{_digest(text)}"


def _is_harmless(character: str) -> bool:
    """Letters, marks and digits of every script, and four signs. Not: controls, direction marks, separators."""
    return character in "-_. " or unicodedata.category(character)[0] in "LMN"


def _shortened(text: str) -> str:
    return text.encode("utf-8", "surrogatepass")[:_NAME_BYTES].decode("utf-8", "ignore")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]


@dataclass(frozen=True)
class SegmentNames:
    """The names of a room's files, after the template in the settings."""

    template: str
    zone: ZoneInfo

    @classmethod
    def from_settings(cls, settings: Settings) -> SegmentNames:
        return cls(settings.segment_name, ZoneInfo(settings.timezone))

    def stem(self, number: int, moment: datetime, room: RoomInfo, track: TrackInfo) -> str:
        return self.template.format(
            number=f"{number:03d}",
            time=f"{moment.astimezone(self.zone):%Y%m%d_%H%M%S}",
            room=safe_name(room.name),
            identity=safe_name(track.participant_identity),
            source=track.source,
        )

    def number_in(self, file_name: str) -> int | None:
        """The segment number in the name of any of its files; None for a name that is not of this template."""
        pattern = ""
        for literal, name, _, _ in string.Formatter().parse(self.template):
            pattern += re.escape(literal)
            if name is not None:
                # The same number may stand in a name twice; one of them is enough.
                pattern += r"\d{3,}" if name == "number" and "<number>" in pattern else _PLACEHOLDER[name]
        found = re.fullmatch(pattern + _ENDING, file_name.removeprefix("."))
        return int(found["number"]) if found else None


_PLACEHOLDER = {
    "number": r"(?P<number>\d{3,})",
    "time": r"\d{8}_\d{6}",
    "room": r".+",
    "identity": r".+",
    "source": r"[a-z_]+",
}
_ENDING = r"(\.wav|\.wav\.part|\.json|_[A-Za-z0-9-]+\.txt)?"


# --- locks and other small tools of the trade ---


def try_lock(file: IO[bytes]) -> bool:
    """Locks an open file for this handle; False if another handle holds it. The system unlocks it at a crash."""
    try:
        if sys.platform == "win32":
            import msvcrt

            # Windows' locks forbid reading, so a byte that no file has is locked.
            position = file.tell()
            file.seek(0x7FFF_FFFF)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(position)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


class FolderLock:
    """``with FolderLock(folder):`` keeps every other process and thread out of the folder's names and manifest."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._file: IO[bytes] | None = None

    def __enter__(self) -> None:
        file = open_private(self._path, os.O_RDWR | os.O_CREAT)
        try:
            while not try_lock(file):
                time.sleep(0.005)
        except BaseException:
            file.close()
            raise
        self._file = file

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()


class Reservation:
    """``with Reservation(folder, "FILE_1"):`` keeps that work for this process; another one is turned away.

    Raises:
        InputError: somebody else is at it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f".{name}.lock"
        self._file: IO[bytes] | None = None

    def __enter__(self) -> None:
        while self._file is None:
            file = open_private(self._path, os.O_RDWR | os.O_CREAT)
            if not try_lock(file):
                file.close()
                raise InputError(
                    f"{self._path.parent.name}: the same is being done by another process right now"
                )
            if _is_still_at(file, self._path):
                self._file = file
            else:  # whoever had it has just finished, and removed it
                file.close()

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # Windows removes no open file
                self._path.unlink()
            self._file.close()


def _is_still_at(file: IO[bytes], path: Path) -> bool:
    """Whether the name still means this open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


def open_private(path: Path, flags: int) -> IO[bytes]:
    """An unbuffered binary file, 0600 if it is new."""
    descriptor = os.open(
        path, flags | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0), PRIVATE_FILE
    )
    return os.fdopen(descriptor, "r+b", buffering=0)


def _is_ordinary_or_none(path: Path) -> bool:
    """Whether a name is free or an ordinary file's: what else there may be is not ours, and might be waited for."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return True


def write_all(file: IO[bytes], data: bytes) -> None:
    """Writes everything: a full disk may take a part of it, without an error, before it refuses the rest."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _sync_file(path: Path) -> None:
    with open_private(path, os.O_RDWR) as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes renames and new names in ``folder`` last. Windows and some network disks cannot; they need not."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def wav_header(samples: int) -> bytes:
    """The 44 bytes before ``samples`` samples of PCM s16le, mono, 16 kHz (RIFF/WAVE, format tag 1)."""
    size = samples * BYTES_PER_SAMPLE
    riff = struct.pack("<4sI4s", b"RIFF", WAV_HEADER_BYTES - 8 + size, b"WAVE")
    layout = struct.pack(
        "<4sIHHIIHH",
        b"fmt ",
        16,
        1,
        1,
        SAMPLE_RATE,
        SAMPLE_RATE * BYTES_PER_SAMPLE,
        BYTES_PER_SAMPLE,
        8 * BYTES_PER_SAMPLE,
    )
    return riff + layout + struct.pack("<4sI", b"data", size)


def prepare_output_dir(path: Path) -> None:
    """Makes sure that the output folder is there and can be written.

    Raises:
        StorageError: it is not, with the reason in one line.
    """
    try:
        path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        with FolderLock(path):
            list(path.iterdir())
    except OSError as error:
        raise StorageError(f"OUTPUT_DIR={path} cannot be used: {error.strerror or error}") from error


def prove_disk(folder: Path) -> int:
    """Does in ``folder`` what a segment takes: writes, syncs, renames. Returns the free bytes there.

    Raises:
        OSError: one of these was refused.
    """
    name = f".proof-{secrets.token_hex(4)}"  # workers of other machines may have this disk, too
    part, proof = folder / f"{name}{PART_SUFFIX}", folder / name
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    try:
        _write_whole(part, bytes(65_536))
        os.replace(part, proof)
        sync_folder(folder)
    finally:
        for path in (part, proof):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    return shutil.disk_usage(folder).free


# --- one room's folder ---


class RoomFolder:
    """The folder of one room: gives out numbers, begins segments, and mends what a crash left."""

    def __init__(self, path: Path, room: RoomInfo, names: SegmentNames) -> None:
        self.path = path
        self.room = room
        self._names = names
        self._before: Before | None = None
        self._is_heard = False
        self._highest_number = 0
        self._manifest_bytes_read = 0

    @classmethod
    def open(cls, settings: Settings, room: RoomInfo) -> RoomFolder:
        """The room's folder, created if need be, with everything that a crash left in it recovered.

        Raises:
            OSError: the disk does not let it.
        """
        names = SegmentNames.from_settings(settings)
        folder = cls(_folder_for(settings, room, names.zone), room, names)
        folder.recover()
        return folder

    def recover(self) -> list[SegmentRecord]:
        """Makes segments of what a crash has left in the folder."""
        return recover_folder(self.path, self._names)

    def hear(self, heard: Heard) -> None:
        """Leaves word how far we have heard. It may be lost with the power, but not with the process.

        Raises:
            OSError: the disk does not let it.
        """
        before, now = self._look_back(), heard.now or heard.until
        self._is_heard = True
        first = Hearing(self.room.started_at)
        named = {sid: one or before.hearing(sid, now) or first for sid, one in heard.tracks.items()}
        line = Word(self.room.sid, heard.until, named, now).to_line()
        if not _is_ordinary_or_none(self.path / HEARD_FILE):
            return
        with open_private(self.path / HEARD_FILE, os.O_RDWR | os.O_CREAT) as file:
            write_all(file, line)  # over what was there: at no moment is there no word
            file.truncate(len(line))

    def heard_before(self, track_sid: str, now: datetime) -> datetime | None:
        """Until when other recorders have heard a track of this session on this disk; None: none was there."""
        hearing = self._look_back().hearing(track_sid, now)
        return hearing.everything_until if hearing else None

    def _look_back(self) -> Before:
        if self._before is None or not self._is_heard:
            self._before = Before(self._word(), self._last_ends())
        return self._before

    def _word(self) -> Word | None:
        """None as well if it cannot be read: speech must not wait for it, and a gap is then too long."""
        path = self.path / HEARD_FILE
        if not path.exists() or not _is_ordinary_or_none(path):
            return None
        try:
            with open_private(path, os.O_RDONLY) as file:
                text, changed_at = file.read(MOST_WORD_BYTES), os.fstat(file.fileno()).st_mtime
            if text == self.room.sid.encode():  # by a version that said only so much
                return Word(self.room.sid, datetime.fromtimestamp(changed_at, timezone.utc))
        except (OSError, ValueError, OverflowError) as error:
            logger.warning("%s cannot be read: %s", path, error)
            return None
        word = Word.in_line(text)
        return word if word and word.room_sid == self.room.sid else None

    def _last_ends(self) -> dict[str, datetime]:
        records = (record for record in read_manifest(self.path) if record.room_sid == self.room.sid)
        return {record.track_sid: record.end for record in records if is_plausible(record.end)}

    def note_gap(self, gap: GapRecord) -> None:
        """Owns up to a time from which speech may be missing."""
        self.path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        with FolderLock(self.path):
            _append_line(self.path / GAPS, gap.to_json())

    def begin(self, track: TrackInfo, clock: StreamClock, start_sample: int, speech_sample: int) -> PartFile:
        """Reserves the next number and creates the files of a segment that is being spoken.

        Raises:
            OSError: the disk does not let it; nothing is left behind that could be mistaken for a segment.
        """
        self.path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        with FolderLock(self.path):
            taken = os.listdir(self.path)
            number = self._highest_known(taken) + 1
            while (note := self._note(number, track, clock, start_sample, speech_sample)).is_taken(taken):
                number += 1
            part = PartFile.create(self.path, note)
            self._highest_number = number
            return part

    def _note(
        self, number: int, track: TrackInfo, clock: StreamClock, start_sample: int, speech_sample: int
    ) -> _OpenNote:
        stem = self._names.stem(number, clock.at(speech_sample), self.room, track)
        return _OpenNote(number, f"{stem}.wav", self.room, track, clock.anchor, start_sample)

    def _highest_known(self, names: list[str]) -> int:
        """The highest number in what is new in the manifest and in the names (other recorders write too)."""
        lines, self._manifest_bytes_read = _new_lines(self.path, self._manifest_bytes_read)
        in_manifest = [record.number for record in _records(lines, self.path)]
        in_names = [self._names.number_in(name) or 0 for name in names]
        return max(self._highest_number, *in_manifest, *in_names, 0)


def _folder_for(settings: Settings, room: RoomInfo, zone: ZoneInfo) -> Path:
    """The folder that belongs to this room alone, even where "Room" and "room" are one name to the disk."""
    output_dir = Path(settings.output_dir)
    name = settings.room_dir.format(
        room=safe_name(room.name),
        room_sid=safe_name(room.sid),
        date=f"{room.started_at.astimezone(zone):%Y%m%d}",
    )
    output_dir.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    with FolderLock(output_dir):
        there = [unicodedata.normalize("NFC", entry) for entry in os.listdir(output_dir)]
        if name not in there and name.casefold() in (entry.casefold() for entry in there):
            name = f"{name}-{_digest(room.name)}"
        path = output_dir / name
        path.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    return path


# --- the segment being spoken ---


@dataclass(frozen=True)
class _OpenNote:
    """What is known of a segment when it begins; kept beside its audio until the manifest has its line."""

    number: int
    file: str
    room: RoomInfo
    track: TrackInfo
    anchor: datetime
    start_sample: int

    @property
    def path_name(self) -> str:
        return f".{Path(self.file).stem}.json"

    def is_taken(self, names: list[str]) -> bool:
        """Whether any file of this segment is there already. A template can make two numbers look alike."""
        return bool({self.file, self.file + PART_SUFFIX, self.path_name} & set(names))

    @property
    def start(self) -> datetime:
        return StreamClock(self.anchor).at(self.start_sample)

    def record(
        self,
        samples: int,
        sha256: str,
        end_reason: EndReason,
        probabilities: tuple[float, float] | None = None,
        wishes: TextWishes = NO_WISHES,
    ) -> SegmentRecord:
        return SegmentRecord(
            number=self.number,
            file=self.file,
            room_name=self.room.name,
            room_sid=self.room.sid,
            participant_identity=self.track.participant_identity,
            participant_name=self.track.participant_name,
            track_sid=self.track.track_sid,
            track_source=self.track.source,
            start=self.start,
            end=StreamClock(self.anchor).at(self.start_sample + samples),
            offset_seconds=(self.start - self.room.started_at).total_seconds(),
            duration_seconds=samples / SAMPLE_RATE,
            mean_probability=probabilities[0] if probabilities else None,
            lowest_probability=probabilities[1] if probabilities else None,
            end_reason=end_reason,
            sha256=sha256,
            speaking_language=wishes.speaking_language,
            caption_languages=wishes.caption_languages,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "file": self.file,
            "room": {**vars(self.room), "started_at": self.room.started_at.isoformat()},
            "track": vars(self.track),
            "anchor": self.anchor.isoformat(),
            "start_sample": self.start_sample,
        }

    @classmethod
    def from_json(cls, note: dict[str, Any]) -> _OpenNote:
        return cls(
            number=int(note["number"]),
            file=str(note["file"]),
            room=RoomInfo(
                str(note["room"]["name"]), str(note["room"]["sid"]), parse_utc(note["room"]["started_at"])
            ),
            track=TrackInfo(**{key: str(value) for key, value in note["track"].items()}),
            anchor=parse_utc(note["anchor"]),
            start_sample=int(note["start_sample"]),
        )


class PartFile:
    """A segment on its way to disk: grows while it is spoken, and becomes a WAV with a manifest line at the end.

    Every method may raise OSError. Growing is only for the case of a crash, so after an error there the caller just
    goes on; :meth:`commit` brings the whole PCM, and can be called again until it succeeds.
    """

    def __init__(self, folder: Path, note: _OpenNote, file: IO[bytes] | None) -> None:
        self._folder = folder
        self._note = note
        self._file = file
        self._safe_samples = 0
        """How many samples are certain to be on the disk."""
        self._unsafe: list[Pcm] = []
        """What came after them: a refused write or sync leaves it open what of it is on the disk."""
        self._may_be_listed = False

    @classmethod
    def create(cls, folder: Path, note: _OpenNote) -> PartFile:
        """Creates both files, or neither. The caller holds the folder's lock."""
        part = cls(folder, note, None)
        try:
            _write_whole(folder / note.path_name, json.dumps(note.to_json(), ensure_ascii=False).encode())
            part._file = part._create_file()
            sync_folder(folder)
        except BaseException:
            part.abandon()
            for path in (part._part_path, folder / note.path_name):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            raise
        return part

    @property
    def name(self) -> str:
        """The file's name once it is committed."""
        return self._note.file

    @property
    def _part_path(self) -> Path:
        return self._folder / (self._note.file + PART_SUFFIX)

    @property
    def _final_path(self) -> Path:
        return self._folder / self._note.file

    @property
    def is_all_on_disk(self) -> bool:
        """Whether everything that was appended is certain to be there."""
        return not self._unsafe

    def append(self, pcm: Pcm) -> None:
        """Adds PCM and makes it last. The header is patched after the samples: it never promises what is not there."""
        assert self._file is not None, "a committed segment cannot grow"
        self._unsafe.append(pcm)
        self._write_behind_what_is_safe(np.concatenate(self._unsafe))

    def abandon(self) -> None:
        """Lets go of the file; recovery makes a segment of what is in it."""
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):
                file.close()

    def commit(self, segment: SpeechSegment, wishes: TextWishes = NO_WISHES) -> SegmentRecord:
        """Gives the segment its final bounds, its name and its line in the manifest.

        Safe to repeat after an error: whatever had been done is done over from the segment's own PCM.
        """
        self._folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        self._bring_to(segment.pcm)
        with FolderLock(self._folder):
            if sys.platform == "win32":
                self.abandon()  # Windows renames no open file; elsewhere ours stays locked to the end
            os.replace(self._part_path, self._final_path)
            sync_folder(self._folder)
            record = self._note.record(
                len(segment.pcm),
                hashlib.sha256(wav_header(len(segment.pcm)) + _pcm_bytes(segment.pcm)).hexdigest(),
                segment.end_reason,
                (segment.mean_probability, segment.lowest_probability),
                wishes,
            )
            self._list(record)
            with contextlib.suppress(OSError):  # a note that stays is cleared away by the next recovery
                (self._folder / self._note.path_name).unlink(missing_ok=True)
        self.abandon()
        return record

    def _list(self, record: SegmentRecord) -> None:
        """Adds the line, once: a refused attempt may have written it all the same."""
        if self._may_be_listed and any(one.file == record.file for one in read_manifest(self._folder)):
            _sync_file(self._folder / MANIFEST)
            return
        self._may_be_listed = True
        append_manifest(self._folder, record)

    def _bring_to(self, pcm: Pcm) -> None:
        """Makes the part hold exactly ``pcm``: shorter after a split, else by what had not been written yet."""
        if not self._is_still_there():
            self.abandon()
            self._file = self._create_file()
        assert self._file is not None
        self._safe_samples = min(self._safe_samples, len(pcm))
        self._unsafe = []
        self._write_header(self._safe_samples)
        self._file.truncate(WAV_HEADER_BYTES + self._safe_samples * BYTES_PER_SAMPLE)
        self._write_behind_what_is_safe(pcm[self._safe_samples :])

    def _is_still_there(self) -> bool:
        return self._file is not None and _is_still_at(self._file, self._part_path)

    def _create_file(self) -> IO[bytes]:
        file = open_private(self._part_path, os.O_RDWR | os.O_CREAT)
        self._safe_samples = 0
        try:
            if not try_lock(file):
                raise StorageError(f"{self._part_path.name} is being written by another recorder")
            file.truncate(0)
            write_all(file, wav_header(0))
        except BaseException:
            file.close()
            raise
        return file

    def _write_behind_what_is_safe(self, pcm: Pcm) -> None:
        """Adds samples, then lets the header say so, then syncs. What fails is written over by the next call."""
        assert self._file is not None
        self._file.seek(WAV_HEADER_BYTES + self._safe_samples * BYTES_PER_SAMPLE)
        write_all(self._file, _pcm_bytes(pcm))
        self._write_header(self._safe_samples + len(pcm))
        os.fsync(self._file.fileno())
        self._safe_samples += len(pcm)
        self._unsafe = []

    def _write_header(self, samples: int) -> None:
        assert self._file is not None
        self._file.seek(0)
        write_all(self._file, wav_header(samples))


def _pcm_bytes(pcm: Pcm) -> bytes:
    return pcm.astype("<i2", copy=False).tobytes()


def _write_whole(path: Path, data: bytes) -> None:
    file = open_private(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    with file:
        write_all(file, data)
        os.fsync(file.fileno())


# --- the manifest ---


def append_manifest(folder: Path, record: SegmentRecord) -> None:
    """Adds a line and makes it last. The caller holds the folder's lock."""
    _append_line(folder / MANIFEST, record.to_json())


def _append_line(path: Path, entry: dict[str, Any]) -> None:
    """A line that a full disk tore is taken back."""
    line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
    with open_private(path, os.O_RDWR | os.O_CREAT) as file:
        end, fragment = _last_fragment(file)
        if _is_whole(fragment):  # only its line end is missing
            end, line = end + len(fragment), b"\n" + line
        try:
            file.truncate(end)
            file.seek(end)
            write_all(file, line)
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise
    sync_folder(path.parent)


def _is_whole(fragment: bytes) -> bool:
    try:
        return isinstance(json.loads(fragment), dict)
    except (ValueError, RecursionError):
        return False


def _last_fragment(file: IO[bytes]) -> tuple[int, bytes]:
    """Where the last whole line ends, and what stands behind it."""
    position = file.seek(0, os.SEEK_END)
    fragment = b""
    while position:
        start = max(0, position - 4096)
        file.seek(start)
        fragment = file.read(position - start) + fragment
        newline = fragment.rfind(b"\n")
        if newline >= 0:
            return start + newline + 1, fragment[newline + 1 :]
        position = start
    return 0, fragment


def read_manifest(folder: Path) -> Iterator[SegmentRecord]:
    """The records of a folder in the order of the manifest. A line that is not one of ours is skipped, with a warning.

    Raises:
        OSError: the manifest is there and cannot be read.
    """
    try:
        manifest = open(folder / MANIFEST, "rb")
    except FileNotFoundError:
        return
    with manifest:
        yield from _records(manifest, folder)


def _records(lines: Iterable[bytes], folder: Path) -> Iterator[SegmentRecord]:
    for count, line in enumerate(lines, start=1):
        record = record_in(line)
        if record is not None:
            yield record
        else:
            logger.warning("Line %d of %s is broken and was skipped", count, folder / MANIFEST)


def record_in(line: bytes) -> SegmentRecord | None:
    """The record that a line of a manifest describes; None for anything else."""
    try:
        return SegmentRecord.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def gap_in(line: bytes) -> GapRecord | None:
    """The gap that a line of the list of gaps describes; None for anything else."""
    try:
        return GapRecord.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def read_gaps(folder: Path) -> Iterator[GapRecord]:
    """The times from which speech may be missing, in the order in which they were noticed. Broken lines are skipped.

    Raises:
        OSError: the file is there and cannot be read.
    """
    try:
        lines = (folder / GAPS).read_bytes().splitlines()
    except FileNotFoundError:
        return
    yield from filter(None, map(gap_in, lines))


def _new_lines(folder: Path, start: int) -> tuple[list[bytes], int]:
    """The whole lines of the manifest behind byte ``start``, and where they end."""
    try:
        with open(folder / MANIFEST, "rb") as manifest:
            if manifest.seek(0, os.SEEK_END) < start:
                start = 0  # somebody has replaced it
            manifest.seek(start)
            whole, newline, _ = manifest.read().rpartition(b"\n")
    except FileNotFoundError:
        return [], 0
    return whole.splitlines(), start + len(whole) + len(newline)


# --- mending by hand ---


def mend_wav(path: Path, samples: int) -> None:
    """Gives a WAV of ours the header it should have, and takes away what stands behind its last sample."""
    with open_private(path, os.O_RDWR) as file:
        file.truncate(WAV_HEADER_BYTES + samples * BYTES_PER_SAMPLE)
        write_all(file, wav_header(samples))
        os.fsync(file.fileno())


def write_private(path: Path, data: bytes) -> None:
    """Writes a small file, 0600, that is there whole or not at all, and lasts."""
    whole = path.with_name(f".{path.name}.new")
    _write_whole(whole, data)
    os.replace(whole, path)
    sync_folder(path.parent)


def set_broken_lines_aside(folder: Path) -> int:
    """Moves the manifest's broken lines into ``segments.jsonl.broken``, and returns how many there were.

    Nothing is thrown away: the WAV such a line spoke of becomes an unlisted one, which recovery lists anew.

    Raises:
        OSError: the disk does not let it; the manifest is as it was.
    """
    with FolderLock(folder):
        manifest = folder / MANIFEST
        lines = manifest.read_bytes().splitlines(keepends=True) if manifest.exists() else []
        broken = [line for line in lines if record_in(line) is None]
        if not broken:
            return 0
        with open_private(folder / f"{MANIFEST}.broken", os.O_RDWR | os.O_CREAT | os.O_APPEND) as aside:
            write_all(aside, b"".join(line.rstrip(b"\r\n") + b"\n" for line in broken))
            os.fsync(aside.fileno())
        write_private(manifest, b"".join(line for line in lines if record_in(line) is not None))
        return len(broken)


# --- after a crash ---


def recover_all(settings: Settings) -> list[SegmentRecord]:
    """Recovers every room's folder below the output folder. One that cannot be read is named in the log, no more."""
    names = SegmentNames.from_settings(settings)
    recovered: list[SegmentRecord] = []
    for path in sorted(Path(settings.output_dir).iterdir()):
        if not path.is_dir() or path.is_symlink():
            continue
        try:
            recovered += recover_folder(path, names)
        except OSError as error:
            logger.error("Folder %s cannot be recovered now: %s", path.name, error.strerror or error)
    return recovered


def recover_folder(folder: Path, names: SegmentNames) -> list[SegmentRecord]:
    """Turns what a crash left into segments: parts that nobody writes any more, and WAVs without a manifest line.

    Raises:
        OSError: the folder cannot be read or written.
    """
    if not _Recovery(folder, names).finds_anything():
        return []
    with FolderLock(folder):
        return _Recovery(folder, names).run()


class _Recovery:
    """One pass over one folder. Files that nothing shows to be ours are left alone."""

    def __init__(self, folder: Path, names: SegmentNames) -> None:
        self._folder = folder
        self._names = names
        self._records = list(read_manifest(folder))
        self._is_ours = bool(self._records)

    def finds_anything(self) -> bool:
        """Whether there is anything to do. Needs no lock: what changes meanwhile has a living owner."""
        return bool(self._parts() or self._unlisted_wavs() or self._notes())

    def run(self) -> list[SegmentRecord]:
        """Does it. The caller holds the folder's lock."""
        recovered = [
            record for part in self._abandoned_parts() if (record := self._adopt_part(*part)) is not None
        ]
        recovered += [self._adopt_wav(path) for path in self._unlisted_wavs() if is_abandoned(path)]
        self._remove_stale_notes()
        return recovered

    # What is ours: it has a note, or a name like ours, or (a WAV) our format in a folder with our manifest.

    def _parts(self) -> list[Path]:
        found = _files(self._folder, ".wav" + PART_SUFFIX)
        return [path for path in found if self._is_known(path.name.removesuffix(PART_SUFFIX))]

    def _unlisted_wavs(self) -> list[Path]:
        listed = {record.file for record in self._records}
        unlisted = [path for path in _files(self._folder, ".wav") if path.name not in listed]
        return [path for path in unlisted if self._is_known(path.name, self._is_ours) and _samples_in(path)]

    def _notes(self) -> list[Path]:
        """Notes without a living part."""
        return [
            path
            for path in _files(self._folder, ".json")
            if path.name.startswith(".")
            and self._is_known(f"{path.stem[1:]}.wav")
            and not (self._folder / f"{path.stem[1:]}.wav{PART_SUFFIX}").exists()
        ]

    def _is_known(self, file: str, is_ours: bool = False) -> bool:
        return is_ours or self._names.number_in(file) is not None or self._note_of(file) is not None

    def _abandoned_parts(self) -> list[tuple[Path, _OpenNote, int]]:
        """Parts that nobody writes, with their notes and lengths, overlaps resolved, in the order spoken."""
        found = []
        for path in filter(is_abandoned, self._parts()):
            note = self._note_of(path.name.removesuffix(PART_SUFFIX)) or self._guessed_note(path)
            found.append((path, note, _samples_in(path)))
        found.sort(key=lambda part: part[1].start)
        return _without_overlaps(found)

    def _adopt_part(self, path: Path, note: _OpenNote, samples: int) -> SegmentRecord | None:
        final = self._folder / note.file
        has_more = (
            final.exists() and _samples_in(final) >= samples
        )  # renamed before, and being written once more
        if samples == 0 or has_more or self._is_committed(note):
            path.unlink()
            return None
        mend_wav(path, samples)
        os.replace(path, final)
        sync_folder(self._folder)
        return self._list(note, samples)

    def _adopt_wav(self, path: Path) -> SegmentRecord:
        note = self._note_of(path.name) or self._guessed_note(path)
        return self._list(note, _samples_in(path))

    def _list(self, note: _OpenNote, samples: int) -> SegmentRecord:
        digest = hashlib.sha256((self._folder / note.file).read_bytes()).hexdigest()
        record = note.record(samples, digest, EndReason.RECOVERED)
        if note.room.sid == "":
            record = replace(record, offset_seconds=None)
        append_manifest(self._folder, record)
        self._records.append(record)
        (self._folder / note.path_name).unlink(missing_ok=True)
        return record

    def _is_committed(self, note: _OpenNote) -> bool:
        """Whether the manifest has this segment: the disk refused to let go of the part, not to take the WAV."""
        start = format_utc(note.start)
        return note.track.track_sid != "" and any(
            record.track_sid == note.track.track_sid and format_utc(record.start) == start
            for record in self._records
        )

    def _note_of(self, file: str) -> _OpenNote | None:
        try:
            note = _OpenNote.from_json(json.loads((self._folder / f".{Path(file).stem}.json").read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return note if note.file == file else None

    def _guessed_note(self, path: Path) -> _OpenNote:
        """The best that can be said of audio that nobody has left a note about."""
        file = path.name.removesuffix(PART_SUFFIX)
        taken = {record.number for record in self._records}
        number = self._names.number_in(file)
        if number is None or number in taken:
            number = max(taken, default=0) + 1
        ended = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
        started = ended - timedelta(seconds=_samples_in(path) / SAMPLE_RATE)
        room = next((RoomInfo(record.room_name, "", started) for record in self._records), None)
        return _OpenNote(
            number,
            file,
            room or RoomInfo(self._folder.name, "", started),
            TrackInfo("", "", "", "unknown"),
            started,
            0,
        )

    def _remove_stale_notes(self) -> None:
        for path in self._notes():
            path.unlink(missing_ok=True)


def _files(folder: Path, ending: str) -> list[Path]:
    """Regular files whose names end so, sorted; neither folders that are called like one nor links."""
    paths = (folder / name for name in sorted(os.listdir(folder)) if name.endswith(ending))
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def is_abandoned(path: Path) -> bool:
    """Whether no recorder, this one or another, has its hand on the file."""
    with open_private(path, os.O_RDWR) as file:
        return try_lock(file)


def _samples_in(path: Path) -> int:
    """Samples in a WAV of ours, 0 for anything else.

    What a part holds beyond its header's promise was written just before the crash.
    """
    if path.name.endswith(PART_SUFFIX):
        return max(0, path.stat().st_size - WAV_HEADER_BYTES) // BYTES_PER_SAMPLE
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError):
        return 0
    is_ours = (info.samplerate, info.channels, info.subtype) == (SAMPLE_RATE, 1, "PCM_16")
    return int(info.frames) if is_ours else 0


def _without_overlaps(parts: list[tuple[Path, _OpenNote, int]]) -> list[tuple[Path, _OpenNote, int]]:
    """At a split the next part takes over the end of the one before; a crash in between leaves it in both."""
    kept: list[tuple[Path, _OpenNote, int]] = []
    last_of_stream: dict[tuple[TrackInfo, datetime], int] = {}
    for path, note, samples in parts:
        stream = (note.track, note.anchor)
        if note.track.track_sid and stream in last_of_stream:
            index = last_of_stream[stream]
            before_path, before, before_samples = kept[index]
            before_end = before.start_sample + before_samples
            if note.start_sample + samples <= before_end:
                samples = 0
            elif note.start_sample < before_end:
                kept[index] = (before_path, before, note.start_sample - before.start_sample)
        if samples:
            last_of_stream[stream] = len(kept)
        kept.append((path, note, samples))
    return kept
