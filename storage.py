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
import struct
import sys
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from zoneinfo import ZoneInfo

import soundfile

from config import Settings
from segments import (
    BYTES_PER_SAMPLE,
    SAMPLE_RATE,
    EndReason,
    Pcm,
    RoomInfo,
    SegmentRecord,
    SpeechSegment,
    StorageError,
    StreamClock,
    TrackInfo,
    format_utc,
    parse_utc,
)

logger = logging.getLogger("recorder")

MANIFEST = "segments.jsonl"
LOCK_FILE = ".lock"
PART_SUFFIX = ".part"
WAV_HEADER_BYTES = 44

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


# --- names ---

_DEVICE_NAME = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_LOOKS_HASHED = re.compile(r"-[0-9a-f]{10}\Z")
_NAME_BYTES = 80
"""Leaves room for the rest of a file name within 255 bytes, and of a path within Windows' 260 characters."""


def safe_name(text: str) -> str:
    """A file name for ``text`` that every system takes, and no other text has.

    A harmless text stays as it is. Any other is cleaned and gets a dash and ten digits of its SHA-256; a text that
    already looks so gets them too, hence two texts never share a name. Letter case is not looked at here.
    """
    cleaned = "".join(character if _is_harmless(character) else "_" for character in text)
    cleaned = _shortened(unicodedata.normalize("NFC", cleaned)).strip(" .") or "_"
    if _DEVICE_NAME.fullmatch(cleaned):
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
        pattern = re.escape(self.template).replace(r"\{", "{").replace(r"\}", "}")
        pattern = pattern.replace("{number}", r"(?P<number>\d{3,})", 1).replace("{number}", r"\d{3,}")
        pattern = re.sub(r"\{(room|identity|source|time)\}", lambda match: _PLACEHOLDER[match[1]], pattern)
        found = re.match(pattern, file_name.removeprefix("."))
        return int(found["number"]) if found else None


_PLACEHOLDER = {"time": r"\d{8}_\d{6}", "room": r".+?", "identity": r".+?", "source": r"[a-z_]+"}


# --- locks and other small tools of the trade ---


def _try_lock(file: IO[bytes]) -> bool:
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
        file = _open_private(self._path, os.O_RDWR | os.O_CREAT)
        try:
            while not _try_lock(file):
                time.sleep(0.005)
        except BaseException:
            file.close()
            raise
        self._file = file

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()


def _open_private(path: Path, flags: int) -> IO[bytes]:
    """An unbuffered binary file, 0600 if it is new."""
    descriptor = os.open(
        path, flags | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0), PRIVATE_FILE
    )
    return os.fdopen(descriptor, "r+b", buffering=0)


def _write_all(file: IO[bytes], data: bytes) -> None:
    """Writes everything: a full disk may take a part of it, without an error, before it refuses the rest."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _sync_folder(folder: Path) -> None:
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


# --- one room's folder ---


class RoomFolder:
    """The folder of one room: gives out numbers, begins segments, and mends what a crash left."""

    def __init__(self, path: Path, room: RoomInfo, names: SegmentNames) -> None:
        self.path = path
        self.room = room
        self._names = names
        self._highest_number: int | None = None

    @classmethod
    def open(cls, settings: Settings, room: RoomInfo) -> RoomFolder:
        """The room's folder, created if need be, with everything that a crash left in it recovered.

        Raises:
            OSError: the disk does not let it.
        """
        names = SegmentNames.from_settings(settings)
        folder = cls(_folder_for(settings, room, names.zone), room, names)
        recover_folder(folder.path, names)
        return folder

    def begin(self, track: TrackInfo, clock: StreamClock, start_sample: int, speech_sample: int) -> PartFile:
        """Reserves the next number and creates the files of a segment that is being spoken.

        Raises:
            OSError: the disk does not let it; nothing is left behind that could be mistaken for a segment.
        """
        self.path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        with FolderLock(self.path):
            number = self._next_number()
            stem = self._names.stem(number, clock.at(speech_sample), self.room, track)
            note = _OpenNote(number, f"{stem}.wav", self.room, track, clock.anchor, start_sample)
            return PartFile.create(self.path, note)

    def _next_number(self) -> int:
        """One more than any number in the manifest (read once) or in a file name (other recorders write too)."""
        if self._highest_number is None:
            self._highest_number = max((record.number for record in read_manifest(self.path)), default=0)
        in_names = (self._names.number_in(name) or 0 for name in os.listdir(self.path))
        self._highest_number = max(self._highest_number, *in_names, 0) + 1
        return self._highest_number


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

    @property
    def start(self) -> datetime:
        return StreamClock(self.anchor).at(self.start_sample)

    def record(
        self,
        samples: int,
        sha256: str,
        end_reason: EndReason,
        probabilities: tuple[float, float] | None = None,
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
        self._samples = 0
        """How many samples are known to be in the file."""

    @classmethod
    def create(cls, folder: Path, note: _OpenNote) -> PartFile:
        """Creates both files. The caller holds the folder's lock."""
        _write_whole(folder / note.path_name, json.dumps(note.to_json(), ensure_ascii=False).encode())
        part = cls(folder, note, None)
        part._file = part._create_file()
        _sync_folder(folder)
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

    def append(self, pcm: Pcm) -> None:
        """Adds PCM and makes it last. The header is patched after the samples: it never promises what is not there."""
        assert self._file is not None, "a committed segment cannot grow"
        self._write_at_end(pcm)
        os.fsync(self._file.fileno())

    def commit(self, segment: SpeechSegment) -> SegmentRecord:
        """Gives the segment its final bounds, its name and its line in the manifest.

        Safe to repeat after an error: whatever had been done is done over from the segment's own PCM.
        """
        self._folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        self._bring_to(segment.pcm)
        with FolderLock(self._folder):
            if sys.platform == "win32":
                self._close_file()  # Windows renames no open file; elsewhere ours stays locked to the end
            os.replace(self._part_path, self._final_path)
            _sync_folder(self._folder)
            record = self._note.record(
                len(segment.pcm),
                hashlib.sha256(wav_header(len(segment.pcm)) + _pcm_bytes(segment.pcm)).hexdigest(),
                segment.end_reason,
                (segment.mean_probability, segment.lowest_probability),
            )
            append_manifest(self._folder, record)
            (self._folder / self._note.path_name).unlink(missing_ok=True)
        self._close_file()
        return record

    def _bring_to(self, pcm: Pcm) -> None:
        """Makes the part hold exactly ``pcm``: shorter after a split, else by what had not been written yet."""
        if not self._is_still_there():
            self._close_file()
            self._file = self._create_file()
        assert self._file is not None
        if len(pcm) < self._samples:
            self._samples = len(pcm)
        self._write_at_end(pcm[self._samples :])
        self._file.truncate(WAV_HEADER_BYTES + len(pcm) * BYTES_PER_SAMPLE)
        os.fsync(self._file.fileno())

    def _is_still_there(self) -> bool:
        if self._file is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._part_path))
        except OSError:
            return False

    def _create_file(self) -> IO[bytes]:
        file = _open_private(self._part_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._samples = 0
        try:
            if not _try_lock(file):
                raise StorageError(f"{self._part_path.name} is being written by another recorder")
            _write_all(file, wav_header(0))
        except BaseException:
            file.close()
            raise
        return file

    def _write_at_end(self, pcm: Pcm) -> None:
        """Adds samples, then lets the header say so. After an error the next call writes over what came of it."""
        assert self._file is not None
        self._file.seek(WAV_HEADER_BYTES + self._samples * BYTES_PER_SAMPLE)
        _write_all(self._file, _pcm_bytes(pcm))
        self._file.seek(0)
        _write_all(self._file, wav_header(self._samples + len(pcm)))
        self._samples += len(pcm)

    def _close_file(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):
                file.close()


def _pcm_bytes(pcm: Pcm) -> bytes:
    return pcm.astype("<i2", copy=False).tobytes()


def _write_whole(path: Path, data: bytes) -> None:
    file = _open_private(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    with file:
        _write_all(file, data)
        os.fsync(file.fileno())


# --- the manifest ---


def append_manifest(folder: Path, record: SegmentRecord) -> None:
    """Adds a line and makes it last. The caller holds the folder's lock. A line that a full disk tore is taken back."""
    line = json.dumps(record.to_json(), ensure_ascii=False).encode() + b"\n"
    file = _open_private(folder / MANIFEST, os.O_RDWR | os.O_CREAT)
    with file:
        size = _end_of_last_line(file)
        try:
            file.truncate(size)
            file.seek(size)
            _write_all(file, line)
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise
    _sync_folder(folder)


def _end_of_last_line(file: IO[bytes]) -> int:
    """Where the next line belongs: the end of the file, or, after a torn line, where that one began."""
    size = file.seek(0, os.SEEK_END)
    while size:
        start = max(0, size - 4096)
        file.seek(start)
        chunk = file.read(size - start)
        newline = chunk.rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        size = start
    return 0


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
        for count, line in enumerate(manifest, start=1):
            try:
                yield SegmentRecord.from_json(json.loads(line))
            except (ValueError, KeyError, TypeError, RecursionError):
                logger.warning("Line %d of %s is broken and was skipped", count, folder / MANIFEST)


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
    if not _has_leftovers(folder, names):
        return []
    with FolderLock(folder):
        return _Recovery(folder, names).run()


def _has_leftovers(folder: Path, names: SegmentNames) -> bool:
    """Whether recovery has anything to do; a folder of somebody else's is left alone."""
    entries = os.listdir(folder)
    if any(entry.endswith(".wav" + PART_SUFFIX) or _is_note(entry) for entry in entries):
        return True
    is_ours = MANIFEST in entries
    waves = {
        entry
        for entry in entries
        if entry.endswith(".wav") and (is_ours or names.number_in(entry) is not None)
    }
    return bool(waves - {record.file for record in read_manifest(folder)}) if waves else False


def _is_note(entry: str) -> bool:
    return entry.startswith(".") and entry.endswith(".json")


class _Recovery:
    """One pass over one folder, whose lock is held."""

    def __init__(self, folder: Path, names: SegmentNames) -> None:
        self._folder = folder
        self._names = names
        self._records = list(read_manifest(folder))
        self._known_files = {record.file for record in self._records}

    def run(self) -> list[SegmentRecord]:
        recovered = [
            record for part in self._abandoned_parts() if (record := self._adopt_part(*part)) is not None
        ]
        recovered += [self._adopt_wav(path) for path in self._unlisted_wavs()]
        self._remove_stale_notes()
        return recovered

    def _abandoned_parts(self) -> list[tuple[Path, _OpenNote, int]]:
        """Parts that nobody writes, with their notes and lengths, overlaps resolved, in the order spoken."""
        found = []
        for path in sorted(self._folder.glob("*.wav" + PART_SUFFIX)):
            if not _is_abandoned(path):
                continue
            note = self._note_of(path.name.removesuffix(PART_SUFFIX)) or self._guessed_note(path)
            found.append((path, note, _samples_in(path)))
        found.sort(key=lambda part: part[1].start)
        return _without_overlaps(found)

    def _adopt_part(self, path: Path, note: _OpenNote, samples: int) -> SegmentRecord | None:
        final = self._folder / note.file
        if samples == 0 or self._is_committed(note):
            path.unlink()
            return None
        with _open_private(path, os.O_RDWR) as file:
            file.truncate(WAV_HEADER_BYTES + samples * BYTES_PER_SAMPLE)
            _write_all(file, wav_header(samples))
            os.fsync(file.fileno())
        os.replace(path, final)
        _sync_folder(self._folder)
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
        self._known_files.add(record.file)
        (self._folder / note.path_name).unlink(missing_ok=True)
        return record

    def _is_committed(self, note: _OpenNote) -> bool:
        """Whether the manifest has this segment: the disk refused to let go of the part, not to take the WAV."""
        start = format_utc(note.start)
        return any(
            record.track_sid == note.track.track_sid and format_utc(record.start) == start
            for record in self._records
        )

    def _unlisted_wavs(self) -> list[Path]:
        waves = (path for path in sorted(self._folder.glob("*.wav")) if path.name not in self._known_files)
        return [
            path for path in waves if not path.is_symlink() and _is_abandoned(path) and _samples_in(path) > 0
        ]

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
        for path in self._folder.glob(".*.json"):
            stem = path.name[1:].removesuffix(".json")
            if not (self._folder / f"{stem}.wav{PART_SUFFIX}").exists():
                path.unlink(missing_ok=True)


def _is_abandoned(path: Path) -> bool:
    """Whether no recorder, this one or another, has its hand on the file."""
    with _open_private(path, os.O_RDWR) as file:
        return _try_lock(file)


def _samples_in(path: Path) -> int:
    """Samples in a WAV of ours. What a part holds beyond its header's promise was written just before the crash."""
    if path.name.endswith(PART_SUFFIX):
        return max(0, path.stat().st_size - WAV_HEADER_BYTES) // BYTES_PER_SAMPLE
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError):
        logger.warning("%s is not a readable WAV file and was left alone", path.name)
        return 0
    return int(info.frames)


def _without_overlaps(parts: list[tuple[Path, _OpenNote, int]]) -> list[tuple[Path, _OpenNote, int]]:
    """At a split the next part takes over the end of the one before; a crash in between leaves it in both."""
    kept: list[tuple[Path, _OpenNote, int]] = []
    for path, note, samples in parts:
        before = kept[-1] if kept else None
        if before and (before[1].track, before[1].anchor) == (note.track, note.anchor):
            before_end = before[1].start_sample + before[2]
            if note.start_sample + samples <= before_end:
                samples = 0
            elif note.start_sample < before_end:
                kept[-1] = (before[0], before[1], note.start_sample - before[1].start_sample)
        kept.append((path, note, samples))
    return kept
