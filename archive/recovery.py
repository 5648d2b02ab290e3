"""Makes segments of what a crash left in a room's folder: abandoned parts, and WAVs without a manifest line."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from archive.files import FolderLock, is_abandoned, sync_folder
from archive.manifest import append_manifest, read_manifest
from archive.names import PART_SUFFIX, SegmentNames
from archive.wav import mend_wav, samples_in
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

    def is_taken(self, names: list[str]) -> bool:
        """Whether any of this segment's file names exists already: a template can give two numbers the same name."""
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


def recover_all(settings: Settings) -> list[SegmentRecord]:
    """Recovers every room's folder below the output folder. One that cannot be read is only logged."""
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
    """Makes segments of what a crash left: parts that no recorder is writing, and WAVs without a manifest line.

    Raises:
        OSError: the folder cannot be read or written.
    """
    if not _Recovery(folder, names).finds_anything():
        return []
    with FolderLock(folder):
        return _Recovery(folder, names).run()


class _Recovery:
    """One pass over one folder. Files that are not known to be from a recorder are left alone."""

    def __init__(self, folder: Path, names: SegmentNames) -> None:
        self._folder = folder
        self._names = names
        self._records = list(read_manifest(folder))
        self._is_ours = bool(self._records)

    def finds_anything(self) -> bool:
        """Whether there is anything to do. Needs no lock: a file that changes now is being written by a recorder."""
        return bool(self._parts() or self._unlisted_wavs() or self._notes())

    def run(self) -> list[SegmentRecord]:
        """Recovers the segments. The caller holds the folder's lock."""
        recovered = [
            record for part in self._abandoned_parts() if (record := self._adopt_part(*part)) is not None
        ]
        recovered += [self._adopt_wav(path) for path in self._unlisted_wavs() if is_abandoned(path)]
        self._remove_stale_notes()
        return recovered

    # A file is from a recorder if it has a note, or a name by the template, or if it is a WAV of the recorder's format
    # in a folder with a manifest.

    def _parts(self) -> list[Path]:
        found = _files(self._folder, ".wav" + PART_SUFFIX)
        return [path for path in found if self._is_known(path.name.removesuffix(PART_SUFFIX))]

    def _unlisted_wavs(self) -> list[Path]:
        listed = {record.file for record in self._records}
        unlisted = [path for path in _files(self._folder, ".wav") if path.name not in listed]
        return [path for path in unlisted if self._is_known(path.name, self._is_ours) and samples_in(path)]

    def _notes(self) -> list[Path]:
        """Notes without a part."""
        return [
            path
            for path in _files(self._folder, ".json")
            if path.name.startswith(".")
            and self._is_known(f"{path.stem[1:]}.wav")
            and not (self._folder / f"{path.stem[1:]}.wav{PART_SUFFIX}").exists()
        ]

    def _is_known(self, file: str, is_ours: bool = False) -> bool:
        return is_ours or self._names.number_in(file) is not None or self._note_of(file) is not None

    def _abandoned_parts(self) -> list[tuple[Path, OpenNote, int]]:
        """Parts that no recorder is writing, in the order spoken, with their notes and lengths without overlaps."""
        found = []
        for path in filter(is_abandoned, self._parts()):
            note = self._note_of(path.name.removesuffix(PART_SUFFIX)) or self._guessed_note(path)
            found.append((path, note, samples_in(path)))
        found.sort(key=lambda part: part[1].start)
        return _without_overlaps(found)

    def _adopt_part(self, path: Path, note: OpenNote, samples: int) -> SegmentRecord | None:
        final = self._folder / note.file
        # The WAV is there if an earlier commit renamed it, and the commit was being repeated.
        has_more = final.exists() and samples_in(final) >= samples
        if samples == 0 or has_more or self._is_committed(note):
            path.unlink()
            return None
        mend_wav(path, samples)
        os.replace(path, final)
        sync_folder(self._folder)
        return self._list(note, samples)

    def _adopt_wav(self, path: Path) -> SegmentRecord:
        note = self._note_of(path.name) or self._guessed_note(path)
        return self._list(note, samples_in(path))

    def _list(self, note: OpenNote, samples: int) -> SegmentRecord:
        digest = hashlib.sha256((self._folder / note.file).read_bytes()).hexdigest()
        record = note.record(samples, digest, EndReason.RECOVERED)
        if note.room.sid == "":
            record = replace(record, offset_seconds=None)
        append_manifest(self._folder, record)
        self._records.append(record)
        (self._folder / note.path_name).unlink(missing_ok=True)
        return record

    def _is_committed(self, note: OpenNote) -> bool:
        """Whether the manifest has this segment: the WAV was written, but the disk refused to remove the part."""
        start = format_utc(note.start)
        return note.track.track_sid != "" and any(
            record.track_sid == note.track.track_sid and format_utc(record.start) == start
            for record in self._records
        )

    def _note_of(self, file: str) -> OpenNote | None:
        try:
            note = OpenNote.from_json(json.loads((self._folder / f".{Path(file).stem}.json").read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return note if note.file == file else None

    def _guessed_note(self, path: Path) -> OpenNote:
        """A note for audio that has none, from its name, its length and its time of change."""
        file = path.name.removesuffix(PART_SUFFIX)
        taken = {record.number for record in self._records}
        number = self._names.number_in(file)
        if number is None or number in taken:
            number = max(taken, default=0) + 1
        ended = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        started = ended - timedelta(seconds=samples_in(path) / SAMPLE_RATE)
        room = next((RoomInfo(record.room_name, "", started) for record in self._records), None)
        return OpenNote(
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
    """The regular files whose names have this ending, sorted; neither folders nor links."""
    paths = (folder / name for name in sorted(os.listdir(folder)) if name.endswith(ending))
    return [path for path in paths if path.is_file() and not path.is_symlink()]


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
