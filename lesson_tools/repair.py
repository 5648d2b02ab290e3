"""Repairs what an inspection has found, with the same recovery as at the worker's start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from archive.files import write_private
from archive.manifest import move_broken_lines
from archive.names import MANIFEST, SegmentNames
from archive.recovery import recover_folder
from archive.rooms import Room
from archive.session_counts import Expected
from archive.wav import mend_wav
from core.errors import StorageError
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
        done = list(_repair(room, names, report.findings))
    except OSError as error:
        raise StorageError(f"{room.path} cannot be repaired: {error.strerror or error}") from None
    return replace(inspect(room, names, expected, checksums=checksums), repaired=done)


def _repair(room: Room, names: SegmentNames, findings: Sequence[Finding]) -> Iterator[str]:
    for finding in findings:
        if finding.kind in (Kind.WAV_HEADER, Kind.WAV_LENGTH) and finding.samples is not None:
            mend_wav(room.path / finding.file, finding.samples)
            yield f"{finding.file}: header and length restored"
    if count := move_broken_lines(room.path):
        yield f"{count} broken lines moved to {MANIFEST}.broken"
    for record in recover_folder(room.path, names):
        yield f"{record.file}: recovered, {record.duration_seconds:.1f} s"
    yield from _write_texts_again(room, {finding.file for finding in findings})


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
