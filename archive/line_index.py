"""Finds lines in the lists of the rooms' folders by a name, without reading the lists: each line is read once.

``.lines.sqlite`` in OUTPUT_DIR has the positions of the lines by digests of their names, so it contains no name of a
person or a room. The lists are the truth: it may be deleted or damaged at any moment, and is made again from them.
Several processes may use it at once. Everything here blocks, and may be called on any thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from archive.files import open_private, state_of
from archive.jsonl import MAX_LINE_BYTES, Bookmark, lines_of, open_regular, placed_lines_behind
from core.errors import StorageError

INDEX = ".lines.sqlite"
SCHEMA_VERSION = 2
BUSY_SECONDS = 10.0
CACHE_KILOBYTES = 256
MAX_STATES = 1_000
"""Of so many lists it is known that they have not changed since they were read."""

_SCHEMA = """
CREATE TABLE list (id INTEGER PRIMARY KEY, bytes INTEGER NOT NULL, digest TEXT NOT NULL);
CREATE TABLE line (list INTEGER, name INTEGER, position INTEGER NOT NULL, PRIMARY KEY (list, name)) WITHOUT ROWID;
CREATE TABLE tag (
    list INTEGER, tag TEXT, first INTEGER NOT NULL, last INTEGER NOT NULL, lines INTEGER NOT NULL,
    PRIMARY KEY (list, tag)
) WITHOUT ROWID;
"""

T = TypeVar("T")


class Entry(NamedTuple):
    """What the index has of a line."""

    name: str
    """The line is found by it; of several lines with the same name the last counts. Empty: it is not to be found."""
    tag: str = ""
    """What it has in common with other lines, such as the language or the session."""


class Span(NamedTuple):
    """Where the lines with one tag are; there may be others between them."""

    first: int
    """Position of the first one, in bytes."""
    last: int
    """Position of the last one."""
    lines: int
    """How many there are."""


class LineIndex:
    """The index of one list. ``entry_in`` says what it has of a line; None: the line is left out."""

    def __init__(self, path: Path, entry_in: Callable[[bytes], Entry | None]) -> None:
        self._path = path
        self._entry_in = entry_in
        self._id = _list_id(path)
        self._database = _database_of(path.parent.parent)

    def find(self, name: str) -> bytes | None:
        """The last line with this name; None if there is none. Raises as :meth:`find_all`."""
        return self.find_all((name,)).get(name)

    def find_all(self, names: Collection[str]) -> dict[str, bytes]:
        """The last line with each of these names that there is.

        Raises:
            OSError: the list cannot be read.
            StorageError: the index cannot be written.
        """
        found = self._lines_at(self._positions(names))
        wrong = {name for name, line in found.items() if not self._has_name(line, name)}
        if wrong:
            # Two names have the same digest, or the list has just been replaced.
            found = {name: line for name, line in found.items() if name not in wrong}
            for _, line in lines_of(self._path):
                entry = self._entry_in(line)
                if entry is not None and entry.name in wrong:
                    found[entry.name] = line
        return found

    def known(self, names: Collection[str]) -> set[str]:
        """Those of these names that a line has, without reading the lines. Raises as :meth:`find_all`."""
        return set(self._positions(names))

    def tags(self) -> dict[str, Span]:
        """All tags with their lines, in the order in which they first came. Raises as :meth:`find_all`."""

        def query(database: sqlite3.Connection) -> dict[str, Span]:
            rows = database.execute(
                "SELECT tag, first, last, lines FROM tag WHERE list = ? ORDER BY first", (self._id,)
            )
            return {str(tag): Span(*span) for tag, *span in rows}

        return self._asked(query)

    def span(self, tag: str) -> Span | None:
        """The lines with this tag; None if there are none. Raises as :meth:`find_all`."""

        def query(database: sqlite3.Connection) -> Span | None:
            statement = "SELECT first, last, lines FROM tag WHERE list = ? AND tag = ?"
            row = database.execute(statement, (self._id, tag)).fetchone()
            return Span(*row) if row else None

        return self._asked(query)

    def lines_from_first_to_last(self, tag: str) -> Iterator[bytes]:
        """Yields the lines with this tag and those between them, without reading any others. Raises as
        :meth:`find_all`."""
        span = self.span(tag)
        for position, line in lines_of(self._path, span.first) if span else ():
            if span is None or position > span.last:
                return
            yield line

    def _positions(self, names: Collection[str]) -> dict[str, int]:
        """The positions of the last lines with these names."""

        def query(database: sqlite3.Connection) -> dict[str, int]:
            statement = "SELECT position FROM line WHERE list = ? AND name = ?"
            rows = (
                (name, database.execute(statement, (self._id, _digest(name))).fetchone()) for name in names
            )
            return {name: int(row[0]) for name, row in rows if row is not None}

        return self._asked(query)

    def _has_name(self, line: bytes, name: str) -> bool:
        entry = self._entry_in(line)
        return entry is not None and entry.name == name

    def _asked(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """The answer to a query, after the list has been read to its end."""
        while True:
            state = state_of(self._path)
            answer = self._database.run(partial(self._answer, state, query))
            if answer is not None:
                return answer[0]
            self._read_next(state)

    def _answer(
        self, state: tuple[int, ...], query: Callable[[sqlite3.Connection], T], database: sqlite3.Connection
    ) -> tuple[T] | None:
        """None: the list has not been read to its end in this state."""
        is_read = self._database.read_states.get(self._id) == state
        return (query(database),) if is_read else None

    def _read_next(self, state: tuple[int, ...]) -> None:
        """Reads the next lines of the list, or all of them if it is another list. The index is free meanwhile: others
        use it, also while they keep a recorder from its folder."""
        before = self._database.run(self._bookmark)
        is_another, lines, behind = placed_lines_behind(self._path, before)
        placed = [(place, entry) for place, line in lines if (entry := self._entry_in(line)) is not None]
        is_end = not (is_another or lines) or (bool(state) and behind.bytes >= state[1])

        def add(database: sqlite3.Connection) -> None:
            with _transaction(database) if is_another or lines else contextlib.nullcontext():
                if self._bookmark(database) != before:
                    return  # another thread or process has just read them
                if is_another:
                    _forget(database, self._id)
                if is_another or lines:
                    self._add(database, placed, behind)
            if is_end:
                self._database.note_read(self._id, state)

        self._database.run(add)

    def _bookmark(self, database: sqlite3.Connection) -> Bookmark:
        row = database.execute("SELECT bytes, digest FROM list WHERE id = ?", (self._id,)).fetchone()
        return Bookmark(*row) if row else Bookmark()

    def _add(self, database: sqlite3.Connection, placed: list[tuple[int, Entry]], behind: Bookmark) -> None:
        database.executemany(
            "INSERT OR REPLACE INTO line VALUES (?, ?, ?)",
            sorted((self._id, _digest(entry.name), place) for place, entry in placed if entry.name),
        )
        database.executemany(
            "INSERT INTO tag VALUES (?, ?, ?, ?, 1) ON CONFLICT DO UPDATE"
            " SET last = excluded.last, lines = lines + 1",
            [(self._id, entry.tag, place, place) for place, entry in placed if entry.tag],
        )
        database.execute(
            "INSERT OR REPLACE INTO list VALUES (?, ?, ?)", (self._id, behind.bytes, behind.digest)
        )

    def _lines_at(self, positions: Mapping[str, int]) -> dict[str, bytes]:
        file = open_regular(self._path) if positions else None
        if file is None:
            return {}
        found = {}
        with file:
            for name, position in positions.items():
                file.seek(position)
                found[name] = file.readline(MAX_LINE_BYTES)
        return found


def keep_open(output_dir: Path) -> object:
    """Keeps the index open as long as the result is referenced; to open it for each question would be slow."""
    return _database_of(output_dir)


def forget(paths: Iterable[Path]) -> None:
    """Deletes what is known of lists that are removed. What the disk refuses is left: it finds no line any more."""
    for path in paths:
        if (path.parent.parent / INDEX).exists():
            database = _database_of(path.parent.parent)
            database.read_states.pop(_list_id(path), None)
            with contextlib.suppress(StorageError, OSError):
                database.run(partial(_forget, list_id=_list_id(path)))


def _forget(database: sqlite3.Connection, list_id: int) -> None:
    for table, column in (("line", "list"), ("tag", "list"), ("list", "id")):
        database.execute(f"DELETE FROM {table} WHERE {column} = ?", (list_id,))


def _list_id(path: Path) -> int:
    return _digest(f"{path.parent.name}/{path.name}")


def _digest(name: str) -> int:
    """A number of 64 bits for a name."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


# --- the file ---


class _Database:
    """The connection to one index file. A damaged file is replaced by a new one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.read_states: dict[int, tuple[int, ...]] = {}
        """What the lists' files were when they were last read to their ends, as far as this connection knows."""
        self._connection: sqlite3.Connection | None = None
        self._close: Callable[[], object] = lambda: None

    def run(self, body: Callable[[sqlite3.Connection], T]) -> T:
        """Calls ``body`` with the connection.

        Raises:
            StorageError: the disk refuses.
            OSError: from ``body``.
        """
        with self._lock:
            try:
                try:
                    return body(self._connected())
                except sqlite3.DatabaseError as error:
                    if isinstance(error, sqlite3.OperationalError) and "no such" not in str(error):
                        raise
                    self._remove()
                    return body(self._connected())
            except sqlite3.Error as error:
                self._close()
                self._connection = None
                raise StorageError(f"{INDEX} cannot be used: {error}") from error

    def note_read(self, list_id: int, state: tuple[int, ...]) -> None:
        """Notes that the list in this state has been read to its end."""
        if len(self.read_states) >= MAX_STATES:
            self.read_states.clear()
        self.read_states[list_id] = state

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._create()
            connection = sqlite3.connect(
                self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._close = weakref.finalize(self, connection.close)
            self.read_states.clear()  # it may be another file
            _prepare(connection)
            self._connection = connection
        return self._connection

    def _create(self) -> None:
        """Creates the file with the mode 0600, which its -wal and -shm get, too."""
        try:
            open_private(self._path, os.O_RDWR | os.O_CREAT).close()
        except PermissionError:  # of another owner: root has run a command here
            self._remove()
            open_private(self._path, os.O_RDWR | os.O_CREAT).close()

    def _remove(self) -> None:
        self._close()
        self._connection = None
        for name in (INDEX, f"{INDEX}-wal", f"{INDEX}-shm"):
            self._path.with_name(name).unlink(missing_ok=True)


def _prepare(connection: sqlite3.Connection) -> None:
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", f"cache_size = -{CACHE_KILOBYTES}"):
        connection.execute(f"PRAGMA {pragma}")
    with _transaction(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in filter(str.strip, _SCHEMA.split(";\n")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"it is of version {version}")


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


_databases: weakref.WeakValueDictionary[Path, _Database] = weakref.WeakValueDictionary()
_databases_lock = threading.Lock()


def _database_of(output_dir: Path) -> _Database:
    """The connection to a folder's index that all its users in this process share."""
    path = output_dir.absolute() / INDEX
    with _databases_lock:
        database = _databases.get(path)
        if database is None:
            database = _databases[path] = _Database(path)
        return database
