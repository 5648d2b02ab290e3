"""Text for an archive in a bucket that outgrows a machine: one process, room by room.

A room's lists are copied into a temporary folder; from there on all is as with a folder of one's own: the same tasks,
the same text service, the same batches. A segment's sound is here only while it is needed, and its text goes to the
bucket as soon as it is written down. What the bucket has is done, so a run that is killed costs what was under way and
is simply started again. Several processes share an archive by shards, which have no room in common.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from archive.files import PRIVATE_FOLDER, prepare_output_dir
from archive.jsonl import end_of, new_lines
from archive.names import MANIFEST, TEXTS, is_plain_name
from archive.rooms import Room
from archive.texts import text_in
from config import Settings
from core.errors import ConfigError, Refused, RetryLater
from core.records import SegmentRecord
from delivery.items import Unusable, Words
from lesson_tools.batches import Batches, Note, not_in, note_in
from lesson_tools.bucket import Bucket, with_retries
from lesson_tools.console import Advance
from lesson_tools.transcription import Estimate, Task, TranscriptionOptions, estimate, tasks_of, transcribe
from text.costs import TextCosts
from translator import OPERATOR_PAUSE_SECONDS, GeminiTranslator, Rejected, TextRequest, TextResult, Translator

MIN_PAUSE_SECONDS = 0.5
SHARE_OF_LISTS = 0.1
"""The list of a large room is large: writing it takes no more than this share of the time."""

MAX_SOUND_BYTES = 64 * 2**20
"""Of one segment; a minute takes 2 MB."""

NOTES = ".transcribe/{folder}/batches.json"
"""Where the batches of a room that are under way are noted, below the prefix."""

T = TypeVar("T")


# --- what there is to do ---


@dataclass(frozen=True)
class Plan:
    """What is to be done. The estimate is of what is in no batch that is under way."""

    folders: tuple[str, ...]
    """Rooms in which something is undone."""
    cost: Estimate
    rooms: int
    """How many there are of those that are wanted, in all shards."""


async def plan(
    bucket: Bucket,
    options: TranscriptionOptions,
    names: Collection[str],
    is_mine: Callable[[str], bool],
    *,
    batch: bool = False,
) -> Plan:
    """Looks through the whole archive, at its lists and not at its sound.

    Args:
        names: folders of the rooms that are wanted; empty: all.
        is_mine: which of them this process looks at.
    """
    folders: list[str] = []
    cost, rooms = estimate((), options), 0
    async for folder, files in bucket.rooms():
        if not _has_sound(files) or (names and folder not in names):
            continue
        rooms += 1
        if is_mine(folder) and (options.is_forced or _lacks_text(files)):
            price = await _undone(bucket, options, folder, files, batch)
            if price is not None:
                folders.append(folder)
                cost += price
    return Plan(tuple(folders), cost, rooms)


async def _undone(
    bucket: Bucket, options: TranscriptionOptions, folder: str, names: Iterable[str], batch: bool
) -> Estimate | None:
    """What the rest of a room will take; None: it is done, and no batch of it is under way."""
    waiting = await _batches_of(bucket, folder)
    with tempfile.TemporaryDirectory() as copies:
        room = await copied(bucket, folder, names, Path(copies))
        price = await asyncio.to_thread(
            lambda: estimate(not_in(waiting, tasks_of(room, options)), options, batch=batch)
        )
    return price if price.segments or waiting else None


def _has_sound(names: Iterable[str]) -> bool:
    return any(name.endswith(".wav") for name in names)


def _lacks_text(names: Sequence[str]) -> bool:
    """Whether a WAV has no text file beside it. Its text may still be settled: no words, or refused; the lists tell."""
    stems = {name.rpartition("_")[0] for name in names if name.endswith(".txt")}
    return any(name.endswith(".wav") and name.removesuffix(".wav") not in stems for name in names)


# --- a room's copy ---


class RoomCopy(Room):
    """A room of a bucket: its lists are in a folder here, its sound is where it was."""

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        super().__init__(path)
        self._names = frozenset(names)

    def wav(self, record: SegmentRecord) -> Path | None:
        """Where the segment's WAV is to be when it has been fetched; None if the bucket has none."""
        return self.path / record.file if record.file in self._names else None


async def copied(bucket: Bucket, folder: str, names: Iterable[str], into: Path) -> RoomCopy:
    """A room as far as it tells what is done: its lists, and the text files that no list names."""
    room = RoomCopy(into / folder, names)
    room.path.mkdir(mode=PRIVATE_FOLDER)
    for name in (MANIFEST, TEXTS):
        await _copy(bucket, room, name)
    for name in await asyncio.to_thread(_stray_texts, room, names):
        await _copy(bucket, room, name)
    return room


async def _copy(bucket: Bucket, room: Room, name: str) -> None:
    await with_retries(lambda: bucket.fetch(f"{room.path.name}/{name}", room.path / name))


def _stray_texts(room: RoomCopy, names: Iterable[str]) -> list[str]:
    by_stem: dict[str, list[str]] = {}
    for name in names:
        if name.endswith(".txt"):
            by_stem.setdefault(name.rpartition("_")[0], []).append(name)
    with room.texts() as texts:
        unnamed = [Path(record.file).stem for record in room.records() if record not in texts]
    return [name for stem in unnamed for name in by_stem.get(stem, ())]


# --- its sound and its texts ---


class Sounds:
    """The WAVs of a bucket, each here only while it is needed."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    @contextlib.asynccontextmanager
    async def at_hand(self, wav: Path) -> AsyncIterator[None]:
        """See :data:`~lesson_tools.batches.AtHand`."""
        try:
            await self._fetch(wav)
            yield
        finally:
            await asyncio.to_thread(wav.unlink, missing_ok=True)

    async def _fetch(self, wav: Path) -> None:
        key = f"{wav.parent.name}/{wav.name}"
        try:
            is_there = await with_retries(lambda: self._bucket.fetch(key, wav, MAX_SOUND_BYTES))
        except Unusable as error:
            raise Refused(f"its WAV cannot be fetched: {error}") from None
        except Refused as error:  # its own fault only if others can be fetched
            raise Rejected(f"its WAV cannot be fetched: {error}", OPERATOR_PAUSE_SECONDS) from None
        if not is_there:
            raise FileNotFoundError(wav.name)


class FetchingTranslator:
    """Has each segment's sound at hand for the time of its call."""

    def __init__(self, translator: Translator, sounds: Sounds) -> None:
        self._translator = translator
        self._sounds = sounds

    async def translate(self, request: TextRequest) -> TextResult:
        """See :class:`~translator.Translator`."""
        try:
            async with self._sounds.at_hand(request.wav):
                return await self._translator.translate(request)
        except ConfigError as error:
            raise RetryLater(str(error), OPERATOR_PAUSE_SECONDS) from None

    async def aclose(self) -> None:
        """See :class:`~translator.Translator`."""
        await self._translator.aclose()


class Upload:
    """Brings the texts of a room's copy to the bucket as they are written down.

    Only texts of segments that it has been told of are brought; what is brought is neither remembered nor kept here.
    """

    def __init__(self, bucket: Bucket, room: RoomCopy) -> None:
        self._bucket = bucket
        self._folder = room.path
        self._records: dict[str, SegmentRecord] = {}
        self._brought = end_of(room.path / TEXTS)
        self._lock = asyncio.Lock()

    def expect(self, record: SegmentRecord) -> None:
        """A text of this segment may come. From any thread."""
        self._records[record.file] = record

    def of(self, tasks: Iterable[Task]) -> Iterator[Task]:
        """The same tasks, each expected from the moment it is taken."""
        for task in tasks:
            self.expect(task.record)
            yield task

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """Brings what the work writes down, and what is left of it when it ends, in whatever way."""
        try:
            return await _guarded(work, self._keep_bringing())
        finally:
            await self.bring()

    async def bring(self) -> None:
        """Brings what is new: what a line names, then the line."""
        async with self._lock:
            while True:
                lines, behind = await asyncio.to_thread(new_lines, self._folder / TEXTS, self._brought)
                if not lines:
                    return
                texts = list(self._texts_in(lines))
                for _, words in texts:
                    await self._bucket.bring(words)
                await self._bucket.add_lines(f"{self._folder.name}/{TEXTS}", [line for line, _ in texts])
                self._brought = behind
                await asyncio.to_thread(self._forget, [words for _, words in texts])

    async def _keep_bringing(self) -> None:
        while True:
            began = time.monotonic()
            await self.bring()
            took = time.monotonic() - began
            await asyncio.sleep(max(MIN_PAUSE_SECONDS, took / SHARE_OF_LISTS - took))

    def _texts_in(self, lines: Iterable[bytes]) -> Iterator[tuple[bytes, Words]]:
        for line in lines:
            text = text_in(line)
            if text is not None and text.file in self._records:
                yield line, Words(self._folder, self._records[text.file], text)

    def _forget(self, brought: Iterable[Words]) -> None:
        for words in brought:
            self._records.pop(words.record.file, None)
            for name in words.text.files:
                (self._folder / name).unlink(missing_ok=True)


async def _guarded(work: Coroutine[Any, Any, T], guard: Coroutine[Any, Any, None]) -> T:
    """Does the work; it is cancelled if the guard, which never ends by itself, fails, and fails for the same reason."""
    working, guarding = asyncio.ensure_future(work), asyncio.ensure_future(guard)
    try:
        await asyncio.wait({working, guarding}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            guarding.result()
        return await working
    finally:
        for task in (working, guarding):
            task.cancel()
        await asyncio.gather(working, guarding, return_exceptions=True)


# --- its batches ---


class RoomNotes:
    """Notes of a room's batches, kept in the bucket: whoever comes later collects them, from wherever."""

    def __init__(self, bucket: Bucket, upload: Upload, folder: str, found: Iterable[Note]) -> None:
        self._bucket = bucket
        self._upload = upload
        self._folder = folder
        self._notes = {note.id: note for note in found}

    def all(self) -> list[Note]:
        """See :class:`~lesson_tools.batches.Notes`."""
        return list(self._notes.values())

    async def keep(self, note: Note) -> None:
        """See :class:`~lesson_tools.batches.Notes`."""
        await self._write({**self._notes, note.id: note})

    async def let_go(self, note: Note) -> None:
        """See :class:`~lesson_tools.batches.Notes`."""
        await self._upload.bring()
        await self._write({id_: other for id_, other in self._notes.items() if id_ != note.id})

    async def _write(self, notes: dict[str, Note]) -> None:
        content = json.dumps({id_: asdict(note) for id_, note in notes.items()}).encode()
        await with_retries(lambda: self._bucket.write(NOTES.format(folder=self._folder), content))
        self._notes = notes


async def _batches_of(bucket: Bucket, folder: str) -> list[Note]:
    """The batches of a room that are under way. What their notes say of other places is not believed."""
    content, _ = await with_retries(lambda: bucket.read(NOTES.format(folder=folder)))
    found = []
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
        for id_, kept in json.loads(content or b"{}").items():
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                note = note_in(id_, kept)
                if all(room == folder and is_plain_name(line["file"]) for room, line in note.items):
                    found.append(note)
    return found


# --- doing it ---


@dataclass
class BatchCounts:
    """Segments, by what a run has done with them through the Batch API."""

    collected: int = 0
    failed: int = 0
    """Of those whose batch has ended."""
    submitted: int = 0
    waiting: int = 0
    """In batches that are under way."""


class Run:
    """Works through rooms of an archive, one after another."""

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
            RetryLater: the store has been in trouble for too long.
        """
        if self._settings.gemini_max_per_minute or self._settings.gemini_max_per_day:
            prepare_output_dir(Path(self._settings.output_dir))  # the budget is counted there
        for folder in folders:
            await self._make_texts(folder)

    async def by_batch(self, folders: Iterable[str]) -> None:
        """Writes down what has come back, and submits what is still undone.

        Raises:
            ConfigError, RetryLater: as with :meth:`at_once`.
        """
        for folder in folders:
            await self._collect_and_submit(folder)

    async def _make_texts(self, folder: str) -> None:
        async with self._copied(folder) as (room, settings):
            submitted = await _batches_of(self._bucket, folder)
            self.batches.waiting += sum(len(note.items) for note in submitted)
            upload = Upload(self._bucket, room)
            service = await upload.during(
                transcribe(
                    settings,
                    FetchingTranslator(GeminiTranslator(settings), self._sounds),
                    upload.of(not_in(submitted, tasks_of(room, self._options))),
                    self._advance,
                    is_forced=self._options.is_forced,
                    budget_dir=Path(self._settings.output_dir),
                )
            )
            self._add(service.costs)

    def _add(self, costs: TextCosts) -> None:
        for name, number in vars(costs).items():
            setattr(self.costs, name, getattr(self.costs, name) + number)

    async def _collect_and_submit(self, folder: str) -> None:
        async with self._copied(folder) as (room, settings):
            submitted = await _batches_of(self._bucket, folder)
            upload = Upload(self._bucket, room)
            await asyncio.to_thread(_expect_answers, upload, room, submitted)
            notes = RoomNotes(self._bucket, upload, folder, submitted)
            batches = Batches(settings, notes, self._sounds.at_hand)
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
        """A room as it is in the bucket now, and the settings to work on the copy with. Its sound stays there."""
        with tempfile.TemporaryDirectory() as copies:
            names = await self._bucket.names_in(folder)
            room = await copied(self._bucket, folder, names, Path(copies))
            yield room, replace(self._settings, output_dir=copies, save_audio=True)


def _expect_answers(upload: Upload, room: RoomCopy, submitted: Iterable[Note]) -> None:
    """Only of segments that the room still has: they may have been erased since their batch was submitted."""
    files = {line["file"] for note in submitted for _, line in note.items}
    for record in room.records():
        if record.file in files:
            upload.expect(record)
