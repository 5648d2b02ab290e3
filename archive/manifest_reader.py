"""Reads the manifests: every committed segment, also of other workers, becomes one item of work in the outbox.

A manifest is read from the outbox's bookmark on. A notification names a folder that is to be read at once. The folders
of other workers, which send none, are read when their files have grown (:mod:`archive.folder_watch`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from archive.folder_watch import FolderWatch
from archive.jsonl import Bookmark, new_lines
from archive.manifest import record_in
from archive.names import MANIFEST, is_plain_name
from archive.outbox import Outbox, Work
from core.records import SegmentRecord

logger = logging.getLogger("recorder")

Wanted = Callable[[str, Sequence[SegmentRecord]], Iterable[SegmentRecord]]
"""Those of these segments of a folder for which there is anything to do, by the records of finished work. Called on a
thread."""


class ManifestReader:
    """Adds the segments of all manifests to the outbox, as one kind of work."""

    def __init__(self, outbox: Outbox, output_dir: Path, kind: str, wanted: Wanted) -> None:
        self._outbox = outbox
        self._output_dir = output_dir
        self._kind = kind
        self._wanted = wanted
        self._sizes: dict[str, int] = {}
        """Bytes of each manifest when it was last read to its end, by folder."""
        self._bookmarks: dict[str, Bookmark] = {}
        """How far manifests have been read, as the outbox has it unless another worker has read on."""
        self._generation = 0
        self._watch = FolderWatch(output_dir, (MANIFEST,))
        self._there: frozenset[str] = frozenset()
        self._behind: set[str] = set()
        """Folders with lines that were not added: another worker has read them, or the outbox is full."""

    async def look_everywhere(self) -> None:
        """Reads the manifests that have grown: those of folders in use, and of the others some at each call.

        Raises:
            StorageError, OSError: the disk refuses.
        """
        generation = await self._outbox.generation()
        is_new = generation != self._generation
        if is_new:
            self._generation = generation
            self._bookmarks = await self._outbox.bookmarks(self._kind)
            self._sizes = {_folder_of(source): bookmark.bytes for source, bookmark in self._bookmarks.items()}
        due = await asyncio.to_thread(lambda: self._watch.due(everything=is_new))
        if self._watch.folders is not self._there:
            there = self._there = self._watch.folders
            self._sizes = {folder: size for folder, size in self._sizes.items() if folder in there}
        behind, self._behind = self._behind, set()
        await self.look_at(due | behind)

    async def look_at(self, folders: Iterable[str]) -> bool:
        """Reads the manifests of these folders (relative to OUTPUT_DIR) that have grown; whether there were any."""
        grown = await asyncio.to_thread(self._grown, list(folders))
        for folder in grown:
            with self._watch.reading(folder):
                while await self._read(folder):
                    pass
        return bool(grown)

    async def _read(self, folder: str) -> bool:
        """Reads the next lines of a manifest; whether there may be more."""
        source = f"{folder}/{MANIFEST}"
        before = self._bookmarks.get(source) or await self._outbox.bookmark(self._kind, source)
        path = self._output_dir / folder / MANIFEST
        size, behind, works = await asyncio.to_thread(self._items, folder, path, before)
        if behind != before:
            if not await self._outbox.add_read(self._kind, source, works, before, behind):
                self._bookmarks.pop(source, None)  # another worker has read them, or the outbox is full
                self._sizes.pop(folder, None)
                self._behind.add(folder)
                return False
            self._bookmarks[source] = behind
        is_end = behind == before or behind.bytes >= size
        if is_end:
            self._sizes[folder] = size
        return not is_end

    # What reads the disk runs on a thread.

    def _grown(self, folders: list[str]) -> list[str]:
        return [folder for folder in folders if self._size_of(folder) != self._sizes.get(folder, 0)]

    def _size_of(self, folder: str) -> int:
        try:
            return os.stat(self._output_dir / folder / MANIFEST).st_size
        except (FileNotFoundError, PermissionError):  # recovery says what cannot be read
            return 0

    def _items(self, folder: str, path: Path, bookmark: Bookmark) -> tuple[int, Bookmark, list[Work]]:
        size = self._size_of(folder)
        lines, behind = new_lines(path, bookmark)
        records = [record for line in lines if (record := _record_in(line, path)) is not None]
        works = [_work(self._kind, folder, record) for record in self._wanted(folder, records)]
        return size, behind, works


def _folder_of(source: str) -> str:
    return source.rpartition("/")[0]


def _work(kind: str, folder: str, record: SegmentRecord) -> Work:
    return Work(kind, folder, record.file, record.start.timestamp(), record.to_json())


def _record_in(line: bytes, path: Path) -> SegmentRecord | None:
    """Parses a line; None, with a warning, if it is invalid or its file is not a plain name in the folder."""
    record = record_in(line)
    if record is None or not is_plain_name(record.file):
        logger.warning("A line of %s is broken and was skipped", path)
        return None
    return record
