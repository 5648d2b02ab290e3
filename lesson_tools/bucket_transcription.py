"""Transcribes an archive in a bucket that is too large for one disk, room by room.

A room's lists are copied into a temporary folder, and then handled like a local room: the same tasks, the same text
service, the same batches. A segment's WAV is fetched only while it is needed, and its text is uploaded as soon as it is
saved. After a kill, start the run again: only the segments that were being transcribed are done twice. Several
processes can share an archive by shards, which have no room in common.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from archive.files import prepare_output_dir
from config import Settings
from lesson_tools.batches import Batches, Note, not_in
from lesson_tools.bucket import Bucket
from lesson_tools.bucket_room import (
    FetchingTranslator,
    RoomCopy,
    RoomNotes,
    Sounds,
    Upload,
    batches_of,
    copy_of,
)
from lesson_tools.console import Advance
from lesson_tools.transcription import (
    Estimate,
    TranscriptionOptions,
    count_refused,
    estimate,
    tasks_of,
    transcribe,
)
from text.costs import TextCosts
from translator import GeminiTranslator


@dataclass(frozen=True)
class Plan:
    """What is to be done. The estimate leaves out segments in batches that have not ended."""

    folders: tuple[str, ...]
    """Rooms in which something is not done."""
    cost: Estimate
    rooms: int
    """How many of the wanted rooms there are, in all shards."""


async def plan(
    bucket: Bucket,
    options: TranscriptionOptions,
    names: Collection[str],
    is_mine: Callable[[str], bool],
    *,
    batch: bool = False,
) -> Plan:
    """Finds what is to be done in the whole archive. Reads lists, and no WAVs.

    Args:
        names: folders of the rooms that are wanted; empty: all.
        is_mine: whether this process handles a folder.
    """
    folders: list[str] = []
    cost, rooms = estimate((), options), 0
    async for folder, files in bucket.rooms():
        if not _has_sound(files) or (names and folder not in names):
            continue
        rooms += 1
        if is_mine(folder) and (options.may_replace or _lacks_text(files)):
            price, is_waiting = await _remaining(bucket, options, folder, files, batch)
            cost += price
            if price.segments or is_waiting:
                folders.append(folder)
    return Plan(tuple(folders), cost, rooms)


async def _remaining(
    bucket: Bucket, options: TranscriptionOptions, folder: str, names: Iterable[str], batch: bool
) -> tuple[Estimate, bool]:
    """Estimates what is left to do in a room, and returns whether some of its batches have not ended."""
    waiting = await batches_of(bucket, folder)
    with tempfile.TemporaryDirectory() as copies:
        room = await copy_of(bucket, folder, names, Path(copies))
        refused = await asyncio.to_thread(count_refused, room, options)
        price = await asyncio.to_thread(
            lambda: estimate(not_in(waiting, tasks_of(room, options)), options, batch=batch, refused=refused)
        )
    return price, bool(waiting)


def _has_sound(names: Iterable[str]) -> bool:
    return any(name.endswith(".wav") for name in names)


def _lacks_text(names: Sequence[str]) -> bool:
    """Returns whether a WAV has no text file. Its text may be done even so: it has no words, or was refused."""
    stems = {name.rpartition("_")[0] for name in names if name.endswith(".txt")}
    return any(name.endswith(".wav") and name.removesuffix(".wav") not in stems for name in names)


@dataclass
class BatchCounts:
    """Numbers of segments by what a run has done with them through the Batch API."""

    collected: int = 0
    failed: int = 0
    """Their batch has ended without a usable answer."""
    submitted: int = 0
    waiting: int = 0
    """In batches that have not ended."""


class Run:
    """Transcribes rooms of an archive, one after another."""

    def __init__(
        self, settings: Settings, bucket: Bucket, options: TranscriptionOptions, advance: Advance
    ) -> None:
        self.costs = TextCosts()
        self.batches = BatchCounts()
        self._settings = settings
        self._bucket = bucket
        self._options = options
        self._advance = advance
        self._sounds = Sounds(bucket)

    async def at_once(self, folders: Iterable[str]) -> None:
        """Makes all texts now.

        Raises:
            ConfigError: the key, the model or the settings are refused, by Gemini or by the store.
            RetryLater: the store has failed for too long.
        """
        if self._settings.gemini_max_per_minute or self._settings.gemini_max_per_day:
            prepare_output_dir(Path(self._settings.output_dir))  # the budget is counted there
        for folder in folders:
            await self._make_texts(folder)

    async def by_batch(self, folders: Iterable[str]) -> None:
        """Saves the answers that have come, and submits what is still not done.

        Raises:
            ConfigError, RetryLater: as with :meth:`at_once`.
        """
        for folder in folders:
            await self._collect_and_submit(folder)

    async def _make_texts(self, folder: str) -> None:
        async with self._copied(folder) as (room, settings):
            submitted = await batches_of(self._bucket, folder)
            self.batches.waiting += sum(len(note.items) for note in submitted)
            upload = Upload(self._bucket, room)
            service = await upload.during(
                transcribe(
                    settings,
                    FetchingTranslator(GeminiTranslator(settings), self._sounds),
                    upload.of(not_in(submitted, tasks_of(room, self._options))),
                    self._advance,
                    is_forced=self._options.may_replace,
                    budget_dir=Path(self._settings.output_dir),
                )
            )
            self._add(service.costs)

    def _add(self, costs: TextCosts) -> None:
        for name, number in vars(costs).items():
            setattr(self.costs, name, getattr(self.costs, name) + number)

    async def _collect_and_submit(self, folder: str) -> None:
        async with self._copied(folder) as (room, settings):
            submitted = await batches_of(self._bucket, folder)
            upload = Upload(self._bucket, room)
            await asyncio.to_thread(_expect_answers, upload, room, submitted)
            notes = RoomNotes(self._bucket, upload, folder, submitted)
            batches = Batches(settings, notes, self._sounds.fetched)
            try:
                collected, failed = await batches.collect()
                self.batches.collected += collected
                self.batches.failed += failed
                tasks = batches.not_submitted(tasks_of(room, self._options))
                self.batches.submitted += await batches.submit(tasks, self._options, self._advance)
                self.batches.waiting += batches.waiting()
            finally:
                await batches.aclose()

    @contextlib.asynccontextmanager
    async def _copied(self, folder: str) -> AsyncIterator[tuple[RoomCopy, Settings]]:
        """Yields a copy of a room as it is in the bucket now, without WAVs, and settings for working on it."""
        with tempfile.TemporaryDirectory() as copies:
            names = await self._bucket.names_in(folder)
            room = await copy_of(self._bucket, folder, names, Path(copies))
            yield room, replace(self._settings, output_dir=copies, save_audio=True)


def _expect_answers(upload: Upload, room: RoomCopy, submitted: Iterable[Note]) -> None:
    """Expects answers for segments that the room still has: some may have been erased since they were submitted."""
    files = {line["file"] for note in submitted for _, line in note.items}
    for record in room.records():
        if record.file in files:
            upload.expect(record)
