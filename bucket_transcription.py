"""Text for an archive in a bucket that outgrows a machine, made by several machines at once and by nobody twice.

PART_NUMBERS numbers of a room are a part, and a part is one machine's at a time (:mod:`leases`). Whoever has one copies
the room's lists into a temporary folder; from there on all is as with a folder of one's own: the same tasks, the same
text service, the same batches. A segment's sound is here only while it is needed, and its text goes to the bucket as
soon as it is written down. What the bucket has is done, so whatever stops a machine costs what was under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from batches import Batches, Note, not_in, note_in
from bucket import CLAIMS, Bucket, patiently
from config import Settings
from console import Advance, tell
from deliverables import Unusable, Words
from files import PRIVATE_FOLDER, prepare_output_dir
from jsonl import Bookmark, Lines, end_of, new_lines
from leases import Lease, LeaseLost, Leases, guarded, notes_in
from names import MANIFEST, TEXTS, is_plain_name
from rooms import Room
from segments import ConfigError, RecorderError, Refused, RetryLater, SegmentRecord, TextRecord
from text_costs import TextCosts
from transcription import Estimate, Task, Wish, estimate, tasks_of, transcribe
from translator import OPERATOR_PAUSE_SECONDS, GeminiTranslator, Rejected, TextRequest, TextResult, Translator

PART_NUMBERS = 2_000
"""So many numbers of a room are one part. A machine that dies leaves one part to wait for."""

LOOK_AGAIN_SECONDS = 5.0
"""How often is looked whether a part that another machine has is free."""

LEAST_PAUSE_SECONDS = 0.5
SHARE_OF_LISTS = 0.1
"""The list of a large room is large: writing it takes no more than this share of the time."""

MOST_SOUND_BYTES = 64 * 2**20
"""Of one segment; a minute takes 2 MB."""


T = TypeVar("T")


# --- what there is to do ---


@dataclass(frozen=True)
class Part:
    """Segments of one room, by their numbers: what one machine does at a time."""

    folder: str
    index: int
    segments: int = 0
    """How many were to be done when it was found, and in no batch."""

    @property
    def numbers(self) -> range:
        return range(self.index * PART_NUMBERS, (self.index + 1) * PART_NUMBERS)

    @property
    def claim(self) -> str:
        """The key of its lease."""
        return f"{CLAIMS}/{self.folder}/{self.index}.json"


@dataclass(frozen=True)
class Plan:
    """What is to be done. The estimate is of what is in no batch that is under way."""

    parts: tuple[Part, ...]
    cost: Estimate
    rooms: int
    """How many there are of those that are wanted."""


async def plan(
    bucket: Bucket, wish: Wish, names: Collection[str], is_mine: Callable[[str], bool], *, batch: bool = False
) -> Plan:
    """Looks through the whole archive, at its lists and not at its sound.

    Args:
        names: folders of the rooms that are wanted; empty: all.
        is_mine: which of them this machine looks at.
    """
    parts: list[Part] = []
    cost, rooms = estimate((), wish), 0
    async for folder, files in bucket.rooms():
        if not _has_sound(files) or (names and folder not in names):
            continue
        rooms += 1
        if is_mine(folder) and (wish.is_forced or _lacks_text(files)):
            found, price = await _undone(bucket, wish, folder, files, batch)
            parts += found
            cost += price
    return Plan(tuple(parts), cost, rooms)


async def _undone(
    bucket: Bucket, wish: Wish, folder: str, names: Iterable[str], batch: bool
) -> tuple[list[Part], Estimate]:
    """The parts of a room that are not done."""
    with tempfile.TemporaryDirectory() as copies:
        room = await copied(bucket, folder, names, Path(copies))
        tasks = await asyncio.to_thread(lambda: list(tasks_of(room, wish)))
    waiting: list[Note] = []
    indexes = sorted({_index(task) for task in tasks})
    for index in indexes:
        waiting += await _submitted(bucket, Part(folder, index))
    fresh = list(not_in(waiting, tasks))
    counted = Counter(map(_index, fresh))
    return [Part(folder, index, counted[index]) for index in indexes], estimate(fresh, wish, batch=batch)


def _index(task: Task) -> int:
    return task.record.number // PART_NUMBERS


async def _submitted(bucket: Bucket, part: Part) -> list[Note]:
    content, _ = await patiently(lambda: bucket.read(part.claim))
    return _batches_in(notes_in(content), part.folder)


def _has_sound(names: Iterable[str]) -> bool:
    return any(name.endswith(".wav") for name in names)


def _lacks_text(names: Sequence[str]) -> bool:
    """Whether a WAV has no text file beside it. Its text may still be settled: no words, or refused; the lists tell."""
    stems = {name.rpartition("_")[0] for name in names if name.endswith(".txt")}
    return any(name.endswith(".wav") and name.removesuffix(".wav") not in stems for name in names)


# --- a room's copy ---


class RoomCopy(Room):
    """A room of a bucket: its lists are in a folder here, its sound is where it was."""

    def __init__(self, path: Path, names: Iterable[str], numbers: range | None = None) -> None:
        super().__init__(path)
        self._names = frozenset(names)
        self._numbers = numbers
        """Only segments with these; None: all."""

    def records(self, session: str | None = None, lines: Lines | None = None) -> Iterator[SegmentRecord]:
        """See :class:`~rooms.Room`."""
        for record in super().records(session, lines):
            if self._numbers is None or record.number in self._numbers:
                yield record

    def wav(self, record: SegmentRecord) -> Path | None:
        """Where the segment's WAV is to be when it has been fetched; None if the bucket has none."""
        return self.path / record.file if record.file in self._names else None


async def copied(
    bucket: Bucket, folder: str, names: Iterable[str], into: Path, numbers: range | None = None
) -> RoomCopy:
    """A room as far as it tells what is done: its lists, and the text files that no list names."""
    room = RoomCopy(into / folder, names, numbers)
    room.path.mkdir(mode=PRIVATE_FOLDER)
    for name in (MANIFEST, TEXTS):
        await _copy(bucket, room, name)
    for name in await asyncio.to_thread(_stray_texts, room, names):
        await _copy(bucket, room, name)
    return room


async def _copy(bucket: Bucket, room: Room, name: str) -> None:
    await patiently(lambda: bucket.fetch(f"{room.path.name}/{name}", room.path / name))


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
        """See :data:`~batches.AtHand`."""
        try:
            await self._fetch(wav)
            yield
        finally:
            await asyncio.to_thread(wav.unlink, missing_ok=True)

    async def _fetch(self, wav: Path) -> None:
        key = f"{wav.parent.name}/{wav.name}"
        try:
            is_there = await patiently(lambda: self._bucket.fetch(key, wav, MOST_SOUND_BYTES))
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
    """Brings the texts of a room's copy to the bucket as they are written down."""

    def __init__(self, bucket: Bucket, room: RoomCopy) -> None:
        self._bucket = bucket
        self._folder = room.path
        self._records = {record.file: record for record in room.records()}
        self._brought = end_of(room.path / TEXTS)
        self._lock = asyncio.Lock()

    @property
    def folder(self) -> str:
        """The room's folder in the bucket."""
        return self._folder.name

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """Brings what the work writes down, and what is left of it when it ends, in whatever way."""
        try:
            return await guarded(work, self._keep_bringing())
        finally:
            await self.bring()

    async def bring(self) -> None:
        """Brings what is new: what a line names, then the line."""
        async with self._lock:
            while True:
                lines, behind = await asyncio.to_thread(self._news)
                if not lines:
                    return
                texts = list(self._texts_in(lines))
                for _, words in texts:
                    await self._bucket.bring(words)
                await self._bucket.add_lines(f"{self.folder}/{TEXTS}", [line for line, _ in texts])
                self._brought = behind

    async def _keep_bringing(self) -> None:
        while True:
            began = time.monotonic()
            await self.bring()
            took = time.monotonic() - began
            await asyncio.sleep(max(LEAST_PAUSE_SECONDS, took / SHARE_OF_LISTS - took))

    def _texts_in(self, lines: Iterable[bytes]) -> Iterator[tuple[bytes, Words]]:
        """What is of a segment that the room has: it may have been erased since its batch was submitted."""
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                text = TextRecord.from_json(json.loads(line))
                yield line, Words(self._folder, self._records[text.file], text)

    def _news(self) -> tuple[list[bytes], Bookmark]:
        return new_lines(self._folder / TEXTS, self._brought)


class LeaseNotes:
    """Notes of batches, kept in the lease of the part that they belong to."""

    def __init__(self, lease: Lease, upload: Upload) -> None:
        self._lease = lease
        self._upload = upload

    def all(self) -> list[Note]:
        """See :class:`~batches.Notes`."""
        return _batches_in(self._lease.notes, self._upload.folder)

    async def keep(self, note: Note) -> None:
        """See :class:`~batches.Notes`."""
        self._lease.notes[note.id] = asdict(note)
        await patiently(self._lease.renew)

    async def let_go(self, note: Note) -> None:
        """See :class:`~batches.Notes`."""
        await self._upload.bring()
        self._lease.notes.pop(note.id, None)
        await patiently(self._lease.renew)


def _batches_in(notes: Mapping[str, Any], folder: str) -> list[Note]:
    """The batches of a room that a lease tells of. What it says of other places is not believed."""
    found = []
    for id_, content in notes.items():
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            note = note_in(id_, content)
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
    """Works through parts of an archive beside other machines, until all of them are done by somebody."""

    def __init__(self, settings: Settings, bucket: Bucket, wish: Wish, advance: Advance) -> None:
        self.costs = TextCosts()
        self.batches = BatchCounts()
        self._settings = settings
        self._bucket = bucket
        self._wish = wish
        self._advance = advance
        self._leases = Leases(bucket)
        self._sounds = Sounds(bucket)

    async def at_once(self, parts: Sequence[Part]) -> None:
        """Makes all texts now.

        Raises:
            ConfigError: the key, the model or the settings are refused, by Gemini or by the store.
            RetryLater: the store has been in trouble for too long.
        """
        if self._settings.gemini_max_per_minute or self._settings.gemini_max_per_day:
            prepare_output_dir(Path(self._settings.output_dir))  # the budget is counted there
        await self._work_through(parts, self._make_texts)

    async def by_batch(self, parts: Sequence[Part]) -> None:
        """Writes down what has come back, and submits what is still undone.

        Raises:
            ConfigError, RetryLater: as with :meth:`at_once`.
        """
        await self._work_through(parts, self._collect_and_submit)

    async def _work_through(self, parts: Sequence[Part], do: Step) -> None:
        await patiently(self._bucket.prove_conditions)
        waiting = random.sample(parts, len(parts))  # so that machines seldom want the same
        is_told = False
        while waiting := [part for part in waiting if not await self._is_done(part, do)]:
            if not is_told:
                tell(f"Other machines are at {len(waiting)} parts of the archive; this one waits for them")
                is_told = True
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def _is_done(self, part: Part, do: Step) -> bool:
        """Does a part; not if another machine has it, or takes it over."""
        lease = await patiently(lambda: self._leases.take(part.claim))
        if lease is None:
            return False
        try:
            await lease.hold(do(part, lease))
            return True
        except LeaseLost:
            return False
        finally:
            with contextlib.suppress(RecorderError):  # then others wait until it is free by itself
                await lease.release()

    async def _make_texts(self, part: Part, lease: Lease) -> None:
        async with self._copied(part) as (room, settings):
            submitted = _batches_in(lease.notes, part.folder)
            self.batches.waiting += sum(len(note.items) for note in submitted)
            tasks = await asyncio.to_thread(lambda: list(not_in(submitted, tasks_of(room, self._wish))))
            self._advance(part.segments - len(tasks))  # others have done them
            if not tasks:
                return
            translator = FetchingTranslator(GeminiTranslator(settings), self._sounds)
            service = await Upload(self._bucket, room).during(
                transcribe(
                    settings,
                    translator,
                    tasks,
                    self._advance,
                    is_forced=self._wish.is_forced,
                    budget_dir=Path(self._settings.output_dir),
                )
            )
            self._add(service.costs)

    def _add(self, costs: TextCosts) -> None:
        for name, number in vars(costs).items():
            setattr(self.costs, name, getattr(self.costs, name) + number)

    async def _collect_and_submit(self, part: Part, lease: Lease) -> None:
        async with self._copied(part) as (room, settings):
            notes = LeaseNotes(lease, Upload(self._bucket, room))
            batches = Batches(settings, notes, self._sounds.at_hand)
            try:
                collected, failed = await batches.collect()
                self.batches.collected += collected
                self.batches.failed += failed
                tasks = batches.not_submitted(tasks_of(room, self._wish))
                self.batches.submitted += await batches.submit(tasks, self._wish, self._advance)
                self.batches.waiting += batches.waiting()
            finally:
                await batches.aclose()

    @contextlib.asynccontextmanager
    async def _copied(self, part: Part) -> AsyncIterator[tuple[RoomCopy, Settings]]:
        """A part as it is in the bucket now, and the settings to work on the copy with. Its sound stays there."""
        with tempfile.TemporaryDirectory() as copies:
            names = await self._bucket.names_in(part.folder)
            room = await copied(self._bucket, part.folder, names, Path(copies), part.numbers)
            yield room, replace(self._settings, output_dir=copies, save_audio=True)


Step = Callable[[Part, Lease], Coroutine[Any, Any, None]]
