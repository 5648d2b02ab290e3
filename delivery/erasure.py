"""Erases segments from rooms' folders: their files, then their lines, then a folder without any segment.

A file goes before its line in the manifest, or recovery would list it again as an unlisted WAV. Everything here blocks
and raises OSError where the disk refuses.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from archive import jsonl, line_index
from archive.delivery_log import DELIVERED, forget
from archive.exports import EXPORTS, remove_exports
from archive.files import LOCK_FILE, PROOF, FolderLock
from archive.manifest import gap_in, read_gaps, read_manifest, record_in
from archive.names import (
    GAPS,
    HANDOVER_NOTE,
    HIGHEST_NUMBER,
    LOST_AND_FOUND,
    MANIFEST,
    PART_SUFFIX,
    SESSION_FILES,
    TEXTS,
    SegmentNames,
    is_plain_name,
)
from archive.outbox import Outbox
from archive.recovery import OpenNote, left_in
from archive.rooms import Room
from archive.session_counts import Expected
from archive.session_files import all_session_files
from archive.session_removal import erase_from_sessions, remove_all_sessions
from archive.texts import entry_in, file_in, text_in
from core.errors import StorageError
from core.records import EndReason, GapRecord, SegmentRecord
from core.text_records import TextRecord
from delivery.item_reader import is_ours
from delivery.items import Selection, belongs_to

BROKEN_MANIFEST = f"{MANIFEST}.broken"

_REMAINS = (".*.new", f"{PROOF}*", f"*.txt{PART_SUFFIX}")
"""Patterns of the files that a process leaves which is killed while it writes them."""
_LISTS_AND_NOTES = (DELIVERED, EXPORTS, HANDOVER_NOTE, HIGHEST_NUMBER, BROKEN_MANIFEST, TEXTS, GAPS)


@dataclass(frozen=True)
class Chosen:
    """What is erased from one folder."""

    folder: Path
    selection: Selection
    records: tuple[SegmentRecord, ...]

    @property
    def stems(self) -> set[str]:
        return {Path(record.file).stem for record in self.records}


def chosen_in(
    folders: Iterable[Path],
    selection: Selection,
    segment_names: SegmentNames,
    began_before: datetime | None = None,
) -> list[Chosen]:
    """What is to be erased from these folders; folders without anything of the selection are left out.

    Args:
        began_before: only what began before this time.
    """
    found = []
    for folder in folders:
        records = list(read_manifest(folder))
        chosen = tuple(
            record
            for record in records
            if selection.has(folder.name, record) and (began_before is None or record.start < began_before)
        )
        has_gaps = any(selection.has(folder.name, gap) for gap in read_gaps(folder))
        has_more = has_gaps or bool(_stems_left(folder, selection, segment_names))
        if (
            selection.participant and not has_more
        ):  # retention may have removed the lines, and a session names them
            has_more = any(selection.has_session(folder.name, one) for _, one in all_session_files(folder))
        if chosen or has_more or (not records and selection.is_whole_room and selection.names(folder.name)):
            found.append(Chosen(folder, selection, chosen))
    return found


def erase_files(chosen: Chosen, segment_names: SegmentNames, expected: Expected) -> list[str]:
    """Removes the segments' WAVs and text files, the exports of the folder, what repairs have put aside, and what a
    crash has left that cannot be made a segment; of a whole room also text files whose segments no list names. Counts
    the sessions again without the segments (see :class:`~archive.session_files.SessionFiles` for ``expected``).

    Returns the files that could not be removed.
    """
    left: list[str] = []
    folder, stems = chosen.folder, chosen.stems
    with FolderLock(folder):
        stems |= _stems_left(folder, chosen.selection, segment_names)
        if chosen.selection.is_whole_room:
            stems |= _stems_of_stray_texts(folder, segment_names)
        names = [name for name in os.listdir(folder) if belongs_to(name, stems)]
        for name in [*names, BROKEN_MANIFEST]:
            try:
                (folder / name).unlink(missing_ok=True)
            except OSError:
                left.append(f"{folder.name}/{name}")
    try:
        remove_exports(folder, lambda export: True)
    except OSError as error:
        left.append(str(error.filename or folder / EXPORTS))
    sids = {record.room_sid for record in chosen.records}
    try:
        erase_from_sessions(folder, expected, chosen.selection.participant, sids)
    except (OSError, StorageError) as error:
        left.append(f"{folder.name}/{SESSION_FILES} ({error})")
    return left


def _stems_left(folder: Path, selection: Selection, segment_names: SegmentNames) -> set[str]:
    """Of the selection's files that recovery has left; without a note it is not known whose they are."""

    def is_chosen(note: OpenNote | None) -> bool:
        if note is None:
            return selection.is_whole_room and selection.names(folder.name)
        return selection.has(folder.name, note.record(0, "", EndReason.RECOVERED))

    return {stem for stem, note in left_in(folder, segment_names) if is_chosen(note)}


def _stems_of_stray_texts(folder: Path, segment_names: SegmentNames) -> set[str]:
    plain = [name.removesuffix(PART_SUFFIX) for name in os.listdir(folder)]
    texts = [name for name in plain if name.endswith(".txt") and segment_names.number_in(name) is not None]
    listed = {Path(record.file).stem for record in read_manifest(folder)}
    return {stem for name in texts if (stem := name.removesuffix(".txt").rpartition("_")[0]) not in listed}


def erase_lines(chosen: Chosen, began_before: datetime) -> None:
    """Removes the segments' lines from all lists, and the folder if nothing is left in it."""
    folder, selection = chosen.folder, chosen.selection
    numbers = {record.number for record in chosen.records}

    def is_text_chosen(entry: Mapping[str, Any]) -> bool:
        """Of a segment that the manifest no longer has, or in a line of an older version, which names no file."""
        if file_in(entry) is None:
            return entry["number"] in numbers
        text = text_in(jsonl.encoded(entry))
        is_theirs = text is not None and text.participant_identity == selection.participant != ""
        return is_theirs and text is not None and text.start < began_before

    remove_lines(
        folder,
        {record.file for record in chosen.records},
        lambda gap: selection.has(folder.name, gap) and gap.start < began_before,
        is_text_chosen,
        mentioned=selection.participant,
    )
    if next(read_gaps(folder), None) is None:
        remove_folder(folder)


# --- what retention uses, too ---


def remove_lines(
    folder: Path,
    sounds: Iterable[str],
    is_gap_chosen: Callable[[GapRecord], bool],
    is_text_chosen: Callable[[Mapping[str, Any]], bool] = lambda entry: False,
    *,
    mentioned: str = "",
) -> None:
    """Removes the lines of these WAVs' segments from all lists of the folder, the chosen gaps and texts, and invalid
    lines in which ``mentioned`` stands. The manifest is the last: what it names is found again after an interruption.
    """
    names = set(sounds)
    stems = {Path(name).stem for name in names}

    def is_invalid_kept(line: bytes) -> bool:
        return not mentioned or mentioned.encode("utf-8", "backslashreplace") not in line

    def is_text_kept(line: bytes) -> bool:
        entry = entry_in(line)
        if entry is None:
            return is_invalid_kept(line)
        return file_in(entry) not in names and not is_text_chosen(entry)

    def is_gap_kept(line: bytes) -> bool:
        gap = gap_in(line)
        return is_invalid_kept(line) if gap is None else not is_gap_chosen(gap)

    def is_segment_kept(line: bytes) -> bool:
        record = record_in(line)
        return is_invalid_kept(line) if record is None else record.file not in names

    with FolderLock(folder):
        jsonl.rewrite(folder / TEXTS, is_text_kept)
        jsonl.rewrite(folder / GAPS, is_gap_kept)
        jsonl.rewrite(folder / MANIFEST, is_segment_kept)
    if (folder / DELIVERED).exists():
        forget(folder, items={f"{stem}{ending}" for stem in stems for ending in (".wav", ".txt")} | names)


def remove_folder(folder: Path) -> None:
    """Removes a room's lists, and its folder unless it contains other files.

    Removes nothing if the manifest names a segment, or one may still be added.
    """
    with FolderLock(folder):  # a lesson may have begun since the caller looked
        if next(read_manifest(folder), None) is not None or Room(folder).may_gain_segments():
            return
        with contextlib.suppress(OSError):
            for path in (path for pattern in _REMAINS for path in folder.glob(pattern)):
                path.unlink(missing_ok=True)
        remove_all_sessions(folder)
        for name in (*_LISTS_AND_NOTES, MANIFEST):
            (folder / name).unlink(missing_ok=True)
    line_index.forget(folder / name for name in (MANIFEST, TEXTS, DELIVERED, GAPS))
    with contextlib.suppress(OSError):
        (folder / LOCK_FILE).unlink(missing_ok=True)  # Windows removes no open file
        folder.rmdir()


async def forget_work(output_dir: Path, folders: Iterable[Path]) -> None:
    """Deletes the outbox's items of folders that have gone: a new lesson there begins anew.

    Raises:
        StorageError: the disk refuses.
    """
    outbox = Outbox(output_dir)
    try:
        for folder in folders:
            await outbox.forget(folder.name)
    finally:
        await outbox.aclose()


def files_of(record: SegmentRecord, text: TextRecord | None) -> list[str]:
    """The names of a segment's WAV and text files."""
    texts = list(text.files) if text is not None and text.file == record.file and is_ours(text) else []
    return [name for name in (record.file, *texts) if is_plain_name(name)]


def room_folders(output_dir: Path) -> list[Path]:
    """Every room's folder with a manifest, sorted."""
    return [folder for folder in all_folders(output_dir) if _has_manifest(folder)]


def _has_manifest(folder: Path) -> bool:
    """Also if it may not be seen: reading it then says so."""
    try:
        return (folder / MANIFEST).is_file()
    except PermissionError:
        return True


def all_folders(output_dir: Path) -> list[Path]:
    """Every folder that may be a room's, sorted."""
    with os.scandir(output_dir) as entries:
        folders = [
            Path(entry.path)
            for entry in entries
            if entry.is_dir(follow_symlinks=False)
            and not entry.name.startswith(".")
            and entry.name != LOST_AND_FOUND
        ]
    return sorted(folders)
