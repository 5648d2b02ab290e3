"""The list of imported recordings, ``.imports.jsonl`` in OUTPUT_DIR: each file with its session, and what it lacked.

By it a file is recognised that was incomplete when it was imported: the whole one continues the same session. The list
has digests only, no names. Without it (it can be deleted) only an identical file is recognised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from archive import jsonl
from archive.files import FolderLock
from archive.names import digest_of
from core.records import format_utc, parse_utc

IMPORTS = ".imports.jsonl"
BLOCKS, BLOCK_BYTES = 64, 1 << 16
ALIKE_SHARE = 0.5
"""A file of the same name is the same recording if at least this share of the earlier one's blocks is where it was."""
MIN_BLOCKS = 2
"""Blocks that must be alike; a small file has only the first and the last one."""

Span = tuple[float, float, str]
"""Start and end in seconds, and the reason of the gap."""


@dataclass(frozen=True)
class ImportedFile:
    """One file that was imported, at least in part."""

    room: str
    """Digest of the room's name."""
    room_sid: str
    fingerprint: str
    name: str
    """Digest of the file's name."""
    size: int
    blocks: tuple[str, ...]
    """Digests of blocks spread over the file; empty: the block is all the same byte."""
    started_at: datetime
    losses: tuple[Span, ...] | None = None
    """What it lacked; None: it was not read to its end."""

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values."""
        return {
            **vars(self),
            "blocks": list(self.blocks),
            "started_at": format_utc(self.started_at),
            "losses": None if self.losses is None else [list(loss) for loss in self.losses],
        }

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> ImportedFile:
        """Reads an entry.

        Raises:
            ValueError, KeyError, TypeError: the line is not an entry.
        """
        losses = line["losses"]
        return cls(
            room=str(line["room"]),
            room_sid=str(line["room_sid"]),
            fingerprint=str(line["fingerprint"]),
            name=str(line["name"]),
            size=int(line["size"]),
            blocks=tuple(str(block) for block in line["blocks"]),
            started_at=parse_utc(line["started_at"]),
            losses=None
            if losses is None
            else tuple((float(start), float(end), str(reason)) for start, end, reason in losses),
        )

    def is_same_recording(self, path: Path, name: str) -> bool:
        """Whether a file is this recording, with more or less of it.

        Raises:
            OSError: the file cannot be read.
        """
        known = [
            (one, other) for one, other in zip(self.blocks, blocks_of(path, self.size), strict=False) if one
        ]
        alike = sum(one == other for one, other in known)
        if alike < min(MIN_BLOCKS, len(known)) or not alike:
            return False
        return alike == len(known) or (digest_of(name) == self.name and alike >= ALIKE_SHARE * len(known))


def blocks_of(path: Path, size: int) -> Iterator[str]:
    """Yields digests of blocks that are spread over the first ``size`` bytes of a file."""
    with open(path, "rb") as file:
        for position in range(0, size, max(BLOCK_BYTES, size // BLOCKS)):
            file.seek(position)
            wanted = min(BLOCK_BYTES, size - position)
            block = file.read(wanted)
            if len(block) < wanted:
                return
            is_empty = block.count(block[:1]) == len(block)
            yield "" if is_empty else hashlib.sha256(block).hexdigest()[:8]


def read_imports(output_dir: Path, room_name: str) -> list[ImportedFile]:
    """Returns the entries of a room, the newest last. Invalid lines are skipped.

    Raises:
        OSError: the list cannot be read.
    """
    room = digest_of(room_name)
    entries = (jsonl.parsed(line, ImportedFile.from_json) for _, line in jsonl.lines_of(output_dir / IMPORTS))
    return [entry for entry in entries if entry is not None and entry.room == room]


def known_recording(output_dir: Path, room_name: str, path: Path, fingerprint: str) -> ImportedFile | None:
    """Returns the entry of the same file, or else of the same recording in a file that had more or less of it.

    Raises:
        OSError: the list or the file cannot be read.
    """
    entries = read_imports(output_dir, room_name)[::-1]
    same = next((entry for entry in entries if entry.fingerprint == fingerprint), None)
    return same or next((entry for entry in entries if entry.is_same_recording(path, path.name)), None)


def add_import(output_dir: Path, entry: ImportedFile) -> None:
    """Adds an entry.

    Raises:
        OSError: the disk refuses.
    """
    with FolderLock(output_dir):
        jsonl.append(output_dir / IMPORTS, entry.to_json())


def losses_of_session(output_dir: Path, room_name: str, room_sid: str) -> list[Span]:
    """Returns what all files of a session lack: what one of them had is not lost.

    Raises:
        OSError: the list cannot be read.
    """
    newest = {
        entry.fingerprint: entry.losses
        for entry in read_imports(output_dir, room_name)
        if entry.room_sid == room_sid and entry.losses is not None
    }
    left: list[Span] = []
    for number, losses in enumerate(newest.values()):
        left = list(losses) if number == 0 else list(_common(left, losses))
    return left


def _common(ours: Iterable[Span], theirs: Iterable[Span]) -> Iterator[Span]:
    others = list(theirs)
    for start, end, reason in ours:
        for other_start, other_end, _ in others:
            if max(start, other_start) <= min(end, other_end):
                yield max(start, other_start), min(end, other_end), reason
