"""Where lessons last: what is delivered, and what every target (an object store, a database) can do with it.

A target sorts its errors by who must act: :class:`~segments.RetryLater` (the other side, later),
:class:`~segments.ConfigError` (the operator: a wrong key, a missing bucket) and :class:`~segments.Refused` (nobody:
this item will never be taken). Their libraries are large, and imported by those who use them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from config import Settings
from segments import ConfigError, Refused, SegmentRecord, StorageError, TextRecord

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
    """The manifest and the list of texts, as far as what they name has been delivered."""

    folder: Path
    manifest_bytes: int
    texts_bytes: int


Item = Sound | Words | Lists


@dataclass(frozen=True)
class Selection:
    """Which segments: those of a room (by its name or its folder's), of one participant, that ended before a moment."""

    room: str = ""
    participant: str = ""
    before: datetime | None = None

    def has(self, folder: str, record: SegmentRecord) -> bool:
        return (
            (not self.room or self.room in (folder, record.room_name))
            and (not self.participant or self.participant == record.participant_identity)
            and (self.before is None or record.end < self.before)
        )

    def has_all_of(self, folder: str, records: Iterable[SegmentRecord]) -> bool:
        return all(self.has(folder, record) for record in records)


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


# --- which there are ---

_S3_NAMES = ("s3_bucket", "s3_key_id", "s3_key_secret")


def problems_of(settings: Settings) -> list[str]:
    """What is wrong with the targets' settings, a line each. Recording never ends for it."""
    problems = []
    given = [name for name in _S3_NAMES if getattr(settings, name)]
    missing = [name.upper() for name in _S3_NAMES if not getattr(settings, name)]
    if missing and (given or settings.s3_endpoint or settings.s3_prefix):
        problems.append(f"{', '.join(missing)} not set: without it nothing is delivered to S3")
    elif given and not settings.s3_endpoint and settings.s3_region == "auto":
        problems.append("S3_REGION is not set: AWS needs it, such as eu-central-1 (or set S3_ENDPOINT)")
    if settings.s3_endpoint and not _is_url(settings.s3_endpoint, ("http", "https")):
        problems.append(f"S3_ENDPOINT={settings.s3_endpoint[:80]} is wrong: it must be an http or https URL")
    if settings.store_url and not _is_store(settings.store_url):
        problems.append(
            "STORE_URL is wrong: it must be gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER"
        )
    if settings.database_url and not _is_url(settings.database_url, ("postgres", "postgresql")):
        problems.append(
            "DATABASE_URL=(hidden) is wrong: it must be postgresql://user:password@host:5432/database"
        )
    return problems


def open_targets(settings: Settings) -> tuple[list[Target], list[str]]:
    """Every target whose settings are whole, and a line for each whose are not. Nothing is connected to yet."""
    problems = problems_of(settings)
    wrong = " ".join(problems)
    targets: list[Target] = []
    try:
        if all(getattr(settings, name) for name in _S3_NAMES) and "S3_" not in wrong:
            from object_target import ObjectTarget

            targets.append(ObjectTarget.s3(settings))
        if settings.store_url and "STORE_URL" not in wrong:
            from object_target import ObjectTarget

            targets.append(ObjectTarget.from_url(settings.store_url))
    except ConfigError as error:
        problems.append(str(error))
    try:
        if settings.database_url and "DATABASE_URL" not in wrong:
            from postgres_target import PostgresTarget

            targets.append(PostgresTarget(settings.database_url))
    except ConfigError as error:
        problems.append(str(error))
    return targets, problems


def _is_url(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in schemes and bool(parts.hostname)


def _is_store(text: str) -> bool:
    scheme, _, rest = text.partition("://")
    return scheme in ("gs", "az", "file") and bool(rest.strip("/"))


# --- what targets share ---


def sound_bytes(item: Sound) -> bytes:
    """The WAV, if it is what the manifest says. Blocks.

    Raises:
        Refused: it is gone, or another one.
        StorageError: it cannot be read now.
    """
    data = file_bytes(item.folder / item.record.file)
    if hashlib.sha256(data).hexdigest() != item.record.sha256:
        raise Refused("the file is not the one that the manifest names (SHA-256)")
    return data


def file_bytes(path: Path) -> bytes:
    """A whole file. Blocks.

    Raises:
        Refused: it is gone, or no file.
        StorageError: it cannot be read now.
    """
    if path.is_symlink():
        raise Refused("it is no ordinary file")
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise Refused("the file is gone") from None
    except OSError as error:
        raise StorageError(f"{path.name} cannot be read: {error.strerror or error}") from error
