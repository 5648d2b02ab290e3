"""The result of the demo: a table of the segments, and whether every sentence was recorded and nobody else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.records import parse_utc
from devtools.demo_lesson import TEACHER, Lesson, load
from devtools.demo_screen import Record, clock, confidence, say
from devtools.listening import SAMPLE_RATE, share_heard

MIN_SENTENCE_SHARE = 0.75
"""Share of a sentence that must be found; a busy machine may distort the rest too much to be recognised."""


def show_table(lesson: Lesson) -> None:
    rows = [("file", "when (UTC)", "lecture", "length", "confidence", "ended by")]
    for record in lesson.records():
        rows.append(
            (
                record["file"],
                record["start"][11:21],
                clock(_start(record) - lesson.lectured.start, tenths=True),
                f"{record['duration_seconds']:.1f} s",
                confidence(record),
                record["end_reason"],
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    say("")
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_verdict(lesson: Lesson, languages: Sequence[str]) -> int:
    """Prints what was recorded of whom; returns the exit code, 0 if that is everything and nothing else."""
    records = lesson.records()
    others = sorted({record["participant_identity"] for record in records} - {TEACHER})
    found = _sentences_found(
        lesson, [record for record in records if record["participant_identity"] == TEACHER]
    )
    seconds = sum(record["duration_seconds"] for record in records)
    say("")
    say(f"{len(records)} files, {seconds:.1f} s of the teacher.")
    say(f"{found} of the teacher's {len(lesson.sentences)} sentences are in them, compared by their sound.")
    if others:
        say(f"WRONG: also recorded: {', '.join(others)}.")
    else:
        talked = len(lesson.question) / SAMPLE_RATE
        say(f"The student talked for {talked:.0f} s at the same time and is in none of them.")
    has_text = _show_texts(lesson, languages)
    say(f"Folder: {lesson.room_dir}")
    return 0 if found == len(lesson.sentences) and not others and has_text else 1


def _show_texts(lesson: Lesson, languages: Sequence[str]) -> bool:
    """Prints how many files have their text; returns whether all have."""
    records, texts = lesson.records(), [text for text in lesson.texts() if "refused" not in text]
    files = len(list(lesson.room_dir.glob("*.txt")))
    say(f"{len(texts)} of them have their text: {files} .txt files ({', '.join(('en', *languages))}).")
    if len(texts) == len(records):
        return True
    say(f"WRONG: {len(records) - len(texts)} have none, see the worker's log.")
    return False


def _sentences_found(lesson: Lesson, records: list[Record]) -> int:
    """How many of the teacher's sentences are in the files, compared by their sound."""
    timeline = np.zeros(
        len(lesson.lecture) + 5 * SAMPLE_RATE, np.int16
    )  # each file at its time in the lecture
    for record in records:
        pcm = load(lesson.room_dir / record["file"])
        at = max(0, round((_start(record) - lesson.lectured.start) * SAMPLE_RATE))
        part = pcm[: max(0, len(timeline) - at)]
        timeline[at : at + len(part)] = part
    found = 0
    for sentence in lesson.sentences:
        start, end = (round(sentence[edge] * SAMPLE_RATE) for edge in ("start", "end"))
        found += share_heard(timeline, lesson.lecture[start:end], start) >= MIN_SENTENCE_SHARE
    return found


def _start(record: Record) -> float:
    """Seconds since the epoch."""
    return parse_utc(record["start"]).timestamp()
