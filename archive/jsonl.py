"""Files of JSON lines: append a line, read lines, follow a growing file, rewrite a file. Everything here blocks.

A line is complete when it ends in a line feed; what follows the last line feed is being written, or was cut off by a
crash. Anything but a regular file (a pipe or a folder of that name) is read as empty: opening a pipe may block.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from archive.files import open_private, sync_folder, write_all, write_private

MAX_LINE_BYTES = 1 << 20
"""Far more than any line that is written here; a file without line feeds must not fill the memory."""
MAX_LINES_AT_ONCE = 500
MAX_BYTES_AT_ONCE = 8 << 20
_DIGEST_BYTES = 256
_BLOCK_BYTES = 4096

T = TypeVar("T")


@dataclass
class Lines:
    """Counts of the lines of a file, updated while it is read."""

    read: int = 0
    broken: list[int] = field(default_factory=list)
    """Numbers of the invalid lines, counted from 1."""


# --- one line ---


def encoded(entry: Mapping[str, Any]) -> bytes:
    """Encodes an entry as one line of UTF-8. Half a surrogate pair, which UTF-8 cannot encode, is escaped."""
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def parsed(line: bytes, from_json: Callable[[Any], T]) -> T | None:
    """Parses a line with ``from_json``; None if the line is not JSON, or not what ``from_json`` expects."""
    try:
        return from_json(json.loads(line))
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def entry_in(line: bytes) -> dict[str, Any] | None:
    """The JSON object in a line; None for anything else."""
    entry = parsed(line, lambda found: found)
    return entry if isinstance(entry, dict) else None


# --- writing ---


def append(path: Path, entry: Mapping[str, Any], *, sync: bool = True) -> None:
    """Adds a line, and syncs it unless ``sync`` is False. The caller holds the folder's lock.

    An incomplete last line is removed before; if it only lacks its line feed, it is completed.

    Raises:
        OSError: the disk refuses. The file still ends with a complete line, unless the disk refuses that, too.
    """
    line = encoded(entry)
    with open_private(path, os.O_RDWR | os.O_CREAT) as file:
        end, size = _end_of_complete_lines(file), file.seek(0, os.SEEK_END)
        if end < size <= end + MAX_LINE_BYTES:
            file.seek(end)
            if entry_in(file.read(size - end)) is not None:
                end, line = size, b"\n" + line
        try:
            if end < size:
                file.truncate(end)
            file.seek(end)
            write_all(file, line)
            if sync:
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise
    if sync and end < _BLOCK_BYTES:  # the file's name is new, or a crash came before it was durable
        sync_folder(path.parent)


def _end_of_complete_lines(file: IO[bytes]) -> int:
    """The position after the last line feed."""
    position = file.seek(0, os.SEEK_END)
    while position:
        start = max(0, position - _BLOCK_BYTES)
        file.seek(start)
        line_feed = file.read(position - start).rfind(b"\n")
        if line_feed >= 0:
            return start + line_feed + 1
        position = start
    return 0


def rewrite(path: Path, keep: Callable[[bytes], bool], *, removed_to: Path | None = None) -> int:
    """Removes the lines for which ``keep`` is false, and returns how many. The caller holds the folder's lock.

    At every moment the file is complete, either the old one or the new one.

    Args:
        removed_to: a file to which the removed lines are added first.

    Raises:
        OSError: the disk refuses; the file is unchanged.
    """
    file = open_regular(path)
    if file is None:
        return 0
    kept: list[bytes] = []
    removed: list[bytes] = []
    with file:
        for line in file:
            (kept if keep(line) else removed).append(line)
    if removed and removed_to is not None:
        with open_private(removed_to, os.O_RDWR | os.O_CREAT | os.O_APPEND) as other:
            write_all(other, b"".join(line.rstrip(b"\r\n") + b"\n" for line in removed))
            os.fsync(other.fileno())
    if removed:
        write_private(path, b"".join(kept))
    return len(removed)


# --- reading ---


def open_regular(path: Path) -> IO[bytes] | None:
    """Opens a file for reading; None if there is none, or it is not a regular file."""
    try:
        return open(path, "rb") if stat.S_ISREG(os.stat(path).st_mode) else None
    except (FileNotFoundError, NotADirectoryError):
        return None


def lines_of(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yields all lines from the position ``start`` on, also an incomplete last one, each with its position in bytes. A
    line longer than :data:`MAX_LINE_BYTES` is cut off there.

    Raises:
        OSError: the file exists and cannot be read.
    """
    file = open_regular(path)
    if file is None:
        return
    with file:
        position = file.seek(start)
        while True:
            line, size = _next_line(file)
            if not size:
                return
            yield position, line
            position += size


def line_count(path: Path) -> int:
    """Counts the lines without parsing them; 0 if the file cannot be read."""
    with contextlib.suppress(OSError):
        file = open_regular(path)
        if file is not None:
            with file:
                return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))
    return 0


def _next_line(file: IO[bytes]) -> tuple[bytes, int]:
    """The next line, cut off at :data:`MAX_LINE_BYTES`, and its whole size. It ends in a line feed only if the line in
    the file does."""
    line = file.readline(MAX_LINE_BYTES)
    size, piece = len(line), line
    while len(piece) == MAX_LINE_BYTES and not piece.endswith(b"\n"):
        piece = file.readline(MAX_LINE_BYTES)
        size += len(piece)
    return (line if piece is line or not piece.endswith(b"\n") else line[:-1] + b"\n"), size


# --- following a file that grows ---


@dataclass(frozen=True)
class Bookmark:
    """How far a growing file has been read: the position ``bytes``, and a digest of the bytes right before it."""

    bytes: int = 0
    digest: str = ""


def new_lines(path: Path, bookmark: Bookmark, most: int = MAX_LINES_AT_ONCE) -> tuple[list[bytes], Bookmark]:
    """Reads the complete lines after a bookmark, at most ``most``. Returns them and the bookmark after them.

    If the file is not the one of the bookmark (it is shorter, or its content differs), it is read from its beginning.

    Raises:
        OSError: the file exists and cannot be read.
    """
    _, lines, behind = lines_behind(path, bookmark, most)
    return lines, behind


def lines_behind(
    path: Path, bookmark: Bookmark, most: int = MAX_LINES_AT_ONCE
) -> tuple[bool, list[bytes], Bookmark]:
    """Does the same as :func:`new_lines`. The first result is whether the file is not the one of the bookmark, so that
    everything derived from its earlier lines is invalid."""
    is_another, lines, behind = placed_lines_behind(path, bookmark, most)
    return is_another, [line for _, line in lines], behind


def placed_lines_behind(
    path: Path, bookmark: Bookmark, most: int = MAX_LINES_AT_ONCE
) -> tuple[bool, list[tuple[int, bytes]], Bookmark]:
    """Does the same as :func:`lines_behind`, with the position of each line in bytes."""
    file = open_regular(path)
    if file is None:
        return bookmark != Bookmark(), [], Bookmark()
    with file:
        is_marked = not bookmark.bytes or _digest_before(file, bookmark.bytes) == bookmark.digest
        start = bookmark.bytes if is_marked else 0
        file.seek(start)
        lines: list[tuple[int, bytes]] = []
        end = start
        while len(lines) < most and end - start < MAX_BYTES_AT_ONCE:
            line, size = _next_line(file)
            if not line.endswith(b"\n"):
                break
            lines.append((end, line))
            end += size
        return not is_marked, lines, _bookmark_at(file, end)


def has_bookmark(path: Path, bookmark: Bookmark) -> bool:
    """Whether the file still has the content before the bookmark. Raises OSError: it exists and cannot be read."""
    file = open_regular(path)
    if file is None:
        return bookmark == Bookmark()
    with file:
        return _bookmark_at(file, bookmark.bytes) == bookmark


def bookmark_at(path: Path, position: int) -> Bookmark:
    """The bookmark at this position. Raises OSError: the file cannot be read."""
    with open(path, "rb") as file:
        return _bookmark_at(file, position)


def end_of(path: Path) -> Bookmark:
    """The bookmark after the last complete line.

    Raises:
        OSError: the file exists and cannot be read.
    """
    file = open_regular(path)
    if file is None:
        return Bookmark()
    with file:
        return _bookmark_at(file, _end_of_complete_lines(file))


def bookmark_before_end(path: Path, size: int) -> Bookmark:
    """A bookmark at most ``size`` bytes before the end of the file, perhaps within a line.

    Raises:
        OSError: the file exists and cannot be read.
    """
    file = open_regular(path)
    if file is None:
        return Bookmark()
    with file:
        return _bookmark_at(file, max(0, file.seek(0, os.SEEK_END) - size))


def _bookmark_at(file: IO[bytes], position: int) -> Bookmark:
    return Bookmark(position, _digest_before(file, position)) if position else Bookmark()


def _digest_before(file: IO[bytes], end: int) -> str:
    start = max(0, end - _DIGEST_BYTES)
    file.seek(start)
    found = file.read(end - start)
    return hashlib.sha256(found).hexdigest()[:16] if len(found) == end - start else "shorter"
