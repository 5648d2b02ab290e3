"""Finds what is to be delivered to one target: reads manifests and lists of texts, and adds items to the outbox."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from archive import line_index
from archive.delivery_log import Key, SettledItems, audio_key, lists_key, text_key
from archive.folder_watch import FolderWatch
from archive.jsonl import Bookmark, end_of, new_lines
from archive.manifest import listed_segments, read_manifest, record_in
from archive.names import GAPS, MANIFEST, TEXTS, is_plain_name
from archive.outbox import Outbox, Work
from archive.texts import text_in
from archive.tombstones import is_being_erased, open_erasures
from config import Settings
from core.errors import StorageError
from core.records import SegmentRecord
from core.text_records import TextRecord
from delivery.items import expired_before

LISTS_SECONDS = 60.0
"""How often a room's lists are delivered while they grow."""

MAX_AHEAD = 8
"""Of so many folders the new lines are read together with the lists' sizes."""

_Sizes = tuple[int, int, int]
"""Bytes of the manifest, the list of texts and the list of gaps."""


@dataclass(frozen=True)
class _Read:
    """What there is to deliver in the lines of a list between two bookmarks."""

    before: Bookmark
    behind: Bookmark
    works: list[Work]


_Ahead = dict[str, _Read]
"""The next lines of a folder's lists, by the lists' names, as far as they have been read."""


@dataclass
class _Seen:
    """How far one folder has been read."""

    sizes: _Sizes = (0, 0, 0)
    """The lists' sizes when they were last read to their ends."""
    gaps_bytes: int = 0
    grown_at: float | None = None
    """When the lists grew after their last delivery (``time.monotonic()``; 0: before the start); None: they did not."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to be added until the lists grow."""
        return self.grown_at is None and self.sizes != (0, 0, 0)

    def note_growth(self) -> None:
        if self.grown_at is None:
            self.grown_at = time.monotonic()

    def is_time_for_lists(self, *, at_once: bool) -> bool:
        if self.grown_at is None:
            return False
        return at_once or self.grown_at == 0 or time.monotonic() - self.grown_at >= LISTS_SECONDS


class ItemReader:
    """Reads manifests and lists of texts, and adds what is to be delivered to one target to the outbox."""

    def __init__(self, settings: Settings, outbox: Outbox, target: str, kind: str) -> None:
        self._output_dir = Path(settings.output_dir)
        self._save_audio = settings.save_audio
        self._remote_retention_days = settings.remote_retention_days
        self._outbox = outbox
        self._target = target
        self._kind = kind
        self._seen: dict[str, _Seen] = {}
        self._there: frozenset[str] = frozenset()
        self._unfinished: set[str] = set()
        """Folders where something is left to be added although they have not grown."""
        self._behind: set[str] = set()
        """Folders with items that were not added: the outbox is full, or another worker has read the same lines."""
        self._bookmarks: dict[str, Bookmark] = {}
        """How far lists have been read, as the outbox has it unless another worker has read on."""
        self._index = line_index.keep_open(self._output_dir)
        self._generation = 0
        self._watch = FolderWatch(self._output_dir, (MANIFEST, TEXTS, GAPS))

    async def look(self, *, with_lists: bool) -> bool:
        """Adds what is new, and returns whether there was anything. It looks into the folders in use, and into some of
        the others at each call.

        Args:
            with_lists: look into all folders, and add lists that have grown at once, even if they have just been
                delivered.

        Raises:
            OSError, StorageError: the disk refuses.
        """
        generation = await self._outbox.generation()
        is_new = generation != self._generation
        if is_new:
            self._generation = generation
            self._bookmarks = await self._outbox.bookmarks(self._kind)
            for seen in self._seen.values():
                seen.sizes = (0, 0, 0)
        due = await asyncio.to_thread(lambda: self._watch.due(everything=is_new or with_lists))
        if self._watch.folders is not self._there:
            there = self._there = self._watch.folders
            self._seen = {folder: seen for folder, seen in self._seen.items() if folder in there}
            self._unfinished &= there
        return await self.look_at(due | self._unfinished, with_lists=with_lists)

    async def look_at(self, folders: Iterable[str], *, with_lists: bool = False) -> bool:
        """Does the same in these folders only (names relative to OUTPUT_DIR)."""
        has_news = False
        looked = await asyncio.to_thread(self._looked, list(folders))
        for folder, (sizes, ahead) in looked.items():
            seen = self._seen.setdefault(folder, _Seen(grown_at=0.0))
            with self._watch.reading(folder):
                if sizes != seen.sizes:
                    has_news = await self._read_on(folder, seen, sizes, ahead) or has_news
                if seen.is_time_for_lists(at_once=with_lists):
                    has_news = await self._add_lists(folder) or has_news
                    seen.grown_at = None
            if seen.is_finished:
                self._unfinished.discard(folder)
            else:
                self._unfinished.add(folder)
        return has_news

    async def _read_on(self, folder: str, seen: _Seen, sizes: _Sizes, ahead: _Ahead) -> bool:
        """Reads the lists that have grown to their ends; whether there was anything to deliver."""
        has_news = False
        if sizes[2] != seen.gaps_bytes:
            seen.gaps_bytes = sizes[2]
            seen.note_growth()
        for file, size in zip((MANIFEST, TEXTS), sizes, strict=False):
            while self._bookmarks.get(f"{folder}/{file}", Bookmark()).bytes != size and await self._read(
                folder, file, ahead.get(file)
            ):
                has_news = True
                seen.note_growth()
        seen.sizes = (0, 0, 0) if folder in self._behind else sizes
        self._behind.discard(folder)
        return has_news

    def _sizes(self, folders: Iterable[str]) -> dict[str, _Sizes]:
        """Of those with a manifest."""
        found = {}
        for folder in folders:
            path = f"{self._output_dir}{os.sep}{folder}{os.sep}"
            sizes = (_size(path + MANIFEST), _size(path + TEXTS), _size(path + GAPS))
            if sizes[0]:
                found[folder] = sizes
        return found

    def _looked(self, folders: Iterable[str]) -> dict[str, tuple[_Sizes, _Ahead]]:
        """The sizes of the lists, and of few folders the new lines, too."""
        found = self._sizes(folders)
        is_ahead = len(found) <= MAX_AHEAD
        return {
            folder: (sizes, self._ahead(folder, sizes) if is_ahead else {}) for folder, sizes in found.items()
        }

    def _ahead(self, folder: str, sizes: _Sizes) -> _Ahead:
        found: _Ahead = {}
        for file, size in zip((MANIFEST, TEXTS), sizes, strict=False):
            bookmark = self._bookmarks.get(f"{folder}/{file}")
            if bookmark is not None and bookmark.bytes != size:
                with contextlib.suppress(OSError, StorageError):  # reading it again raises it again
                    found[file] = self._next(folder, file, bookmark)
        return found

    def _next(self, folder: str, file: str, bookmark: Bookmark) -> _Read:
        lines, behind = new_lines(self._output_dir / folder / file, bookmark)
        works_in = self._sounds if file == MANIFEST else self._words
        return _Read(bookmark, behind, list(works_in(folder, lines)))

    async def _read(self, folder: str, file: str, ahead: _Read | None) -> bool:
        """Reads the next lines of one list; whether there were any."""
        source = f"{folder}/{file}"
        before = await self._bookmark(source)
        read = ahead
        if read is None or read.before != before:
            read = await asyncio.to_thread(self._next, folder, file, before)
        if read.behind == before:
            return False
        if await self._outbox.add_read(self._kind, source, read.works, before, read.behind):
            self._bookmarks[source] = read.behind
            return True
        self._bookmarks.pop(source, None)
        self._behind.add(folder)
        return False

    async def _bookmark(self, source: str) -> Bookmark:
        return self._bookmarks.get(source) or await self._outbox.bookmark(self._kind, source)

    def _sounds(self, folder: str, lines: list[bytes]) -> Iterator[Work]:
        if not self._save_audio:
            return
        is_to_go = self._those_to_go(folder)
        records = {
            audio_key(record): record
            for record in filter(None, map(record_in, lines))
            if is_plain_name(record.file) and record.file.endswith(".wav") and not is_to_go(record)
        }
        unsettled = SettledItems(self._output_dir / folder).unsettled(self._target, list(records))
        for key, record in records.items():
            if key in unsettled:
                payload = {"record": record.to_json()}
                yield Work(self._kind, folder, record.file, record.start.timestamp(), payload)

    def _words(self, folder: str, lines: list[bytes]) -> Iterator[Work]:
        path, is_to_go = self._output_dir / folder, self._those_to_go(folder)
        found = filter(None, map(text_in, lines))
        texts = {text_key(text): text for text in found if text.transcript and is_ours(text)}
        unsettled = SettledItems(path).unsettled(self._target, list(texts))
        texts = {key: text for key, text in texts.items() if key in unsettled}
        listed = listed_segments(path).find_all({text.file for text in texts.values()})
        for key, text in texts.items():
            record = record_in(listed[text.file]) if text.file in listed else None
            if record is not None and not is_to_go(record):
                moment = max(text.at, record.end).timestamp()
                payload = {"record": record.to_json(), "text": text.to_json()}
                yield Work(self._kind, folder, key.item, moment, payload)

    def _those_to_go(self, folder: str) -> Callable[[SegmentRecord], bool]:
        """Tells which segments would only be removed from the target again."""
        before = expired_before(self._remote_retention_days)
        if before is None and not open_erasures(self._output_dir):
            return lambda record: False
        path = self._output_dir / folder
        return lambda record: (before is not None and record.end < before) or is_being_erased(path, record)

    async def _add_lists(self, folder: str) -> bool:
        manifest = await self._bookmark(f"{folder}/{MANIFEST}")
        texts = await self._bookmark(f"{folder}/{TEXTS}")
        work = await asyncio.to_thread(self._lists, folder, manifest, texts)
        return work is not None and await self._outbox.add([work]) > 0

    def _lists(self, folder: str, manifest: Bookmark, texts: Bookmark) -> Work | None:
        gaps = end_of(self._output_dir / folder / GAPS)
        key = key_of_lists(manifest, texts, gaps)
        if not manifest.bytes or SettledItems(self._output_dir / folder).is_settled(self._target, key):
            return None
        if next(read_manifest(self._output_dir / folder), None) is None:
            return None  # another program's file of the same name
        payload = {
            "manifest_bytes": manifest.bytes,
            "texts_bytes": texts.bytes,
            "gaps_bytes": gaps.bytes,
        }
        return Work(self._kind, folder, key.item, time.time(), payload)


def key_of_lists(*ends: Bookmark) -> Key:
    """The key of the lists in their present state, from the bookmarks at their ends."""
    return lists_key(*(f"{end.bytes} {end.digest}" for end in ends))


def is_ours(text: TextRecord) -> bool:
    """Whether all files of a text are plain names that belong to its segment; no other file may be delivered."""
    stem = Path(text.file).stem
    return all(
        is_plain_name(file) and file.startswith(f"{stem}_") and file.endswith(".txt") for file in text.files
    )


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # recovery says what cannot be read
        return 0
