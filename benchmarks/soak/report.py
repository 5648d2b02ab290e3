"""The report of a run: a summary for the terminal, and a page with a picture."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from benchmarks.soak import picture
from benchmarks.soak.outcome import Done, Outcome
from benchmarks.soak.word_check import MIN_LOSS_SECONDS, WordCheck
from lesson_tools import console

PAGE, PICTURE = "soak.md", "soak.svg"
ALL_WELL = "Every word is recorded or lies in a recorded gap, and none is recorded twice."
ENDS_SECONDS = 600.0
"""The first and the last ten minutes are compared; of a shorter lecture its first and last third."""


class Row(NamedTuple):
    """A fault, and what was lost by it."""

    done: Done
    lost_seconds: float
    gap_seconds: float


def rows(outcome: Outcome) -> list[Row]:
    """Every fault with what was lost, and what was recorded as a gap, from it until the next fault."""
    begins = [done.began for done in outcome.faults]
    return [
        Row(
            done,
            sum(
                result.lost_seconds for result in outcome.words.results if done.began <= result.word.end < end
            ),
            sum(gap.seconds for gap in outcome.words.gaps if done.began <= gap.end < end),
        )
        for done, end in zip(outcome.faults, [*begins[1:], float("inf")], strict=False)
    ]


def summary(outcome: Outcome) -> list[str]:
    """The lines for the terminal."""
    check = outcome.words
    lines = [f"{name:<9}{seconds:9.1f} s  {note}".rstrip() for name, seconds, note in _totals(check)]
    verdict = ALL_WELL if outcome.is_well else "WRONG:"
    return [*lines, "", verdict, *(f"  {line}" for line in wrongs(outcome))]


def _totals(check: WordCheck) -> list[tuple[str, float, str]]:
    unexplained = sum(result.unexplained_seconds for result in check.results)
    gap_seconds = sum(gap.seconds for gap in check.gaps)
    return [
        ("spoken", check.spoken_seconds, f"{len(check.results)} words"),
        (
            "saved",
            check.saved_seconds,
            f"in {check.segments} files of {check.segment_seconds:.1f} s together",
        ),
        (
            "lost",
            check.lost_seconds,
            f"{unexplained:.2f} s of it outside the gaps in gaps.jsonl ({gap_seconds:.1f} s)",
        ),
        ("doubled", check.doubled_seconds, ""),
    ]


def wrongs(outcome: Outcome) -> Iterator[str]:
    """What is wrong, one line each."""
    check = outcome.words

    def at(moment: float) -> str:
        return console.duration(moment - outcome.began)

    for result in check.unexplained:
        yield f"{at(result.word.start)}  {result.unexplained_seconds:.1f} s lost outside all gaps"
    for result in check.results:
        if result.times > 1:
            yield f"{at(result.word.start)}  a word was recorded {result.times} times"
    for result in check.misdated:
        yield f"{at(result.word.start)}  a word is in a file with a wrong time"
    for extra in check.extras:
        yield f"{at(extra.at)}  a word was recorded that was not said then"
    if check.misplaced:
        yield f"{check.misplaced} words are recorded before words that were said earlier"
    if check.other_participants:
        yield f"also recorded: {', '.join(check.other_participants)}"
    yield from (
        f"{at(done.began)}  {done.fault.value}: {done.problem}" for done in outcome.faults if done.problem
    )
    yield from outcome.problems


# --- the page ---


def write(outcome: Outcome, folder: Path) -> None:
    """Writes soak.md and soak.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PICTURE).write_text(picture.svg(outcome), encoding="utf-8", newline="\n")
    (folder / PAGE).write_text(page(outcome), encoding="utf-8", newline="\n")


def page(outcome: Outcome) -> str:
    sections = [
        _head(outcome),
        f"![Memory and CPU of the workers over the lecture, faults, speech]({PICTURE})",
        "\n".join(_word_table(outcome)),
        "## Faults",
        FAULTS_NOTE,
        "\n".join(_fault_table(outcome)),
        "## Time",
        "\n".join(_times(outcome)),
        "## Memory and CPU",
        "\n".join(_use(outcome)),
    ]
    return "\n\n".join(sections) + "\n"


HEAD = """# A long lecture, and which words were recorded

`python dev.py soak` runs in real time. A teacher in a room of a real LiveKit server says words that can be recognised
by their sound, with a lecturer's pauses, sometimes for a minute without any. The real worker records them while faults
are produced. Afterwards every word is searched in the files, by its sound. A run writes this page."""

FAULTS_NOTE = f""""Lost" is what was said from the fault until the next one and is in no file. "Gaps" are the times in
`gaps.jsonl`, whether somebody spoke then or not. Faults of the teacher's client are produced at the end of a sentence,
those of workers, disk and dispatch in mid-word. A loss outside all gaps counts as wrong from {MIN_LOSS_SECONDS:g} s on:
a smaller loss cannot be measured by sound."""


def _head(outcome: Outcome) -> str:
    day = datetime.fromtimestamp(outcome.began, UTC)
    system = f"{platform.system()}, Python {platform.python_version()}"
    length, count = console.duration(outcome.seconds), len(outcome.faults)
    stopped = " It was stopped before its time." if outcome.was_stopped else ""
    return f"{HEAD}\n\n{length} on {day:%Y-%m-%d}, {system}, {count} faults.{stopped}"


def _word_table(outcome: Outcome) -> Iterator[str]:
    yield "| | seconds | |"
    yield "|---|---:|---|"
    for name, seconds, note in _totals(outcome.words):
        yield f"| {name} | {seconds:.1f} | {note} |"
    yield ""
    found = list(wrongs(outcome))
    yield (ALL_WELL if not found else "**Wrong:**\n")
    yield from (f"- {line}" for line in found)
    if outcome.words.torn:
        count = len(outcome.words.torn)
        yield f"\n{count} words were recorded without a break, but a jitter buffer had distorted them."


def _fault_table(outcome: Outcome) -> Iterator[str]:
    yield "| at | fault | took s | lost s | gaps s |"
    yield "|---:|---|---:|---:|---:|"
    for row in rows(outcome):
        at, took = console.duration(row.done.began - outcome.began), row.done.ended - row.done.began
        what = f"{row.done.fault.value}: **{row.done.problem}**" if row.done.problem else row.done.fault.value
        yield f"| {at} | {what} | {took:.1f} | {row.lost_seconds:.1f} | {row.gap_seconds:.1f} |"


# --- times ---


def _times(outcome: Outcome) -> Iterator[str]:
    offsets = outcome.words.offsets()
    if not offsets:
        yield "No word was found as a whole, so times cannot be compared."
        return
    late = [offset for _, offset in offsets]
    far = sorted(abs(offset) for offset in late)
    around = sorted(abs(offset - statistics.median(late)) for offset in late)
    yield f"{len(late)} words: their times by the files, compared with the wall clock when they were said."
    yield "\n| | median | 95 % are within | all are within |"
    yield "|---|---:|---:|---:|"
    yield f"| from the wall clock | {_ms(statistics.median(late))} | {_ms(_share(far))} | {_ms(far[-1])} |"
    yield f"| from the median | | {_ms(_share(around))} | {_ms(around[-1])} |"
    yield f"\n{_drift(outcome, offsets)} The median is the delay of the path: encoder, network, jitter buffer."
    if outcome.stalls:
        yield f"The speaker's own process stalled {outcome.stalls} times; such sentences are not counted here."


def _drift(outcome: Outcome, offsets: Sequence[tuple[float, float]]) -> str:
    length = min(ENDS_SECONDS, outcome.seconds / 3)
    first = [offset for at, offset in offsets if at < outcome.began + length]
    last = [offset for at, offset in offsets if at >= outcome.ended - length]
    if not (first and last):
        return ""
    moved = statistics.median(last) - statistics.median(first)
    return f"Between the first and the last {console.duration(length)} the median moved by {_ms(moved)}."


def _share(ordered: Sequence[float]) -> float:
    return ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


# --- memory and CPU ---


def _use(outcome: Outcome) -> Iterator[str]:
    """A table row for each worker that was measured."""
    memory, cpu = picture.courses(outcome.readings, outcome.began)
    yield "| worker | from | to | MB at first | MB at last | most MB | CPU, share of one core |"
    yield "|---:|---:|---:|---:|---:|---:|---:|"
    for number, points in memory.items():
        count = max(1, len(points) // 4)
        values = [point.value for point in points]
        used = statistics.mean(point.value for point in cpu[number]) if cpu[number] else 0.0
        yield (
            f"| {number} | {console.duration(max(0.0, points[0].at))} | {console.duration(points[-1].at)} "
            f"| {statistics.median(values[:count]):.0f} | {statistics.median(values[-count:]):.0f} "
            f"| {max(values):.0f} | {used:.1f} % |"
        )
    yield "\nAt first and at last: the medians of the first and of the last quarter of the worker's life."
