"""What is delivered, and what every target (an object store, a database) can do with it.

A target sorts its errors by who must act: :class:`~core.errors.RetryLater` (the other side, later),
:class:`~core.errors.ConfigError` (the operator: a wrong key, a missing bucket) and :class:`~core.errors.Refused`
(nobody: this item will never be taken). Their libraries are large, and imported by those who use them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from core.errors import Refused, StorageError
from core.records import GapRecord, SegmentRecord, TextRecord

CALL_TIMEOUT_SECONDS = 60.0
"""How long one item may take on its way."""


# --- what is delivered ---


@dataclass(frozen=True)
class Sound:
    """A segment's WAV, with what the manifest says of it."""

    folder: Path
    record: SegmentRecord


@dataclass(frozen=True)
class Words:
    """The text files of a segment."""

    folder: Path
    record: SegmentRecord
    text: TextRecord


@dataclass(frozen=True)
class Lists:
    """The manifest, the list of texts and that of gaps, as far as what they name has been delivered."""

    folder: Path
    manifest_bytes: int
    texts_bytes: int
    gaps_bytes: int = 0


Item = Sound | Words | Lists


@dataclass(frozen=True)
class Selection:
    """Which segments: those of a room (by its name or its folder's), of one participant, that ended before a moment."""

    room: str = ""
    participant: str = ""
    before: datetime | None = None

    def has(self, folder: str, record: SegmentRecord | GapRecord) -> bool:
        return (
            (not self.room or self.room in (folder, record.room_name))
            and (not self.participant or self.participant == record.participant_identity)
            and (self.before is None or record.end < self.before)
        )


class Target(Protocol):
    """One place where lessons last. Every method may raise RetryLater or ConfigError."""

    @property
    def name(self) -> str:
        """What records of deliveries call it: the same after every restart, and without secrets."""
        ...

    async def check(self) -> None:
        """Proves that it would take something just now."""
        ...

    async def put(self, item: Item) -> None:
        """Delivers, once in effect: what is there already, whole, counts as delivered.

        Raises:
            Refused: it will never take this item.
        """
        ...

    async def remove(
        self, selection: Selection, known: Mapping[str, Sequence[SegmentRecord]], *, only_count: bool = False
    ) -> int:
        """Removes segments with everything that belongs to them, and says how many there were.

        ``known`` are the chosen segments that this machine's manifests know, by folder: some may be there unlisted.
        """
        ...

    async def aclose(self) -> None:
        """Lets go of connections. Idempotent."""
        ...


# --- what targets share ---


class Unusable(Refused):
    """The item itself is not what it should be; the target has not been asked."""


def sound_bytes(item: Sound) -> bytes:
    """The WAV, if it is what the manifest says. Blocks.

    Raises:
        Unusable: it is gone, or another one.
        StorageError: it cannot be read now.
    """
    data = file_bytes(item.folder / item.record.file)
    if hashlib.sha256(data).hexdigest() != item.record.sha256:
        raise Unusable("the file is not the one that the manifest names (SHA-256)")
    return data


def file_bytes(path: Path) -> bytes:
    """A whole file. Blocks.

    Raises:
        Unusable: it is gone, or no file.
        StorageError: it cannot be read now.
    """
    if path.is_symlink():
        raise Unusable("it is no ordinary file")
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise Unusable("the file is gone") from None
    except OSError as error:
        raise StorageError(f"{path.name} cannot be read: {error.strerror or error}") from error
