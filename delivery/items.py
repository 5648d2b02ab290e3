"""The items that are delivered, and the interface of every target (an object store, a database).

A target's errors say who must act: :class:`~core.errors.RetryLater` (the other side, later),
:class:`~core.errors.ConfigError` (the operator: a wrong key, a missing bucket) and :class:`~core.errors.Refused`
(no one: this item will never be accepted). The targets' libraries are large, so they are imported only when used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from archive.files import is_ordinary_or_none
from archive.names import PART_SUFFIX, safe_name, session_file
from archive.session_files import encoded, read_session
from archive.texts import LANGUAGE_TAG
from core.errors import Refused, StorageError
from core.records import GapRecord, SegmentRecord
from core.session_records import SessionRecord
from core.text_records import TextRecord

CALL_TIMEOUT_SECONDS = 60.0
"""Time limit for the delivery of one item."""


# --- items ---


@dataclass(frozen=True)
class AudioItem:
    """A segment's WAV, with its record in the manifest."""

    folder: Path
    record: SegmentRecord
    data: bytes = field(repr=False)

    @classmethod
    def read(cls, folder: Path, record: SegmentRecord) -> AudioItem:
        """Reads the WAV and checks it against the manifest's SHA-256. Blocks.

        Raises:
            Unusable: it does not exist, or its content is another.
            StorageError: it cannot be read now.
        """
        data = _file_bytes(folder / record.file)
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise Unusable("the file is not the one that the manifest names (SHA-256)")
        return cls(folder, record, data)


@dataclass(frozen=True)
class TextItem:
    """The text files of a segment."""

    folder: Path
    record: SegmentRecord
    text: TextRecord
    contents: Mapping[str, bytes] = field(repr=False)
    """By the files' names."""

    @classmethod
    def read(cls, folder: Path, record: SegmentRecord, text: TextRecord) -> TextItem:
        """Reads the text files. Blocks; raises as :meth:`AudioItem.read`."""
        return cls(folder, record, text, {file: _file_bytes(folder / file) for file in text.files})


@dataclass(frozen=True)
class ListsItem:
    """The manifest, the list of texts and that of gaps, up to the last line whose files have been delivered."""

    folder: Path
    manifest_bytes: int
    texts_bytes: int
    gaps_bytes: int = 0
    expired_before: datetime | None = None
    """What ended before this has been removed from the target (REMOTE_RETENTION_DAYS), and does not return."""


@dataclass(frozen=True)
class SessionItem:
    """The file of a session, as it is when it is delivered."""

    folder: Path
    room_sid: str

    @property
    def file(self) -> str:
        """Its name."""
        return session_file(self.room_sid)


Item = AudioItem | TextItem | ListsItem | SessionItem


@dataclass(frozen=True)
class Selection:
    """Selects segments: of a room (by its name or its folder's), of one participant, that ended before a time.

    A field that is not given selects all; at least one is given.

    Raises:
        ValueError: no field is given, or a name is blank: it would select everything.
    """

    room: str = ""
    participant: str = ""
    before: datetime | None = None

    def __post_init__(self) -> None:
        names = [name for name in (self.room, self.participant) if name]
        if not (names or self.before) or not all(name.strip() for name in names):
            raise ValueError("a selection of everything")

    @property
    def is_whole_room(self) -> bool:
        return bool(self.room) and not self.participant

    def names(self, folder: str) -> bool:
        """Whether a folder can be one of the selection's rooms, by its name."""
        return not self.room or folder in (self.room, safe_name(self.room))

    def has(self, folder: str, record: SegmentRecord | GapRecord) -> bool:
        return (
            (not self.room or self.room in (folder, record.room_name))
            and (not self.participant or self.participant == record.participant_identity)
            and (self.before is None or record.end < self.before)
        )

    def has_session(self, folder: str, session: SessionRecord) -> bool:
        """Whether it is a session of the room, with the participant, that ended before the time."""
        return (
            (not self.room or self.room in (folder, session.room_name))
            and (not self.participant or session.has(self.participant))
            and (self.before is None or session.ended_at < self.before)
        )


def expired_before(remote_retention_days: int) -> datetime | None:
    """What ended before this is removed from the targets; None: nothing is."""
    return datetime.now(UTC) - timedelta(days=remote_retention_days) if remote_retention_days else None


class Target(Protocol):
    """One place to which recordings are delivered. Every method may raise RetryLater or ConfigError."""

    @property
    def name(self) -> str:
        """Its name in the delivery log: the same after every restart, and without secrets."""
        ...

    async def check(self) -> None:
        """Tests that the target accepts data now."""
        ...

    async def put(self, item: Item) -> None:
        """Delivers an item. One that is complete in the target already counts as delivered.

        Raises:
            Refused: the target will never accept this item.
        """
        ...

    async def remove(
        self, selection: Selection, known: Mapping[str, Sequence[SegmentRecord]], *, only_count: bool = False
    ) -> int:
        """Removes segments with everything that belongs to them, and returns how many there were.

        ``known`` are the selected segments in this machine's manifests, by folder: the target may have some of them
        that its own lists do not name.
        """
        ...

    async def aclose(self) -> None:
        """Closes the connections. Idempotent."""
        ...


# --- what targets share ---


def belongs_to(name: str, stems: Collection[str]) -> bool:
    """Whether a file or object is the WAV of a segment with one of these stems, the note that it had, or one of its
    texts; also an incomplete one."""
    plain = name.removesuffix(PART_SUFFIX)
    if plain.endswith(".txt"):
        stem, _, tag = plain.removesuffix(".txt").rpartition("_")
        return stem in stems and LANGUAGE_TAG.fullmatch(tag) is not None
    if plain.endswith(".wav"):
        return plain.removesuffix(".wav") in stems
    return name.startswith(".") and name.endswith(".json") and name[1:].removesuffix(".json") in stems


class Unusable(Refused):
    """The item's file is missing or wrong; the target has not been asked."""


def session_bytes(item: SessionItem) -> tuple[SessionRecord, bytes]:
    """Reads the file of a session. Blocks.

    Raises:
        Unusable: it does not exist, or is not the file of this session.
    """
    session = read_session(item.folder, item.room_sid)
    if session is None:
        raise Unusable("it is not the file of this session")
    return session, encoded(session)


def _file_bytes(path: Path) -> bytes:
    """Reads a whole file. Blocks.

    Raises:
        Unusable: it does not exist, or is not an ordinary file.
        StorageError: it cannot be read now.
    """
    try:
        if not is_ordinary_or_none(path):  # reading a pipe would block
            raise Unusable("it is no ordinary file")
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise Unusable("the file is gone") from None
    except OSError as error:
        raise StorageError(f"{path.name} cannot be read: {error.strerror or error}") from error
