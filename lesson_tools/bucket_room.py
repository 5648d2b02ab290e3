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
from archive.manifest import record_in
from archive.names import MANIFEST, TEXTS, is_plain_name
from archive.rooms import Room
from archive.texts import text_in
from core.errors import ConfigError, Refused
from core.records import SegmentRecord
from core.text_request import TextRequest
from delivery.items import TextItem, Unusable
from delivery.stored_list import StoredList
from lesson_tools.batches import ERASED_ITEM, Note, note_in, without
from lesson_tools.bucket import Bucket, with_retries
from lesson_tools.transcription import Task
from translator import Rejected, TextResult, Translator, WrongSettings

MIN_PAUSE_SECONDS = 0.5
SHARE_OF_LISTS = 0.1
"""Largest share of the time that is spent on writing texts.jsonl, which is large in a large room."""

MAX_SOUND_BYTES = 64 * 2**20
"""Largest WAV of one segment; a minute takes 2 MB."""

NOTES = ".transcribe/{folder}/batches.json"
"""Key, below the prefix, of the notes on a room's batches that have not ended."""

T = TypeVar("T")


class RoomCopy(Room):
    """A room of a bucket, with its lists copied to a local folder. The WAVs stay in the bucket."""

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        super().__init__(path)
        self._names = frozenset(names)

    def wav(self, record: SegmentRecord) -> Path | None:
        """Returns the path that the segment's WAV has once it is fetched; None if the bucket has none."""
        return self.path / record.file if record.file in self._names else None


async def copy_of(bucket: Bucket, folder: str, names: Iterable[str], into: Path) -> RoomCopy:
    """Copies the files that show which texts are done: the room's lists, and text files that no list names."""
    room = RoomCopy(into / folder, names)
    room.path.mkdir(mode=PRIVATE_FOLDER)
    for name in (MANIFEST, TEXTS):
        await bucket.fetch_list(folder, name, room.path / name)
    for name in await asyncio.to_thread(_stray_texts, room, names):
        await _copy(bucket, room, name)
    return room


async def _copy(bucket: Bucket, room: Room, name: str) -> None:
    await with_retries(lambda: bucket.fetch(f"{room.path.name}/{name}", room.path / name))


async def listed_in(bucket: Bucket, folder: str) -> frozenset[str]:
    """The WAVs that the manifest in the bucket names now: some may have been erased since it was copied."""
    return await with_retries(lambda: _wavs_in(bucket.list_of(folder, MANIFEST)))


async def _wavs_in(manifest: StoredList) -> frozenset[str]:
    found = [record.file async for line in manifest.lines() if (record := record_in(line)) is not None]
    return frozenset(found)


def _stray_texts(room: RoomCopy, names: Iterable[str]) -> list[str]:
    by_stem: dict[str, list[str]] = {}
    for name in names:
        if name.endswith(".txt"):
            by_stem.setdefault(name.rpartition("_")[0], []).append(name)
    with room.texts() as texts:
        unnamed = [Path(record.file).stem for record in room.records() if record not in texts]
    return [name for stem in unnamed for name in by_stem.get(stem, ())]


class Sounds:
    """Fetches WAVs of a bucket, and deletes each local copy after use."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    @contextlib.asynccontextmanager
    async def fetched(self, wav: Path) -> AsyncIterator[None]:
        """See :data:`~lesson_tools.batches.Fetched`."""
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
        except Refused as error:  # retried: it is the WAV's own fault only if others can be fetched
            raise Rejected(f"its WAV cannot be fetched: {error}") from None
        if not is_there:
            raise FileNotFoundError(wav.name)


class FetchingTranslator:
    """Translates segments whose WAVs are in a bucket: fetches each WAV for the time of its call."""

    def __init__(self, translator: Translator, sounds: Sounds) -> None:
        self._translator = translator
        self._sounds = sounds

    async def translate(self, request: TextRequest) -> TextResult:
        """See :class:`~translator.Translator`."""
        try:
            async with self._sounds.fetched(request.wav):
                return await self._translator.translate(request)
        except ConfigError as error:
            raise WrongSettings(str(error)) from None

    async def aclose(self) -> None:
        """See :class:`~translator.Translator`."""
        await self._translator.aclose()


class Upload:
    """Uploads the texts of a room's copy to the bucket as they are saved.

    Only texts of expected segments are uploaded (see ``expect``), and only while the manifest in the bucket names the
    segment: an erased one does not return. An uploaded text is deleted here.
    """

    def __init__(self, bucket: Bucket, room: RoomCopy) -> None:
        self._bucket = bucket
        self._folder = room.path
        self._records: dict[str, SegmentRecord] = {}
        self._uploaded_to = end_of(room.path / TEXTS)
        self._part = 0
        """The last part of texts.jsonl in the bucket; 0: not known."""
        self._lock = asyncio.Lock()

    def expect(self, record: SegmentRecord) -> None:
        """Announces that a text of this segment may come. May be called on any thread."""
        self._records[record.file] = record

    def of(self, tasks: Iterable[Task]) -> Iterator[Task]:
        """Yields the same tasks, and expects the segment of each."""
        for task in tasks:
            self.expect(task.record)
            yield task

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs the work, and uploads meanwhile; uploads the rest when the work has ended or failed."""
        try:
            return await _guarded(work, self._upload_regularly())
        finally:
            await self.upload()

    async def upload(self) -> None:
        """Uploads what is new: the files that a line names, then the line."""
        async with self._lock:
            while True:
                lines, behind = await asyncio.to_thread(new_lines, self._folder / TEXTS, self._uploaded_to)
                if not lines:
                    return
                listed = await listed_in(self._bucket, self._folder.name)
                read = await asyncio.to_thread(self._texts_in, lines)
                texts = [(line, item) for line, item in read if item.record.file in listed]
                for _, item in texts:
                    await self._bucket.put_with_retries(item)
                await self._add_lines([line for line, _ in texts])
                self._uploaded_to = behind
                await asyncio.to_thread(self._forget, [item for _, item in texts])

    async def _add_lines(self, lines: list[bytes]) -> None:
        folder = self._folder.name
        part = self._part or await self._bucket.last_part(folder, TEXTS)
        self._part = await self._bucket.add_lines(folder, TEXTS, lines, part)

    async def _upload_regularly(self) -> None:
        while True:
            began = time.monotonic()
            await self.upload()
            took = time.monotonic() - began
            await asyncio.sleep(max(MIN_PAUSE_SECONDS, took / SHARE_OF_LISTS - took))

    def _texts_in(self, lines: Iterable[bytes]) -> list[tuple[bytes, TextItem]]:
        found = [(line, text) for line in lines if (text := text_in(line)) is not None]
        return [
            (line, TextItem.read(self._folder, self._records[text.file], text))
            for line, text in found
            if text.file in self._records
        ]

    def _forget(self, uploaded: Iterable[TextItem]) -> None:
        for item in uploaded:
            self._records.pop(item.record.file, None)
            for name in item.text.files:
                (self._folder / name).unlink(missing_ok=True)


async def _guarded(work: Coroutine[Any, Any, T], guard: Coroutine[Any, Any, None]) -> T:
    """Runs the work, and cancels it when the guard fails, with the guard's error. The guard never ends by itself."""
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
    """Notes on a room's batches, kept in the bucket, so that any machine can collect the answers."""

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

    async def remove(self, note: Note) -> None:
        """See :class:`~lesson_tools.batches.Notes`."""
        await self._upload.upload()
        await self._write({id_: other for id_, other in self._notes.items() if id_ != note.id})

    async def _write(self, notes: dict[str, Note]) -> None:
        listed = await listed_in(self._bucket, self._folder)
        rests = {
            id_: without(note, lambda _, line: line["file"] not in listed) for id_, note in notes.items()
        }
        content = json.dumps({id_: asdict(rest) for id_, rest in rests.items() if rest is not None}).encode()
        await with_retries(lambda: self._bucket.write(NOTES.format(folder=self._folder), content))
        self._notes = notes


async def batches_of(bucket: Bucket, folder: str) -> list[Note]:
    """Reads the notes on a room's batches. A note that names another room or a path is ignored."""
    content, _ = await with_retries(lambda: bucket.read(NOTES.format(folder=folder)))
    found = []
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
        for id_, entry in json.loads(content or b"{}").items():
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                note = note_in(id_, entry)
                kept = [item for item in note.items if item != ERASED_ITEM]
                if all(room == folder and is_plain_name(line["file"]) for room, line in kept):
                    found.append(note)
    return found
