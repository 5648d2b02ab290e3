"""Delivers what is new in a room's lists to an object store: each line once, to the last part of the list there.

How far a list is delivered is in the delivery log. If that is not known, or the list on this disk has been rewritten,
it is compared with the list in the store, so that no line is added twice. Lines that are being erased, or are too old
for the target, stay here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container

from archive.delivery_log import ListPlace, SettledItems, note_list
from archive.jsonl import Bookmark, bookmark_at, has_bookmark, placed_lines_behind
from archive.list_parts import digest_of_line
from archive.manifest import gap_in, listed_segments, record_in
from archive.names import GAPS, MANIFEST, TEXTS
from archive.texts import entry_in, file_in, text_in
from archive.tombstones import is_being_erased, open_erasures
from core.errors import Refused
from core.records import GapRecord, SegmentRecord
from delivery.items import ListsItem
from delivery.stored_list import Added, StoredList

LINES_AT_ONCE = 500

_Placed = tuple[int, bytes]
"""A line and its position in bytes."""


class ListDelivery:
    """Delivers one list of an item to one target. Raises what the store and the disk raise."""

    def __init__(self, stored: StoredList, item: ListsItem, file: str, target: str) -> None:
        self._stored = stored
        self._item = item
        self._file = file
        self._target = target
        self._path = item.folder / file
        self._size = {MANIFEST: item.manifest_bytes, TEXTS: item.texts_bytes, GAPS: item.gaps_bytes}[file]

    async def run(self) -> None:
        """Adds the lines that are not in the store yet, up to the item's size."""
        if not self._size:
            return
        kept = await asyncio.to_thread(self._kept)
        is_known = kept is not None and await asyncio.to_thread(has_bookmark, self._path, kept.bookmark)
        there: set[bytes] = set()
        sure = at = kept if kept is not None and is_known else await self._compare(kept, there)
        while True:
            lines, behind = await asyncio.to_thread(self._next, at.bookmark, there)
            if behind == at.bookmark:
                break
            added = await self._stored.add([line for _, line in lines], at.part)
            if sure == at:
                sure = await asyncio.to_thread(self._sure, at, lines, behind, added)
            at = ListPlace(behind, added.part)
            if sure == at and not there:  # what is in ``there`` is not known to another attempt
                await self._keep(sure)
                kept = sure
        if sure != kept:
            await self._keep(sure)

    def _kept(self) -> ListPlace | None:
        return SettledItems(self._item.folder).place_of_list(self._target, self._file)

    async def _keep(self, place: ListPlace) -> None:
        await asyncio.to_thread(note_list, self._item.folder, self._target, self._file, place)

    async def _compare(self, kept: ListPlace | None, there: set[bytes]) -> ListPlace:
        """Fills ``there`` with the digests of all lines in the store. Returns the place from which to add."""
        parts = await self._stored.parts(least=kept.part if kept is not None else 1)
        for part in parts:
            try:
                async for line in self._stored.lines_of(part):
                    there.add(digest_of_line(line))
            except Refused:  # S3 says so also of what does not exist, and adding the lines shows it
                continue
        return ListPlace(Bookmark(), parts[-1])

    # What reads the disk runs on a thread.

    def _next(self, bookmark: Bookmark, there: Container[bytes]) -> tuple[list[_Placed], Bookmark]:
        """The next lines to deliver, and the bookmark behind those that were read; the same one at the end."""
        is_another, lines, behind = placed_lines_behind(self._path, bookmark, LINES_AT_ONCE)
        if is_another:  # it has just been rewritten: another item will have it
            return [], bookmark
        read = [(position, line) for position, line in lines if position + len(line) <= self._size]
        if len(read) < len(lines):
            behind = bookmark_at(self._path, read[-1][0] + len(read[-1][1])) if read else bookmark
        is_to_go = self._is_to_go if self._may_have_lines_to_go() else lambda line: False
        new = [
            (position, line)
            for position, line in read
            if digest_of_line(line) not in there and not is_to_go(line)
        ]
        return new, behind

    def _sure(self, at: ListPlace, lines: list[_Placed], behind: Bookmark, added: Added) -> ListPlace:
        """The place up to which nothing has to be looked at again."""
        if added.sure == len(lines):
            return ListPlace(behind, added.part)
        return ListPlace(bookmark_at(self._path, lines[added.sure][0]), at.part)

    def _may_have_lines_to_go(self) -> bool:
        return bool(open_erasures(self._item.folder.parent)) or self._item.expired_before is not None

    def _is_to_go(self, line: bytes) -> bool:
        """Whether a line is about something that is being erased, or is too old for the target."""
        if self._file == MANIFEST:
            return self._goes(record_in(line))
        if self._file == GAPS:
            return self._goes(gap_in(line))
        entry, text = entry_in(line), text_in(line)
        if text is not None and is_being_erased(self._item.folder, text):
            return True
        file = file_in(entry) if entry is not None else None
        listed = listed_segments(self._item.folder).find(file) if file is not None else None
        return listed is not None and self._goes(record_in(listed))

    def _goes(self, one: SegmentRecord | GapRecord | None) -> bool:
        if one is None:
            return False
        before = self._item.expired_before
        return (before is not None and one.end < before) or is_being_erased(self._item.folder, one)
