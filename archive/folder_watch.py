"""Tells which rooms' folders may have grown, without looking at thousands of them every time.

Folders in which something was written lately are due at every call, and all others in turn, each once a minute. A new
folder is found by the change of OUTPUT_DIR. What this process writes is notified (:mod:`core.notify`), so this is for
what other processes write. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from archive.names import LOST_AND_FOUND

logger = logging.getLogger("recorder")

ACTIVE_SECONDS = 600.0
"""A folder is due at every call for this long after a change."""
IDLE_SECONDS = 60.0
"""In this time every other folder is due once."""
COARSE_SECONDS = 2.0
"""A change that is not older may be followed by another one with the same time."""


class FolderWatch:
    """The folders below ``output_dir``, by the changes of these files in them. Used by one thread at a time."""

    def __init__(self, output_dir: Path, files: Iterable[str]) -> None:
        self._output_dir = output_dir
        self._files = tuple(files)
        self.folders: frozenset[str] = frozenset()
        """The names of all folders, as of the last call."""
        self._listed: int | None = None
        """The time of the change of OUTPUT_DIR that ``folders`` has (ns); None: it may have changed since."""
        self._listed_at = -IDLE_SECONDS
        self._active_until: dict[str, float] = {}
        self._turn: deque[str] = deque()
        self._looked_at: float | None = None
        self._share = 0.0
        self._unreadable: set[str] = set()

    def due(self, *, everything: bool = False) -> set[str]:
        """The folders that are to be looked at now; at the first call all.

        Raises:
            OSError: OUTPUT_DIR cannot be read.
        """
        now = time.monotonic()
        self._list_if_changed(now)
        is_everything = everything or self._looked_at is None
        idle = set(self.folders if is_everything else self._next_in_turn(now))
        self._looked_at = now
        for folder in idle:
            self._note_change(folder, now)
        self._active_until = {folder: until for folder, until in self._active_until.items() if until > now}
        for folder in list(self._active_until):
            self._note_change(folder, now)
        return (idle | self._active_until.keys()) & self.folders

    @contextlib.contextmanager
    def reading(self, folder: str) -> Iterator[None]:
        """Logs once if the system refuses to read a folder, such as one of another owner: the others must go on."""
        try:
            yield
        except OSError as error:
            if folder not in self._unreadable:
                self._unreadable.add(folder)
                logger.error("Folder %s cannot be read and is left out: %s", folder, error.strerror or error)
        else:
            self._unreadable.discard(folder)

    def _list_if_changed(self, now: float) -> None:
        changed = os.stat(self._output_dir).st_mtime_ns
        if changed == self._listed and now - self._listed_at < IDLE_SECONDS:
            return
        with os.scandir(self._output_dir) as entries:
            found = {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
        folders = frozenset(filter(is_text, found - {LOST_AND_FOUND}))
        if self._looked_at is not None:  # a new one has no list yet
            self._active_until |= dict.fromkeys(folders - self.folders, now + ACTIVE_SECONDS)
        if folders != self.folders:
            self.folders, self._turn = folders, deque(sorted(folders))
        is_settled = time.time() - changed / 1e9 > COARSE_SECONDS
        self._listed, self._listed_at = changed if is_settled else None, now

    def _next_in_turn(self, now: float) -> list[str]:
        assert self._looked_at is not None
        count = len(self._turn)
        self._share = min(count, self._share + count * (now - self._looked_at) / IDLE_SECONDS)
        due = [self._turn[index] for index in range(int(self._share))]
        self._turn.rotate(-len(due))
        self._share -= len(due)
        return due

    def _note_change(self, folder: str, now: float) -> None:
        """A folder that has just changed is active from now on."""
        for file in self._files:
            try:
                changed = os.stat(f"{self._output_dir}{os.sep}{folder}{os.sep}{file}").st_mtime
            except OSError:
                continue
            left = ACTIVE_SECONDS - abs(time.time() - changed)
            if left > 0:
                self._active_until[folder] = max(self._active_until.get(folder, 0.0), now + left)


def is_text(name: str) -> bool:
    """Whether a folder's name is valid Unicode; names from other programs may not be."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
