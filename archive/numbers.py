"""Keeps the highest segment number of a room's folder in a file, so that no segment seeks it among all the others.

The manifest and the files' names are the truth: the file may be deleted, and is then made again from them. Everything
here blocks; the caller holds the folder's lock.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archive import jsonl
from archive.files import write_whole
from archive.jsonl import Bookmark, new_lines
from archive.manifest import records_in
from archive.names import HIGHEST_NUMBER, MANIFEST, SegmentNames

MAX_KEPT_BYTES = 1_000
MAX_NUMBER = 10**12
"""A higher one in the file is not from a recorder, and would make names that no disk takes."""


@dataclass(frozen=True)
class _Kept:
    number: int = 0
    listed: Bookmark = Bookmark()
    """How far the manifest has been read: the numbers in it so far are not higher."""

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "manifest_bytes": self.listed.bytes,
            "manifest_digest": self.listed.digest,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> _Kept:
        number, listed = kept["number"], Bookmark(int(kept["manifest_bytes"]), str(kept["manifest_digest"]))
        if type(number) is not int or not 0 <= number <= MAX_NUMBER or listed.bytes < 0:
            raise ValueError(number)
        return cls(number, listed)


class Numbers:
    """The numbers of one folder's segments, as one recorder gives them."""

    def __init__(self, folder: Path, names: SegmentNames) -> None:
        self._folder = folder
        self._names = names
        self._known: _Kept | None = None
        """What this recorder knows, should the file not be usable; None: it has given no number yet."""

    def highest(self) -> int:
        """The highest number that any recorder has given, or that a file or a line of the manifest has.

        Raises:
            OSError: the disk refuses.
        """
        # At first the names count, too: a kill may have left a file whose number is not kept.
        known = self._known or _Kept(self._highest_in_names())
        kept = self._kept() or known
        number, listed = max(kept.number, known.number), kept.listed
        with contextlib.suppress(PermissionError):  # of another owner: what is known so far has to do
            while True:
                lines, listed = new_lines(self._folder / MANIFEST, listed)
                if not lines:
                    break
                number = max(number, *(record.number for record in records_in(lines, self._folder)), 0)
        self._known = _Kept(number, listed)
        return number

    def keep(self, number: int) -> None:
        """Keeps a number that has been given. Where the disk refuses that, the next recorder seeks it."""
        self._known = _Kept(number, self._known.listed if self._known else Bookmark())
        path = self._folder / HIGHEST_NUMBER
        try:
            # Without a sync: if the machine loses power, the number is sought again.
            write_whole(path, jsonl.encoded(self._known.to_json()), sync=False)
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _kept(self) -> _Kept | None:
        """None: nothing valid is kept."""
        try:
            file = jsonl.open_regular(self._folder / HIGHEST_NUMBER)
            if file is None:
                return None
            with file:
                return jsonl.parsed(file.read(MAX_KEPT_BYTES), _Kept.from_json)
        except OSError:
            return None

    def _highest_in_names(self) -> int:
        with os.scandir(self._folder) as entries:  # a list of all names would be large
            numbers = (self._names.number_in(entry.name) for entry in entries)
            return max((number for number in numbers if number is not None), default=0)
