"""Makes segments of what a crash left in a room's folder: abandoned parts, and WAVs without a manifest line."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from archive import jsonl
from archive.files import FolderLock, is_abandoned, open_private, sync_folder
from archive.handover_note import is_plausible
from archive.jsonl import lines_of
from archive.manifest import append_manifest, read_manifest, record_in
from archive.names import LOST_AND_FOUND, MANIFEST, PART_SUFFIX, SegmentNames
from archive.tombstones import erased_since
from archive.wav import mend_wav, samples_in_part, whole_samples_in
from config import Settings
from core.records import (
    NO_TEXT_OPTIONS,
    SAMPLE_RATE,
    EndReason,
    RoomInfo,
    SegmentRecord,
    StreamClock,
    TextOptions,
    TrackInfo,
    format_utc,
    parse_utc,
)

logger = logging.getLogger("recorder")

MAX_NOTE_BYTES = 1 << 16


@dataclass(frozen=True)
class OpenNote:
    """What is known of a segment when it begins; a file beside its audio until the manifest has its line."""

    number: int
    file: str
    room: RoomInfo
    track: TrackInfo
    anchor: datetime
    start_sample: int

    @property
    def path_name(self) -> str:
        return f".{Path(self.file).stem}.json"

    def is_taken(self, folder: Path) -> bool:
        """Whether any of this segment's file names exists already: a template can give two numbers the same name."""
        return any(
            os.path.lexists(folder / name) for name in (self.file, self.file + PART_SUFFIX, self.path_name)
        )

    @property
    def start(self) -> datetime:
        return StreamClock(self.anchor).at(self.start_sample)

    def record(
        self,
        samples: int,
        sha256: str,
        end_reason: EndReason,
        probabilities: tuple[float, float] | None = None,
        text_options: TextOptions = NO_TEXT_OPTIONS,
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
            speaking_language=text_options.speaking_language,
            caption_languages=text_options.caption_languages,
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
    def from_json(cls, note: dict[str, Any]) -> OpenNote:
        read = cls(
            number=int(note["number"]),
            file=str(note["file"]),
            room=RoomInfo(
                str(note["room"]["name"]), str(note["room"]["sid"]), parse_utc(note["room"]["started_at"])
            ),
            track=TrackInfo(**{key: str(value) for key, value in note["track"].items()}),
            anchor=parse_utc(note["anchor"]),
            start_sample=int(note["start_sample"]),
        )
        if read.number < 1 or not (is_plausible(read.start) and is_plausible(read.room.started_at)):
            raise ValueError("not a plausible note")
        return read


def recover_all(settings: Settings) -> list[SegmentRecord]:
    """Recovers every room's folder below the output folder. One that cannot be read is only logged."""
    names = SegmentNames.from_settings(settings)
    recovered: list[SegmentRecord] = []
    for path in sorted(Path(settings.output_dir).iterdir()):
        if not path.is_dir() or path.is_symlink() or path.name == LOST_AND_FOUND:
            continue
        try:
            recovered += recover_folder(path, names)
        except OSError as error:
            logger.error("Folder %s cannot be recovered now: %s", path.name, error.strerror or error)
    return recovered


def recover_folder(folder: Path, names: SegmentNames) -> list[SegmentRecord]:
    """Recovers everything in a folder at once; see :func:`recovering`."""
    return list(recovering(folder, names))


def recovering(folder: Path, names: SegmentNames, *, only_with_note: bool = False) -> Iterator[SegmentRecord]:
    """Makes segments of what a crash left, and yields them one by one: parts that no recorder is writing, and WAVs
    without a manifest line.

    A file that the system refuses to open or change is logged and left. The folder's lock is free while the caller has
    the control: a recorder may begin segments before the next one is recovered.

    Args:
        only_with_note: leave WAVs without a note. A recorder's crash leaves none, and to find them the whole manifest
            has to be read.

    Raises:
        OSError: the folder or its manifest cannot be read, or the folder cannot be locked.
    """
    if _Recovery(folder, names, only_with_note).finds_anything():
        yield from _Recovery(folder, names, only_with_note).run()


def is_from_recorder(folder: Path, file: str, names: SegmentNames) -> bool:
    """Whether a WAV or part without a manifest line is from a recorder: it has a name by the template, or a note."""
    file = file.removesuffix(PART_SUFFIX)
    return names.number_in(file) is not None or _note_of(folder, file) is not None


def left_in(folder: Path, names: SegmentNames) -> Iterator[tuple[str, OpenNote | None]]:
    """The stems of the recorder's files in a folder that are no segments and are not being written, with their notes:
    after a recovery, those that the system refuses to open.

    Raises:
        OSError: the folder or its manifest cannot be read.
    """
    return _Recovery(folder, names, only_with_note=False).left()


class _Recovery:
    """One pass over one folder. Files that are not from a recorder are left alone."""

    def __init__(self, folder: Path, names: SegmentNames, only_with_note: bool) -> None:
        self._folder = folder
        self._names = names
        self._only_with_note = only_with_note
        self._parts: list[Path] = []
        self._noted: set[str] = set()
        """The WAVs, existing or not, that have a note."""
        self._listed: set[str] = set()
        """Those of them that the manifest names, as far as it has been read."""
        self._unlisted: set[str] = set()
        """The existing WAVs that it does not name."""
        self._numbers: set[int] = set()
        """Those in the manifest."""
        self._room_name = ""
        self._manifest_bytes = 0
        """The manifest's size when it was last read."""

    def finds_anything(self) -> bool:
        """Whether there is anything to do. Needs no lock: a file that changes now is being written by a recorder."""
        self._look()
        return bool(self._parts or self._wavs() or self._notes())

    def left(self) -> Iterator[tuple[str, OpenNote | None]]:
        """The stems and notes of what there is to do, without that which is being written."""
        self._look()
        for path in (*self._parts, *self._wavs()):
            is_written = False
            with contextlib.suppress(OSError):
                is_written = not is_abandoned(path)
            if not is_written:
                yield Path(path.name.removesuffix(PART_SUFFIX)).stem, _note_of(self._folder, path.name)

    def run(self) -> Iterator[SegmentRecord]:
        """Recovers the segments. The lock is not held at a ``yield``."""
        with FolderLock(self._folder):
            self._look()
            self._read_manifest()
            recovered = list(self._adopt_parts())
        yield from recovered
        for path in self._wavs():
            with FolderLock(self._folder):
                self._read_manifest()
                record = self._adopt_wav(path)
            if record is not None:
                yield record
        with FolderLock(self._folder):
            self._read_manifest()
            self._remove_stale_notes()

    def _look(self) -> None:
        """Looks through the names in the folder, once; there may be hundreds of thousands."""
        parts, notes, wavs = set(), set(), set()
        with os.scandir(self._folder) as entries:
            for entry in entries:
                name = entry.name
                if name.endswith(".wav" + PART_SUFFIX):
                    parts.add(name)
                elif name.endswith(".wav"):
                    wavs.add(name)
                elif name.endswith(".json") and name.startswith("."):
                    notes.add(name)
        self._parts = self._ours(parts)
        noted = {f"{name[1:].removesuffix('.json')}.wav" for name in notes}
        self._noted = set(filter(self._is_ours, noted))
        self._unlisted = wavs & noted if self._only_with_note else wavs
        if self._unlisted:
            self._read_manifest()

    def _read_manifest(self) -> None:
        """Reads the manifest if another recorder has changed it. Its records are not kept: there may be many."""
        size = _size(self._folder / MANIFEST)
        if size != self._manifest_bytes:
            self._manifest_bytes = size
            for record in read_manifest(self._folder):
                self._note_listed(record)

    def _note_listed(self, record: SegmentRecord) -> None:
        self._unlisted.discard(record.file)
        self._listed |= {record.file} & self._noted
        self._numbers.add(record.number)
        self._room_name = self._room_name or record.room_name

    def _wavs(self) -> list[Path]:
        return self._ours(self._unlisted)

    def _notes(self) -> list[tuple[Path, str]]:
        """The notes without a part, with their WAVs."""
        return [
            (self._folder / f".{Path(wav).stem}.json", wav)
            for wav in sorted(self._noted)
            if not (self._folder / f"{wav}{PART_SUFFIX}").exists()
        ]

    def _ours(self, names: set[str]) -> list[Path]:
        """The regular files among these that are from a recorder, sorted; neither folders nor links."""
        paths = (self._folder / name for name in sorted(names) if self._is_ours(name))
        return [path for path in paths if path.is_file() and not path.is_symlink()]

    def _is_ours(self, file: str) -> bool:
        return is_from_recorder(self._folder, file, self._names)

    def _adopt_parts(self) -> Iterator[SegmentRecord]:
        for path, note, samples in self._abandoned_parts():
            with _logged(path):
                if (record := self._adopt_part(path, note, samples)) is not None:
                    yield record

    def _abandoned_parts(self) -> list[tuple[Path, OpenNote, int]]:
        """Parts that no recorder is writing, in the order spoken, with their notes and lengths without overlaps."""
        found = []
        for path in self._parts:
            with _logged(path):
                if is_abandoned(path):
                    samples = samples_in_part(path)
                    found.append((path, self._note(path, samples), samples))
        found.sort(key=lambda part: part[1].start)
        return _without_overlaps(found)

    def _adopt_part(self, path: Path, note: OpenNote, samples: int) -> SegmentRecord | None:
        final = self._folder / note.file
        if self._is_erased(path, note):
            path.unlink()
            return None
        # The WAV is there if an earlier commit renamed it, and the commit was being repeated.
        has_more = final.exists() and whole_samples_in(final) >= samples
        if samples == 0 or has_more or self._is_committed(note):
            path.unlink()
            return None
        mend_wav(path, samples)
        os.replace(path, final)
        sync_folder(self._folder)
        return self._list(note, samples)

    def _adopt_wav(self, path: Path) -> SegmentRecord | None:
        """Lists a WAV. Not one that is being committed, nor one that is not whole: it is just being copied here."""
        if path.name not in self._unlisted:
            return None
        with _logged(path):
            if is_abandoned(path) and (samples := whole_samples_in(path)):
                note = self._note(path, samples)
                if not self._is_erased(path, note):
                    return self._list(note, samples)
                path.unlink()
        return None

    def _is_erased(self, path: Path, note: OpenNote) -> bool:
        """Whether it was erased after it had begun: when its note was written, or at the latest when it was."""
        beside = self._folder / note.path_name
        begun_at = datetime.fromtimestamp((beside if beside.exists() else path).stat().st_mtime, UTC)
        participant = note.track.participant_identity
        erasure = erased_since(self._folder, note.room.name, participant, note.start, begun_at)
        return erasure is not None

    def _list(self, note: OpenNote, samples: int) -> SegmentRecord:
        digest = hashlib.sha256((self._folder / note.file).read_bytes()).hexdigest()
        record = note.record(samples, digest, EndReason.RECOVERED)
        if note.room.sid == "":
            record = replace(record, offset_seconds=None)
        append_manifest(self._folder, record)
        self._note_listed(record)
        self._manifest_bytes = _size(self._folder / MANIFEST)
        (self._folder / note.path_name).unlink(missing_ok=True)
        return record

    def _is_committed(self, note: OpenNote) -> bool:
        """Whether the manifest has this segment: the WAV was written, but the disk refused to remove the part."""
        start = format_utc(note.start)
        return note.track.track_sid != "" and any(
            start.encode() in line
            and (record := record_in(line)) is not None
            and record.track_sid == note.track.track_sid
            and format_utc(record.start) == start
            for _, line in lines_of(self._folder / MANIFEST)
        )

    def _note(self, path: Path, samples: int) -> OpenNote:
        return _note_of(self._folder, path.name) or self._guessed_note(path, samples)

    def _guessed_note(self, path: Path, samples: int) -> OpenNote:
        """A note for audio that has none, from its name, its length and its time of change."""
        file = path.name.removesuffix(PART_SUFFIX)
        number = self._names.number_in(file)
        if number is None or number in self._numbers:
            number = max(self._numbers, default=0) + 1
        ended = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        started = ended - timedelta(seconds=samples / SAMPLE_RATE)
        return OpenNote(
            number,
            file,
            RoomInfo(self._room_name or self._folder.name, "", started),
            TrackInfo("", "", "", "unknown"),
            started,
            0,
        )

    def _remove_stale_notes(self) -> None:
        for path, wav in self._notes():
            if wav in self._listed or not (self._folder / wav).exists():
                with _logged(path):
                    path.unlink(missing_ok=True)


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Logs that a file cannot be recovered, so that the others are. One that another recorder has taken is no error."""
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.error("%s cannot be recovered and is left as it is: %s", path, error.strerror or error)


def _note_of(folder: Path, file: str) -> OpenNote | None:
    """The note of a WAV or part; None if it has none that is valid."""
    file = file.removesuffix(PART_SUFFIX)
    try:
        with open_private(folder / f".{Path(file).stem}.json", os.O_RDONLY) as note_file:
            text = note_file.read(MAX_NOTE_BYTES)
    except OSError:
        return None
    note = jsonl.parsed(text, OpenNote.from_json)
    return note if note is not None and note.file == file else None


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _without_overlaps(parts: list[tuple[Path, OpenNote, int]]) -> list[tuple[Path, OpenNote, int]]:
    """Cuts off what two parts of one stream have in common: at a split the next part takes over the end of the one
    before, and a crash in between leaves it in both."""
    kept: list[tuple[Path, OpenNote, int]] = []
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
