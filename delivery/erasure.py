"""Erases segments from rooms' folders: their files, then their lines, then a folder without any segment.

A file goes before its line in the manifest, or recovery would list it again as an unlisted WAV. Everything here blocks
and raises OSError where the disk refuses.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archive import jsonl
from archive.delivery_log import DELIVERED, forget, text_key
from archive.files import LOCK_FILE, FolderLock
from archive.manifest import gap_in, read_manifest, record_in
from archive.names import GAPS, MANIFEST, TEXTS, is_plain_name
from archive.rooms import Room
from archive.texts import read_texts, text_in
from core.errors import StorageError
from core.records import SegmentRecord, TextRecord
from delivery.item_reader import is_ours
from delivery.items import Selection

ERASURES = "erasures.jsonl"
"""In OUTPUT_DIR: one line for each erasure that was asked for, and whether it is complete."""


@dataclass(frozen=True)
class Erasure:
    """What is erased from one folder."""

    folder: Path
    records: tuple[SegmentRecord, ...]
    is_whole: bool
    """Whether no other segment is in the folder."""


def erasures(folders: Iterable[Path], selection: Selection) -> list[Erasure]:
    """What is to be erased from these folders; folders without a chosen segment are left out.

    Raises:
        StorageError: a folder with a chosen segment is being recorded.
    """
    found = []
    for folder in folders:
        records = list(read_manifest(folder))
        chosen = tuple(record for record in records if selection.has(folder.name, record))
        if not chosen:
            continue
        if Room(folder).may_gain_segments():
            raise StorageError(f"{folder.name} is being recorded now: erase it when the lesson is over")
        found.append(Erasure(folder, chosen, len(chosen) == len(records)))
    return found


def erase_files(erasure: Erasure) -> None:
    """Removes the segments' WAVs and text files."""
    texts = read_texts(erasure.folder)
    for record in erasure.records:
        for file in files_of(record, texts.get(record.file)):
            (erasure.folder / file).unlink(missing_ok=True)


def erase_lines(erasure: Erasure, selection: Selection) -> None:
    """Removes the segments' lines from all lists, and the folder if nothing is left in it."""
    remove_lines(erasure.folder, {record.file for record in erasure.records}, selection)
    if erasure.is_whole:
        remove_folder(erasure.folder)


def record_erasure(output_dir: Path, outcome: dict[str, Any]) -> None:
    """Adds a line to the list of erasures."""
    with FolderLock(output_dir):
        jsonl.append(output_dir / ERASURES, outcome)


# --- what retention uses, too ---


def remove_lines(folder: Path, sounds: Iterable[str], selection: Selection) -> None:
    """Removes the lines of these WAVs' segments from all lists of the folder, and those of the selected gaps."""
    names = set(sounds)
    items = {*names, *(text_key(text).item for text in read_texts(folder).values() if text.file in names)}
    with FolderLock(folder):
        jsonl.rewrite(folder / TEXTS, lambda line: (text := text_in(line)) is None or text.file not in names)
        jsonl.rewrite(
            folder / GAPS, lambda line: (gap := gap_in(line)) is None or not selection.has(folder.name, gap)
        )
        jsonl.rewrite(
            folder / MANIFEST, lambda line: (one := record_in(line)) is None or one.file not in names
        )
    if (folder / DELIVERED).exists():
        forget(folder, items=items)


def remove_folder(folder: Path) -> None:
    """Removes a room's lists, and its folder unless it contains other files."""
    for name in (DELIVERED, TEXTS, GAPS, MANIFEST, LOCK_FILE):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def files_of(record: SegmentRecord, text: TextRecord | None) -> list[str]:
    """The names of a segment's WAV and text files."""
    texts = list(text.files) if text is not None and text.file == record.file and is_ours(text) else []
    return [name for name in (record.file, *texts) if is_plain_name(name)]


def room_folders(output_dir: Path) -> list[Path]:
    """Every room's folder with a manifest, sorted."""
    with os.scandir(output_dir) as entries:
        folders = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    return sorted(folder for folder in folders if (folder / MANIFEST).is_file())
