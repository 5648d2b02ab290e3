"""Tells a segment that fails from a service that fails, by which other segments succeed. Pure.

A failure that may be the segment's own fault, such as an empty answer, is counted against it only while other segments
succeed. If several fail one after another and none succeeds, the service is at fault, whatever it answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

Key = tuple[str, str]
"""A segment: its folder and its file."""


class Verdict(Enum):
    """What a failure means."""

    AGAIN = "it is not clear yet: the segment is tried again"
    OUTAGE = "the service is at fault: all segments wait, and nothing is counted against them"
    FINAL = "the segment is at fault: others succeed, and it has failed often enough"


@dataclass
class _Failed:
    first_began: float
    """When its first failed attempt began."""
    counted: int = 0
    """Its failures since then that may be its own fault."""
    total: int = 0
    """All failures, also those that the service is to blame for."""


class Failures:
    """The segments that have failed and have no text yet. Times are of one clock."""

    def __init__(self) -> None:
        self._failed: dict[Key, _Failed] = {}
        self._since_success: set[Key] = set()
        """The segments that have failed since the last success of any."""
        self._last_success = float("-inf")

    def count(self, key: Key) -> int:
        """How often a segment has failed."""
        return self._failed[key].total if key in self._failed else 0

    def succeeded(self, key: Key, now: float) -> None:
        """Notes that a segment has got its text."""
        self._last_success = now
        self._since_success.clear()
        self.forget(key)

    def forget(self, key: Key) -> None:
        """Drops what is known of a segment that is done."""
        self._failed.pop(key, None)
        self._since_success.discard(key)

    def failed(self, key: Key, began: float, now: float, most: int) -> Verdict:
        """Notes a failure of an attempt that began at ``began``. After ``most`` of them the segment is at fault."""
        failed = self._failed.setdefault(key, _Failed(began))
        failed.counted, failed.total = failed.counted + 1, failed.total + 1
        self._since_success.add(key)
        if any(not self._have_others_succeeded(other) for other in self._since_success - {key}):
            self._count_nothing(now)
            return Verdict.OUTAGE
        is_final = failed.counted >= most and self._have_others_succeeded(key)
        return Verdict.FINAL if is_final else Verdict.AGAIN

    def _have_others_succeeded(self, key: Key) -> bool:
        """Whether another segment has succeeded since this one first failed."""
        return key in self._failed and self._last_success >= self._failed[key].first_began

    def _count_nothing(self, now: float) -> None:
        for failed in self._failed.values():
            failed.counted, failed.first_began = 0, now
