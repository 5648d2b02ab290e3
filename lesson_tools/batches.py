"""Transcribes through Gemini's Batch API: half the price, answers within a day.

A batch goes through these steps. Each is on the disk before the next begins, so that a kill at any moment loses
nothing and repeats nothing:

    write .batches/ID.json (the segments)  they are not submitted again while this file exists
    upload, create under the name ID       after a kill here: found again by that name, or never begun
    write the batch's name into ID.json
    ... hours ...
    save each answer in texts.jsonl        after a kill here: texts that are saved already are left out
    delete ID.json
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

from archive import jsonl
from archive.files import PRIVATE_FOLDER, write_private
from archive.outbox import Outbox
from config import Settings
from core.answers import answer_schema
from core.errors import ConfigError, Refused, RetryLater, StorageError
from core.language_tags import language_tag_or_empty
from core.plausibility import plausible
from core.records import SegmentRecord
from core.text_request import TextRequest
from lesson_tools.console import Advance
from lesson_tools.transcription import ArchiveTextService, Task, TranscriptionOptions
from text.attempts import requested_languages
from translator import (
    MAX_OUTPUT_TOKENS,
    GeminiTranslator,
    Rejected,
    TextResult,
    compressed,
    translation_in,
    usage_of,
)

FOLDER = ".batches"
MAX_SEGMENTS = 2_000
MAX_BYTES = 400 * 2**20
"""Size of one batch's file; the service accepts 2 GB."""

ENDED = ("JOB_STATE_SUCCEEDED", "JOB_STATE_PARTIALLY_SUCCEEDED")
GONE = "JOB_STATE_EXPIRED"
FAILED = ("JOB_STATE_FAILED", "JOB_STATE_CANCELLED", GONE)


@dataclass(frozen=True)
class Note:
    """What is known of one batch that has not ended."""

    id: str
    model: str
    is_forced: bool
    items: tuple[tuple[str, dict[str, Any]], ...]
    """Folder and manifest line of each segment; the index is its key in the batch."""
    languages: tuple[str, ...] = ()
    name: str = ""
    """The service's name for it; empty until that is known."""


class Notes(Protocol):
    """Storage for notes that survives a kill: when ``keep`` returns, the note is safe."""

    def all(self) -> Iterable[Note]: ...

    async def keep(self, note: Note) -> None: ...

    async def remove(self, note: Note) -> None:
        """Removes the note of a batch whose texts are saved."""
        ...


ERASED_ITEM: tuple[str, dict[str, Any]] = ("", {"file": ""})
"""Stands in a note where a segment has been erased: the indexes of the others stay."""

Fetched = Callable[[Path], contextlib.AbstractAsyncContextManager[None]]
"""Context in which a WAV exists. Raises FileNotFoundError, Refused or Rejected if it cannot be fetched."""


def _local(wav: Path) -> contextlib.AbstractAsyncContextManager[None]:
    return contextlib.nullcontext()


class Batches(GeminiTranslator):
    """All batches of one OUTPUT_DIR. One process at a time. Notes are in ``.batches`` there by default.

    Raises:
        ConfigError: the key or the model is refused.
        RetryLater: the service cannot be reached.
    """

    def __init__(self, settings: Settings, notes: Notes | None = None, fetched: Fetched = _local) -> None:
        super().__init__(settings)
        self._fetched = fetched
        self._output_dir = Path(settings.output_dir)
        self._store = notes or FolderNotes(self._output_dir / FOLDER)
        self._notes = {note.id: note for note in self._store.all()}

    def waiting(self) -> int:
        """Counts the segments in batches that have not ended."""
        return sum(len(note.items) for note in self._notes.values())

    def sessions(self) -> set[tuple[str, str]]:
        """The sessions of these segments, by folder and sid."""
        items = [item for note in self._notes.values() for item in note.items if item != ERASED_ITEM]
        return {(folder, str(line.get("room_sid", ""))) for folder, line in items}

    def not_submitted(self, tasks: Iterable[Task]) -> Iterator[Task]:
        """Yields tasks whose segments are in none of these batches."""
        return not_in(self._notes.values(), tasks)

    # Submitting.

    async def submit(self, tasks: Iterable[Task], options: TranscriptionOptions, advance: Advance) -> int:
        """Submits all tasks in as many batches as needed; returns the number of segments."""
        submitted = 0
        waiting = iter(tasks)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "batch.jsonl"
            while items := await self._write_requests(file, waiting, options, advance):
                note = Note(
                    secrets.token_hex(8), options.model, options.may_replace, tuple(items), options.languages
                )
                await self._keep(note)
                await self._send(note, file)
                submitted += len(items)
        return submitted

    async def _write_requests(
        self, file: Path, tasks: Iterator[Task], options: TranscriptionOptions, advance: Advance
    ) -> list[tuple[str, dict[str, Any]]]:
        """Writes the file of one batch; returns the segments in it."""
        items: list[tuple[str, dict[str, Any]]] = []
        with _new_file(file) as lines:
            while len(items) < MAX_SEGMENTS and lines.tell() < MAX_BYTES and (task := next(tasks, None)):
                advance(1)
                # A segment without a usable WAV is left to a run without --batch, which reports what is wrong.
                with contextlib.suppress(Refused, Rejected, FileNotFoundError):
                    async with self._fetched(task.folder / task.record.file):
                        request = await asyncio.to_thread(self._rest_request, task, options)
                    lines.write(jsonl.encoded({"key": str(len(items)), "request": request}))
                    items.append((task.folder.name, task.record.to_json()))
        return items

    def _rest_request(self, task: Task, options: TranscriptionOptions) -> dict[str, Any]:
        flac = base64.b64encode(compressed(task.folder / task.record.file)).decode()
        languages = requested_languages(options.languages, task.record)
        thinking = self._settings.gemini_thinking
        config: dict[str, Any] = {
            "responseMimeType": "application/json",
            "responseJsonSchema": answer_schema(languages),
            "maxOutputTokens": MAX_OUTPUT_TOKENS,
        }
        if thinking != "default":
            config["thinkingConfig"] = {"thinkingLevel": thinking.upper()}
        return {
            "systemInstruction": {"parts": [{"text": self._instruction}]},
            "contents": [
                {"role": "user", "parts": [{"inlineData": {"mimeType": "audio/flac", "data": flac}}]}
            ],
            "generationConfig": config,
        }

    async def _send(self, note: Note, file: Path) -> None:
        from google.genai import types

        async with _errors_classified():
            uploaded = await self._client.aio.files.upload(
                file=file, config=types.UploadFileConfig(mime_type="application/jsonl", display_name=note.id)
            )
            job = await self._client.aio.batches.create(
                model=note.model,
                src=uploaded.name or "",
                config=types.CreateBatchJobConfig(display_name=note.id),
            )
        await self._keep(replace(note, name=job.name or ""))

    # Collecting.

    async def collect(self) -> tuple[int, int]:
        """Saves the answers that have come; returns the numbers of texts and of unusable answers."""
        await self._find_lost_names()
        collected = failed = 0
        for note in list(self._notes.values()):
            async with _errors_classified():
                state, answers = await self._state_and_answers(note.name)
            if state in ENDED:
                good = await self._save_all(note, answers)
                collected, failed = collected + good, failed + len(note.items) - good
                await self._remove(note)
            elif state in FAILED:
                failed += len(note.items)
                await self._remove(note)
        return collected, failed

    async def _state_and_answers(self, name: str) -> tuple[str, bytes]:
        """Returns a batch's state, and its answers if it has ended. If the service does not know it, it has failed."""
        from google.genai import errors

        try:
            job = await self._client.aio.batches.get(name=name)
            state = job.state.value if job.state else ""
            if state in ENDED and job.dest is not None and job.dest.file_name:
                return state, await self._client.aio.files.download(file=job.dest.file_name)
        except errors.ClientError as error:
            if error.code == 404:
                return GONE, b""
            raise
        return state, b""

    async def _find_lost_names(self) -> None:
        """Finds the names of batches whose submission was killed: the service lists them by the note's id."""
        lost = {note.id for note in self._notes.values() if not note.name}
        if not lost:
            return
        found = {}
        async with _errors_classified():
            async for job in await self._client.aio.batches.list():
                if job.display_name in lost:
                    found[job.display_name] = job.name or ""
        for id_ in lost:
            if found.get(id_):
                await self._keep(replace(self._notes[id_], name=found[id_]))
            else:
                await self._remove(self._notes[id_])

    async def _save_all(self, note: Note, answers: bytes) -> int:
        """Saves answers in texts.jsonl; returns how many are texts or refusals."""
        settings = replace(self._settings, gemini_model=note.model)
        saved = 0
        with tempfile.TemporaryDirectory() as folder:
            queue = Outbox(Path(folder))
            service = ArchiveTextService(settings, self, queue, queue, (), is_forced=note.is_forced)
            try:
                saved += sum(item == ERASED_ITEM for item in note.items)
                for line in answers.splitlines():
                    task, answer = self._parsed(note, line)
                    if task is not None and await self._save_one(service, note, task, answer):
                        saved += 1
            except OSError as error:
                raise StorageError(f"The texts cannot be saved: {error.strerror or error}") from None
            finally:
                await queue.aclose()
        return saved

    def _parsed(self, note: Note, line: bytes) -> tuple[Task | None, Any]:
        """Parses one answer; (None, None) if it belongs to no segment of the batch."""

        def task_and_answer(answer: Any) -> tuple[Task, Any]:
            number = int(answer["key"])
            if number < 0:
                raise ValueError(f"no index of a segment: {number}")
            folder, record = note.items[number]
            return Task(self._output_dir / folder, SegmentRecord.from_json(record)), answer

        return jsonl.parsed(line, task_and_answer) or (None, None)

    async def _save_one(
        self, service: ArchiveTextService, note: Note, task: Task, answer: Mapping[str, Any]
    ) -> bool:
        from google.genai import types

        if not task.folder.is_dir():
            return True  # it has been erased
        try:
            response = types.GenerateContentResponse.model_validate(answer["response"])
            usage = usage_of(response, 0.0)
            request = TextRequest(
                task.folder / task.record.file,
                requested_languages(note.languages, task.record),
                hint=language_tag_or_empty(task.record.speaking_language),
                names=service.names(task),
                seconds=task.record.duration_seconds,
            )
            translation = plausible(
                translation_in(response, request, usage, self._instruction), request.seconds
            )
            await service.save(task, TextResult(translation, note.model, usage))
        except Refused as refusal:
            await service.refuse(task, str(refusal))
        except (RetryLater, ValueError, KeyError, TypeError):
            return False  # it goes into the next batch
        return True

    async def _keep(self, note: Note) -> None:
        await self._store.keep(note)
        self._notes[note.id] = note

    async def _remove(self, note: Note) -> None:
        await self._store.remove(note)
        self._notes.pop(note.id, None)


def _new_file(path: Path) -> IO[bytes]:
    return open(path, "wb")


# --- notes ---


class FolderNotes:
    """Notes as files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def all(self) -> Iterator[Note]:
        for path in sorted(self._folder.glob("*.json")) if self._folder.is_dir() else ():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                yield note_in(path.stem, json.loads(path.read_bytes()))

    async def keep(self, note: Note) -> None:
        try:
            self._folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            write_private(self._folder / f"{note.id}.json", json.dumps(asdict(note)).encode())
        except OSError as error:
            raise StorageError(f"{self._folder} cannot be written: {error.strerror or error}") from None

    async def remove(self, note: Note) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._folder / f"{note.id}.json")


def note_in(id_: str, found: Mapping[str, Any]) -> Note:
    """Parses a stored note.

    Raises:
        ValueError, KeyError, TypeError: it is not a note.
    """
    return Note(
        id=id_,
        model=str(found["model"]),
        is_forced=bool(found["is_forced"]),
        items=tuple((str(room), dict(line)) for room, line in found["items"]),
        languages=tuple(map(str, found["languages"])),
        name=str(found["name"]),
    )


def without(note: Note, is_erased: Callable[[str, Mapping[str, Any]], bool]) -> Note | None:
    """Returns a note without the erased segments (by folder and manifest line); None if no other is left."""
    items = tuple(ERASED_ITEM if is_erased(*item) else item for item in note.items)
    return replace(note, items=items) if any(item != ERASED_ITEM for item in items) else None


def not_in(notes: Iterable[Note], tasks: Iterable[Task]) -> Iterator[Task]:
    """Returns tasks whose segments are in none of these batches."""
    submitted = {(folder, line["file"]) for note in notes for folder, line in note.items}
    return (task for task in tasks if (task.folder.name, task.record.file) not in submitted)


@contextlib.asynccontextmanager
async def _errors_classified() -> AsyncIterator[None]:
    """Converts the SDK's errors to ConfigError and RetryLater."""
    from google.genai import errors

    from translator import WrongSettings, classify_error

    try:
        yield
    except errors.APIError as error:
        trouble = classify_error(error)
        if isinstance(trouble, WrongSettings):
            raise ConfigError(str(trouble)) from None
        raise RetryLater(f"The Batch API refuses it at the moment: {trouble}") from None
    except (OSError, KeyError) as error:
        raise RetryLater(f"The Batch API cannot be reached: {type(error).__name__}") from None
    except Exception as error:  # each HTTP library has its own
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "aiohttp"):
            raise
        raise RetryLater(f"The Batch API cannot be reached: {type(error).__name__}") from None
