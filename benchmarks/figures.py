"""The figures of a benchmark, each with its target."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Report = Callable[[str], None]
"""Takes one line to show to the user."""


@dataclass(frozen=True)
class Options:
    """The options of all benchmarks."""

    runs: int = 3
    quick: bool = False
    """A few seconds, to check that everything works; the figures are not meaningful."""
    full: bool = False
    """As many rooms and runs as the targets name: 200 rooms that come and go, 20 runs of ten rooms."""
    speech: Path | None = None
    """A folder of recordings to use as speech, besides what is shipped."""
    say: Report = print


@dataclass(frozen=True)
class Figure:
    """One measured quantity. ``ours`` and ``other`` have one value per run, in the same order."""

    what: str
    unit: str
    ours: Sequence[float]
    other: Sequence[float] = ()
    other_name: str = "stock"
    digits: int = 1
    at_most: float | None = None
    at_least: float | None = None
    ratio_at_most: float | None = None
    judged_by_worst: bool = False
    """Every run must meet the target, and the worst is shown. Otherwise the median counts."""

    @property
    def value(self) -> float:
        return self._shown(self.ours)

    @property
    def other_value(self) -> float | None:
        return self._shown(self.other) if self.other else None

    @property
    def ratio(self) -> float | None:
        """The median, or the worst, of the ratios of each run; None if there is no other value."""
        pairs = list(zip(self.ours, self.other, strict=False))
        if not pairs or any(not other for _, other in pairs):
            return None
        return self._shown([ours / other for ours, other in pairs])

    @property
    def passed(self) -> bool | None:
        """Whether the target is met; None without a target."""
        promises = []
        if self.at_most is not None:
            promises.append(self.value <= self.at_most)
        if self.at_least is not None:
            promises.append(self.value >= self.at_least)
        if self.ratio_at_most is not None:
            promises.append(self._within_ratio(self.ratio_at_most))
        return all(promises) if promises else None

    @property
    def target(self) -> str:
        parts = []
        if self.at_most is not None:
            parts.append(f"at most {self.at_most:g}")
        if self.at_least is not None:
            parts.append(f"at least {self.at_least:g}")
        if self.ratio_at_most is not None:
            parts.append(f"at most {self.ratio_at_most:.3g} x {self.other_name}")
        return ", ".join(parts)

    @property
    def verdict(self) -> str:
        return {True: "PASS", False: "MISS", None: ""}[self.passed]

    def cells(self) -> list[str]:
        """The row of a table under :data:`HEADINGS`."""
        other = "" if self.other_value is None else f"{self.other_value:.{self.digits}f}"
        if other and self.other_name != "stock":
            other += f" ({self.other_name})"
        return [
            f"{self.what} [{self.unit}]",
            self.target,
            f"{self.value:.{self.digits}f}",
            other,
            self._shown_ratio(),
            f"{len(self.ours)}{', worst' if self.judged_by_worst and len(self.ours) > 1 else ''}",
            self.verdict,
        ]

    def _shown_ratio(self) -> str:
        """Empty where only the worst ratio is known and no target needs it."""
        is_telling = self.ratio_at_most is not None or not self.judged_by_worst
        return f"{self.ratio:.2f}" if self.ratio is not None and is_telling else ""

    def _within_ratio(self, limit: float) -> bool:
        if self.ratio is None:
            return self.value <= limit * (self.other_value or 0.0)
        return self.ratio <= limit

    def _shown(self, values: Sequence[float]) -> float:
        if not self.judged_by_worst:
            return statistics.median(values)
        return min(values) if self.at_least is not None else max(values)


HEADINGS = ["what", "target", "ours", "stock", "ratio", "runs", ""]


@dataclass(frozen=True)
class Outcome:
    """The result of one benchmark: its figures and notes."""

    benchmark: str
    figures: Sequence[Figure]
    notes: Sequence[str] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Outcome:
        figures = [Figure(**figure) for figure in content["figures"]]
        return cls(content["benchmark"], figures, content["notes"])

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_json(), indent=1)
        (folder / f"{self.benchmark}.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, benchmark: str) -> Outcome | None:
        path = folder / f"{benchmark}.json"
        return cls.from_json(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def table(figures: Sequence[Figure]) -> str:
    """Figures as aligned columns, for a terminal."""
    rows = [HEADINGS, *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(figures: Sequence[Figure]) -> str:
    """The same as Markdown."""
    rows = [HEADINGS, ["---"] * len(HEADINGS), *(figure.cells() for figure in figures)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
