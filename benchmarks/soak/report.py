"""What a run tells: the ledger as lines, and a page with a picture."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from benchmarks.soak import picture
from benchmarks.soak.ledger import EAR_SECONDS, Ledger
from benchmarks.soak.outcome import Done, Outcome
from lesson_tools import console

PAGE, PICTURE = "soak.md", "soak.svg"
ENDS_SECONDS = 600.0
"""The first and the last ten minutes are compared; of a shorter lecture its first and last third."""


class Row(NamedTuple):
    """What a fault cost."""

    done: Done
    lost_seconds: float
    gap_seconds: float


def rows(outcome: Outcome) -> list[Row]:
    """Every fault with what was lost, and owned up to, from then until the next one."""
    begins = [done.began for done in outcome.faults]
    return [
        Row(
            done,
            sum(fate.lost_seconds for fate in outcome.ledger.fates if done.began <= fate.word.end < end),
            sum(gap.seconds for gap in outcome.ledger.gaps if done.began <= gap.end < end),
        )
        for done, end in zip(outcome.faults, [*begins[1:], float("inf")], strict=False)
    ]


def ledger(outcome: Outcome) -> list[str]:
    """The account, for the terminal."""
    account = outcome.ledger
    lines = [f"{name:<9}{seconds:9.1f} s  {note}".rstrip() for name, seconds, note in _accounts(account)]
    verdict = "Every word is kept or owned up to, none is there twice." if outcome.is_well else "WRONG:"
    return [*lines, "", verdict, *(f"  {line}" for line in wrongs(outcome))]


def _accounts(account: Ledger) -> list[tuple[str, float, str]]:
    unowned = sum(fate.unowned_seconds for fate in account.fates)
    owned = sum(gap.seconds for gap in account.gaps)
    return [
        ("spoken", account.spoken_seconds, f"{len(account.fates)} words"),
        (
            "saved",
            account.saved_seconds,
            f"in {account.segments} files of {account.segment_seconds:.1f} s together",
        ),
        (
            "lost",
            account.lost_seconds,
            f"{unowned:.2f} s of it outside the gaps that gaps.jsonl owns up to ({owned:.1f} s)",
        ),
        ("doubled", account.doubled_seconds, ""),
    ]


def wrongs(outcome: Outcome) -> Iterator[str]:
    """What is not as promised, a line each."""
    account = outcome.ledger

    def at(moment: float) -> str:
        return console.duration(moment - outcome.began)

    for fate in account.unowned:
        yield f"{at(fate.word.start)}  {fate.unowned_seconds:.1f} s lost without a word about it"
    for fate in account.fates:
        if fate.times > 1:
            yield f"{at(fate.word.start)}  a word is there {fate.times} times"
    for fate in account.misdated:
        yield f"{at(fate.word.start)}  a word is in a file of another time"
    for stray in account.strays:
        yield f"{at(stray.at)}  a word is there that was not said then"
    if account.misplaced:
        yield f"{account.misplaced} words stand before earlier ones"
    if account.strangers:
        yield f"also recorded: {', '.join(account.strangers)}"
    yield from (
        f"{at(done.began)}  {done.fault.value}: {done.trouble}" for done in outcome.faults if done.trouble
    )
    yield from outcome.troubles


# --- the page ---


def write(outcome: Outcome, folder: Path) -> None:
    """soak.md and soak.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PICTURE).write_text(picture.svg(outcome), encoding="utf-8", newline="\n")
    (folder / PAGE).write_text(page(outcome), encoding="utf-8", newline="\n")


def page(outcome: Outcome) -> str:
    sections = [
        _head(outcome),
        f"![Memory and CPU of the workers over the lecture, faults, speech]({PICTURE})",
        "\n".join(_ledger_table(outcome)),
        "## Faults",
        FAULTS_NOTE,
        "\n".join(_fault_table(outcome)),
        "## Time",
        "\n".join(_times(outcome)),
        "## Memory and CPU",
        "\n".join(_use(outcome)),
    ]
    return "\n\n".join(sections) + "\n"


HEAD = """# A long lecture, and what became of every word

`python dev.py soak` does this in real time: a teacher on a real LiveKit server says sentences that are known by their
sound, with a lecturer's pauses, now and then a minute without one; the real worker records them, and again and again
something goes wrong. Afterwards every word is looked for in the files, by its sound. This page is written by a run."""

FAULTS_NOTE = f"""Lost is what was said from then until the next fault and is in no file; owned up to are the gaps in
`gaps.jsonl`, in which somebody may have spoken or not. The teacher's own faults come at the end of a sentence; those of
workers, disk and dispatch in mid-word. What a word lacks outside of every gap breaks the promise from
{EAR_SECONDS:g} s on: less cannot be told by ear."""


def _head(outcome: Outcome) -> str:
    day = datetime.fromtimestamp(outcome.began, timezone.utc)
    system = f"{platform.system()}, Python {platform.python_version()}"
    length, count = console.duration(outcome.seconds), len(outcome.faults)
    stopped = " It was stopped before its time." if outcome.was_stopped else ""
    return f"{HEAD}\n\n{length} on {day:%Y-%m-%d}, {system}, {count} faults.{stopped}"


def _ledger_table(outcome: Outcome) -> Iterator[str]:
    yield "| | seconds | |"
    yield "|---|---:|---|"
    for name, seconds, note in _accounts(outcome.ledger):
        yield f"| {name} | {seconds:.1f} | {note} |"
    yield ""
    found = list(wrongs(outcome))
    yield (
        "Every word is kept or owned up to, and none is there twice."
        if not found
        else "**Not as promised:**\n"
    )
    yield from (f"- {line}" for line in found)
    if outcome.ledger.torn:
        count = len(outcome.ledger.torn)
        yield f"\n{count} words were saved without a break, but torn on their way, by a jitter buffer."


def _fault_table(outcome: Outcome) -> Iterator[str]:
    yield "| at | fault | took s | lost s | owned up to s |"
    yield "|---:|---|---:|---:|---:|"
    for row in rows(outcome):
        at, took = console.duration(row.done.began - outcome.began), row.done.ended - row.done.began
        what = f"{row.done.fault.value}: **{row.done.trouble}**" if row.done.trouble else row.done.fault.value
        yield f"| {at} | {what} | {took:.1f} | {row.lost_seconds:.1f} | {row.gap_seconds:.1f} |"


# --- times ---


def _times(outcome: Outcome) -> Iterator[str]:
    offsets = outcome.ledger.offsets()
    if not offsets:
        yield "No word was found as a whole, so nothing can be said about times."
        return
    late = [offset for _, offset in offsets]
    far = sorted(abs(offset) for offset in late)
    around = sorted(abs(offset - statistics.median(late)) for offset in late)
    yield f"{len(late)} words: by the times of their files, against the clock on the wall when they were said."
    yield "\n| | median | 95 % are within | all are within |"
    yield "|---|---:|---:|---:|"
    yield f"| from the wall clock | {_ms(statistics.median(late))} | {_ms(_share(far))} | {_ms(far[-1])} |"
    yield f"| from the median | | {_ms(_share(around))} | {_ms(around[-1])} |"
    yield f"\n{_drift(outcome, offsets)} The median is the way itself: encoder, network, jitter buffer."
    if outcome.stalls:
        yield f"The speaker's own program was held up {outcome.stalls} times; such sentences are not among these."


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
    """Each worker that was there for long enough to say something about."""
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
