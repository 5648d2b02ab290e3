"""An object store as a target of delivery.

Objects have the same names as the files on disk, below the prefix. A WAV is never overwritten: an object that has its
name already is read and must be the same, byte for byte. A text file is overwritten. The lists are in parts, to which
lines are added, so workers that recorded a room on different disks do not lose each other's lines.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from archive.jsonl import entry_in
from archive.manifest import gap_in, record_in
from archive.names import GAPS, MANIFEST, TEXTS, SegmentNames, is_like_session_file, session_file
from archive.session_files import session_of
from config import Settings
from core.records import SegmentRecord
from delivery.folder_store import PROBE
from delivery.items import (
    AudioItem,
    Item,
    ListsItem,
    Selection,
    SessionItem,
    TextItem,
    belongs_to,
    session_bytes,
)
from delivery.lists import ListDelivery
from delivery.object_client import Objects, open_s3, open_url
from delivery.stored_list import StoredList

_LISTS = (TEXTS, GAPS, MANIFEST)
"""The manifest last: what it names is found again after an interruption, when it is written and when it is removed."""

T = TypeVar("T", bound="ObjectTarget")


class ObjectTarget:
    """One bucket, container or folder, and the prefix in it."""

    def __init__(self, objects: Objects, names: SegmentNames) -> None:
        self.name = objects.name
        self.objects = objects
        self._names = names

    @classmethod
    def s3(cls: type[T], settings: Settings) -> T:
        """Opens the bucket in the settings.

        Raises:
            ConfigError: the settings are not valid.
        """
        return cls(open_s3(settings), SegmentNames.from_settings(settings))

    @classmethod
    def at_store_url(cls: type[T], settings: Settings) -> T:
        """Opens the store of STORE_URL; its credentials come from the provider's own environment variables.

        Raises:
            ConfigError: the URL does not name a store.
        """
        return cls(open_url(settings.store_url), SegmentNames.from_settings(settings))

    async def aclose(self) -> None:
        """Does nothing: obstore closes its connections itself."""

    async def link(self, key: str, seconds: float) -> str:
        """See :meth:`delivery.object_client.Objects.link`."""
        return await self.objects.link(key, seconds)

    # Delivering.

    async def check(self) -> None:
        """See :class:`~delivery.items.Target`. Writes :data:`~delivery.folder_store.PROBE`."""
        await self.objects.write(PROBE, b"", mode="overwrite")

    async def put(self, item: Item) -> None:
        """See :class:`~delivery.items.Target`."""
        folder = item.folder.name
        if isinstance(item, AudioItem):
            await self.objects.create(f"{folder}/{item.record.file}", item.data)
        elif isinstance(item, TextItem):
            await self.objects.write_all({f"{folder}/{file}": data for file, data in item.contents.items()})
        elif isinstance(item, SessionItem):
            _, data = await asyncio.to_thread(session_bytes, item)
            await self.objects.write(f"{folder}/{item.file}", data, mode="overwrite")
        else:
            await self._put_lists(item)

    async def _put_lists(self, item: ListsItem) -> None:
        for file in _LISTS:
            await ListDelivery(self.list_of(item.folder.name, file), item, file, self.name).run()

    def list_of(self, folder: str, file: str) -> StoredList:
        """One of the lists of a folder."""
        return StoredList(self.objects, folder, file)

    # Removing.

    async def remove(
        self, selection: Selection, known: Mapping[str, Sequence[SegmentRecord]], *, only_count: bool = False
    ) -> int:
        """See :class:`~delivery.items.Target`."""
        count = 0
        for folder in await self.objects.folders():
            count += await self._remove_in(folder, selection, known.get(folder, ()), only_count)
        return count

    async def _remove_in(
        self, folder: str, selection: Selection, known: Sequence[SegmentRecord], only_count: bool
    ) -> int:
        listed: dict[str, str] = {}  # the sessions' sids by the WAVs
        chosen = {record.file for record in known}
        async for line in self.list_of(folder, MANIFEST).lines():
            if (record := record_in(line)) is not None:
                listed[record.file] = record.room_sid
                if selection.has(folder, record):
                    chosen.add(record.file)
        there = await self.objects.names_in(folder)
        if selection.is_whole_room and (chosen or selection.names(folder)):
            chosen |= self._unlisted(there, listed, selection.before)
        count = len(chosen & (listed.keys() | there.keys()))
        if only_count:
            return count
        if not chosen:
            if selection.participant and selection.names(folder):
                await self._remove_lines(folder, chosen, selection)  # gaps of somebody who said nothing
                await self._remove_sessions(folder, there, selection, set())
            return 0
        is_empty_then = chosen >= listed.keys()
        stems = {file.removesuffix(".wav") for file in chosen}
        await self.objects.delete(f"{folder}/{name}" for name in there if belongs_to(name, stems))
        sids = {sid for file, sid in listed.items() if file in chosen} | {one.room_sid for one in known}
        left = {sid for file, sid in listed.items() if file not in chosen}
        await self._remove_sessions(folder, there, selection, sids - left)
        if is_empty_then:
            for file in _LISTS:
                await self.list_of(folder, file).delete()
            await self.objects.remove_empty(folder)
        else:
            await self._remove_lines(folder, chosen, selection)
        return count

    async def _remove_sessions(
        self, folder: str, there: Iterable[str], selection: Selection, gone: Iterable[str]
    ) -> None:
        """Removes the files of the sessions ``gone`` (sids), and of a room or a person all that belong to the selection
        by their content: what is left of such a session is delivered again."""
        names = {session_file(room_sid) for room_sid in gone} & set(there)
        if selection.room or selection.participant:
            for name in filter(is_like_session_file, set(there) - names):
                data, _ = await self.objects.read(f"{folder}/{name}")
                session = session_of(name, data or b"")
                if session is not None and selection.has_session(folder, session):
                    names.add(name)
        await self.objects.delete(f"{folder}/{name}" for name in names)

    def _unlisted(
        self, there: Mapping[str, datetime], listed: Container[str], before: datetime | None
    ) -> set[str]:
        """WAVs that no list names yet, also those whose texts alone are there; none that came after ``before``. Other
        WAVs in the folder are not the recorder's."""
        old = [name for name, changed_at in there.items() if before is None or changed_at < before]
        ours = [name for name in old if self._names.number_in(name) is not None]
        sounds = {name for name in ours if name.endswith(".wav")}
        texts = (name.removesuffix(".txt") for name in ours if name.endswith(".txt"))
        sounds |= {f"{text.rpartition('_')[0]}.wav" for text in texts}
        return {name for name in sounds if name not in listed}

    async def _remove_lines(self, folder: str, chosen: Container[str], selection: Selection) -> None:
        def is_chosen(file: str, line: bytes) -> bool:
            if file == GAPS:
                gap = gap_in(line)
                return gap is not None and selection.has(folder, gap)
            return _file_of(line) in chosen

        for file in _LISTS:
            await self.list_of(folder, file).remove(functools.partial(is_chosen, file))


def _file_of(line: bytes) -> str | None:
    file = (entry_in(line) or {}).get("file")
    return None if file is None else str(file)
