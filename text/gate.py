"""Decides when the text service may call the engine: not during a pause after an error, and not beyond the budget."""

from __future__ import annotations

import logging
import time

from archive.outbox import TEXT, Outbox
from config import Settings
from core.backoff import Backoff
from core.errors import RetryLater
from core.trouble import Trouble
from translator import Rejected, WrongSettings

logger = logging.getLogger("recorder")

BACKOFF = Backoff(1.0, 300.0)

MIN_REJECTIONS = 2
"""After this many rejected requests without an answer between them the settings are at fault, not a segment."""


class CallGate:
    """Whether the text engine works, by its last answers, and the budget for calls.

    All calls share one gate, because most errors affect all of them.
    """

    def __init__(self, settings: Settings, budget: Outbox) -> None:
        self.backoff = BACKOFF
        self.fatal = ""
        """An error that occurred before any answer, and that only the operator can fix. Empty: there was none."""
        self.has_answered = False
        """Whether the engine has answered since it last rejected a request."""
        self.failures = 0
        """How often calls have failed since the last answer. Calls that fail together count once."""
        self._settings = settings
        self._budget = budget
        self._rejections = 0
        self._failed_at = 0.0
        self._closed_until = 0.0
        self._trouble = Trouble()

    @property
    def seconds_closed(self) -> float:
        """Seconds until the next call may be made; 0 or less: a call may be made now."""
        return self._closed_until - time.monotonic()

    @property
    def max_calls(self) -> int:
        """How many calls may run at once. After an error only one, which tests whether the engine works again."""
        return 1 if self.failures else self._settings.gemini_max_at_once

    async def may_call(self) -> bool:
        """Takes one call from the budget. False: none is left, and the gate is closed until there is one."""
        per_minute, per_day = self._settings.gemini_max_per_minute, self._settings.gemini_max_per_day
        if not per_minute and not per_day:
            return True
        seconds = await self._budget.spend(TEXT, per_minute, per_day)
        if not seconds:
            return True
        if self.seconds_closed <= 0:
            logger.warning(
                "The budget for text is spent (GEMINI_MAX_PER_MINUTE, GEMINI_MAX_PER_DAY): next call in %.0f s",
                seconds,
            )
        self._close(seconds)
        return False

    def answered(self) -> None:
        """Notes that the engine has answered."""
        if self._trouble.ends():
            logger.info("Gemini answers again")
        self.failures, self._rejections, self.has_answered = 0, 0, True

    def failed(self, error: RetryLater, began: float) -> float:
        """Closes the gate after a failed call, which began at ``began`` (of ``time.monotonic()``).

        Returns for how many seconds: with jitter, and at least as long as the engine requests.
        """
        if began >= self._failed_at:  # calls that fail together count once
            self.failures += 1
            self._rejections += isinstance(error, Rejected)
            self._failed_at = time.monotonic()
        may_be_the_segment = isinstance(error, Rejected) and self._rejections < MIN_REJECTIONS
        if isinstance(error, WrongSettings) and not self.has_answered and not may_be_the_segment:
            self.fatal = str(error)
        requested = 0.0 if may_be_the_segment else error.after_seconds or 0.0
        pause = max(self.backoff.pause(self.failures), requested)
        self._close(pause)
        level = logging.WARNING if self._trouble.begins(str(error)) else logging.DEBUG
        logger.log(level, "Text has to wait %.0f s: %s", pause, error)
        return pause

    def _close(self, seconds: float) -> None:
        self._closed_until = max(self._closed_until, time.monotonic() + seconds)
