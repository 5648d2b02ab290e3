"""Lists in numbered parts, as object stores have them: their names, and how they are joined on a disk.

A list in a store begins in the file of its own name, such as ``segments.jsonl``, and goes on in
``lists/segments.00002.jsonl``. On a disk every list is one file: where a folder of a store was copied to a disk, its
parts are joined.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from archive.files import FolderLock, write_pieces
from archive.jsonl import entry_in, lines_of
from archive.names import GAPS, MANIFEST, TEXTS

logger = logging.getLogger("recorder")

PARTS = "lists"
"""The folder of a list's second and later parts, in the room's folder."""


def name_of_part(file: str, number: int) -> str:
    """The name of a list's part, relative to the room's folder."""
    return file if number == 1 else f"{PARTS}/{file.removesuffix('.jsonl')}.{number:05d}.jsonl"


def number_of_part(file: str, name: str) -> int | None:
    """The number of a part by its name in :data:`PARTS`; None if it is not of this list."""
    found = re.fullmatch(rf"{re.escape(file.removesuffix('.jsonl'))}\.(\d{{5,9}})\.jsonl", name)
    return int(found[1]) if found and int(found[1]) > 1 else None


def digest_of_line(line: bytes) -> bytes:
    """Eight bytes that distinguish a line from the others of its list."""
    return hashlib.blake2b(line, digest_size=8).digest()


def join_parts(output_dir: Path) -> None:
    """Joins the lists of all rooms' folders that are in parts; takes one look into each folder. A folder that the disk
    refuses is only logged: nothing is lost, but its lists lack lines. Blocks."""
    folders: list[Path] = []
    with contextlib.suppress(OSError), os.scandir(output_dir) as entries:  # others report it
        folders = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    for folder in folders:
        if os.path.isdir(folder / PARTS) and not os.path.islink(folder / PARTS):
            try:
                with FolderLock(folder):
                    _join_lists(folder)
            except OSError as error:
                reason = error.strerror or error
                logger.error("The lists of %s are in parts and cannot be joined: %s", folder.name, reason)


def _join_lists(folder: Path) -> None:
    there = os.listdir(folder / PARTS)
    for file in (TEXTS, GAPS, MANIFEST):
        numbers = sorted(number for name in there if (number := number_of_part(file, name)) is not None)
        parts = [folder / name_of_part(file, number) for number in numbers]
        if parts:
            write_pieces(folder / file, _lines_once((folder / file, *parts)))
        for part in parts:
            part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it has other files
        (folder / PARTS).rmdir()


def _lines_once(paths: Iterable[Path]) -> Iterator[bytes]:
    """The lines of these files, each once: an interrupted attempt may have joined some of them."""
    seen: set[bytes] = set()
    for path in paths:
        for _, line in lines_of(path):
            if not line.endswith(b"\n"):
                if entry_in(line) is None:
                    continue  # cut off by a crash
                line += b"\n"
            digest = digest_of_line(line)
            if digest not in seen:
                seen.add(digest)
                yield line
