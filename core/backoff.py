"""How long to wait before a retry."""

from __future__ import annotations

import random
from dataclasses import dataclass

_MAX_DOUBLINGS = 20
"""More would overflow a float."""


@dataclass(frozen=True)
class Backoff:
    """Pauses that double with each failure up to a limit, with jitter, so that clients do not retry in step."""

    first_seconds: float = 1.0
    max_seconds: float = 60.0

    def pause(self, failures: int) -> float:
        """Seconds to wait after this many failures in a row (from 1): half to all of :meth:`doubled`, at random."""
        longest = self.doubled(failures)
        return random.uniform(longest / 2, longest)

    def doubled(self, failures: int) -> float:
        """The pause without jitter: the first one, doubled with each further failure up to the limit."""
        doublings = max(0, min(failures - 1, _MAX_DOUBLINGS))
        return min(self.max_seconds, self.first_seconds * float(1 << doublings))
