"""`lessons.py check`: compares a room's folder with its manifest, reports every difference, and repairs what it can."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer

from archive.names import SegmentNames
from archive.rooms import Archive
from core.errors import StorageError
from lesson_tools import console
from lesson_tools.console import AsJson, SomeRooms, progress, say, say_json, tell
from lesson_tools.expected import expected_of
from lesson_tools.findings import Finding, Kind, Report
from lesson_tools.inspection import inspect
from lesson_tools.repair import repaired

LINES_SHOWN = 10
"""Findings of one kind that are shown for a room; --json shows all."""


def check(
    rooms: SomeRooms = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Repair what can be repaired: leftovers of a crash, lost lines, headers, texts."
        ),
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Skip the SHA-256: check headers and lengths only.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the folders: compare every file with the manifest and its SHA-256; check numbers, times, texts, leftovers.

    The exit code is 0 if all is in order and 1 if anything is not. A room may be recorded at the same time: files that
    its recorder is writing are left alone.
    """  # fmt: skip
    settings = console.settings()
    names = SegmentNames.from_settings(settings)
    expected = expected_of(settings)
    chosen = Archive.from_settings(settings).chosen(rooms)
    reports = []
    with progress("Checking", sum(room.line_count() for room in chosen), "segments") as advance:
        for room in chosen:
            try:
                report = inspect(room, names, expected, advance, checksums=not quick)
            except StorageError as error:
                reports.append(
                    Report(room.name, room.path.name, findings=[Finding(Kind.UNREADABLE, str(error))])
                )
                continue
            if repair:
                report = repaired(room, names, expected, report, checksums=not quick)
            reports.append(report)
    for report in [] if as_json else reports:
        _say_report(report)
    if as_json:
        say_json({"rooms": [_as_json(report) for report in reports]})
    elif not chosen:
        tell(f"No lessons in {settings.output_dir} yet")
    if any(report.faults for report in reports):
        raise typer.Exit(console.TROUBLE)


def _say_report(report: Report) -> None:
    state = console.counted(len(report.faults), "fault") if report.faults else "in order"
    seconds = console.duration(report.speech_seconds)
    say(f"{report.room}: {console.counted(report.segments, 'segment')}, {seconds} of speech, {state}")
    for line in report.repaired:
        say(f"  repaired: {line}")
    shown: Counter[Kind] = Counter()
    for finding in report.findings:
        shown[finding.kind] += 1
        if shown[finding.kind] <= LINES_SHOWN:
            hint = " (--repair repairs it)" if finding.can_be_repaired else ""
            say(f"  {finding.what}{hint}")
    for kind, count in shown.items():
        if count > LINES_SHOWN:
            say(f"  ... and {count - LINES_SHOWN} more of {kind.value} (--json shows all)")


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "room": report.room,
        "folder": report.folder,
        "segments": report.segments,
        "speech_seconds": round(report.speech_seconds, 3),
        "is_in_order": not report.faults,
        "repaired": report.repaired,
        "findings": [
            {
                "kind": finding.kind.value,
                "what": finding.what,
                "file": finding.file or None,
                "is_fault": finding.is_fault,
                "can_be_repaired": finding.can_be_repaired,
            }
            for finding in report.findings
        ],
    }
