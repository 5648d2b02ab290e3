"""One list of a room's folder in an object store, in numbered parts: read it, add lines, remove lines.

Lines are added to the last part, and to a new one when that is full. A full part is written again only if lines are
removed from it, and one without lines vanishes. A larger first part is a whole list of an older version: it stays. Only
one part is in memory. Readers may find a line twice: two versions, or two attempts, have added it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from archive.list_parts import PARTS, name_of_part, number_of_part
from core.errors import Refused
from delivery.items import Unusable
from delivery.object_client import Objects

PART_BYTES = 1 << 19
"""A part of this size is full."""
MAX_PART_BYTES = 4 * PART_BYTES
"""A larger part is an older version's, and is not even read to add lines."""


class Added(NamedTuple):
    """What :meth:`StoredList.add` has done."""

    part: int
    """The part with the last of the lines."""
    sure: int
    """How many of the first lines no other worker can have overwritten: all, where the store has conditional writes,
    else those that were there already."""


class StoredList:
    """One list, such as ``segments.jsonl``. Every method may raise RetryLater, ConfigError or Refused."""

    def __init__(self, objects: Objects, folder: str, file: str) -> None:
        self._objects = objects
        self._folder = folder
        self._file = file

    async def parts(self, *, least: int = 1) -> list[int]:
        """The numbers of the parts: of the first, which may not exist, and the others that exist.

        If the key may not list the bucket, up to the first that is missing after ``least``."""
        try:
            names = await self._objects.names_in(f"{self._folder}/{PARTS}")
        except Refused:
            last = least
            while await self._objects.exists(self._key(last + 1)):
                last += 1
            return list(range(1, last + 1))
        return [1, *sorted(filter(None, (number_of_part(self._file, name) for name in names)))]

    def lines_of(self, part: int) -> AsyncIterator[bytes]:
        """Yields the lines of a part; none if it does not exist."""
        return self._objects.lines(self._key(part))

    async def lines(self) -> AsyncIterator[bytes]:
        """Yields all lines."""
        for part in await self.parts():
            async for line in self.lines_of(part):
                yield line

    async def add(self, lines: Sequence[bytes], part: int) -> Added:
        """Adds lines from this part on, which is the last one or is before it. Leaves out what the parts from there on
        have already."""
        sure, rest = 0, list(lines)
        while rest:
            known, left = await self._add_to(part, rest)
            if sure + len(rest) == len(lines):
                sure += known
            rest = left
            part += 1 if rest else 0
        return Added(part, len(lines) if self._objects.is_conditional else sure)

    async def _add_to(self, part: int, lines: list[bytes]) -> tuple[int, list[bytes]]:
        """Adds lines to a part. Returns how many of the first it had already, and those that have no place in it."""
        known, rest = 0, lines

        def change(there: bytes | None) -> bytes:
            nonlocal known, rest
            if there == b"":  # a part that is about to vanish
                known, rest = 0, lines
                return b""
            content = there or b""
            had = set(content.splitlines(keepends=True))
            known = next((index for index, line in enumerate(lines) if line not in had), len(lines))
            new = [line for line in lines if line not in had]
            count = _fitting(new, PART_BYTES - len(content))
            rest = new[count:]
            return content + b"".join(new[:count])

        with contextlib.suppress(Unusable):
            await self._objects.replace(self._key(part), change, MAX_PART_BYTES)
        return known, rest

    async def remove(self, is_chosen: Callable[[bytes], bool]) -> None:
        """Removes the chosen lines from all parts, and parts that have no line then."""
        for part in await self.parts():
            await self._remove_from(part, is_chosen)

    async def _remove_from(self, part: int, is_chosen: Callable[[bytes], bool]) -> None:
        async for line in self.lines_of(part):
            if is_chosen(line):
                break
        else:
            return
        is_empty = False

        def change(there: bytes | None) -> bytes:
            nonlocal is_empty
            left = [line for line in (there or b"").splitlines(keepends=True) if not is_chosen(line)]
            is_empty = not left
            return b"".join(left)

        # Emptied before it is deleted: no worker adds lines to an empty part.
        await self._objects.replace(self._key(part), change)
        if is_empty:
            await self._objects.delete([self._key(part)])
            await self._objects.remove_empty(f"{self._folder}/{PARTS}")

    async def delete(self) -> None:
        """Deletes all parts."""
        first, *others = map(self._key, await self.parts())
        is_there = await self._objects.exists(first)
        await self._objects.delete([*others, first] if is_there else others)
        await self._objects.remove_empty(f"{self._folder}/{PARTS}")

    def _key(self, part: int) -> str:
        return f"{self._folder}/{name_of_part(self._file, part)}"


def _fitting(lines: Sequence[bytes], room: int) -> int:
    """How many lines begin within ``room`` bytes."""
    size = 0
    for index, line in enumerate(lines):
        if size >= room:
            return index
        size += len(line)
    return len(lines)
