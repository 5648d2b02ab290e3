"""The index of `lessons.py search`: one SQLite file (FTS5) in OUTPUT_DIR over all texts of all lessons.

It is derived from the manifests and ``texts.jsonl``: if it is deleted or damaged, the next search rebuilds it. Both
kinds of file only grow, so a bookmark in each tells what is new. The worker updates the index when a text has been
saved; a search updates it before it answers, so it does not depend on the worker.

Row ids follow the time of speech, so FTS5 finds matches in that order: the newest matches of a word in half of all
segments are found as fast as those of a rare word.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from archive.files import PRIVATE_FILE
from archive.jsonl import lines_behind, new_lines
from archive.manifest import record_in
from archive.names import LOST_AND_FOUND, MANIFEST, TEXTS, is_plain_name
from archive.texts import Texts
from archive.tombstones import Erasure, is_being_erased, open_erasures
from core import notify, search_tokens
from core.errors import StorageError
from core.language_tags import is_same_language
from core.records import parse_utc
from search.query import Phrase, Step
from search.ranking import Segment
from search.rows import PLACES, FolderRows

logger = logging.getLogger("recorder")

INDEX = ".search.sqlite"
SCHEMA_VERSION = 4
BUSY_SECONDS = 30.0
BATCH_LINES = 5_000
"""Lines in one transaction. A kill loses at most this much work, and other processes wait for it."""

CANDIDATES = 200
"""How many of the newest matches are ranked."""

SETTLE_SECONDS = 2.0
"""The worker waits this long after a text, to index several together."""

_SCHEMA = f"""
CREATE TABLE folder (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
    manifest_bytes INTEGER NOT NULL DEFAULT 0, manifest_digest TEXT NOT NULL DEFAULT '',
    texts_bytes INTEGER NOT NULL DEFAULT 0, texts_digest TEXT NOT NULL DEFAULT '',
    stamp TEXT NOT NULL DEFAULT ''
);
CREATE TABLE segment (
    id INTEGER PRIMARY KEY, folder INTEGER NOT NULL, number INTEGER NOT NULL, file TEXT NOT NULL,
    start TEXT NOT NULL, duration REAL NOT NULL, room TEXT NOT NULL, room_sid TEXT NOT NULL,
    identity TEXT NOT NULL, name TEXT NOT NULL, spoken TEXT, texts TEXT, tokens TEXT
);
CREATE INDEX segment_by_number ON segment (folder, number);
CREATE TABLE language (tag TEXT PRIMARY KEY, place INTEGER NOT NULL);
CREATE VIRTUAL TABLE words USING fts5({", ".join(PLACES)}, content='', tokenize='ascii', columnsize=0);
"""


class UnreadableFolder(StorageError):
    """A folder cannot be read now."""


class SearchIndex:
    """The index of one OUTPUT_DIR. Blocks; use it on the thread that created it.

    Raises:
        StorageError: the index cannot be used.
    """

    def __init__(self, output_dir: Path) -> None:
        self._output_dir = output_dir
        self._path = output_dir / INDEX
        self._database = self._open()

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> SearchIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The file.

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connected()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                raise StorageError(f"{self._path} is busy: {error}") from None
        except OSError as error:
            raise StorageError(f"{self._path} cannot be used: {error.strerror or error}") from None
        try:
            for name in (INDEX, f"{INDEX}-wal", f"{INDEX}-shm"):
                (self._output_dir / name).unlink(missing_ok=True)
            return self._connected()
        except (sqlite3.DatabaseError, OSError) as error:
            raise StorageError(f"{self._path} cannot be used: {error}") from None

    def _connected(self) -> sqlite3.Connection:
        """Opens the file, and creates it if needed; raises DatabaseError if it is anything else."""
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), PRIVATE_FILE))
        database = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            wanted = SCHEMA_VERSION * 1000 + search_tokens.VERSION
            with _transaction(database):
                (version,) = database.execute("PRAGMA user_version").fetchone()
                if version == 0:
                    for statement in filter(str.strip, _SCHEMA.split(";\n")):
                        database.execute(statement)
                    database.execute(f"PRAGMA user_version = {wanted}")
                elif version != wanted:
                    raise sqlite3.DatabaseError("an index of another version")
        except BaseException:
            database.close()
            raise
        return database

    # Keeping it fresh.

    def stale(self) -> list[str]:
        """Lists folders that are new, gone, or changed since they were last read."""
        known = dict(self._database.execute("SELECT name, stamp FROM folder"))
        there = {name: stamp for name, stamp in self._stamps() if stamp or name in known}
        changed = [name for name, stamp in there.items() if known.get(name) != stamp]
        return sorted({*changed, *(known.keys() - there.keys())})

    def unread_bytes(self, folders: Iterable[str]) -> int:
        """Returns how many bytes of these folders are still to be read, for the progress bar."""
        known = {
            name: manifest + texts
            for name, manifest, texts in self._database.execute(
                "SELECT name, manifest_bytes, texts_bytes FROM folder"
            )
        }
        sizes = (
            sum(_size(self._output_dir / name / file) for file in (MANIFEST, TEXTS)) - known.get(name, 0)
            for name in folders
        )
        return sum(max(0, size) for size in sizes)

    def refresh(self, folders: Iterable[str], advance: Callable[[float], None] = lambda _: None) -> None:
        """Reads what is new in these folders (names relative to OUTPUT_DIR).

        Raises:
            StorageError: the index cannot be written now.
            UnreadableFolder: a folder cannot be read now; the others have been.
        """
        unreadable = []
        for name in folders:
            try:
                self._refresh(name, advance)
            except sqlite3.Error as error:
                raise StorageError(f"{self._path} cannot be written: {error}") from None
            except OSError as error:
                unreadable.append(f"{self._output_dir / name} cannot be read: {error.strerror or error}")
        if unreadable:
            raise UnreadableFolder("; ".join(unreadable))

    def _stamps(self) -> Iterator[tuple[str, str]]:
        """Yields the stamp (sizes and times of the two files) of every folder; empty if it has neither."""
        with os.scandir(self._output_dir) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        for name in names:
            if name != LOST_AND_FOUND:
                yield name, _stamp(self._output_dir / name)

    def _refresh(self, name: str, advance: Callable[[float], None]) -> None:
        path = self._output_dir / name
        stamp = _stamp(path)
        if not stamp:
            self._forget(name)
            return
        more = True
        while more:
            with _transaction(self._database):
                more = self._read_on(FolderRows(self._database, name), path, advance)
        with _transaction(self._database):
            self._database.execute("UPDATE folder SET stamp = ? WHERE name = ?", (stamp, name))

    def _read_on(self, folder: FolderRows, path: Path, advance: Callable[[float], None]) -> bool:
        """Reads the next lines of one of the files; returns whether there were any."""
        is_another, lines, behind = lines_behind(path / MANIFEST, folder.manifest, BATCH_LINES)
        if is_another:
            folder.forget()
        if lines:
            found = (record for line in lines if (record := record_in(line)) and is_plain_name(record.file))
            records = [record for record in found if not is_being_erased(path, record)]
            folder.add(records, _only_files(path))
            folder.mark("manifest", behind)
            advance(sum(map(len, lines)))
            return True
        lines, behind = new_lines(path / TEXTS, folder.texts, BATCH_LINES)
        if lines:
            folder.add_texts(lines, path)
            advance(sum(map(len, lines)))
        if behind != folder.texts:
            folder.mark("texts", behind)
        return bool(lines)

    def _forget(self, name: str) -> None:
        with _transaction(self._database):
            folder = FolderRows(self._database, name)
            folder.forget()
            self._database.execute("DELETE FROM folder WHERE id = ?", (folder.id,))

    # Searching.

    def matches(self, step: Step, folders: Sequence[str] = (), language: str = "") -> list[Segment]:
        """Finds the newest segments that have the words, newest first; in these folders and this language if named.

        Raises:
            StorageError: the index cannot be read.
        """
        where = f"AND folder.name IN ({', '.join('?' * len(folders))})" if folders else ""
        try:
            expression = self._expression(step, language)
            if not expression:
                return []
            rows = self._database.execute(
                "SELECT folder.name, number, file, start, duration, room, room_sid, identity, segment.name, "
                "spoken, texts, tokens FROM words JOIN segment ON segment.id = words.rowid "
                f"JOIN folder ON folder.id = segment.folder WHERE words MATCH ? {where} "
                "ORDER BY words.rowid DESC LIMIT ?",
                [expression, *folders, CANDIDATES],
            ).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"{self._path} cannot be read: {error}") from None
        erasures = open_erasures(self._path.parent)
        found = map(_segment, rows)
        return [one for one in found if not _is_covered(one, erasures)]

    def _expression(self, step: Step, language: str) -> str:
        """The search in FTS5's syntax; empty if there is no text in the language."""
        every = " AND ".join(f"({' OR '.join(map(_phrase, phrases))})" for phrases in step)
        if not language:
            return every
        known = self._database.execute("SELECT tag, place FROM language").fetchall()
        places = sorted({place for tag, place in known if is_same_language(tag, language)})
        return " OR ".join(f"({PLACES[place]} : ({every}))" for place in places)


def _phrase(phrase: Phrase) -> str:
    """A phrase in FTS5's syntax. It is quoted, so no token is an operator, and no token contains a quote."""
    return f'"{" ".join(phrase.tokens)}"{" *" if phrase.is_beginning else ""}'


def _segment(row: Sequence[Any]) -> Segment:
    folder, number, file, start, duration, room, room_sid, identity, name, spoken, texts, tokens = row
    return Segment(
        folder,
        number,
        file,
        start,
        duration,
        room,
        room_sid,
        identity,
        name,
        spoken,
        json.loads(texts),
        json.loads(tokens),
    )


def _is_covered(segment: Segment, erasures: Iterable[Erasure]) -> bool:
    who, start = segment.participant_identity, parse_utc(segment.start)
    return any(erasure.covers(segment.folder, segment.room, who, start) for erasure in erasures)


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _stamp(folder: Path) -> str:
    stamps = []
    for name in (MANIFEST, TEXTS):
        with contextlib.suppress(OSError):
            found = os.stat(folder / name)
            stamps.append(f"{name} {found.st_size} {found.st_mtime_ns}")
    return ", ".join(stamps)


def _only_files(folder: Path) -> Texts | None:
    """Opens the texts of a folder that has no texts.jsonl, only text files (an archive made elsewhere)."""
    return None if (folder / TEXTS).exists() else Texts(folder)


# --- in the worker ---


class FreshIndex:
    """Updates the index while a worker runs, in the folders in which a text has been saved.

    Older folders are indexed by the first search. Works on a thread of its own; an error is logged, and the next search
    reads what is missing.
    """

    def __init__(self, output_dir: Path) -> None:
        self._output_dir = output_dir
        self._notified: set[str] = set()
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Works until cancelled."""
        stop_listening = notify.listen(TEXTS, self._on_notified)
        try:
            while True:
                await self._news.wait()
                await asyncio.sleep(SETTLE_SECONDS)
                self._news.clear()
                folders, self._notified = self._notified, set()
                await self._refresh(folders)
        finally:
            stop_listening()

    def _on_notified(self, texts: Path) -> None:
        if texts.parent.parent == self._output_dir:
            self._notified.add(texts.parent.name)
            self._news.set()

    async def _refresh(self, folders: set[str]) -> None:
        try:
            await asyncio.to_thread(_read_on, self._output_dir, folders)
        except Exception as error:  # recording must go on; the next search reads what is missing
            logger.warning("The search index is not updated now, the next search does it: %s", error)


def _read_on(output_dir: Path, folders: set[str]) -> None:
    with SearchIndex(output_dir) as index:
        index.refresh(sorted(folders))
