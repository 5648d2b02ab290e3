"""Asks the text engine for the text of a segment: once, and once more for what is doubtful or missing."""

from __future__ import annotations

from dataclasses import replace

from archive.outbox import Work
from core.answers import completed
from core.errors import Refused, RetryLater
from core.plausibility import plausible
from core.records import SegmentRecord
from core.text_request import TextRequest
from text.costs import CostsByLesson
from text.gate import CallGate
from translator import BadAnswer, TextResult, Translator, Usage


class Asking:
    """Makes the calls for a segment, and counts them."""

    def __init__(self, translator: Translator, gate: CallGate, costs: CostsByLesson) -> None:
        self._translator = translator
        self._gate = gate
        self._costs = costs

    async def text_of(self, work: Work, segment: SegmentRecord, request: TextRequest) -> TextResult:
        """The best text that can be had now. What the first answer has is kept, whatever becomes of a second one.

        Raises:
            FileNotFoundError, RetryLater, Refused: as the engine raises them for the first call.
        """
        result = await self._call(work, segment, request)
        if result.translation.doubt:
            result = await self._without_doubt(work, segment, request, result)
        if result.translation.missing and not result.translation.doubt:
            result = await self._completed(work, segment, request, result)
        return result

    async def _without_doubt(
        self, work: Work, segment: SegmentRecord, request: TextRequest, first: TextResult
    ) -> TextResult:
        """Asks again without context, which causes loops and echoes; else cuts the text to what can be true."""
        again = replace(request, context=(), attempt=request.attempt + 1)
        second = await self._second_call(work, segment, again)
        if second is None:
            best = first
        elif second.translation.transcript or not first.translation.transcript:
            best = second
        else:  # nothing at all in place of something doubtful
            best = replace(second, translation=first.translation)
        seconds = segment.duration_seconds
        usage = first.usage + second.usage if second is not None else first.usage
        if best.translation.doubt:
            best = replace(best, translation=plausible(best.translation, seconds))
        return replace(best, usage=usage)

    async def _completed(
        self, work: Work, segment: SegmentRecord, request: TextRequest, first: TextResult
    ) -> TextResult:
        """Asks for the translations that are missing, and for no others."""
        known = first.translation
        rest = replace(request, languages=known.missing, transcript=known.transcript, context=())
        second = await self._second_call(work, segment, rest)
        if second is None:
            return first
        return replace(
            first,
            translation=completed(known, second.translation),
            usage=first.usage + second.usage,
        )

    async def _second_call(
        self, work: Work, segment: SegmentRecord, request: TextRequest
    ) -> TextResult | None:
        """None if the budget is spent, or the call fails."""
        if not await self._gate.may_call():
            return None
        try:
            return await self._call(work, segment, request)
        except (Refused, RetryLater, FileNotFoundError):
            return None

    async def _call(self, work: Work, segment: SegmentRecord, request: TextRequest) -> TextResult:
        self._costs.add(work.folder, segment, calls=1, audio_seconds=segment.duration_seconds)
        try:
            result = await self._translator.translate(request)
        except (Refused, RetryLater, FileNotFoundError) as error:
            self._costs.add(work.folder, segment, failed_calls=1)
            if isinstance(error, BadAnswer):
                self._add_usage(work, segment, error.usage)
            raise
        self._add_usage(work, segment, result.usage)
        return result

    def _add_usage(self, work: Work, segment: SegmentRecord, usage: Usage) -> None:
        self._costs.add_usage(work.folder, segment, usage)
