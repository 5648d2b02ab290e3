"""Reads and writes the manifest of a room's folder, one line a segment, and its list of gaps. Everything blocks."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from archive import jsonl
from archive.files import FolderLock
from archive.jsonl import bookmark_before_end, lines_of, new_lines
from archive.line_index import Entry, LineIndex
from archive.names import GAPS, MANIFEST, is_plain_name, session_tag
from core.records import GapReason, GapRecord, SegmentRecord

logger = logging.getLogger("recorder")

BROKEN = "?"
"""The tag of invalid lines in an index of lines."""

LAST_BYTES = 1 << 18
"""How much of the manifest's end :func:`last_records` reads."""


def append_manifest(folder: Path, record: SegmentRecord) -> None:
    """Adds a segment's line and syncs it. The caller holds the folder's lock."""
    jsonl.append(folder / MANIFEST, record.to_json())


def append_gap(folder: Path, gap: GapRecord) -> None:
    """Adds a gap's line and syncs it. The caller holds the folder's lock."""
    jsonl.append(folder / GAPS, gap.to_json())


def replace_gaps(
    folder: Path, room_sid: str, reasons: Collection[GapReason], gaps: Sequence[GapRecord]
) -> None:
    """Replaces a session's gaps that have one of these reasons. Does nothing if they are the same.

    Raises:
        OSError: the disk refuses.
    """

    def is_kept(line: bytes) -> bool:
        gap = gap_in(line)
        return gap is None or gap.room_sid != room_sid or gap.reason not in reasons

    with FolderLock(folder):
        before = [
            gap.to_json() for gap in read_gaps(folder) if gap.room_sid == room_sid and gap.reason in reasons
        ]
        if before == [gap.to_json() for gap in gaps]:
            return
        jsonl.rewrite(folder / GAPS, is_kept)
        for gap in gaps:
            append_gap(folder, gap)


def record_in(line: bytes) -> SegmentRecord | None:
    """Parses a line of a manifest; None if it is invalid."""
    return jsonl.parsed(line, SegmentRecord.from_json)


def gap_in(line: bytes) -> GapRecord | None:
    """Parses a line of the list of gaps; None if it is invalid."""
    return jsonl.parsed(line, GapRecord.from_json)


def read_manifest(folder: Path) -> Iterator[SegmentRecord]:
    """Yields the records of a folder in the order of the manifest. An invalid line is skipped, with a warning.

    Raises:
        OSError: the manifest exists and cannot be read.
    """
    return records_in((line for _, line in lines_of(folder / MANIFEST)), folder)


def listed_segments(folder: Path) -> LineIndex:
    """Finds a folder's lines of the manifest by the names of their WAVs, without reading the others. The tags are the
    sessions (:func:`~archive.names.session_tag`), and :data:`BROKEN` for invalid lines."""

    def entry_in(line: bytes) -> Entry:
        entry = jsonl.entry_in(line) or {}
        file, record = entry.get("file"), jsonl.parsed(line, SegmentRecord.from_json)
        is_valid = record is not None and is_plain_name(record.file)
        tag = session_tag(record.room_sid) if record is not None and is_valid else BROKEN
        return Entry(file if isinstance(file, str) else "", tag)

    return LineIndex(folder / MANIFEST, entry_in)


def listed_gaps(folder: Path) -> LineIndex:
    """Finds a folder's gaps by their sessions, without reading the others."""

    def entry_in(line: bytes) -> Entry | None:
        gap = gap_in(line)
        return Entry("", session_tag(gap.room_sid)) if gap is not None else None

    return LineIndex(folder / GAPS, entry_in)


def last_records(folder: Path) -> list[SegmentRecord]:
    """The last records of a folder's manifest, about 500; invalid lines are skipped.

    Raises:
        OSError: the manifest exists and cannot be read.
    """
    found: list[SegmentRecord] = []
    bookmark = bookmark_before_end(folder / MANIFEST, LAST_BYTES)
    while True:
        lines, bookmark = new_lines(folder / MANIFEST, bookmark)
        found += filter(None, map(record_in, lines))
        if not lines:
            return found


def records_in(lines: Iterable[bytes], folder: Path) -> Iterator[SegmentRecord]:
    """Yields the records in these lines of a folder's manifest, as :func:`read_manifest` does."""
    for count, line in enumerate(lines, start=1):
        record = record_in(line)
        if record is not None:
            yield record
        else:
            logger.warning("Line %d of %s is broken and was skipped", count, folder / MANIFEST)


def read_gaps(folder: Path) -> Iterator[GapRecord]:
    """Yields the gaps (times from which speech may be missing) in the order of the file. Invalid lines are skipped.

    Raises:
        OSError: the file exists and cannot be read.
    """
    gaps = (gap_in(line) for _, line in lines_of(folder / GAPS))
    return (gap for gap in gaps if gap is not None)


def move_broken_lines(folder: Path) -> int:
    """Moves the manifest's invalid lines into ``segments.jsonl.broken``, and returns how many there were.

    Nothing is lost: the WAV of such a line is then an unlisted one, which recovery lists again.

    Raises:
        OSError: the disk refuses; the manifest is unchanged.
    """
    aside = folder / f"{MANIFEST}.broken"
    with FolderLock(folder):
        return jsonl.rewrite(folder / MANIFEST, lambda line: record_in(line) is not None, removed_to=aside)
