"""One room of a bucket while its segments are transcribed: the copy of its lists, its sound, its texts, its batches."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from archive.files import PRIVATE_FOLDER
from archive.jsonl import end_of, new_lines
from archive.names import MANIFEST, TEXTS, is_plain_name
from archive.rooms import Room
from archive.texts import text_in
from core.errors import ConfigError, Refused, RetryLater
from core.records import SegmentRecord
from delivery.items import Unusable, Words
from lesson_tools.batches import Note, note_in
from lesson_tools.bucket import Bucket, with_retries
from lesson_tools.transcription import Task
from translator import OPERATOR_PAUSE_SECONDS, Rejected, TextRequest, TextResult, Translator

MIN_PAUSE_SECONDS = 0.5
SHARE_OF_LISTS = 0.1
"""The list of a large room is large: writing it takes no more than this share of the time."""
MAX_SOUND_BYTES = 64 * 2**20
"""Of one segment; a minute takes 2 MB."""
NOTES = ".transcribe/{folder}/batches.json"
"""Where the batches of a room that are under way are noted, below the prefix."""
T = TypeVar("T")


class RoomCopy(Room):
    """A room of a bucket: its lists are in a folder here, its sound is where it was."""

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        super().__init__(path)
        self._names = frozenset(names)

    def wav(self, record: SegmentRecord) -> Path | None:
        """Where the segment's WAV is to be when it has been fetched; None if the bucket has none."""
        return self.path / record.file if record.file in self._names else None


async def copy_of(bucket: Bucket, folder: str, names: Iterable[str], into: Path) -> RoomCopy:
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


async def batches_of(bucket: Bucket, folder: str) -> list[Note]:
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
