"""Gemini's Batch API: half the price, answers within a day.

A batch goes through these steps, each on the disk before the next begins, so that a kill at any moment loses and
doubles nothing:

    .batches/ID.json with the segments     they are not submitted again while this is there
    upload, create under the name ID       killed in between: found again by that name, or never begun
    the batch's own name into ID.json
    ... hours ...
    every answer into texts.jsonl          killed in between: what is there already is left out
    ID.json goes
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from config import Settings
from console import Advance
from outbox import Outbox
from segments import ConfigError, Refused, RetryLater, SegmentRecord, StorageError
from storage import PRIVATE_FOLDER, write_private
from transcription import ArchiveTextService, Task, Wish
from translator import (
    MAX_OUTPUT_TOKENS,
    GeminiTranslator,
    TextResult,
    answer_schema,
    checked,
    compressed,
    text_of,
    usage_of,
)

FOLDER = ".batches"
MOST_SEGMENTS = 2_000
MOST_BYTES = 400 * 2**20
"""Of one batch's file; the service takes 2 GB."""

ENDED = ("JOB_STATE_SUCCEEDED", "JOB_STATE_PARTIALLY_SUCCEEDED")
GONE = "JOB_STATE_EXPIRED"
FAILED = ("JOB_STATE_FAILED", "JOB_STATE_CANCELLED", GONE)


@dataclass(frozen=True)
class Note:
    """What is known of one batch that is under way."""

    id: str
    model: str
    is_forced: bool
    items: tuple[tuple[str, dict[str, Any]], ...]
    """Folder and manifest line of each segment; its place here is its key in the batch."""
    languages: tuple[str, ...] = ()
    name: str = ""
    """What the service calls it; empty until that is known."""


class Batches(GeminiTranslator):
    """All batches of one OUTPUT_DIR. One process at a time.

    Raises:
        ConfigError: the key or the model is refused.
        RetryLater: the service cannot be reached.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._output_dir = Path(settings.output_dir)
        self._notes = {note.id: note for note in _notes_in(self._output_dir / FOLDER)}

    def waiting(self) -> int:
        """How many segments are under way."""
        return sum(len(note.items) for note in self._notes.values())

    def not_submitted(self, tasks: Iterable[Task]) -> Iterator[Task]:
        """Tasks whose segments are in no batch that is under way."""
        submitted = {(folder, line["file"]) for note in self._notes.values() for folder, line in note.items}
        return (task for task in tasks if (task.folder.name, task.record.file) not in submitted)

    # Submitting.

    async def submit(self, tasks: Iterable[Task], wish: Wish, advance: Advance) -> int:
        """Sends everything, in as many batches as it takes; returns how many segments."""
        submitted = 0
        waiting = iter(tasks)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "batch.jsonl"
            while items := self._write_requests(file, waiting, wish, advance):
                note = Note(secrets.token_hex(8), wish.model, wish.is_forced, tuple(items), wish.languages)
                self._keep(note)
                await self._send(note, file)
                submitted += len(items)
        return submitted

    def _write_requests(
        self, file: Path, tasks: Iterator[Task], wish: Wish, advance: Advance
    ) -> list[tuple[str, dict[str, Any]]]:
        """One batch's file, and what is in it."""
        items: list[tuple[str, dict[str, Any]]] = []
        with open(file, "w", encoding="utf-8", newline="\n") as lines:
            while len(items) < MOST_SEGMENTS and lines.tell() < MOST_BYTES and (task := next(tasks, None)):
                advance(1)
                with contextlib.suppress(Refused, FileNotFoundError):  # the ordinary way says what is wrong
                    request = self._rest_request(task, wish)
                    lines.write(json.dumps({"key": str(len(items)), "request": request}) + "\n")
                    items.append((task.folder.name, task.record.to_json()))
        return items

    def _rest_request(self, task: Task, wish: Wish) -> dict[str, Any]:
        flac = base64.b64encode(compressed(task.folder / task.record.file)).decode()
        languages = _languages(wish.languages, task.record)
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

        async with _said_clearly():
            uploaded = await self._client.aio.files.upload(
                file=file, config=types.UploadFileConfig(mime_type="application/jsonl", display_name=note.id)
            )
            job = await self._client.aio.batches.create(
                model=note.model,
                src=uploaded.name or "",
                config=types.CreateBatchJobConfig(display_name=note.id),
            )
        self._keep(replace(note, name=job.name or ""))

    # Collecting.

    async def collect(self) -> tuple[int, int]:
        """Writes down what has come back. Returns how many texts that were, and how many answers were of no use."""
        await self._find_lost_names()
        collected = failed = 0
        for note in list(self._notes.values()):
            async with _said_clearly():
                state, answers = await self._look(note.name)
            if state in ENDED:
                good = await self._save_all(note, answers)
                collected, failed = collected + good, failed + len(note.items) - good
                self._let_go(note)
            elif state in FAILED:
                failed += len(note.items)
                self._let_go(note)
        return collected, failed

    async def _look(self, name: str) -> tuple[str, bytes]:
        """How far a batch is, and its answers if it has ended. One that is not known any more has failed."""
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
        """Batches that were being submitted when we were killed: they are there under our name, or not at all."""
        lost = {note.id for note in self._notes.values() if not note.name}
        if not lost:
            return
        found = {}
        async with _said_clearly():
            async for job in await self._client.aio.batches.list():
                if job.display_name in lost:
                    found[job.display_name] = job.name or ""
        for id_ in lost:
            if found.get(id_):
                self._keep(replace(self._notes[id_], name=found[id_]))
            else:
                self._let_go(self._notes[id_])

    async def _save_all(self, note: Note, answers: bytes) -> int:
        """Answers into texts.jsonl; returns how many are texts, or reasons why there will be none."""
        settings = replace(self._settings, gemini_model=note.model)
        saved = 0
        with tempfile.TemporaryDirectory() as folder:
            queue = Outbox(Path(folder))
            service = ArchiveTextService(settings, self, queue, queue, (), is_forced=note.is_forced)
            try:
                for line in answers.splitlines():
                    task, answer = self._understood(note, line)
                    if task is not None and await self._save_one(service, note, task, answer):
                        saved += 1
            except OSError as error:
                raise StorageError(f"The texts cannot be saved: {error.strerror or error}") from None
            finally:
                await queue.aclose()
        return saved

    def _understood(self, note: Note, line: bytes) -> tuple[Task | None, Any]:
        """Whose answer it is. What is not one of ours is nobody's."""
        with contextlib.suppress(ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            answer = json.loads(line)
            number = int(answer["key"])
            folder, record = note.items[number] if number >= 0 else note.items[len(note.items)]
            return Task(self._output_dir / folder, SegmentRecord.from_json(record)), answer
        return None, None

    async def _save_one(
        self, service: ArchiveTextService, note: Note, task: Task, answer: Mapping[str, Any]
    ) -> bool:
        from google.genai import types

        if not task.folder.is_dir():
            return False
        try:
            response = types.GenerateContentResponse.model_validate(answer["response"])
            usage = usage_of(response, 0.0)
            text = text_of(response, usage)
            translation = checked(text, _languages(note.languages, task.record))
            await service.save(task, TextResult(translation, note.model, usage))
        except Refused as refusal:
            await service.refuse(task, str(refusal))
        except (RetryLater, ValueError, KeyError, TypeError, RecursionError):
            return False  # asked for again with the next batch
        return True

    # Notes.

    def _keep(self, note: Note) -> None:
        folder = self._output_dir / FOLDER
        try:
            folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            write_private(folder / f"{note.id}.json", json.dumps(asdict(note)).encode())
        except OSError as error:
            raise StorageError(f"{folder} cannot be written: {error.strerror or error}") from None
        self._notes[note.id] = note

    def _let_go(self, note: Note) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._output_dir / FOLDER / f"{note.id}.json")
        self._notes.pop(note.id, None)


def _languages(wanted: Iterable[str], record: SegmentRecord) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*wanted, *record.caption_languages)))


def _notes_in(folder: Path) -> Iterator[Note]:
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(path.read_bytes())
            items = tuple((str(room), dict(line)) for room, line in found["items"])
            yield Note(
                id=path.stem,
                model=str(found["model"]),
                is_forced=bool(found["is_forced"]),
                items=items,
                languages=tuple(map(str, found["languages"])),
                name=str(found["name"]),
            )


@contextlib.asynccontextmanager
async def _said_clearly() -> AsyncIterator[None]:
    """Turns the SDK's errors into ours."""
    from google.genai import errors

    from translator import OPERATOR_PAUSE_SECONDS, sorted_out

    try:
        yield
    except errors.APIError as error:
        trouble = sorted_out(error)
        if isinstance(trouble, RetryLater) and trouble.after_seconds == OPERATOR_PAUSE_SECONDS:
            raise ConfigError(str(trouble)) from None
        raise RetryLater(f"The Batch API cannot do it now: {trouble}") from None
    except (OSError, KeyError) as error:
        raise RetryLater(f"The Batch API cannot be reached: {type(error).__name__}") from None
    except Exception as error:  # every transport's own
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "aiohttp"):
            raise
        raise RetryLater(f"The Batch API cannot be reached: {type(error).__name__}") from None
