"""The outbox: what is still to be done with segments that are safe on disk.

One small SQLite file in OUTPUT_DIR. It remembers, for every kind of work (text, a delivery), how far each manifest has
been read, which items wait, which are refused for good and why, and who is at work on what. It is not the truth:
manifests and side records are. Delete it, even while the worker runs, or break it: it is set aside, begun anew, and
filled from the first line of every manifest on; who fills it leaves out what the side records call done.

Several workers may share one OUTPUT_DIR on one machine (SQLite and file locks do not work across machines). An item is
claimed by one of them; a worker shows that it lives by holding a lock on a file of its own, so what a killed worker had
claimed is free again as soon as anybody asks, and what a living one has claimed never is.

Every method works on the outbox's own thread and may be called from any event loop.
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
from enum import Enum
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from archive.jsonl import Bookmark
from archive.outbox_file import OutboxFile, Presence
from core.errors import StorageError

MAX_WAITING = 50_000
"""Items of one kind that wait, about 80 hours of speech. More stay in the manifests until there is room."""

MAX_FINISHED = 50_000
"""Finished items of one kind that are remembered."""
FORGET_EVERY = 500
"""How many more there may be until the oldest are forgotten: looking for them takes a while."""

P = ParamSpec("P")
T = TypeVar("T")


class State(str, Enum):
    """How far an item is."""

    PENDING = "pending"
    DONE = "done"
    REFUSED = "refused"


class Order(Enum):
    """Which item is claimed first."""

    NEWEST_FIRST = "newest first"
    ROOMS_IN_ORDER = (
        "oldest first; of each room only its oldest, and none while that one waits or is under way"
    )


@dataclass(frozen=True)
class Work:
    """One thing to do. (kind, folder, file) names it: adding it again changes nothing."""

    kind: str
    folder: str
    """The room's folder, relative to OUTPUT_DIR."""
    file: str
    """What it is about, relative to the folder: a segment's WAV, for instance."""
    moment: float
    """What orders it: seconds since 1970, when it was spoken."""
    payload: dict[str, Any]
    """Whatever doing it takes, as JSON: the manifest's line, for instance."""
    attempts: int = 0
    """How often it has been claimed before."""


@dataclass(frozen=True)
class Backlog:
    """What waits of one kind."""

    count: int
    oldest_seconds: float
    """How long ago the oldest of them was spoken; 0 if none waits."""
    refused: int


# --- the outbox ---


def _transaction(
    body: Callable[Concatenate[Outbox, P], T],
) -> Callable[Concatenate[Outbox, P], Coroutine[Any, Any, T]]:
    """Makes a method's body one transaction on the outbox's thread, done anew where the file turns out to be broken."""

    async def method(self: Outbox, /, *args: P.args, **kwargs: P.kwargs) -> T:
        work = functools.partial(self._file.transaction, functools.partial(body, self, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    functools.update_wrapper(method, body)
    return method


class Outbox:
    """What waits to be done. Any method may raise StorageError: the disk does not let it now; nothing has changed."""

    def __init__(self, output_dir: Path) -> None:
        self._presence = Presence(output_dir)
        self._file = OutboxFile(output_dir, self._presence)
        self._finished = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox")

    # Filling it.

    @_transaction
    def bookmark(self, kind: str, source: str) -> Bookmark:
        """How far ``source`` (a path relative to OUTPUT_DIR) has been read for this kind of work."""
        row = self._file.one("SELECT bytes, digest FROM bookmark WHERE kind = ? AND source = ?", kind, source)
        return Bookmark(*row) if row else Bookmark()

    @_transaction
    def add(self, works: Sequence[Work]) -> int:
        """Adds what is not there yet, and says how many that were."""
        return self._insert(works)

    @_transaction
    def add_read(
        self, kind: str, source: str, works: Sequence[Work], read_from: Bookmark, read_to: Bookmark
    ) -> bool:
        """Adds what has been read from a growing file and moves its bookmark, both or neither.

        False, and nothing is added, if another worker has moved the bookmark meanwhile, or too much waits already.
        """
        row = self._file.one("SELECT bytes, digest FROM bookmark WHERE kind = ? AND source = ?", kind, source)
        if (Bookmark(*row) if row else Bookmark()) != read_from:
            return False
        if self._count(kind, State.PENDING) + len(works) > MAX_WAITING:
            return False
        self._insert(works)
        self._file.run(
            "INSERT OR REPLACE INTO bookmark VALUES (?, ?, ?, ?)", kind, source, read_to.bytes, read_to.digest
        )
        return True

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
    def begin_anew(self, kind: str) -> None:
        """Forgets all items of a kind that nobody is at, and how far files have been read for it."""
        self._file.run("DELETE FROM work WHERE kind = ? AND owner = ''", kind)
        self._file.run("DELETE FROM bookmark WHERE kind = ?", kind)

    @_transaction
    def forget(self, folder: str) -> None:
        """Forgets all items of a folder, of every kind, that nobody is at; its lists are read from their beginning."""
        self._file.run("DELETE FROM work WHERE folder = ? AND owner = ''", folder)
        prefix = f"{folder}/"
        self._file.run("DELETE FROM bookmark WHERE substr(source, 1, ?) = ?", len(prefix), prefix)

    # Emptying it.

    @_transaction
    def claim(self, kind: str, order: Order, most: int = 1) -> list[Work]:
        """Takes up to ``most`` items that are due. Nobody else gets them until they are finished or given back."""
        self._free_what_the_dead_had(kind)
        rows = self._file.all(_DUE[order], kind=kind, now=time.time(), most=most)
        works = [
            Work(kind, folder, file, moment, json.loads(payload), attempts)
            for folder, file, moment, payload, attempts in rows
        ]
        for work in works:
            self._update(work, "owner = ?, attempts = attempts + 1", self._presence.owner)
        return works

    @_transaction
    def done(self, work: Work) -> None:
        """It is done, and never claimed again."""
        self._update(work, "state = 'done', owner = '', payload = '{}'")
        self._finished += 1
        if self._finished % FORGET_EVERY == 0:
            self._forget_the_oldest(work.kind)

    @_transaction
    def refuse(self, work: Work, reason: str) -> None:
        """It will never be done, and this is why."""
        self._update(work, "state = 'refused', owner = '', reason = ?", reason)

    @_transaction
    def retry(self, work: Work, after_seconds: float) -> None:
        """It is to be tried again later."""
        self._update(work, "owner = '', not_before = ?", time.time() + after_seconds)

    @_transaction
    def give_back(self, work: Work) -> None:
        """It has not been tried."""
        self._update(work, "owner = '', attempts = attempts - 1")

    # Looking at it.

    @_transaction
    def state(self, kind: str, folder: str, file: str) -> State | None:
        """How far one item is; None if it was never added (or has been done for long)."""
        row = self._file.one(
            "SELECT state FROM work WHERE kind = ? AND folder = ? AND file = ?", kind, folder, file
        )
        return State(row[0]) if row else None

    @_transaction
    def generation(self) -> int:
        """A number that changes when the outbox was begun anew, and with it all bookmarks."""
        return int(self._file.one("PRAGMA application_id")[0])

    @_transaction
    def backlog(self, kind: str) -> Backlog:
        """How much waits, and for how long."""
        oldest = self._file.one("SELECT MIN(moment) FROM work WHERE kind = ? AND state = 'pending'", kind)
        age = time.time() - oldest[0] if oldest and oldest[0] is not None else 0.0
        return Backlog(self._count(kind, State.PENDING), max(0.0, age), self._count(kind, State.REFUSED))

    @_transaction
    def due_in(self, kind: str) -> float | None:
        """Seconds until the next item is due that is not due yet; None if there is none."""
        now = time.time()
        row = self._file.one(
            "SELECT MIN(not_before) FROM work WHERE kind = ? AND state = 'pending' AND not_before > ?",
            kind,
            now,
        )
        return row[0] - now if row[0] is not None else None

    # Budgets.

    @_transaction
    def spend(self, kind: str, per_minute: int, per_day: int) -> float:
        """Takes one unit of a budget that all workers share and that survives restarts. 0: taken; else seconds until
        one may be free, and nothing is taken. A limit of 0 is none."""
        now = time.time()
        self._file.run(
            "DELETE FROM spent WHERE second <= ? OR second > ?", int(now) - 86_400, int(now) + 3_600
        )
        for limit, seconds in ((per_day, 86_400), (per_minute, 60)):
            wait = self._seconds_until_free(kind, limit, seconds, now) if limit else 0.0
            if wait:
                return wait
        self._file.run(
            "INSERT INTO spent VALUES (?, ?, 1) ON CONFLICT (kind, second) DO UPDATE SET units = units + 1",
            kind,
            int(now),
        )
        return 0.0

    def _seconds_until_free(self, kind: str, limit: int, seconds: int, now: float) -> float:
        since = int(now) - seconds
        row = self._file.one(
            "SELECT COALESCE(SUM(units), 0), MIN(second) FROM spent WHERE kind = ? AND second > ?",
            kind,
            since,
        )
        if row is None or row[0] < limit:
            return 0.0
        return max(0.05, float(row[1]) + seconds + 1 - now)

    # The end.

    async def aclose(self) -> None:
        """Gives back what is claimed and lets go of the files. Idempotent."""
        if self._presence.is_shown:  # else it was never used, and need not be created now
            with contextlib.suppress(StorageError):
                await self._give_back_all()
        await asyncio.to_thread(self._thread.shutdown)
        self._file.disconnect()
        self._presence.close()

    @_transaction
    def _give_back_all(self) -> None:
        self._free_what_had(self._presence.owner)

    def _free_what_the_dead_had(self, kind: str) -> None:
        rows = self._file.all("SELECT DISTINCT owner FROM work WHERE kind = :kind AND owner != ''", kind=kind)
        for (owner,) in rows:
            if owner != self._presence.owner and self._presence.is_dead(owner):
                self._free_what_had(owner)

    def _free_what_had(self, owner: str) -> None:
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

    def _forget_the_oldest(self, kind: str) -> None:
        """What has been read is behind a bookmark and is not added again."""
        self._file.run(
            "DELETE FROM work WHERE kind = ?1 AND state = 'done' AND moment < (SELECT moment FROM work"
            " WHERE kind = ?1 AND state = 'done' ORDER BY moment DESC LIMIT 1 OFFSET ?2)",
            kind,
            MAX_FINISHED,
        )


_COLUMNS = "folder, file, moment, payload, attempts"
# What is due in more than a day was put off by a clock that has been set back since.
_DUE = {
    Order.NEWEST_FIRST: f"""
        SELECT {_COLUMNS} FROM work
        WHERE kind = :kind AND state = 'pending' AND owner = '' AND (not_before <= :now OR not_before > :now + 86400)
        ORDER BY moment DESC, file DESC LIMIT :most""",
    # From room to room by the index: a room's backlog may be long, and only its oldest item counts.
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
