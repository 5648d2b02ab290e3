"""Text on disk: a file for each language beside the WAV, and ``texts.jsonl``, one line for each segment.

The line is written last and says what there is; it is never written twice for one segment. What says nothing
else blocks and belongs on a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections import OrderedDict
from pathlib import Path

import aiofiles
import aiofiles.os

import doorbell
from files import PRIVATE_FILE, FolderLock, open_private, sync_folder, write_all
from names import PART_SUFFIX, TEXTS
from outbox import Bookmark, new_lines
from segments import SegmentRecord, TextRecord

MOST_REMEMBERED = 200
"""Records of one folder that are kept in memory, for context."""

CONTEXT_SECONDS = 120.0
"""What was said longer ago than this does not help to understand a sentence."""


class FolderTexts:
    """The texts of one room's folder. May be used by several threads at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._bookmark = Bookmark()
        self._done: dict[tuple[int, str], bool] = {}
        """What is done, and whether its audio is kept."""
        self._latest: OrderedDict[int, TextRecord] = OrderedDict()

    @property
    def path(self) -> Path:
        return self.folder / TEXTS

    def has(self, segment: SegmentRecord) -> bool:
        """Whether this segment is done, or refused for good."""
        with self._lock:
            self._read_on()
            return (segment.number, segment.file) in self._done

    def may_remove_audio(self, segment: SegmentRecord) -> bool:
        """Whether its text is safe, its WAV is not to be kept (SAVE_AUDIO=false) and still there."""
        is_kept = self._done.get((segment.number, segment.file), True)
        return not is_kept and (self.folder / segment.file).exists()

    def before(self, segment: SegmentRecord, most: int) -> tuple[str, ...]:
        """The last ``most`` sentences that the same person said before this segment, as far as they are known."""
        with self._lock:
            self._read_on()
            known = list(self._latest.values())
        said = [
            record
            for record in known
            if record.transcript
            and record.participant_identity == segment.participant_identity
            and record.number < segment.number
            and 0 <= (segment.start - record.start).total_seconds() <= CONTEXT_SECONDS
        ]
        said.sort(key=lambda record: record.start)
        return tuple(record.transcript for record in said[-most:]) if most else ()

    def save(self, record: TextRecord) -> bool:
        """Adds the record's line, once. False: there is one already (another worker was faster)."""
        with self._lock, FolderLock(self.folder):
            self._read_on()
            if (record.number, record.file) in self._done:
                return False
            sync_folder(
                self.folder
            )  # the names of the text files last before the line that says they are there
            _append_line(self.path, json.dumps(record.to_json(), ensure_ascii=False))
            self._read_on()
        doorbell.ring(self.path)
        return True

    def _read_on(self) -> None:
        while True:
            lines, behind = new_lines(self.path, self._bookmark)
            if behind.bytes < self._bookmark.bytes:  # not the file it was
                self._done.clear()
                self._latest.clear()
            self._bookmark = behind
            for line in lines:
                self._remember(line)
            if not lines:
                return

    def _remember(self, line: bytes) -> None:
        record = text_in(line)
        if record is None:
            return
        self._done[record.number, record.file] = record.is_audio_kept
        self._latest[record.number] = record
        self._latest.move_to_end(record.number)
        if len(self._latest) > MOST_REMEMBERED:
            self._latest.popitem(last=False)


def text_in(line: bytes) -> TextRecord | None:
    """The record that a line of the list of texts describes; None for anything else."""
    try:
        return TextRecord.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


async def write_text(path: Path, text: str) -> None:
    """Writes a private file that is there whole or not at all. Does not block."""
    part = path.with_name(path.name + PART_SUFFIX)
    async with aiofiles.open(part, "w", encoding="utf-8", newline="\n", opener=_private) as file:
        await file.write(text)
        await file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
    await aiofiles.os.replace(part, path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), PRIVATE_FILE)


def _append_line(path: Path, line: str) -> None:
    """Adds a line and makes it last; a line that was torn before is ended first, so that it spoils no other."""
    with open_private(path, os.O_RDWR | os.O_CREAT) as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            line = line if file.read(1) == b"\n" else "\n" + line
        try:
            write_all(file, line.encode("utf-8", "backslashreplace") + b"\n")
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise
