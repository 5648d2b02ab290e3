"""A file object that gives PyAV one part of a recording's file, with corrections in its header."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """One recording in a file: bytes start <= i < end."""

    start: int
    end: int
    promised_end: int
    """Where it ends according to its header; after ``end``: the file is incomplete."""
    patches: Mapping[int, bytes] = field(default_factory=dict)
    """Bytes of the header to be replaced, by their position in the file."""

    breaks_off: bool = False
    """It lacks its end, and how much is missing is not known."""
    is_live: bool = False
    """It was written by a program that could not go back to its header: no length in it counts."""

    @property
    def share_there(self) -> float:
        """Which share of the promised bytes is there, from 0 to 1."""
        return min(1.0, (self.end - self.start) / max(1, self.promised_end - self.start))

    @property
    def promised_share(self) -> float:
        """Which share of the bytes that are there is promised, from 0 to 1."""
        return min(1.0, (self.promised_end - self.start) / max(1, self.end - self.start))


class ContainerFile:
    """A file object with one part of a file, for PyAV.

    Args:
        problems: gets the errors of the disk. PyAV would only print them.
    """

    def __init__(self, path: Path, part: Part, problems: list[OSError]) -> None:
        self.name = f"recording{path.suffix if path.suffix.isascii() else ''}"
        """PyAV guesses the format by it. The real name may not be valid Unicode, or may look like an address."""
        self._problems = problems
        self._file = open(path, "rb")
        self._part = part
        self._file.seek(part.start)

    def read(self, count: int) -> bytes:
        """Reads at most ``count`` bytes; nothing at the end, or where the disk refuses."""
        start = self._file.tell()
        try:
            data = self._file.read(max(0, min(count, self._part.end - start)))
        except OSError as error:
            self._problems.append(error)
            return b""
        for position, patch in self._part.patches.items():
            if position < start + len(data) and start < position + len(patch):
                data = _patched(data, position - start, patch)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a position in the part, or to its nearer end: a disk refuses one that is far off. Returns it."""
        part = self._part
        base = {os.SEEK_SET: part.start, os.SEEK_CUR: self._file.tell(), os.SEEK_END: part.end}
        return self._file.seek(min(max(part.start, base[whence] + offset), part.end)) - part.start

    def tell(self) -> int:
        return self._file.tell() - self._part.start

    def close(self) -> None:
        self._file.close()


def _patched(data: bytes, offset: int, patch: bytes) -> bytes:
    begin, skip = max(0, offset), max(0, -offset)
    piece = patch[skip : skip + len(data) - begin]
    return data[:begin] + piece + data[begin + len(piece) :]
