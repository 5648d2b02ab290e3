"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass

_MAX_DOUBLINGS = 20
"""More would only overflow."""


@dataclass(frozen=True)
class Backoff:
    """Pauses that double with each failure up to a limit, with jitter: those who failed together return apart."""

    first_seconds: float = 1.0
    max_seconds: float = 60.0

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row (from 1): half of what they allow, or more."""
        longest = self.doubled(failures)
        return random.uniform(longest / 2, longest)

    def doubled(self, failures: int) -> float:
        """The same without jitter."""
        doublings = max(0, min(failures - 1, _MAX_DOUBLINGS))
        return min(self.max_seconds, self.first_seconds * float(1 << doublings))
