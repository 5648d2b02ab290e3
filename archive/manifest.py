"""The manifest of a room's folder, a line for each segment, and beside it the list of gaps. Everything here blocks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from archive import jsonl
from archive.files import FolderLock
from archive.jsonl import lines_of
from archive.names import GAPS, MANIFEST
from core.records import GapRecord, SegmentRecord

logger = logging.getLogger("recorder")


def append_manifest(folder: Path, record: SegmentRecord) -> None:
    """Adds a segment's line and makes it last. The caller holds the folder's lock."""
    jsonl.append(folder / MANIFEST, record.to_json())


def append_gap(folder: Path, gap: GapRecord) -> None:
    """Adds a gap's line and makes it last. The caller holds the folder's lock."""
    jsonl.append(folder / GAPS, gap.to_json())


def record_in(line: bytes) -> SegmentRecord | None:
    """The record that a line of a manifest describes; None for anything else."""
    return jsonl.parsed(line, SegmentRecord.from_json)


def gap_in(line: bytes) -> GapRecord | None:
    """The gap that a line of the list of gaps describes; None for anything else."""
    return jsonl.parsed(line, GapRecord.from_json)


def read_manifest(folder: Path) -> Iterator[SegmentRecord]:
    """The records of a folder in the order of the manifest. A line that is not one of ours is skipped, with a warning.

    Raises:
        OSError: the manifest is there and cannot be read.
    """
    return records_in((line for _, line in lines_of(folder / MANIFEST)), folder)


def records_in(lines: Iterable[bytes], folder: Path) -> Iterator[SegmentRecord]:
    """The records in lines of a folder's manifest, as :func:`read_manifest` reads them."""
    for count, line in enumerate(lines, start=1):
        record = record_in(line)
        if record is not None:
            yield record
        else:
            logger.warning("Line %d of %s is broken and was skipped", count, folder / MANIFEST)


def read_gaps(folder: Path) -> Iterator[GapRecord]:
    """The times from which speech may be missing, in the order in which they were noticed. Broken lines are skipped.

    Raises:
        OSError: the file is there and cannot be read.
    """
    gaps = (gap_in(line) for _, line in lines_of(folder / GAPS))
    return (gap for gap in gaps if gap is not None)


def set_broken_lines_aside(folder: Path) -> int:
    """Moves the manifest's broken lines into ``segments.jsonl.broken``, and returns how many there were.

    Nothing is thrown away: the WAV such a line spoke of becomes an unlisted one, which recovery lists anew.

    Raises:
        OSError: the disk does not let it; the manifest is as it was.
    """
    aside = folder / f"{MANIFEST}.broken"
    with FolderLock(folder):
        return jsonl.rewrite(folder / MANIFEST, lambda line: record_in(line) is not None, removed_to=aside)
