"""The outbox's SQLite file, and the lock files that show which workers are running.

The database may be deleted or damaged at any moment: then the new file is opened, or the damaged one is moved away and
a new one created. Everything here blocks, and belongs on one thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

from archive.files import FolderLock, open_private, try_lock
from core.errors import StorageError

logger = logging.getLogger("recorder")

OUTBOX = ".outbox.sqlite"
BROKEN_OUTBOX = ".outbox.broken.sqlite"
SCHEMA_VERSION = 1
BUSY_SECONDS = 10.0
"""How long to wait for another worker's transaction."""

_SCHEMA = """
CREATE TABLE work (
    kind TEXT NOT NULL, folder TEXT NOT NULL, file TEXT NOT NULL,
    moment REAL NOT NULL, payload TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending', reason TEXT NOT NULL DEFAULT '',
    owner TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL, created REAL NOT NULL,
    PRIMARY KEY (kind, folder, file)
) WITHOUT ROWID;
CREATE INDEX work_by_moment ON work (kind, state, moment);
CREATE INDEX work_by_room ON work (kind, state, folder, moment);
CREATE INDEX work_under_way ON work (kind, owner) WHERE owner != '';
CREATE TABLE bookmark (
    kind TEXT NOT NULL, source TEXT NOT NULL, bytes INTEGER NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (kind, source)
) WITHOUT ROWID;
CREATE TABLE spent (
    kind TEXT NOT NULL, second INTEGER NOT NULL, units INTEGER NOT NULL,
    PRIMARY KEY (kind, second)
) WITHOUT ROWID;
"""

T = TypeVar("T")


class Presence:
    """A file that a worker keeps locked while it runs; the system releases the lock when the process ends."""

    def __init__(self, folder: Path) -> None:
        self.owner = secrets.token_hex(8)
        """Identifies this worker among all that share the folder."""
        self._folder = folder
        self._file: IO[bytes] | None = None

    @property
    def is_shown(self) -> bool:
        return self._file is not None

    def show(self) -> None:
        """Creates and locks the file. The caller holds the folder's lock, so that no other worker finds it unlocked."""
        if self._file is None:
            self._file = open_private(self._path(self.owner), os.O_RDWR | os.O_CREAT)
            try_lock(self._file)

    def remove_ended(self) -> None:
        """Removes the files of workers that have ended."""
        for path in self._folder.glob(".outbox-*.lock"):
            owner = path.stem.removeprefix(".outbox-")
            if owner != self.owner:
                self.has_ended(owner)

    def has_ended(self, owner: str) -> bool:
        """Whether another worker has ended; if so, its file is removed."""
        path = self._path(owner)
        try:
            with open_private(path, os.O_RDWR) as file:
                if not try_lock(file):
                    return False
        except FileNotFoundError:
            return True
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """Releases the lock and removes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
            with contextlib.suppress(OSError):
                self._path(self.owner).unlink(missing_ok=True)

    def _path(self, owner: str) -> Path:
        return self._folder / f".outbox-{owner}.lock"


class OutboxFile:
    """The connection to the database at its path."""

    def __init__(self, folder: Path, presence: Presence) -> None:
        self._folder = folder
        self._presence = presence
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None

    def transaction(self, body: Callable[[], T]) -> T:
        """Runs ``body`` in one transaction and returns its result. Repeats it if the file turns out to be damaged.

        Raises:
            StorageError: the disk refuses; nothing has changed.
        """
        try:
            try:
                return self._in_transaction(body)
            except sqlite3.DatabaseError as error:
                if not _is_broken(error):
                    raise
                self._replace(error)
                return self._in_transaction(body)
        except (sqlite3.Error, OSError) as error:
            self.disconnect()
            raise StorageError(f"{OUTBOX} cannot be used: {error}") from error

    def run(self, statement: str, *values: Any) -> int:
        """Executes a statement within a transaction, and returns how many rows it changed."""
        assert self._connection is not None
        return self._connection.execute(statement, values).rowcount

    def one(self, statement: str, *values: Any) -> Any:
        """Executes a query within a transaction, and returns the first row."""
        assert self._connection is not None
        return self._connection.execute(statement, values).fetchone()

    def all(self, statement: str, **values: Any) -> list[Any]:
        """Executes a query within a transaction, and returns all rows."""
        assert self._connection is not None
        return self._connection.execute(statement, values).fetchall()

    def begin_generation(self) -> None:
        """Within a transaction: gives the content another number, as its readers have to begin anew."""
        self.run(f"PRAGMA application_id = {_new_generation()}")

    def disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection, self._identity = None, None

    def _in_transaction(self, body: Callable[[], T]) -> T:
        connection = self._connected()
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = body()
            connection.execute("COMMIT")
            return result
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _connected(self) -> sqlite3.Connection:
        """The connection, opened again if the file at the path is another one: it may have been deleted or replaced."""
        if self._connection is None or self._identity != _identity_of(self._folder / OUTBOX):
            self.disconnect()
            with FolderLock(self._folder):  # so that no other worker finds the lock file unlocked
                self._presence.show()
                self._presence.remove_ended()
                self._connect()
        assert self._connection is not None
        return self._connection

    def _connect(self) -> None:
        path = self._folder / OUTBOX
        # Created with 0600 before SQLite writes; its -wal and -shm get the same mode.
        open_private(path, os.O_RDWR | os.O_CREAT).close()
        self._identity = _identity_of(path)
        self._connection = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        _prepare(self._connection)

    def _replace(self, error: Exception) -> None:
        path, broken = self._folder / OUTBOX, self._identity
        self.disconnect()
        with FolderLock(self._folder):
            if _identity_of(path) != broken:
                return  # another worker has replaced it
            logger.error(
                "%s is damaged (%s): moved to %s, and a new one is created", OUTBOX, error, BROKEN_OUTBOX
            )
            for ending in ("-wal", "-shm"):
                path.with_name(OUTBOX + ending).unlink(missing_ok=True)
            os.replace(path, path.with_name(BROKEN_OUTBOX))


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        connection.executescript(
            f"BEGIN; {_SCHEMA} PRAGMA application_id = {_new_generation()};"
            f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
    elif version != SCHEMA_VERSION:
        raise sqlite3.DatabaseError(f"it is of version {version}")


def _new_generation() -> int:
    return secrets.randbelow(2**31 - 1) + 1


def _is_broken(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is no database, or a damaged one. Busy, full and read-only are OperationalError."""
    return type(error) is sqlite3.DatabaseError or "no such" in str(error)


def _identity_of(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
