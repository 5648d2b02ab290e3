"""One attempt to get the text of one segment, and its outcome."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from archive.folder_texts import FolderTexts
from archive.outbox import Work
from config import Settings
from core.answers import NO_LANGUAGES
from core.backoff import Backoff
from core.errors import Refused, RetryLater
from core.language_tags import language_of, language_tag_or_empty
from core.records import SegmentRecord
from core.text_request import TextRequest
from text.asking import Asking
from text.costs import CostsByLesson
from text.failures import Failures, Verdict
from text.gate import CallGate
from text.results import TextFolders
from translator import BadAnswer, FailedCall, Rejected, TextResult, Translator

MAX_BAD_ANSWERS = 3
"""After this many unusable answers a segment is refused, if the engine answers for others."""

MAX_REJECTIONS = 2
"""The same for requests that the engine rejects."""

MAX_FAILED_CALLS = 5
"""The same for calls that fail in the engine, such as 500 for one segment's sound."""

MAX_FAILURES_OF_A_RUN = 6
"""A run skips a segment after this many such failures, even if no other segment is left."""

SEGMENT_BACKOFF = Backoff(2.0, 600.0)
"""How long a segment waits after a call that failed for it alone."""

CONTEXT_SENTENCES = 3
"""How many earlier texts are sent as context with each segment."""

# --- outcomes ---


@dataclass(frozen=True)
class Done:
    """The segment has a text already."""


@dataclass(frozen=True)
class NotTried:
    """No call was made; the item is due again at once."""


@dataclass(frozen=True)
class Answered:
    """The engine returned a text, which is to be saved."""

    result: TextResult


@dataclass(frozen=True)
class TryAgain:
    """The attempt failed, and may succeed later."""

    after_seconds: float


@dataclass(frozen=True)
class NeverAgain:
    """The segment is refused: it gets no text, unless somebody asks for it again."""

    reason: str
    is_recorded: bool = True
    """Whether the refusal is added to texts.jsonl."""


@dataclass(frozen=True)
class Skipped:
    """The segment is left as it is until the next run."""

    reason: str


Outcome = Done | NotTried | Answered | TryAgain | NeverAgain | Skipped


# --- the attempt ---


class TextAttempts:
    """Calls the text engine, and decides what a failure means for the segment.

    Args:
        is_run: the work is to come to an end: what fails again and again is skipped.
    """

    def __init__(
        self,
        settings: Settings,
        translator: Translator,
        gate: CallGate,
        costs: CostsByLesson,
        folders: TextFolders,
        *,
        is_run: bool = False,
    ) -> None:
        self._settings = settings
        self._gate = gate
        self._folders = folders
        self._is_run = is_run
        self._asking = Asking(translator, gate, costs)
        self._failures = Failures()
        """Those that may be a segment's own fault."""
        self._passing_failures = Failures()
        """All others, such as 503."""

    async def attempt(self, work: Work) -> Outcome:
        """Gets the text of one segment.

        Raises:
            StorageError, OSError: the disk refuses.
        """
        segment, texts = SegmentRecord.from_json(work.payload), self._folders.texts_of(work.folder)
        request = await asyncio.to_thread(self._request, texts, segment, self._failures.count(_key(work)))
        if request is None:
            return Done()
        if not await self._gate.may_call():
            return NotTried()
        began = time.monotonic()
        try:
            result = await self._asking.text_of(work, segment, request)
        except (Refused, RetryLater, FileNotFoundError) as error:
            return self._after_failure(work, error, began)
        self._gate.answered()
        for failures in (self._failures, self._passing_failures):
            failures.succeeded(_key(work), time.monotonic())
        if result.translation.language not in request.names:
            result = await asyncio.to_thread(self._with_name_of_lesson, texts, result)
        return Answered(result)

    def forget(self, work: Work) -> None:
        """Drops the failures of a segment that has its text or is refused."""
        self._failures.forget(_key(work))
        self._passing_failures.forget(_key(work))

    def _request(self, texts: FolderTexts, segment: SegmentRecord, failures: int) -> TextRequest | None:
        """The request for a segment; None if it has its text. After a failure it has no context, which may have caused
        it."""
        if texts.has(segment):
            return None
        return TextRequest(
            wav=texts.folder / segment.file,
            languages=requested_languages(self._settings.target_languages, segment),
            hint=language_tag_or_empty(segment.speaking_language),
            context=() if failures else texts.before(segment, CONTEXT_SENTENCES),
            names=names_of_languages(self._settings, texts),
            seconds=segment.duration_seconds,
            attempt=failures,
        )

    def _with_name_of_lesson(self, texts: FolderTexts, result: TextResult) -> TextResult:
        """Gives the language the name that it has got from another segment in the meantime. Does disk work."""
        language = result.translation.language
        if not language or language in names_of_languages(self._settings, texts):
            return result
        name = texts.name_of_language(language, result.translation.transcript)
        return replace(result, translation=replace(result.translation, language=name))

    def _after_failure(self, work: Work, error: Exception, began: float) -> Outcome:
        if isinstance(error, (BadAnswer, Rejected, FailedCall)):
            return self._after_unclear_failure(work, error, began)
        if isinstance(error, RetryLater):
            return self._after_passing_failure(work, error, began)
        return NeverAgain("its WAV is gone" if isinstance(error, FileNotFoundError) else str(error))

    def _after_unclear_failure(self, work: Work, error: RetryLater, began: float) -> Outcome:
        """Handles a failure that may be the fault of the segment or of the service."""
        key, most = _key(work), _most_failures(error)
        verdict = self._failures.failed(key, began, time.monotonic(), most)
        if verdict is Verdict.FINAL:
            return NeverAgain(str(error))
        may_be_outage = verdict is Verdict.OUTAGE and not self._gate.has_answered
        if self._is_run and not may_be_outage and self._failures.count(key) >= MAX_FAILURES_OF_A_RUN:
            return Skipped(str(error))
        if verdict is Verdict.OUTAGE or isinstance(error, Rejected):
            return self._after_pause(work, error, began)
        if isinstance(error, BadAnswer) and self._failures.count(key) < most:
            return TryAgain(random.uniform(0, self._gate.backoff.first_seconds))
        return TryAgain(SEGMENT_BACKOFF.doubled(self._failures.count(key)))

    def _after_passing_failure(self, work: Work, error: RetryLater, began: float) -> Outcome:
        """Handles a failure that is never counted against a segment. Only in a run a single one may be skipped."""
        key = _key(work)
        verdict = self._passing_failures.failed(key, began, time.monotonic(), MAX_FAILURES_OF_A_RUN)
        is_alone = verdict is not Verdict.OUTAGE and self._gate.has_answered
        if self._is_run and is_alone and self._passing_failures.count(key) >= MAX_FAILURES_OF_A_RUN:
            return Skipped(str(error))
        return self._after_pause(work, error, began)

    def _after_pause(self, work: Work, error: RetryLater, began: float) -> TryAgain:
        """All calls wait. This segment waits longer than others, longer each time, so that it does not delay them."""
        pause = self._gate.failed(error, began)
        return TryAgain(min(2 * self._gate.backoff.max_seconds, 2 * pause * 2 ** min(work.attempts, 10)))


def requested_languages(configured: Iterable[str], segment: SegmentRecord) -> tuple[str, ...]:
    """The languages into which a segment is to be translated: those configured, then those that its record names."""
    asked_for = map(language_tag_or_empty, segment.caption_languages)
    tags = (tag for tag in asked_for if tag and language_of(tag) not in NO_LANGUAGES)
    return tuple(dict.fromkeys((*configured, *tags)))


def names_of_languages(settings: Settings, texts: FolderTexts) -> tuple[str, ...]:
    """The tags by which spoken languages are named in a room: those configured, then those that it has already."""
    configured = (*settings.target_languages, *settings.caption_languages)
    return tuple(dict.fromkeys((*configured, *texts.spoken_languages())))


def _key(work: Work) -> tuple[str, str]:
    return work.folder, work.file


def _most_failures(error: RetryLater) -> int:
    if isinstance(error, BadAnswer):
        return MAX_BAD_ANSWERS
    return MAX_REJECTIONS if isinstance(error, Rejected) else MAX_FAILED_CALLS
