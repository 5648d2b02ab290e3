"""Text for lessons that are over: what to do, what it will cost, and doing it through the worker's own text service.

What is done stands in ``texts.jsonl``, so a run that is killed is simply started again. The queue of a run is its own;
the budget (GEMINI_MAX_PER_MINUTE, GEMINI_MAX_PER_DAY) is the one that the worker on this disk counts in, too.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from archive.outbox import Outbox, Work
from archive.rooms import Room
from archive.texts import FolderTexts, Text
from config import Settings
from core.errors import ConfigError
from core.language_tags import is_same_language
from core.records import SegmentRecord, TextRecord
from lesson_tools.console import Advance
from text.attempts import Answered, NeverAgain, Outcome
from text.gate import TEXT
from text.results import TextFolders
from text.service import TextService
from translator import TextResult, Translator

QUEUED_AT_ONCE = 1_000
"""Segments in the queue; the others are still in the manifests."""

LOOK_SECONDS = 0.2

TOKENS_PER_CALL, TOKENS_PER_SECOND = 230, 32
"""In: the instruction, the schema and three sentences of context; the sound (docs/translation.md)."""
WRITTEN_PER_SECOND, TRANSLATED_PER_SECOND = 15, 5
"""Out: the transcript with a little thinking; each further language."""

PRICES = {"gemini-3.8-flash": (0.75, 3.75)}
"""US dollars for a million tokens in and out (list prices of September 2026)."""

BATCH_PRICE = 0.5
"""What the Batch API costs of that."""


@dataclass(frozen=True)
class TranscriptionOptions:
    """Which texts are wanted."""

    model: str
    languages: tuple[str, ...]
    is_forced: bool = False
    """Also where there is a text: of another model, or without one of the languages."""


@dataclass(frozen=True)
class Task:
    """A segment whose text is to be made."""

    folder: Path
    record: SegmentRecord
    """With the languages it has already among those that are wanted: a new text must not have fewer."""

    @property
    def work(self) -> Work:
        return Work(
            TEXT, self.folder.name, self.record.file, self.record.start.timestamp(), self.record.to_json()
        )


@dataclass(frozen=True)
class Estimate:
    """What a run will take, more or less."""

    segments: int
    audio_seconds: float
    input_tokens: int
    output_tokens: int
    dollars: float | None
    """None where the model's price is not known here."""

    def __add__(self, other: Estimate) -> Estimate:
        dollars = (
            None if None in (self.dollars, other.dollars) else (self.dollars or 0) + (other.dollars or 0)
        )
        return Estimate(
            self.segments + other.segments,
            self.audio_seconds + other.audio_seconds,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            dollars,
        )


# --- what there is to do ---


def tasks_of(room: Room, options: TranscriptionOptions) -> Iterator[Task]:
    """Segments of a room whose text is to be made, in the order of the manifest. Without a WAV there is none."""
    with room.texts() as texts:
        for record in room.records():
            text = texts.get(record)
            if _is_wanted(text, options) and room.wav(record) is not None:
                has = text.by_language if text is not None else {}
                asked_for = tuple(dict.fromkeys((*record.caption_languages, *has)))
                yield Task(room.path, replace(record, caption_languages=asked_for))


def _is_wanted(text: Text | None, options: TranscriptionOptions) -> bool:
    if text is None or not options.is_forced:
        return text is None
    if text.refused is not None or text.model != options.model:
        return True
    return bool(text.by_language) and any(
        not any(is_same_language(tag, wanted) for tag in text.by_language) for wanted in options.languages
    )


def is_in_shard(folder: str, number: int, count: int) -> bool:
    """Whether the room in a folder belongs to shard ``number`` of ``count`` (from 1): the same on every machine."""
    digest = hashlib.sha256(folder.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % count == number - 1


def estimate(tasks: Iterable[Task], options: TranscriptionOptions, *, batch: bool = False) -> Estimate:
    """Counts and prices. Reads what ``tasks`` yields once."""
    segments, seconds, read, written = 0, 0.0, 0.0, 0.0
    for task in tasks:
        length, languages = task.record.duration_seconds, {*options.languages, *task.record.caption_languages}
        segments += 1
        seconds += length
        read += TOKENS_PER_CALL + TOKENS_PER_SECOND * length
        written += (WRITTEN_PER_SECOND + TRANSLATED_PER_SECOND * len(languages)) * length
    price = PRICES.get(options.model)
    dollars = (read * price[0] + written * price[1]) / 1e6 * (BATCH_PRICE if batch else 1) if price else None
    return Estimate(segments, seconds, round(read), round(written), dollars)


# --- doing it ---


class ReplacingTexts(FolderTexts):
    """The texts of a folder, for a run that may make a text anew: the last line about a segment counts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._made: set[str] = set()

    def has(self, segment: SegmentRecord) -> bool:
        return segment.file in self._made

    def save(self, record: TextRecord) -> bool:
        with self._lock:
            self._read_on()
            self._done.pop((record.number, record.file), None)
            if super().save(record):
                self._made.add(record.file)
                return True
        return False


class ArchiveTextService(TextService):
    """The worker's text service with a list of its own instead of the manifests' news. Removes no audio."""

    def __init__(
        self,
        settings: Settings,
        translator: Translator,
        queue: Outbox,
        budget: Outbox,
        tasks: Iterable[Task],
        *,
        is_forced: bool,
    ) -> None:
        folders = (
            TextFolders(Path(settings.output_dir), ReplacingTexts, max_folders=None) if is_forced else None
        )
        super().__init__(settings, translator, queue, budget=budget, folders=folders, removes_audio=False)
        self._tasks = iter(tasks)
        self._has_more = True

    @property
    def finished(self) -> int:
        """Segments that have their text now, or never will."""
        return self.costs.texts + self.costs.refused

    async def is_done(self) -> bool:
        return not self._has_more and not self._calls and (await self.backlog()).count == 0

    async def save(self, task: Task, result: TextResult) -> None:
        """Writes a text down that came another way."""
        await self._store_if_new(task, Answered(result))

    async def refuse(self, task: Task, reason: str) -> None:
        """The same for what will never be one."""
        await self._store_if_new(task, NeverAgain(reason))

    async def _store_if_new(self, task: Task, outcome: Outcome) -> None:
        texts = self._folders.texts_of(task.folder.name)
        if not await asyncio.to_thread(texts.has, task.record):
            await self._store(task.work, outcome)

    async def _find_work(self) -> None:
        self._may_claim = True
        if self._has_more and (await self.backlog()).count < QUEUED_AT_ONCE // 2:
            tasks = await asyncio.to_thread(self._next_tasks)
            self._has_more = len(tasks) == QUEUED_AT_ONCE
            await self._outbox.add([task.work for task in tasks])

    def _next_tasks(self) -> list[Task]:
        return [task for _, task in zip(range(QUEUED_AT_ONCE), self._tasks, strict=False)]


async def transcribe(
    settings: Settings,
    translator: Translator,
    tasks: Iterable[Task],
    advance: Advance,
    *,
    is_forced: bool,
    budget_dir: Path | None = None,
) -> ArchiveTextService:
    """Makes all texts, and returns the service with what it took.

    Args:
        budget_dir: where calls are counted, if that is not OUTPUT_DIR.

    Raises:
        ConfigError: the key, the model or the settings are refused.
    """
    with tempfile.TemporaryDirectory() as folder:
        queue, budget = Outbox(Path(folder)), Outbox(budget_dir or Path(settings.output_dir))
        service = ArchiveTextService(settings, translator, queue, budget, tasks, is_forced=is_forced)
        running = asyncio.create_task(service.run(), name="texts")
        told = 0
        try:
            while not await service.is_done():
                if service.gate.fatal:
                    raise ConfigError(service.gate.fatal)
                if running.done():
                    running.result()
                await asyncio.sleep(LOOK_SECONDS)
                advance(service.finished - told)
                told = service.finished
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await queue.aclose()
            await budget.aclose()
        return service
