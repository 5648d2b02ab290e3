"""Text for every segment that is on disk: beside the recording, never in its way.

The manifests say what there is, ``texts.jsonl`` in each folder what has been done, and the outbox what is left. So
unfinished work survives anything: after an outage, a restart or a room's end it is caught up on, the newest first, so
that a lesson that is being given never waits for an old one.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import random
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from text_files import FolderTexts, write_text

import doorbell
from config import Settings
from deadline import within
from feed import ManifestFeed
from languages import language_tag_or_empty
from names import MANIFEST
from outbox import Backlog, Order, Outbox, State, Work
from segments import Refused, RetryLater, SegmentRecord, StorageError, TextRecord, Translation
from text_costs import CostsByLesson, TextCosts, TextMetrics
from translator import BadAnswer, Rejected, TextRequest, TextResult, Translator, Usage

logger = logging.getLogger("recorder")

TEXT = "text"
REMOVE_AUDIO = "remove_audio"
"""Kinds of work in the outbox; both name a segment by its WAV."""

SCAN_SECONDS = 2.0
"""How often all folders are looked through."""

DISK_PAUSE_SECONDS = 1.0

MOST_BAD_ANSWERS = 3
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 300.0
REMOVALS_AT_ONCE = 50
LONGEST_REMOVAL_PAUSE_SECONDS = 3600.0
QUIET_SECONDS = 120.0
"""After so long without a call the log says what a lesson's text has taken so far."""
MOST_FOLDERS_KEPT = 256

PutAway = Callable[[], Awaitable[None]]


class TextService:
    """Gets the text of segments and writes it down; one service a worker.

    ``deliver_first`` names the kinds of work in the outbox that must be done with a WAV before it may go
    (SAVE_AUDIO=false).
    """

    def __init__(
        self,
        settings: Settings,
        translator: Translator,
        outbox: Outbox,
        deliver_first: Sequence[str] = (),
        budget: Outbox | None = None,
    ) -> None:
        self.metrics = TextMetrics(self.backlog)
        self._costs = CostsByLesson(self.metrics)
        self._settings = settings
        self._translator = translator
        self._outbox = outbox
        self._deliver_first = deliver_first
        self._budget = budget or outbox
        """Where calls are counted: one budget for everybody who shares a disk."""
        self._output_dir = Path(settings.output_dir)
        self._feed = ManifestFeed(outbox, self._output_dir, TEXT, self._is_wanted)
        self._folders: OrderedDict[str, FolderTexts] = OrderedDict()
        self._folders_lock = threading.Lock()
        self._calls: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._rung: set[str] = set()
        self._may_claim = True
        self._scan_at = 0.0
        self._disk_trouble = ""
        # How the service on the other side is.
        self._failures = 0
        self._paused_at = 0.0
        self._not_before = 0.0
        self._trouble = ""
        self._has_answered = False
        self._bad_answers: Counter[tuple[str, str]] = Counter()

    async def run(self) -> None:
        """Works until cancelled. What is under way then is done by the next start."""
        stop_listening = doorbell.listen(MANIFEST, self._on_ring)
        try:
            while True:
                try:
                    await self._round()
                    self._disk_trouble = ""
                except (StorageError, OSError) as error:
                    self._disk_refuses(error)
                except (
                    Exception
                ) as error:  # not foreseen: what is under way goes on, and the next round tries again
                    logger.error("Looking for missing text failed", exc_info=error)
                self._costs.log(QUIET_SECONDS)
                await self._until_news()
        finally:
            stop_listening()
            for call in self._calls:
                call.cancel()
            await asyncio.gather(*self._calls, return_exceptions=True)
            self._costs.log(0)
            await self._translator.aclose()

    @property
    def costs(self) -> TextCosts:
        """What all text has taken since the start."""
        return self._costs.total

    def costs_by_lesson(self) -> dict[tuple[str, str], TextCosts]:
        """What each lesson's text has taken, by folder and room SID; lessons of long ago are left out."""
        return self._costs.by_lesson()

    async def backlog(self) -> Backlog:
        """What waits for its text."""
        return await self._outbox.backlog(TEXT)

    # What there is to do.

    async def _round(self) -> None:
        await self._find_work()
        if self._may_claim and time.monotonic() >= self._not_before:
            self._may_claim = False
            await self._begin_calls()
            if not self._settings.save_audio:
                await self._remove_audio()

    async def _find_work(self) -> None:
        rung, self._rung = self._rung, set()
        if time.monotonic() >= self._scan_at:
            is_first = self._scan_at == 0
            self._scan_at = time.monotonic() + SCAN_SECONDS
            self._may_claim = True
            await self._feed.look_everywhere()
            if is_first:
                await self._say_what_waits()
        elif rung:
            self._may_claim |= await self._feed.look_at(rung)

    async def _say_what_waits(self) -> None:
        backlog = await self.backlog()
        if backlog.count:
            logger.info(
                "%d segments wait for their text, the oldest for %.0f minutes; the newest come first",
                backlog.count,
                backlog.oldest_seconds / 60,
            )

    async def _until_news(self) -> None:
        pause = self._not_before - time.monotonic()
        patience = SCAN_SECONDS
        if pause > 0:
            self._may_claim = True  # as soon as it is over
            patience = min(patience, pause)
        try:
            await within(patience, self._news.wait())
        except asyncio.TimeoutError:
            pass
        self._news.clear()

    def _on_ring(self, manifest: Path) -> None:
        if manifest.parent.parent == self._output_dir:
            self._rung.add(manifest.parent.name)
            self._news.set()

    def _is_wanted(self, folder: str, segment: SegmentRecord) -> bool:
        texts = self._texts_of(folder)
        return not texts.has(segment) or texts.may_remove_audio(segment)

    def _texts_of(self, folder: str) -> FolderTexts:
        """The texts of a folder. The feed asks on a thread, the calls on the event loop."""
        with self._folders_lock:
            texts = self._folders.setdefault(folder, FolderTexts(self._output_dir / folder))
            self._folders.move_to_end(folder)
            if len(self._folders) > MOST_FOLDERS_KEPT:
                self._folders.popitem(last=False)
            return texts

    def _disk_refuses(self, error: Exception) -> None:
        trouble = str(getattr(error, "strerror", None) or error)
        if trouble != self._disk_trouble:
            self._disk_trouble = trouble
            logger.warning("Text has to wait for the disk: %s", trouble)

    # Calls.

    async def _begin_calls(self) -> None:
        # One at a time while the other side is in trouble: that is enough to see whether it is over.
        most = 1 if self._failures else self._settings.gemini_max_at_once
        for work in await self._outbox.claim(TEXT, Order.NEWEST_FIRST, max(0, most - len(self._calls))):
            call = asyncio.create_task(self._work_on(work), name=f"text of {work.file}")
            self._calls.add(call)
            call.add_done_callback(self._on_call_done)

    def _on_call_done(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._wake()
        if not call.cancelled() and call.exception() is not None:
            logger.error("A text could not be put away", exc_info=call.exception())

    async def _work_on(self, work: Work) -> None:
        """Whatever happens, what was claimed is put away in the end: done, refused, or to be tried again."""
        try:
            put_away = await self._attempt(work)
        except (StorageError, OSError) as error:
            self._disk_refuses(error)
            put_away = functools.partial(self._outbox.give_back, work)
        except Exception as error:  # not foreseen: the others go on
            logger.error("Getting a text failed", exc_info=error, extra={"room": work.folder})
            put_away = functools.partial(self._retry, work, LONGEST_PAUSE_SECONDS)
        await self._until_disk_takes(work, put_away)

    async def _until_disk_takes(self, work: Work, put_away: PutAway) -> None:
        """An answer has been paid for: it is kept in memory until it can be written down."""
        while True:
            try:
                await put_away()
                return
            except (StorageError, OSError) as error:
                if getattr(error, "errno", None) == errno.ENAMETOOLONG:
                    put_away = functools.partial(self._refuse, work, "the name of its text file is too long")
                elif await asyncio.to_thread(self._is_folder_gone, work.folder):
                    put_away = functools.partial(self._outbox.refuse, work, "its folder is gone")
                else:
                    self._disk_refuses(error)
                await asyncio.sleep(DISK_PAUSE_SECONDS)

    def _is_folder_gone(self, folder: str) -> bool:
        return self._output_dir.exists() and not (self._output_dir / folder).exists()

    async def _attempt(self, work: Work) -> PutAway:
        """Gets one text; returns how the work is to be put away then."""
        segment, texts = SegmentRecord.from_json(work.payload), self._texts_of(work.folder)
        if await asyncio.to_thread(texts.has, segment):
            return functools.partial(self._finish, work, texts, segment)
        if not await self._may_call():
            return functools.partial(self._outbox.give_back, work)
        context = await asyncio.to_thread(texts.before, segment, self._settings.translation_context)
        began = time.monotonic()
        self._count(work, segment, calls=1, audio_seconds=segment.duration_seconds)
        try:
            result = await self._translator.translate(self._request(texts, segment, context))
        except (Refused, RetryLater, FileNotFoundError) as error:
            self._count(work, segment, failed_calls=1)
            return self._after_failure(work, segment, error, began)
        self._is_well()
        self._count_usage(work, segment, result.usage)
        return functools.partial(self._save, work, texts, segment, result)

    def _request(self, texts: FolderTexts, segment: SegmentRecord, context: tuple[str, ...]) -> TextRequest:
        asked_for = [tag for one in segment.caption_languages if (tag := language_tag_or_empty(one))]
        return TextRequest(
            wav=texts.folder / segment.file,
            languages=tuple(dict.fromkeys((*self._settings.target_languages, *asked_for))),
            hint=language_tag_or_empty(segment.speaking_language),
            context=context,
        )

    async def _may_call(self) -> bool:
        """Whether the budget allows another call; if not, all calls wait until it does."""
        per_minute, per_day = self._settings.gemini_max_per_minute, self._settings.gemini_max_per_day
        if not per_minute and not per_day:
            return True
        seconds = await self._budget.spend(TEXT, per_minute, per_day)
        if not seconds:
            return True
        if time.monotonic() >= self._not_before:
            logger.warning(
                "The budget for text is spent (GEMINI_MAX_PER_MINUTE, GEMINI_MAX_PER_DAY): next call in %.0f s",
                seconds,
            )
        self._not_before = max(self._not_before, time.monotonic() + seconds)
        return False

    # Answers.

    async def _save(self, work: Work, texts: FolderTexts, segment: SegmentRecord, result: TextResult) -> None:
        translation = result.translation
        files = _text_files(segment, translation) if self._settings.save_translations else {}
        record = replace(
            _record_of(segment),
            language=translation.language,
            transcript=translation.transcript,
            translations=translation.translations,
            files=tuple(files),
            model=result.model,
            latency_seconds=result.usage.seconds,
            audio_seconds=segment.duration_seconds,
            input_tokens=result.usage.input_tokens,
            output_tokens=result.usage.output_tokens,
            is_audio_kept=self._settings.save_audio,
        )
        for name, text in files.items():
            await write_text(texts.folder / name, text + "\n")
        if await asyncio.to_thread(texts.save, record):
            self._count(work, segment, texts=1)
            logger.info(
                "Text saved: %s, %.1f s after it was spoken",
                ", ".join(files)
                or (segment.file if translation.transcript else f"{segment.file} has no words"),
                time.time() - segment.end.timestamp(),
                extra=_context(segment),
            )
        await self._finish(work, texts, segment)

    async def _finish(self, work: Work, texts: FolderTexts, segment: SegmentRecord) -> None:
        """The text is safe: now the WAV may go, if it is not to be kept, and only then is the work done."""
        if await asyncio.to_thread(texts.may_remove_audio, segment):
            await self._outbox.add([Work(REMOVE_AUDIO, work.folder, work.file, work.moment, {})])
        await self._outbox.done(work)
        self._bad_answers.pop((work.folder, work.file), None)

    # Failures.

    def _after_failure(self, work: Work, segment: SegmentRecord, error: Exception, began: float) -> PutAway:
        if isinstance(error, BadAnswer):
            return self._after_bad_answer(work, segment, error)
        if isinstance(error, Rejected) and self._has_answered:
            self._has_answered = (
                False  # should the next one be rejected as well, it is hardly the segments' fault
            )
            return functools.partial(self._refuse, work, str(error))
        if isinstance(error, RetryLater):
            pause = self._pause(error, began)
            # It waits longer than the others, and more so each time: if the fault is its own, they show it.
            after = min(2 * LONGEST_PAUSE_SECONDS, 2 * pause * 2 ** min(work.attempts, 10))
            return functools.partial(self._retry, work, after)
        reason = "its WAV is gone" if isinstance(error, FileNotFoundError) else str(error)
        return functools.partial(self._refuse, work, reason)

    def _after_bad_answer(self, work: Work, segment: SegmentRecord, answer: BadAnswer) -> PutAway:
        """That is this segment's trouble alone, and not asked for without end: every call costs."""
        self._is_well()
        self._count_usage(work, segment, answer.usage)
        self._bad_answers[work.folder, work.file] += 1
        if self._bad_answers[work.folder, work.file] >= MOST_BAD_ANSWERS:
            return functools.partial(self._refuse, work, str(answer))
        return functools.partial(self._retry, work, random.uniform(0, FIRST_PAUSE_SECONDS))

    async def _retry(self, work: Work, after_seconds: float) -> None:
        await self._outbox.retry(work, after_seconds)
        asyncio.get_running_loop().call_later(after_seconds, self._wake)

    def _wake(self) -> None:
        self._may_claim = True
        self._news.set()

    async def _refuse(self, work: Work, reason: str) -> None:
        segment, texts = SegmentRecord.from_json(work.payload), self._texts_of(work.folder)
        record = replace(_record_of(segment), refused=reason)
        if await asyncio.to_thread(texts.save, record):
            self._count(work, segment, refused=1)
            logger.error("No text for %s, for good: %s", segment.file, reason, extra=_context(segment))
        await self._outbox.refuse(work, reason)
        self._bad_answers.pop((work.folder, work.file), None)

    def _pause(self, trouble: RetryLater, began: float) -> float:
        """All calls wait: what troubles one troubles the next. With jitter, and at least as long as the server says.
        Returns the seconds."""
        now = time.monotonic()
        if began >= self._paused_at:  # calls that were under way together fail together, and count once
            self._failures += 1
            self._paused_at = now
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 1, 10))
        pause = max(random.uniform(longest / 2, longest), trouble.after_seconds or 0)
        self._not_before = max(self._not_before, now + pause)
        level = logging.WARNING if str(trouble) != self._trouble else logging.DEBUG
        self._trouble = str(trouble)
        logger.log(level, "Text has to wait %.0f s: %s", pause, trouble)
        return pause

    def _is_well(self) -> None:
        if self._failures:
            logger.info("Gemini answers again")
        self._failures, self._trouble, self._has_answered = 0, "", True

    # SAVE_AUDIO=false.

    async def _remove_audio(self) -> None:
        """Removes WAVs whose text is safe and that are delivered wherever they are to be delivered."""
        for work in await self._outbox.claim(REMOVE_AUDIO, Order.NEWEST_FIRST, REMOVALS_AT_ONCE):
            if await self._is_delivered(work):
                await asyncio.to_thread((self._output_dir / work.folder / work.file).unlink, missing_ok=True)
                await self._outbox.done(work)
            else:
                pause = SCAN_SECONDS * 2 ** min(work.attempts, 20)
                await self._outbox.retry(work, min(LONGEST_REMOVAL_PAUSE_SECONDS, pause))

    async def _is_delivered(self, work: Work) -> bool:
        states = [await self._outbox.state(kind, work.folder, work.file) for kind in self._deliver_first]
        return all(state is State.DONE for state in states)

    def _count(self, work: Work, segment: SegmentRecord, **numbers: float) -> None:
        self._costs.add(work.folder, segment, **numbers)

    def _count_usage(self, work: Work, segment: SegmentRecord, usage: Usage) -> None:
        self._count(work, segment, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)


def _text_files(segment: SegmentRecord, translation: Translation) -> dict[str, str]:
    """What is written beside the WAV: texts by the names of their files."""
    if not translation.transcript:
        return {}
    by_language = {translation.language: translation.transcript, **translation.translations}
    return {f"{Path(segment.file).stem}_{language}.txt": text for language, text in by_language.items()}


def _record_of(segment: SegmentRecord) -> TextRecord:
    """The beginning of the line about a segment's text: whose it is."""
    return TextRecord(
        number=segment.number,
        file=segment.file,
        at=datetime.now(timezone.utc),
        start=segment.start,
        participant_identity=segment.participant_identity,
    )


def _context(segment: SegmentRecord) -> dict[str, str]:
    return {"room": segment.room_name, "participant": segment.participant_identity}
