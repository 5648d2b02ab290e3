"""Erasures: what has been erased, so that no writer brings it back. One file, ``erased.json`` in OUTPUT_DIR.

An erasure is written and synced before anything is removed, and is open until everything is removed. While it is open,
all readers of segments leave out what it covers. A writer that began earlier than the erasure (a segment that is being
spoken, an answer on its way) must not add what it covers, even when it is complete: it gives ``since``, the time at
which it began, and asks while it holds the folder's lock.

The file has no name of a person or a room: names are compared by a salted SHA-256. Everything here blocks.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from archive.files import FolderLock, state_of, write_private
from core.errors import StorageError
from core.records import GapRecord, SegmentRecord, format_utc, parse_utc, utc_now
from core.text_records import TextRecord

logger = logging.getLogger("recorder")

ERASED = "erased.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Erasure:
    """One erasure: of rooms, of a participant, or of a participant in rooms."""

    id: str
    at: datetime
    """What began before this is erased; readers take a time in the future as the present."""
    salt: str
    rooms: tuple[str, ...]
    """Digests of the names of the rooms and of their folders; empty: every room."""
    participant: str
    """Digest of the participant's identity; empty: everybody."""
    is_complete: bool = False
    outcome: Mapping[str, Any] = field(default_factory=dict)
    """Counts of what was removed."""
    given: tuple[str, ...] | None = None
    """Digests of the names that were given by the user; None: an older version did not note them."""

    def covers(self, folder: str, room: str, participant: str, start: datetime) -> bool:
        """Whether it erases what this participant said at ``start`` in a room with this folder."""
        return (
            start < self.at
            and (not self.participant or self.participant == _digest(self.salt, participant))
            and (not self.rooms or any(_digest(self.salt, name) in self.rooms for name in (folder, room)))
        )

    def concerns(self, participant: str) -> bool:
        """Whether it is of this participant; empty: of everybody."""
        return self.participant == (_digest(self.salt, participant) if participant else "")

    def names_room(self, room: str) -> bool:
        """Whether it names this room or folder; empty: whether it is of every room."""
        return _digest(self.salt, room) in self.rooms if room else not self.rooms

    def covers_record(self, folder: Path, record: SegmentRecord | GapRecord | TextRecord) -> bool:
        """Whether it erases what a line of one of the folder's lists is about."""
        room = folder.name if isinstance(record, TextRecord) else record.room_name
        return self.covers(folder.name, room, record.participant_identity, record.start)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "at": format_utc(self.at),
            "salt": self.salt,
            "rooms": list(self.rooms),
            "participant": self.participant,
            "is_complete": self.is_complete,
            **({} if self.given is None else {"given": list(self.given)}),
            **self.outcome,
        }

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Erasure:
        known = ("id", "at", "salt", "rooms", "participant", "is_complete", "given")
        given = entry.get("given")
        return cls(
            str(entry["id"]),
            parse_utc(entry["at"]),
            str(entry["salt"]),
            tuple(str(room) for room in entry["rooms"]),
            str(entry["participant"]),
            bool(entry["is_complete"]),
            {name: value for name, value in entry.items() if name not in known},
            None if given is None else tuple(str(name) for name in given),
        )


# --- writing ---


def begin(output_dir: Path, rooms: Iterable[str], participant: str, given: Iterable[str] = ()) -> Erasure:
    """Writes an open erasure of everything that began before now.

    Args:
        rooms: names of the rooms and of their folders; empty: every room.
        participant: identity; empty: everybody.
        given: those of the names that the user has given.

    Raises:
        StorageError: the file is damaged.
        OSError: the disk refuses.
    """
    salt = secrets.token_hex(16)
    erasure = Erasure(
        secrets.token_hex(8),
        utc_now(),
        salt,
        tuple(sorted({_digest(salt, room) for room in rooms})),
        _digest(salt, participant) if participant else "",
        given=tuple(sorted({_digest(salt, room) for room in given})),
    )
    _change(output_dir, lambda known: [*known, erasure])
    return erasure


def complete(output_dir: Path, erasure: Erasure, outcome: Mapping[str, Any], *, is_complete: bool) -> Erasure:
    """Adds what was removed. With ``is_complete`` also closes the open ones for the same names, which it has repeated.

    Raises:
        StorageError, OSError: as with :func:`begin`.
    """
    done = replace(erasure, is_complete=is_complete, outcome=dict(outcome))
    _change(output_dir, lambda known: [done if one.id == erasure.id else one for one in known])
    return done


def close_repeated(
    output_dir: Path, rooms: Iterable[str], participant: str, others: Mapping[str, datetime]
) -> None:
    """Closes open erasures of the same names: a later one has removed everything.

    Args:
        others: rooms with other folders here, and when the first segment in those began. An older version did not note
            which names were given, and for a folder its room's name, too. One of the room would name these folders.

    Raises:
        StorageError, OSError: as with :func:`begin`.
    """
    names = list(rooms)

    def closed(one: Erasure) -> Erasure:
        known = {_digest(one.salt, name) for name in names}
        rest = set(one.rooms if one.given is None else one.given) - known
        if one.given is None and rest < set(one.rooms):
            rest -= {_digest(one.salt, name) for name, since in others.items() if since < one.at}
        is_same = not rest if one.rooms else not names
        return replace(one, is_complete=True) if is_same and one.concerns(participant) else one

    _change(output_dir, lambda known: [closed(one) for one in known])


def _change(output_dir: Path, change: Any) -> None:
    with FolderLock(output_dir):
        erasures = change(_parsed(_content(output_dir / ERASED)))
        document = {
            "schema_version": SCHEMA_VERSION,
            "erasures": [erasure.to_json() for erasure in erasures],
        }
        write_private(output_dir / ERASED, json.dumps(document, indent=1).encode() + b"\n")


# --- reading ---


def erasures_in(output_dir: Path) -> tuple[Erasure, ...]:
    """All erasures. While the file cannot be read, those that were read before: recording must go on."""
    return _cache.read(output_dir / ERASED)


def open_erasures(output_dir: Path) -> tuple[Erasure, ...]:
    """The erasures that are not complete; their segments are left out by every reader."""
    return tuple(erasure for erasure in erasures_in(output_dir) if not erasure.is_complete)


def is_being_erased(folder: Path, record: SegmentRecord | GapRecord | TextRecord) -> bool:
    """Whether an open erasure covers what a line of the folder's lists is about."""
    return any(erasure.covers_record(folder, record) for erasure in open_erasures(folder.parent))


def erased_since(
    folder: Path, room: str, participant: str, start: datetime, since: datetime
) -> Erasure | None:
    """The erasure that covers what a writer has that began at ``since``; None: it may be added."""
    return next(
        (
            erasure
            for erasure in erasures_in(folder.parent)
            if (erasure.at >= since or not erasure.is_complete)
            and erasure.covers(folder.name, room, participant, start)
        ),
        None,
    )


class _Cache:
    """The content of each file, read again when the file has changed. May be used by several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[tuple[int, ...] | None, tuple[Erasure, ...]]] = {}
        self._unreadable: set[Path] = set()

    def read(self, path: Path) -> tuple[Erasure, ...]:
        try:
            state = state_of(path)
            with self._lock:
                known_state, known = self._read.get(path, (None, ()))
                erasures = known if known_state == state else _parsed(_content(path))
                self._read[path] = (state, _until_now(erasures, known))
                self._unreadable.discard(path)
                return self._read[path][1]
        except (StorageError, OSError) as error:
            return self._last_known(path, error)

    def _last_known(self, path: Path, error: Exception) -> tuple[Erasure, ...]:
        with self._lock:
            if path not in self._unreadable:
                self._unreadable.add(path)
                logger.error("What has been erased is not known: %s", error)
            return self._read.get(path, (None, ()))[1]


_cache = _Cache()


def _until_now(erasures: Iterable[Erasure], known: Iterable[Erasure]) -> tuple[Erasure, ...]:
    """The erasures, none later than it was ``known`` to be, nor than now: what has not begun cannot have been erased.

    One that is dated later was written while the clock was ahead, and would drop lessons until that time has come.
    """
    now, noticed = utc_now(), {one.id: one.at for one in known}
    for one in erasures:
        if one.at > now and noticed.get(one.id, one.at) == one.at:
            logger.error("The erasure %s is dated in the future: it ends now. Was the clock ahead?", one.id)
    return tuple(replace(one, at=min(one.at, noticed.get(one.id, now), now)) for one in erasures)


def _content(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():  # reading a pipe would block
            raise StorageError(f"{path} is not a regular file: move it away")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return b""


def _parsed(content: bytes) -> list[Erasure]:
    if not content:
        return []
    try:
        return [Erasure.from_json(entry) for entry in json.loads(content)["erasures"]]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise StorageError(f"{ERASED} is damaged: move it away, and erase again what it was about") from None


def _digest(salt: str, name: str) -> str:
    return hashlib.sha256(f"{salt}\0{name}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
