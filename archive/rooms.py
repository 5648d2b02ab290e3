"""Finds the rooms' folders in OUTPUT_DIR and reads their content. Writes nothing.

Everything is read line by line and only when it is needed, so a room may have hundreds of thousands of segments. An
invalid line is skipped and counted; so is one whose file name leads out of the room's folder.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from archive import jsonl
from archive.files import FolderLock, is_abandoned
from archive.jsonl import Lines, lines_of
from archive.manifest import record_in
from archive.names import (
    HANDOVER_NOTE,
    LOST_AND_FOUND,
    MANIFEST,
    NOTE_FRESH_SECONDS,
    PART_SUFFIX,
    SegmentNames,
    is_plain_name,
    safe_name,
)
from archive.session_counts import Expected, SessionCount
from archive.texts import Texts
from archive.tombstones import open_erasures
from config import Settings
from core.errors import InputError, StorageError
from core.records import SegmentRecord
from core.session_records import ClosedBy, SessionRecord

LINES_TO_CHECK = 100
"""A file counts as a manifest only if one of its first lines is valid."""


class Archive:
    """The output folder, with one folder a room."""

    def __init__(self, path: Path, names: SegmentNames) -> None:
        self.path = path
        self._names = names

    @classmethod
    def from_settings(cls, settings: Settings) -> Archive:
        return cls(Path(settings.output_dir), SegmentNames.from_settings(settings))

    def rooms(self) -> list[Room]:
        """Every folder with recorded files, sorted by name.

        Raises:
            InputError: the output folder does not exist.
            StorageError: it cannot be read.
        """
        try:
            entries = sorted(os.scandir(self.path), key=lambda entry: entry.name)
        except FileNotFoundError:
            raise InputError(f"OUTPUT_DIR={self.path} is not there: nothing has been recorded yet") from None
        except OSError as error:
            raise StorageError(f"OUTPUT_DIR={self.path} cannot be read: {error.strerror or error}") from None
        folders = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        rooms = (path for path in folders if not path.name.startswith(".") and path.name != LOST_AND_FOUND)
        return [Room(path) for path in rooms if self._is_ours(path)]

    def find(self, name: str) -> list[Room]:
        """The folders of a room, by its name or a folder's name: several if ROOM_DIR separates the sessions.

        Raises:
            InputError: there is none.
        """
        for wanted in (name, safe_name(name)):
            path = self.path / wanted
            if is_plain_name(wanted) and path.is_dir() and not path.is_symlink():
                if not self._is_ours(path):
                    raise InputError(f"{path} contains no recording")
                return [Room(path)]
        rooms = self.rooms()
        found = [room for room in rooms if room.name == name]
        if not found:
            near = [room.name for room in rooms if name.casefold() in room.name.casefold()]
            hint = f"perhaps {', '.join(map(repr, near[:5]))}" if near else "`lessons.py list` shows all"
            raise InputError(f"There is no room {name!r} in {self.path} ({hint})")
        return found

    def chosen(self, names: Iterable[str] | None) -> list[Room]:
        """The folders of the named rooms, each once; of all rooms without a name."""
        if not names:
            return self.rooms()
        return list({room.path: room for name in names for room in self.find(name)}.values())

    def one(self, name: str) -> Room:
        """The only folder of a room.

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
    """Whether a file is a recorder's manifest and not another program's: it is empty or has a valid line."""
    with contextlib.suppress(OSError):  # reported when the manifest is read
        if not path.is_file():
            return False
        first = [line for _, line in itertools.islice(lines_of(path), LINES_TO_CHECK)]
        return not first or any(record_in(line) is not None for line in first)
    return True


class Room:
    """One room's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._name: str | None = None

    @property
    def name(self) -> str:
        """The room's name in LiveKit; the folder's name if there is no segment."""
        if self._name is None:
            first = None
            with contextlib.suppress(StorageError):  # reported when the segments are read
                first = next(self.records(), None)
            self._name = first.room_name if first else self.path.name
        return self._name

    def records(self, session: str | None = None, lines: Lines | None = None) -> Iterator[SegmentRecord]:
        """Yields the segments in the order of the manifest, which is the order they ended in; each file once.

        Those that are being erased are left out.

        Args:
            session: yield only those of the session with this room sid.
            lines: counts the lines that are read, and those that are invalid.

        Raises:
            StorageError: the manifest cannot be read.
        """
        seen: set[str] = set()
        lines = lines if lines is not None else Lines()
        erasures = open_erasures(self.path.parent)
        for line in self._manifest_lines():
            lines.read += 1
            record = record_in(line)
            if record is None or not is_plain_name(record.file):
                lines.broken.append(lines.read)
            elif record.file not in seen and session in (None, record.room_sid):
                seen.add(record.file)
                if not any(erasure.covers_record(self.path, record) for erasure in erasures):
                    yield record

    def _manifest_lines(self) -> Iterator[bytes]:
        try:
            yield from (line for _, line in lines_of(self.path / MANIFEST))
        except OSError as error:
            raise StorageError(f"{self.path / MANIFEST} cannot be read: {error.strerror or error}") from None

    def sessions(self) -> list[SessionRecord]:
        """The sessions sorted by their start, from one pass over the manifest: who spoke when. Of texts, gaps and
        deliveries :func:`archive.session_list.sessions_in` tells."""
        counts: dict[str, SessionCount] = {}
        for record in self.records():
            counts.setdefault(record.room_sid, SessionCount(Expected())).add(record, None, ())
        sessions = [count.record(ClosedBy.RECOVERY) for count in counts.values()]
        return sorted(sessions, key=lambda session: session.started_at)

    def texts(self) -> Texts:
        """Opens the texts of the room; each is read when it is needed.

        Raises:
            StorageError: they cannot be read.
        """
        return Texts(self.path)

    def wav(self, record: SegmentRecord) -> Path | None:
        """The segment's WAV; None if it does not exist (SAVE_AUDIO=false, retention) or is not an ordinary file."""
        path = self.path / record.file
        return path if is_plain_name(record.file) and path.is_file() and not path.is_symlink() else None

    def is_being_recorded(self) -> bool:
        """Whether a recorder is in the room now, also while no one speaks."""
        return bool(self.parts_being_written()) or self._has_fresh_note()

    def _has_fresh_note(self) -> bool:
        with contextlib.suppress(OSError):
            return abs(time.time() - (self.path / HANDOVER_NOTE).stat().st_mtime) < NOTE_FRESH_SECONDS
        return False

    def may_gain_segments(self) -> bool:
        """Whether a segment may still be added: a recorder is in the room, or a part left by a crash can be recovered.

        Takes no lock, so it may be called while the folder's lock is held.

        Raises:
            OSError: the folder cannot be read.
        """
        return any(map(_is_part, os.listdir(self.path))) or self._has_fresh_note()

    def parts_being_written(self) -> list[str]:
        """Names of the parts that a recorder is writing now."""
        parts = self.parts()
        if not parts:
            return []
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # a folder that cannot be written has no recorder either
                # Without the lock, a part that is just being created could look abandoned.
                stack.enter_context(FolderLock(self.path))
            return [path.name for path in parts if not _is_abandoned(path)]

    def line_count(self) -> int:
        """The manifest's lines, counted without parsing: about the number of segments."""
        return jsonl.line_count(self.path / MANIFEST)

    def parts(self) -> list[Path]:
        """The parts: of segments that are being spoken, or left by a crash."""
        with contextlib.suppress(OSError), os.scandir(self.path) as entries:
            return sorted(
                Path(entry.path)
                for entry in entries
                if _is_part(entry.name) and entry.is_file(follow_symlinks=False)
            )
        return []


def _is_part(name: str) -> bool:
    return name.endswith(".wav" + PART_SUFFIX)


def _is_abandoned(path: Path) -> bool:
    try:
        return is_abandoned(path)
    except FileNotFoundError:
        return False  # it has just become a segment
    except OSError:
        return True  # a disk that cannot be written has no recorder either
