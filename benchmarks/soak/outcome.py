"""Everything that happened in a run, for the report."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.soak.gauges import Reading
from benchmarks.soak.plan import Fault
from benchmarks.soak.word_check import WordCheck


@dataclass(frozen=True)
class Done:
    """A fault that was produced."""

    fault: Fault
    began: float
    """Seconds since the epoch."""
    ended: float
    problem: str = ""
    """Why the fault could not be produced as planned; empty: it could."""


@dataclass(frozen=True)
class Outcome:
    """A lecture from its first word to its last."""

    began: float
    """Seconds since the epoch."""
    ended: float
    faults: list[Done]
    readings: list[Reading]
    stalls: int
    """How often the speaker's own process stalled."""
    words: WordCheck
    was_stopped: bool = False
    problems: list[str] = field(default_factory=list)
    """What else went wrong."""

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def is_well(self) -> bool:
        return self.words.is_good and not self.problems and not any(one.problem for one in self.faults)
