"""The outbox: the queue of work that is still to be done for segments on disk.

It is a small SQLite file in OUTPUT_DIR. For every kind of work (text, a delivery) it stores how far each manifest has
been read, which items are pending, which are refused and why, and which worker has claimed an item. It is not the
source of truth: the manifests, texts.jsonl and the delivery log are. It may be deleted or damaged, even while the
worker runs: a damaged file is moved away, a new one is created, and every manifest is read again from its first line.
What the records call done is not added again.

Several workers may share one OUTPUT_DIR on one machine (SQLite and file locks do not work across machines). One worker
claims an item. A running worker holds a lock on a file of its own. So the items of a killed worker are free at the next
claim, and those of a running worker are never given to another.

Every method runs on the outbox's own thread and may be called from any event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from archive.call_budget import spend
from archive.jsonl import Bookmark
from archive.outbox_file import OutboxFile, Presence
from core.errors import StorageError

TEXT = "text"
"""The kind of work that gets the text of a segment, and the name of its budget."""

MAX_WAITING = 50_000
"""Pending items of one kind, about 80 hours of speech. More are not read from the manifests until there is room."""

MAX_FINISHED = 50_000
"""Finished items of one kind that are kept."""
DELETE_EVERY = 500
"""After this many more finished items the oldest are deleted; finding them is slow."""

P = ParamSpec("P")
T = TypeVar("T")


class State(StrEnum):
    """The state of an item."""

    PENDING = "pending"
    DONE = "done"
    REFUSED = "refused"


class Order(Enum):
    """Which item is claimed first."""

    NEWEST_FIRST = "newest first"
    ROOMS_IN_ORDER = "oldest first; of each room only its oldest, and none while that one waits or is claimed"


@dataclass(frozen=True)
class Work:
    """One item of work, identified by (kind, folder, file): adding it again changes nothing."""

    kind: str
    folder: str
    """The room's folder, relative to OUTPUT_DIR."""
    file: str
    """The file it concerns, relative to the folder: for example a segment's WAV."""
    moment: float
    """The sort key: when it was spoken, in seconds since 1970."""
    payload: dict[str, Any]
    """The data that the work needs, as JSON: for example the manifest's line."""
    attempts: int = 0
    """How often it has been claimed before."""


@dataclass(frozen=True)
class Backlog:
    """The pending items of one kind."""

    count: int
    oldest_seconds: float
    """How long ago the oldest of them was spoken; 0 if there is none."""
    refused: int


# --- the outbox ---


def _transaction(
    body: Callable[Concatenate[Outbox, P], T],
) -> Callable[Concatenate[Outbox, P], Coroutine[Any, Any, T]]:
    """Makes a method's body one transaction on the outbox's thread, repeated if the file turns out to be damaged."""

    async def method(self: Outbox, /, *args: P.args, **kwargs: P.kwargs) -> T:
        work = functools.partial(self._file.transaction, functools.partial(body, self, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    functools.update_wrapper(method, body)
    return method


class Outbox:
    """The queue. Any method may raise StorageError if the disk refuses; then nothing has changed."""

    def __init__(self, output_dir: Path) -> None:
        self._presence = Presence(output_dir)
        self._file = OutboxFile(output_dir, self._presence)
        self._finished = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox")

    # Adding items.

    @_transaction
    def bookmark(self, kind: str, source: str) -> Bookmark:
        """How far ``source`` (a path relative to OUTPUT_DIR) has been read for this kind of work."""
        return self._bookmark(kind, source)

    @_transaction
    def bookmarks(self, kind: str) -> dict[str, Bookmark]:
        """How far each source has been read for this kind of work."""
        rows = self._file.all("SELECT source, bytes, digest FROM bookmark WHERE kind = :kind", kind=kind)
        return {source: Bookmark(*bookmark) for source, *bookmark in rows}

    @_transaction
    def add(self, works: Sequence[Work]) -> int:
        """Adds the items that are not there yet, and returns how many were added."""
        return self._insert(works)

    @_transaction
    def add_read(
        self, kind: str, source: str, works: Sequence[Work], read_from: Bookmark, read_to: Bookmark
    ) -> bool:
        """Adds items read from a growing file and moves its bookmark, both or neither.

        False if nothing was added: another worker has moved the bookmark, or too many items are pending.
        """
        if self._bookmark(kind, source) != read_from:
            return False
        if self._count(kind, State.PENDING) + len(works) > MAX_WAITING:
            return False
        self._insert(works)
        self._file.run(
            "INSERT OR REPLACE INTO bookmark VALUES (?, ?, ?, ?)", kind, source, read_to.bytes, read_to.digest
        )
        return True

    def _bookmark(self, kind: str, source: str) -> Bookmark:
        row = self._file.one("SELECT bytes, digest FROM bookmark WHERE kind = ? AND source = ?", kind, source)
        return Bookmark(*row) if row else Bookmark()

    def _insert(self, works: Sequence[Work]) -> int:
        now, added = time.time(), 0
        for work in works:
            payload = json.dumps(work.payload)
            row = (work.kind, work.folder, work.file, work.moment, payload, now)
            added += self._file.run(
                "INSERT OR IGNORE INTO work (kind, folder, file, moment, payload, not_before, created)"
                " VALUES (?, ?, ?, ?, ?, 0, ?)",  # due at once, whatever the clock is set to
                *row,
            )
        return added

    @_transaction
    def reset(self, kind: str) -> None:
        """Deletes all items of a kind that are not claimed, and its bookmarks, so that all files are read again."""
        self._file.run("DELETE FROM work WHERE kind = ? AND owner = ''", kind)
        self._file.run("DELETE FROM bookmark WHERE kind = ?", kind)
        self._file.begin_generation()

    @_transaction
    def forget(self, folder: str) -> None:
        """Deletes all items of a folder, of every kind, that are not claimed, and the bookmarks of its files."""
        self._file.run("DELETE FROM work WHERE folder = ? AND owner = ''", folder)
        prefix = f"{folder}/"
        self._file.run("DELETE FROM bookmark WHERE substr(source, 1, ?) = ?", len(prefix), prefix)
        self._file.begin_generation()

    @_transaction
    def claimed(self, kind_prefix: str, folder: str) -> int:
        """How many items of a folder running workers have claimed, of all kinds that begin with ``kind_prefix``."""
        kinds = self._file.all("SELECT DISTINCT kind FROM work WHERE owner != ''")
        count = 0
        for kind in (kind for (kind,) in kinds if kind.startswith(kind_prefix)):
            self._release_items_of_ended_workers(kind)
            query = "SELECT COUNT(*) FROM work WHERE kind = ? AND folder = ? AND owner != ''"
            count += int(self._file.one(query, kind, folder)[0])
        return count

    # Working on items.

    @_transaction
    def claim(self, kind: str, order: Order, most: int = 1) -> list[Work]:
        """Claims up to ``most`` items that are due. No other worker gets them until they are settled or given back."""
        self._release_items_of_ended_workers(kind)
        rows = self._file.all(_DUE[order], kind=kind, now=time.time(), most=most)
        works = [
            Work(kind, folder, file, moment, json.loads(payload), attempts)
            for folder, file, moment, payload, attempts in rows
        ]
        for work in works:
            self._update(work, "owner = ?, attempts = attempts + 1", self._presence.owner)
        return works

    @_transaction
    def done(self, work: Work) -> bool:
        """Marks an item as done; it is never claimed again. Returns whether others of its kind are pending."""
        self._update(work, "state = 'done', owner = '', payload = '{}'")
        self._finished += 1
        if self._finished % DELETE_EVERY == 0:
            self._delete_oldest_done(work.kind)
        query = "SELECT 1 FROM work WHERE kind = ? AND state = 'pending' LIMIT 1"
        return self._file.one(query, work.kind) is not None

    @_transaction
    def refuse(self, work: Work, reason: str) -> None:
        """Marks an item as refused, with the reason; it is never claimed again."""
        self._update(work, "state = 'refused', owner = '', reason = ?", reason)

    @_transaction
    def retry(self, work: Work, after_seconds: float) -> None:
        """Releases an item that failed; it is due again after this time."""
        self._update(work, "owner = '', not_before = ?", time.time() + after_seconds)

    @_transaction
    def give_back(self, work: Work) -> None:
        """Releases an item that has not been tried."""
        self._update(work, "owner = '', attempts = attempts - 1")

    # Queries.

    @_transaction
    def generation(self) -> int:
        """A number that changes when bookmarks are deleted, or a new outbox without any is created."""
        return int(self._file.one("PRAGMA application_id")[0])

    @_transaction
    def backlog(self, kind: str) -> Backlog:
        """How many items are pending, and since when."""
        oldest = self._file.one("SELECT MIN(moment) FROM work WHERE kind = ? AND state = 'pending'", kind)
        age = time.time() - oldest[0] if oldest and oldest[0] is not None else 0.0
        return Backlog(self._count(kind, State.PENDING), max(0.0, age), self._count(kind, State.REFUSED))

    @_transaction
    def has_pending(self, kinds: Sequence[str], folder: str) -> bool:
        """Whether any item of these kinds is pending in a folder."""
        query = "SELECT 1 FROM work WHERE kind = ? AND state = 'pending' AND folder = ? LIMIT 1"
        return any(self._file.one(query, kind, folder) is not None for kind in kinds)

    @_transaction
    def due_in(self, kind: str) -> float | None:
        """Seconds until the next item becomes due; None if no item is waiting for its time."""
        now = time.time()
        row = self._file.one(
            "SELECT MIN(not_before) FROM work WHERE kind = ? AND state = 'pending' AND not_before > ?",
            kind,
            now,
        )
        return row[0] - now if row[0] is not None else None

    @_transaction
    def spend(self, kind: str, per_minute: int, per_day: int) -> float:
        """Takes one unit of a budget that all workers share and that is kept over restarts.

        Returns 0 if it was taken, otherwise the seconds until one may be free. A limit of 0 means no limit."""
        return spend(self._file, kind, per_minute, per_day)

    # Closing it.

    async def aclose(self) -> None:
        """Releases the claimed items and closes the files. Idempotent."""
        try:
            if self._presence.is_shown:  # otherwise the outbox was never used, and need not be created now
                with contextlib.suppress(StorageError):
                    await self._give_back_all()
            await asyncio.to_thread(self._thread.shutdown)
        finally:  # also of a task that is cancelled meanwhile
            self._file.disconnect()
            self._presence.close()

    @_transaction
    def _give_back_all(self) -> None:
        self._release_items_of(self._presence.owner)

    def _release_items_of_ended_workers(self, kind: str) -> None:
        rows = self._file.all("SELECT DISTINCT owner FROM work WHERE kind = :kind AND owner != ''", kind=kind)
        for (owner,) in rows:
            if owner != self._presence.owner and self._presence.has_ended(owner):
                self._release_items_of(owner)

    def _release_items_of(self, owner: str) -> None:
        self._file.run("UPDATE work SET owner = '' WHERE owner != '' AND owner = ?", owner)

    def _update(self, work: Work, change: str, *values: Any) -> None:
        self._file.run(
            f"UPDATE work SET {change} WHERE kind = ? AND folder = ? AND file = ?",
            *values,
            work.kind,
            work.folder,
            work.file,
        )

    def _count(self, kind: str, state: State) -> int:
        row = self._file.one("SELECT COUNT(*) FROM work WHERE kind = ? AND state = ?", kind, state.value)
        return int(row[0])

    def _delete_oldest_done(self, kind: str) -> None:
        """Deletes old finished items. They are before the bookmarks, so they are not added again."""
        self._file.run(
            "DELETE FROM work WHERE kind = ? AND state = 'done' AND moment < (SELECT moment FROM work"
            " WHERE kind = ? AND state = 'done' ORDER BY moment DESC LIMIT 1 OFFSET ?)",
            kind,
            kind,
            MAX_FINISHED,
        )


_COLUMNS = "folder, file, moment, payload, attempts"
# An item that is due in more than a day was put off before the clock was set back.
_DUE = {
    Order.NEWEST_FIRST: f"""
        SELECT {_COLUMNS} FROM work
        WHERE kind = :kind AND state = 'pending' AND owner = '' AND (not_before <= :now OR not_before > :now + 86400)
        ORDER BY moment DESC, file DESC LIMIT :most""",
    # Steps from room to room by the index: a room's backlog may be long, and only its oldest item counts.
    Order.ROOMS_IN_ORDER: f"""
        WITH RECURSIVE room (name) AS (
            SELECT MIN(folder) FROM work WHERE kind = :kind AND state = 'pending'
            UNION ALL
            SELECT (SELECT MIN(folder) FROM work
                    WHERE kind = :kind AND state = 'pending' AND folder > room.name)
            FROM room WHERE room.name IS NOT NULL)
        SELECT {_COLUMNS} FROM room CROSS JOIN work AS item
        ON item.kind = :kind AND item.folder = room.name AND item.file = (
            SELECT file FROM work
            WHERE kind = :kind AND state = 'pending' AND folder = room.name
            ORDER BY moment, file LIMIT 1)
        WHERE owner = '' AND (not_before <= :now OR not_before > :now + 86400)
        ORDER BY moment, file LIMIT :most""",
}
