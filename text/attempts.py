"""One attempt to get the text of one segment, and its outcome."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass

from archive.outbox import Work
from archive.texts import FolderTexts
from config import Settings
from core.errors import Refused, RetryLater
from core.language_tags import language_tag_or_empty
from core.records import SegmentRecord
from text.costs import CostsByLesson
from text.gate import CallGate
from text.results import TextFolders
from translator import BadAnswer, Rejected, TextRequest, TextResult, Translator

MAX_BAD_ANSWERS = 3
"""After so many unusable answers a segment is refused."""
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
    """The segment is refused: it will never have a text."""

    reason: str
    is_recorded: bool = True
    """Whether the refusal is added to texts.jsonl."""


Outcome = Done | NotTried | Answered | TryAgain | NeverAgain


# --- the attempt ---


class TextAttempts:
    """Calls the text engine, and decides what a failure means for the segment."""

    def __init__(
        self,
        settings: Settings,
        translator: Translator,
        gate: CallGate,
        costs: CostsByLesson,
        folders: TextFolders,
    ) -> None:
        self._settings = settings
        self._translator = translator
        self._gate = gate
        self._costs = costs
        self._folders = folders
        self._bad_answers: Counter[tuple[str, str]] = Counter()

    async def attempt(self, work: Work) -> Outcome:
        """Gets the text of one segment.

        Raises:
            StorageError, OSError: the disk refuses.
        """
        segment, texts = SegmentRecord.from_json(work.payload), self._folders.texts_of(work.folder)
        if await asyncio.to_thread(texts.has, segment):
            return Done()
        if not await self._gate.may_call():
            return NotTried()
        context = await asyncio.to_thread(texts.before, segment, CONTEXT_SENTENCES)
        began = time.monotonic()
        self._costs.add(work.folder, segment, calls=1, audio_seconds=segment.duration_seconds)
        try:
            result = await self._translator.translate(self._request(texts, segment, context))
        except (Refused, RetryLater, FileNotFoundError) as error:
            self._costs.add(work.folder, segment, failed_calls=1)
            return self._after_failure(work, segment, error, began)
        self._gate.answered()
        self._costs.add_usage(work.folder, segment, result.usage)
        return Answered(result)

    def forget(self, work: Work) -> None:
        """Drops the counts of a segment that has its text or is refused."""
        self._bad_answers.pop((work.folder, work.file), None)

    def _request(self, texts: FolderTexts, segment: SegmentRecord, context: tuple[str, ...]) -> TextRequest:
        requested = [tag for one in segment.caption_languages if (tag := language_tag_or_empty(one))]
        return TextRequest(
            wav=texts.folder / segment.file,
            languages=tuple(dict.fromkeys((*self._settings.target_languages, *requested))),
            hint=language_tag_or_empty(segment.speaking_language),
            context=context,
        )

    def _after_failure(self, work: Work, segment: SegmentRecord, error: Exception, began: float) -> Outcome:
        if isinstance(error, BadAnswer):
            return self._after_bad_answer(work, segment, error)
        if isinstance(error, Rejected) and self._gate.has_answered:
            # If the next request is rejected as well, the settings are at fault, not the segments.
            self._gate.has_answered = False
            return NeverAgain(str(error))
        if isinstance(error, RetryLater):
            pause = self._gate.failed(error, began)
            # This segment waits longer than the others, and longer each time, so that it does not delay them.
            longest = 2 * self._gate.backoff.max_seconds
            return TryAgain(min(longest, 2 * pause * 2 ** min(work.attempts, 10)))
        return NeverAgain("its WAV is gone" if isinstance(error, FileNotFoundError) else str(error))

    def _after_bad_answer(self, work: Work, segment: SegmentRecord, answer: BadAnswer) -> Outcome:
        """Handles an unusable answer: it concerns this segment only, and is retried only a few times, as calls cost."""
        self._gate.answered()
        self._costs.add_usage(work.folder, segment, answer.usage)
        self._bad_answers[work.folder, work.file] += 1
        if self._bad_answers[work.folder, work.file] >= MAX_BAD_ANSWERS:
            return NeverAgain(str(answer))
        return TryAgain(random.uniform(0, self._gate.backoff.first_seconds))
