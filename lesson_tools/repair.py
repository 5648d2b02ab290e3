"""Repairs what an inspection has found, with the same recovery as at the worker's start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from archive.files import write_private
from archive.manifest import move_broken_lines
from archive.names import MANIFEST, SegmentNames, session_file
from archive.recovery import recover_folder
from archive.rooms import Room
from archive.session_counts import Expected
from archive.session_files import SessionFiles
from archive.wav import mend_wav
from core.errors import StorageError
from lesson_tools.console import tell
from lesson_tools.findings import Finding, Kind, Report
from lesson_tools.inspection import inspect


def repaired(
    room: Room, names: SegmentNames, expected: Expected, report: Report, *, checksums: bool = True
) -> Report:
    """Repairs what can be repaired, and inspects the room again.

    Raises:
        StorageError: the disk refuses it.
    """
    if not any(finding.can_be_repaired for finding in report.findings):
        return report
    try:
        done = list(_repair(room, names, expected, report.findings))
    except OSError as error:
        raise StorageError(f"{room.path} cannot be repaired: {error.strerror or error}") from None
    return replace(inspect(room, names, expected, checksums=checksums), repaired=done)


def _repair(
    room: Room, names: SegmentNames, expected: Expected, findings: Sequence[Finding]
) -> Iterator[str]:
    for finding in findings:
        if finding.kind in (Kind.WAV_HEADER, Kind.WAV_LENGTH) and finding.samples is not None:
            mend_wav(room.path / finding.file, finding.samples)
            yield f"{finding.file}: header and length restored"
    if count := move_broken_lines(room.path):
        yield f"{count} broken lines moved to {MANIFEST}.broken"
    recovered = recover_folder(room.path, names)
    for record in recovered:
        yield f"{record.file}: recovered, {record.duration_seconds:.1f} s"
    yield from _write_texts_again(room, {finding.file for finding in findings})
    wrong = {finding.room_sid for finding in findings}
    gained = {record.room_sid for record in recovered} - wrong
    yield from _count_again(wrong, SessionFiles(room.path, expected).repair)
    yield from _count_again(gained, SessionFiles(room.path, expected).refresh)


def _count_again(sids: Iterable[str], step: Callable[[str], bool]) -> Iterator[str]:
    """Counts sessions again, those without a sid excepted."""
    for room_sid in sorted(sids):
        try:
            if step(room_sid):
                yield f"{session_file(room_sid)}: counted again"
        except OSError as error:  # the other files are repaired
            tell(f"{session_file(room_sid)}: {error.strerror or error}")


def _write_texts_again(room: Room, missing: set[str]) -> Iterator[str]:
    """Writes missing text files again, from the text in texts.jsonl."""
    with room.texts() as texts:
        for record in room.records():
            text = texts.get(record) if record in texts else None
            if text is None:
                continue
            for language, file in text.files.items():
                if file in missing and language in text.by_language:
                    write_private(room.path / file, (text.by_language[language] + "\n").encode())
                    yield f"{file}: written again"
