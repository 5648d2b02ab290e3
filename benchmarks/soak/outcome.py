"""Everything that happened in a run, for the report."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.soak.gauges import Reading
from benchmarks.soak.ledger import Ledger
from benchmarks.soak.plan import Fault


@dataclass(frozen=True)
class Done:
    """A fault that was done."""

    fault: Fault
    began: float
    """Seconds since the epoch."""
    ended: float
    trouble: str = ""
    """Why it did not go as it should."""


@dataclass(frozen=True)
class Outcome:
    """A lecture from its first word to its last."""

    began: float
    """Seconds since the epoch."""
    ended: float
    faults: list[Done]
    readings: list[Reading]
    stalls: int
    """How often the speaker's own process was held up."""
    ledger: Ledger
    was_stopped: bool = False
    troubles: list[str] = field(default_factory=list)
    """What else went wrong."""

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def is_well(self) -> bool:
        return self.ledger.is_kept and not self.troubles and not any(one.trouble for one in self.faults)
