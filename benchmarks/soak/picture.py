"""Draws a run: memory and CPU of every worker, the faults, and what was lost, over the time of the lecture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from benchmarks.soak.gauges import Reading
from benchmarks.soak.outcome import Outcome

WIDTH, LEFT, RIGHT = 1180, 64, 24
NAMES_HEIGHT, GAP = 72, 34
MEMORY_HEIGHT, CPU_HEIGHT, SPEECH_HEIGHT = 190, 110, 64
MIN_STEPS = 3
WORKER_COLOURS = 4

STYLE = """<style>
text { font: 12px sans-serif; fill: #57606a } .title { fill: #1f2328; font-weight: 600 } .small { font-size: 11px }
.back { fill: #ffffff } .grid { stroke: #d0d7de; stroke-width: 1 } .fault { stroke: #8c959f; stroke-dasharray: 2 4 }
.line { fill: none; stroke-width: 1.6; stroke-linejoin: round } .said { fill: #2f81f7; fill-opacity: 0.35 }
.gap { fill: #d29922 } .lost { fill: #cf222e }
.w0 { stroke: #0969da } .w1 { stroke: #1a7f37 } .w2 { stroke: #8250df } .w3 { stroke: #bc4c00 }
@media (prefers-color-scheme: dark) {
text { fill: #9198a1 } .title { fill: #f0f6fc } .back { fill: #0d1117 }
.grid { stroke: #30363d } .fault { stroke: #6e7681 }
.w0 { stroke: #4493f8 } .w1 { stroke: #3fb950 } .w2 { stroke: #ab7df8 } .w3 { stroke: #f0883e } .lost { fill: #f85149 }
}
</style>"""


class Point(NamedTuple):
    """A value at a time, in seconds since the lecture's beginning."""

    at: float
    value: float


@dataclass(frozen=True)
class Panel:
    """A part of the picture with its own axis."""

    top: float
    height: float
    highest: float
    seconds: float
    """How long the whole picture is."""

    def x(self, at: float) -> float:
        return LEFT + min(max(at / self.seconds, 0.0), 1.0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return self.top + self.height * (1 - min(value / self.highest, 1.0))

    def axis(self, title: str, unit: str) -> Iterator[str]:
        step = nice_step(self.highest)
        yield f'<text class="title" x="{LEFT}" y="{self.top - 10:.1f}">{title}</text>'
        for count in range(int(self.highest / step + 1e-6) + 1):
            y = self.y(count * step)
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{count * step:g}{unit}</text>'

    def line(self, points: Sequence[Point], kind: str) -> str:
        drawn = " ".join(f"{self.x(point.at):.1f},{self.y(point.value):.1f}" for point in points)
        return f'<polyline class="line {kind}" points="{drawn}"/>'


def svg(outcome: Outcome) -> str:
    """The picture; its colours follow the reader's light or dark theme."""
    memory, cpu = courses(outcome.readings, outcome.began)
    seconds = max(outcome.seconds, 1.0)
    tops = [NAMES_HEIGHT + GAP]
    for height in (MEMORY_HEIGHT, CPU_HEIGHT, SPEECH_HEIGHT):
        tops.append(tops[-1] + height + GAP)
    panels = (
        Panel(tops[0], MEMORY_HEIGHT, _highest(memory), seconds),
        Panel(tops[1], CPU_HEIGHT, _highest(cpu), seconds),
        Panel(tops[2], SPEECH_HEIGHT, 1.0, seconds),
    )
    bottom = panels[-1].top + panels[-1].height
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 30:.0f}">',
        STYLE,
        '<rect class="back" width="100%" height="100%"/>',
        *panels[0].axis("Memory of each worker, MB", ""),
        *panels[1].axis("CPU of each worker, share of one core", " %"),
        *_fault_marks(outcome, panels[0], bottom),
        *(panels[0].line(points, f"w{number % WORKER_COLOURS}") for number, points in memory.items()),
        *(panels[1].line(points, f"w{number % WORKER_COLOURS}") for number, points in cpu.items()),
        *_speech(outcome, panels[2]),
        *_minutes(panels[2], bottom + 20),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


Courses = dict[int, list[Point]]
"""By worker."""


def courses(readings: Sequence[Reading], began: float) -> tuple[Courses, Courses]:
    """Megabytes, and per cent of a core, of every worker over the time of the lecture."""
    by_worker: dict[int, list[Reading]] = defaultdict(list)
    for reading in readings:
        by_worker[reading.worker].append(reading)
    memory = {
        number: [Point(one.at - began, one.megabytes) for one in seen] for number, seen in by_worker.items()
    }
    cpu = {
        number: [
            Point(new.at - began, 100 * max(0.0, new.cpu_seconds - old.cpu_seconds) / (new.at - old.at))
            for old, new in pairwise(seen)
        ]
        for number, seen in by_worker.items()
    }
    return memory, cpu


def _highest(courses: Courses) -> float:
    """A round number above all values."""
    most = max((point.value for points in courses.values() for point in points), default=1.0)
    step = nice_step(most)
    return step * (int(most / step) + 1)


def nice_step(most: float) -> float:
    """The longest of 1, 2 and 5 times a power of ten that goes at least three times into it."""
    power = 10.0 ** (len(str(int(most))) - 2)
    return max(
        (step * power for step in (0.5, 1, 2, 5, 10) if step * power * MIN_STEPS <= most), default=power
    )


def _fault_marks(outcome: Outcome, panel: Panel, bottom: float) -> Iterator[str]:
    for done in outcome.faults:
        x, y = panel.x(done.began - outcome.began), panel.top - GAP + 4
        name = done.fault.name.lower().replace("_", " ")
        yield f'<line class="fault" x1="{x:.1f}" x2="{x:.1f}" y1="{y:.1f}" y2="{bottom:.1f}"/>'
        yield f'<text class="small" transform="translate({x + 4:.1f},{y:.1f}) rotate(-90)">{name}</text>'


def _speech(outcome: Outcome, panel: Panel) -> Iterator[str]:
    """What was said, what was lost of it, and the recorded gaps."""
    title = "Speech: said, lost, and the recorded gaps"
    yield f'<text class="title" x="{LEFT}" y="{panel.top - 10:.1f}">{title}</text>'
    third = panel.height / 3
    for row, (kind, spans) in enumerate(_spans(outcome).items()):
        y = panel.top + row * third
        yield f'<text x="{LEFT - 8}" y="{y + third - 6:.1f}" text-anchor="end">{kind}</text>'
        bars = "".join(
            f"M{panel.x(start):.1f} {y + 2:.1f}H{max(panel.x(end), panel.x(start) + 1):.1f}v{third - 5:.1f}"
            f"H{panel.x(start):.1f}z"
            for start, end in spans
        )
        yield f'<path class="{kind}" d="{bars}"/>'


def _spans(outcome: Outcome) -> dict[str, list[tuple[float, float]]]:
    began, check = outcome.began, outcome.words
    said = [(result.word.start - began, result.word.end - began) for result in check.results]
    lost = [
        (result.word.start - began, result.word.start - began + result.lost_seconds)
        for result in check.results
        if result.lost_seconds
    ]
    return {"said": said, "lost": lost, "gap": [(gap.start - began, gap.end - began) for gap in check.gaps]}


def _minutes(panel: Panel, y: float) -> Iterator[str]:
    minutes = panel.seconds / 60
    step = next((step for step in (0.25, 0.5, 1, 2, 5, 10, 20, 60) if minutes / step <= 13), 60)
    for count in range(int(minutes / step) + 1):
        yield f'<text x="{panel.x(count * step * 60):.1f}" y="{y:.1f}" text-anchor="middle">{count * step:g} min</text>'
