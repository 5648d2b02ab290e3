"""Transcribes recorded lessons with the worker's text service: finds what to do, estimates the cost, does it.

What is done is in ``texts.jsonl``, so a run that was killed can be started again. Each run has its own queue; the
budget (GEMINI_MAX_PER_MINUTE, GEMINI_MAX_PER_DAY) is shared with the worker on this disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from archive.folder_texts import FolderTexts
from archive.outbox import TEXT, Outbox, Work
from archive.outbox_file import OUTBOX
from archive.rooms import Room
from archive.texts import Text
from config import Settings
from core.errors import ConfigError, RetryLater
from core.language_tags import is_same_language
from core.records import SegmentRecord
from core.text_records import TextRecord
from lesson_tools.console import Advance
from text.attempts import Answered, NeverAgain, Outcome, names_of_languages, requested_languages
from text.outcomes import do_nothing
from text.results import TextFolders
from text.service import TextService
from translator import TextResult, Translator

logger = logging.getLogger("recorder")

QUEUED_AT_ONCE = 1_000
"""Most segments in the queue; the others are read from the manifests later."""

POLL_SECONDS = 0.2

MAX_FAILURES = 20
"""A run ends when this many calls have failed one after another, each after a longer pause: about an hour. Whether the
service or the last segments are at fault is not known then, so nothing is noted about the segments."""

TOKENS_PER_CALL, TOKENS_PER_SECOND = 230, 32
"""Input: instruction, schema and three sentences of context; the sound (docs/translation.md)."""
WRITTEN_PER_SECOND, TRANSLATED_PER_SECOND = 15, 5
"""Output: the transcript with a little thinking; each further language."""

PRICES = {"gemini-3.8-flash": (0.75, 3.75)}
"""US dollars for a million tokens in and out (list prices of September 2026)."""

BATCH_PRICE = 0.5
"""Factor of the Batch API's price."""


@dataclass(frozen=True)
class TranscriptionOptions:
    """Which texts are wanted."""

    model: str
    languages: tuple[str, ...]
    is_forced: bool = False
    """Replace a text of another model, or one without some of the languages."""
    is_refused_too: bool = False
    """Ask again for texts that were refused, and for those that lack a translation."""

    @property
    def may_replace(self) -> bool:
        """Whether a segment that has a line in texts.jsonl may get another one."""
        return self.is_forced or self.is_refused_too


@dataclass(frozen=True)
class Task:
    """A segment whose text is to be made."""

    folder: Path
    record: SegmentRecord
    """Its languages include those that its text has already: a new text must not have fewer."""

    @property
    def work(self) -> Work:
        return Work(
            TEXT, self.folder.name, self.record.file, self.record.start.timestamp(), self.record.to_json()
        )


@dataclass(frozen=True)
class Estimate:
    """Estimated size and cost of a run."""

    segments: int
    audio_seconds: float
    input_tokens: int
    output_tokens: int
    dollars: float | None
    """None if the model's price is unknown."""
    refused: int = 0
    """Segments that are left out because their text was refused."""

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
            self.refused + other.refused,
        )


# --- finding what to do ---


def tasks_of(room: Room, options: TranscriptionOptions) -> Iterator[Task]:
    """Yields the segments of a room to transcribe, in the order of the manifest; none without a WAV."""
    with room.texts() as texts:
        for record in room.records():
            text = texts.get(record)
            if _is_wanted(text, options) and room.wav(record) is not None:
                has = text.by_language if text is not None else {}
                asked_for = tuple(dict.fromkeys((*record.caption_languages, *has)))
                yield Task(room.path, replace(record, caption_languages=asked_for))


def _is_wanted(text: Text | None, options: TranscriptionOptions) -> bool:
    if text is None:
        return True
    if options.is_refused_too and (text.refused is not None or text.missing):
        return True
    if not options.is_forced:
        return False
    if text.refused is not None or text.model != options.model:
        return True
    return bool(text.by_language) and any(
        not any(is_same_language(tag, wanted) for tag in text.by_language) for wanted in options.languages
    )


def count_refused(room: Room, options: TranscriptionOptions) -> int:
    """Counts the segments whose text was refused, and that are not asked for again."""
    with room.texts() as texts:
        found = (texts.get(record) for record in room.records())
        return sum(
            text is not None and text.refused is not None and not _is_wanted(text, options) for text in found
        )


def is_in_shard(folder: str, number: int, count: int) -> bool:
    """Returns whether a room's folder belongs to shard ``number`` (from 1) of ``count``; the same on every machine."""
    digest = hashlib.sha256(folder.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % count == number - 1


def estimate(
    tasks: Iterable[Task], options: TranscriptionOptions, *, batch: bool = False, refused: int = 0
) -> Estimate:
    """Estimates size and cost of the tasks; consumes the iterable."""
    segments, seconds, read, written = 0, 0.0, 0.0, 0.0
    for task in tasks:
        length = task.record.duration_seconds
        languages = requested_languages(options.languages, task.record)
        segments += 1
        seconds += length
        read += TOKENS_PER_CALL + TOKENS_PER_SECOND * length
        written += (WRITTEN_PER_SECOND + TRANSLATED_PER_SECOND * len(languages)) * length
    price = PRICES.get(options.model)
    dollars = (read * price[0] + written * price[1]) / 1e6 * (BATCH_PRICE if batch else 1) if price else None
    return Estimate(segments, seconds, round(read), round(written), dollars, refused)


# --- doing it ---


class ServiceDown(RetryLater):
    """The text service has not answered for a long time. What is done is saved."""


class ReplacingTexts(FolderTexts):
    """The texts of a folder for a run that may replace texts: the last line about a segment counts.

    A text is not replaced by a refusal, nor by an answer without words.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._made: set[str] = set()
        """The WAVs about which this run has nothing more to do."""
        self._had_words: set[str] | None = None
        """The WAVs that had a text before; None: not looked up, as that is seldom needed."""

    def has(self, segment: SegmentRecord) -> bool:
        return segment.file in self._made

    def save(self, record: TextRecord) -> bool:
        with self._lock:
            if not record.transcript and self._has_words(record):
                self._made.add(record.file)
                logger.warning("%s keeps its text: %s", record.file, record.refused or "the new one is empty")
                return False
            if super().save(record):
                self._made.add(record.file)
                return True
        return False

    def _is_done(self, record: TextRecord) -> bool:
        return False

    def _has_words(self, record: TextRecord) -> bool:
        if self._had_words is None:
            room = Room(self.folder)
            with room.texts() as texts:
                found = ((segment.file, texts.get(segment)) for segment in room.records())
                self._had_words = {file for file, text in found if text is not None and text.by_language}
        return record.file in self._had_words


class ArchiveTextService(TextService):
    """The worker's text service on a given list of tasks instead of the manifests. Deletes no WAV."""

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
        super().__init__(
            settings,
            translator,
            queue,
            budget=budget,
            folders=folders,
            removes_audio=False,
            is_run=True,
            on_saved=self._on_replaced if is_forced else do_nothing,
        )
        self._worker_outbox = budget
        self._tasks = iter(tasks)
        self._has_more = True

    @property
    def finished(self) -> int:
        """Number of segments that have their text now, or a refusal, or are skipped."""
        return self.costs.texts + self.costs.refused + self.costs.skipped

    async def is_done(self) -> bool:
        return not self._has_more and not self._calls and (await self.backlog()).count == 0

    def names(self, task: Task) -> tuple[str, ...]:
        """The tags by which languages are named in the room of a task."""
        return names_of_languages(self._settings, self._folders.texts_of(task.folder.name))

    async def save(self, task: Task, result: TextResult) -> None:
        """Saves a text that was made elsewhere, unless the segment has one."""
        await self._store_if_new(task, Answered(result))

    async def refuse(self, task: Task, reason: str) -> None:
        """Saves a refusal, unless the segment has a text."""
        await self._store_if_new(task, NeverAgain(reason))

    async def _store_if_new(self, task: Task, outcome: Outcome) -> None:
        texts = self._folders.texts_of(task.folder.name)
        if not await asyncio.to_thread(texts.has, task.record):
            await self._outcomes.store(task.work, outcome)

    async def _on_replaced(self, work: Work) -> None:
        if (self._output_dir / OUTBOX).exists():
            await self._worker_outbox.done(work)  # the worker may have it as refused

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
    """Makes all texts, and returns the service with its costs.

    Args:
        budget_dir: where calls are counted, if that is not OUTPUT_DIR.

    Raises:
        ConfigError: the key, the model or the settings are refused.
        ServiceDown: MAX_FAILURES calls have failed, and none has succeeded since.
    """
    with tempfile.TemporaryDirectory() as folder:
        queue, budget = Outbox(Path(folder)), Outbox(budget_dir or Path(settings.output_dir))
        service = ArchiveTextService(settings, translator, queue, budget, tasks, is_forced=is_forced)
        running = asyncio.create_task(service.run(), name="texts")
        reported = 0
        try:
            while not await service.is_done():
                if service.gate.fatal:
                    raise ConfigError(service.gate.fatal)
                if service.gate.failures >= MAX_FAILURES:
                    raise ServiceDown(f"Gemini has failed {MAX_FAILURES} times one after another")
                if running.done():
                    running.result()
                await asyncio.sleep(POLL_SECONDS)
                advance(service.finished - reported)
                reported = service.finished
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await service.aclose()
            await queue.aclose()
            await budget.aclose()
        return service
