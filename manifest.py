"""The manifest of a room's folder, a line for each segment, and beside it the list of gaps. Everything here blocks."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from files import FolderLock, open_private, sync_folder, write_all, write_private
from names import GAPS, MANIFEST
from segments import GapRecord, SegmentRecord

logger = logging.getLogger("recorder")


def append_manifest(folder: Path, record: SegmentRecord) -> None:
    """Adds a line and makes it last. The caller holds the folder's lock."""
    append_line(folder / MANIFEST, record.to_json())


def append_line(path: Path, entry: dict[str, Any]) -> None:
    """A line that a full disk tore is taken back."""
    line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
    with open_private(path, os.O_RDWR | os.O_CREAT) as file:
        end, fragment = _last_fragment(file)
        if _is_whole(fragment):  # only its line end is missing
            end, line = end + len(fragment), b"\n" + line
        try:
            file.truncate(end)
            file.seek(end)
            write_all(file, line)
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise
    sync_folder(path.parent)


def _is_whole(fragment: bytes) -> bool:
    try:
        return isinstance(json.loads(fragment), dict)
    except (ValueError, RecursionError):
        return False


def _last_fragment(file: IO[bytes]) -> tuple[int, bytes]:
    """Where the last whole line ends, and what stands behind it."""
    position = file.seek(0, os.SEEK_END)
    fragment = b""
    while position:
        start = max(0, position - 4096)
        file.seek(start)
        fragment = file.read(position - start) + fragment
        newline = fragment.rfind(b"\n")
        if newline >= 0:
            return start + newline + 1, fragment[newline + 1 :]
        position = start
    return 0, fragment


def read_manifest(folder: Path) -> Iterator[SegmentRecord]:
    """The records of a folder in the order of the manifest. A line that is not one of ours is skipped, with a warning.

    Raises:
        OSError: the manifest is there and cannot be read.
    """
    try:
        manifest = open(folder / MANIFEST, "rb")
    except FileNotFoundError:
        return
    with manifest:
        yield from records_in(manifest, folder)


def records_in(lines: Iterable[bytes], folder: Path) -> Iterator[SegmentRecord]:
    for count, line in enumerate(lines, start=1):
        record = record_in(line)
        if record is not None:
            yield record
        else:
            logger.warning("Line %d of %s is broken and was skipped", count, folder / MANIFEST)


def record_in(line: bytes) -> SegmentRecord | None:
    """The record that a line of a manifest describes; None for anything else."""
    try:
        return SegmentRecord.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def gap_in(line: bytes) -> GapRecord | None:
    """The gap that a line of the list of gaps describes; None for anything else."""
    try:
        return GapRecord.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def read_gaps(folder: Path) -> Iterator[GapRecord]:
    """The times from which speech may be missing, in the order in which they were noticed. Broken lines are skipped.

    Raises:
        OSError: the file is there and cannot be read.
    """
    try:
        lines = (folder / GAPS).read_bytes().splitlines()
    except FileNotFoundError:
        return
    yield from filter(None, map(gap_in, lines))


def new_lines(folder: Path, start: int) -> tuple[list[bytes], int]:
    """The whole lines of the manifest behind byte ``start``, and where they end."""
    try:
        with open(folder / MANIFEST, "rb") as manifest:
            if manifest.seek(0, os.SEEK_END) < start:
                start = 0  # somebody has replaced it
            manifest.seek(start)
            whole, newline, _ = manifest.read().rpartition(b"\n")
    except FileNotFoundError:
        return [], 0
    return whole.splitlines(), start + len(whole) + len(newline)


def set_broken_lines_aside(folder: Path) -> int:
    """Moves the manifest's broken lines into ``segments.jsonl.broken``, and returns how many there were.

    Nothing is thrown away: the WAV such a line spoke of becomes an unlisted one, which recovery lists anew.

    Raises:
        OSError: the disk does not let it; the manifest is as it was.
    """
    with FolderLock(folder):
        manifest = folder / MANIFEST
        lines = manifest.read_bytes().splitlines(keepends=True) if manifest.exists() else []
        broken = [line for line in lines if record_in(line) is None]
        if not broken:
            return 0
        with open_private(folder / f"{MANIFEST}.broken", os.O_RDWR | os.O_CREAT | os.O_APPEND) as aside:
            write_all(aside, b"".join(line.rstrip(b"\r\n") + b"\n" for line in broken))
            os.fsync(aside.fileno())
        write_private(manifest, b"".join(line for line in lines if record_in(line) is not None))
        return len(broken)
