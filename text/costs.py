"""Counts what text costs: in total, for each lesson, and as metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from archive.outbox import Backlog
from core.metrics import counter, gauge
from core.records import SegmentRecord
from translator import Usage

logger = logging.getLogger("recorder")

MAX_LESSONS = 256
"""If more lessons than this are counted, those whose costs have been logged are dropped."""

_COUNTERS = {
    "texts": ("texts", "Texts written"),
    "calls": ("text_calls", "Calls of Gemini"),
    "failed_calls": ("text_failed_calls", "Calls that returned no text"),
    "audio_seconds": ("text_audio_seconds", "Audio sent"),
    "input_tokens": ("text_input_tokens", "Tokens sent"),
    "output_tokens": ("text_output_tokens", "Tokens received"),
}
"""Name and help of each metric, by the field of :class:`TextCosts`."""


@dataclass
class TextCosts:
    """What text has cost since the worker started."""

    calls: int = 0
    failed_calls: int = 0
    audio_seconds: float = 0.0
    """Seconds of audio sent, over all calls."""
    input_tokens: int = 0
    output_tokens: int = 0
    texts: int = 0
    refused: int = 0
    skipped: int = 0
    """Segments that a run has left as they are, after several failures."""

    def add(self, **numbers: float) -> None:
        for name, number in numbers.items():
            setattr(self, name, getattr(self, name) + number)

    def __str__(self) -> str:
        return (
            f"{self.texts} texts, {self.calls} calls, {self.audio_seconds:.0f} s of audio, "
            f"{self.input_tokens} tokens in, {self.output_tokens} out, {self.refused} refused"
            + (f", {self.skipped} skipped" if self.skipped else "")
        )


class TextMetrics:
    """The counters of :class:`TextCosts`, and gauges of the backlog."""

    def __init__(self, backlog: Callable[[], Awaitable[Backlog]]) -> None:
        self.registry = CollectorRegistry()
        self._backlog = backlog
        self._waiting = gauge(self.registry, "text_waiting", "Segments that wait for their text")
        self._oldest = gauge(
            self.registry, "text_oldest_seconds", "Seconds since the oldest of them was spoken"
        )
        self._refused = gauge(self.registry, "text_refused", "Segments that will never have a text")
        self._counters = {
            field: counter(self.registry, name, help) for field, (name, help) in _COUNTERS.items()
        }

    async def refresh(self) -> None:
        """Reads the backlog from the outbox."""
        backlog = await self._backlog()
        self._waiting.set(backlog.count)
        self._oldest.set(backlog.oldest_seconds)
        self._refused.set(backlog.refused)

    def add(self, **numbers: float) -> None:
        for name, number in numbers.items():
            if name in self._counters:
                self._counters[name].inc(number)


@dataclass
class _Lesson:
    room: str
    costs: TextCosts = field(default_factory=TextCosts)
    last_call_at: float = 0.0
    is_logged: bool = True


class CostsByLesson:
    """Counts costs in total and for each lesson, and logs a lesson's costs some time after its last call."""

    def __init__(self, metrics: TextMetrics) -> None:
        self.total = TextCosts()
        self._metrics = metrics
        self._lessons: dict[tuple[str, str], _Lesson] = {}

    def add(self, folder: str, segment: SegmentRecord, **numbers: float) -> None:
        """Adds to these fields of :class:`TextCosts`."""
        lesson = self._lessons.setdefault((folder, segment.room_sid), _Lesson(segment.room_name))
        lesson.last_call_at, lesson.is_logged = time.monotonic(), False
        for costs in (self.total, lesson.costs, self._metrics):
            costs.add(**numbers)

    def add_usage(self, folder: str, segment: SegmentRecord, usage: Usage) -> None:
        self.add(folder, segment, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)

    def log(self, quiet_seconds: float) -> None:
        """Logs one line for each lesson without a call for ``quiet_seconds``."""
        now = time.monotonic()
        for lesson in self._lessons.values():
            if not lesson.is_logged and now - lesson.last_call_at >= quiet_seconds:
                lesson.is_logged = True
                logger.info("Text of this lesson so far: %s", lesson.costs, extra={"room": lesson.room})
        if len(self._lessons) > MAX_LESSONS:
            self._lessons = {key: one for key, one in self._lessons.items() if not one.is_logged}
