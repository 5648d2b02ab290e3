"""The steps of an erasure, in an order in which an interruption at any moment leaves nothing that comes back.

write the erasure to erased.json        no writer adds what it covers from now on
wait for deliveries on their way
remove files, exports, batches' notes; count sessions again
remove objects and rows in the targets  these find by the lists what is there
remove the lines of all lists           the manifest last
remove the outbox's items and the search index
mark the erasure as complete
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archive.files import Reservation
from archive.manifest import read_manifest
from archive.names import SegmentNames, safe_name
from archive.outbox import Outbox
from archive.outbox_file import BROKEN_OUTBOX
from archive.recovery import recover_folder
from archive.session_counts import Expected
from archive.tombstones import Erasure, begin, close_repeated, complete
from config import Settings
from core.errors import InputError, RecorderError, StorageError
from core.records import SegmentRecord, format_utc, utc_now
from delivery.erasure import Chosen, all_folders, chosen_in, erase_files, erase_lines, forget_work
from delivery.items import CALL_TIMEOUT_SECONDS, Selection, Target
from lesson_tools.batches import FOLDER, FolderNotes, note_in, without
from lesson_tools.bucket_room import NOTES
from search.index import INDEX

if TYPE_CHECKING:
    from delivery.object_client import Objects

DELIVERIES = "delivery "
"""How the kinds of work in the outbox begin that deliver something."""

SETTLE_SECONDS = 2 * CALL_TIMEOUT_SECONDS + 10
LOOK_SECONDS = 0.2


class ErasureRun:
    """One run of the command."""

    def __init__(
        self, settings: Settings, targets: Sequence[Target], selections: Sequence[Selection]
    ) -> None:
        self.problems: list[str] = []
        """One line for each thing that could not be removed."""
        self._settings = settings
        self._output_dir = Path(settings.output_dir)
        self._targets = targets
        self._selections = selections

    async def run(self, before: Sequence[Sequence[Chosen]]) -> dict[str, Any]:
        """Erases everything, and returns the receipt.

        Args:
            before: what was found by each selection before the erasure was written.

        Raises:
            StorageError, OSError: the disk refuses; run it again.
        """
        names, participant = self._names(before), self._selections[0].participant
        given = [one.room for one in self._selections if one.room]
        erasure = await asyncio.to_thread(begin, self._output_dir, names, participant, given)
        here = await asyncio.to_thread(self._chosen, before, erasure)
        folders = sorted({one.folder for found in here for one in found})
        await self._wait_for_deliveries(folders)
        await asyncio.to_thread(self._erase_files, here)
        await asyncio.to_thread(self._erase_batches, erasure, here)
        until = [replace(selection, before=erasure.at) for selection in self._selections]
        counts, problems = await remove_from_targets(self._targets, until, here, erasure=erasure)
        self.problems += problems
        if not self.problems:
            await self._erase_lines(here, erasure, folders)
        outcome = {
            "ended_at": format_utc(utc_now()),
            "segments_here": sum(len(one.records) for found in here for one in found),
            "segments_in_targets": counts,
        }
        is_complete = not self.problems
        done = complete(self._output_dir, erasure, outcome, is_complete=is_complete)
        if is_complete:
            close_repeated(self._output_dir, names, participant, self._other_rooms(names))
        return {**done.to_json()}

    def _names(self, before: Sequence[Sequence[Chosen]]) -> list[str]:
        """The names that were given and those of the folders found; empty: every room.

        Not the room of a folder that was given: its other folders stay."""
        names: set[str] = set()
        for selection, found in zip(self._selections, before, strict=True):
            if selection.room:
                names |= {selection.room, safe_name(selection.room), *(one.folder.name for one in found)}
        return sorted(names)

    def _other_rooms(self, names: Sequence[str]) -> dict[str, datetime]:
        """The rooms of the folders that are not erased, and when the first segment in these began."""
        starts: dict[str, datetime] = {}
        for folder in all_folders(self._output_dir):
            if folder.name not in names:
                for record in read_manifest(folder):
                    starts[record.room_name] = min(record.start, starts.get(record.room_name, record.start))
        return starts

    def _chosen(self, before: Sequence[Sequence[Chosen]], erasure: Erasure) -> list[list[Chosen]]:
        """What is to be erased now: what was found before, and what has come until the erasure was written."""
        names = SegmentNames.from_settings(self._settings)
        folders = all_folders(self._output_dir)
        for folder in folders:  # what a crash has left becomes a segment, or goes
            try:
                recover_folder(folder, names)
            except OSError as error:
                self.problems.append(f"{folder.name} cannot be read: {error.strerror or error}")
        merged = []
        for selection, found in zip(self._selections, before, strict=True):
            now = {one.folder: one for one in chosen_in(folders, selection, names, erasure.at)}
            for one in found:
                later = now.get(one.folder)
                files = {record.file for record in one.records}
                more = [record for record in later.records if record.file not in files] if later else []
                now[one.folder] = replace(one, records=(*one.records, *more))
            merged.append(list(now.values()))
        return merged

    async def _wait_for_deliveries(self, folders: Sequence[Path]) -> None:
        """Waits until no delivery that began before the erasure is on its way."""
        outbox = Outbox(self._output_dir)
        deadline = time.monotonic() + SETTLE_SECONDS
        try:
            for folder in folders:
                while await outbox.claimed(DELIVERIES, folder.name):
                    if time.monotonic() > deadline:
                        self.problems.append(f"{folder.name}: a delivery does not end")
                        return
                    await asyncio.sleep(LOOK_SECONDS)
        finally:
            await outbox.aclose()

    def _erase_files(self, here: Sequence[Sequence[Chosen]]) -> None:
        names = SegmentNames.from_settings(self._settings)
        expected = Expected.from_settings(self._settings, [target.name for target in self._targets])
        for one in (one for found in here for one in found):
            with contextlib.suppress(FileNotFoundError):  # the folder is gone
                self.problems += [f"{name} cannot be removed" for name in erase_files(one, names, expected)]

    def _erase_batches(self, erasure: Erasure, here: Sequence[Sequence[Chosen]]) -> None:
        """Removes the segments from the notes on batches that have not ended."""
        folder = self._output_dir / FOLDER
        if not folder.is_dir():
            return
        notes = FolderNotes(folder)
        try:
            with Reservation(self._output_dir, "batch"):
                for note in list(notes.all()):
                    rest = without(note, is_erased_by(erasure, here))
                    asyncio.run(notes.remove(note) if rest is None else notes.keep(rest))
        except (InputError, StorageError) as error:
            self.problems.append(str(error))

    async def _erase_lines(
        self, here: Sequence[Sequence[Chosen]], erasure: Erasure, folders: Iterable[Path]
    ) -> None:
        for one in (one for found in here for one in found):
            with contextlib.suppress(FileNotFoundError):
                await asyncio.to_thread(erase_lines, one, erasure.at)
        await forget_work(self._output_dir, folders)
        for name in (INDEX, BROKEN_OUTBOX):
            for ending in ("", "-wal", "-shm"):
                try:
                    (self._output_dir / f"{name}{ending}").unlink(missing_ok=True)
                except OSError as error:  # open in a worker on Windows
                    self.problems.append(f"{name}{ending} cannot be removed: {error.strerror or error}")


def is_erased_by(erasure: Erasure, here: Sequence[Sequence[Chosen]]) -> Any:
    """A function of a folder's name and a manifest line: whether it is erased."""
    files = {(one.folder.name, record.file) for found in here for one in found for record in one.records}

    def is_erased(folder: str, line: Mapping[str, Any]) -> bool:
        if (folder, line.get("file")) in files:
            return True
        try:
            record = SegmentRecord.from_json(dict(line))
        except (ValueError, KeyError, TypeError):
            return False
        return erasure.covers_record(Path(folder), record)

    return is_erased


# --- in the targets ---


async def remove_from_targets(
    targets: Sequence[Target],
    selections: Sequence[Selection],
    here: Sequence[Sequence[Chosen]],
    *,
    erasure: Erasure | None = None,
    only_count: bool = False,
) -> tuple[dict[str, int], list[str]]:
    """Removes the selected segments in all targets and closes these. Returns the count of each, and what failed."""
    counts: dict[str, int] = {}
    problems = []
    for target in targets:
        try:
            for selection, found in zip(selections, here, strict=True):
                known = {one.folder.name: one.records for one in found}
                removed = await target.remove(selection, known, only_count=only_count)
                counts[target.name] = counts.get(target.name, 0) + removed
            objects = getattr(target, "objects", None)
            if objects is not None and erasure is not None:
                await _erase_notes(objects, is_erased_by(erasure, here))
        except RecorderError as error:
            problems.append(f"{target.name}: {error}")
        finally:
            await target.aclose()
    return counts, problems


async def _erase_notes(objects: Objects, is_erased: Any) -> None:
    """Removes the segments from the notes that `transcribe s3://... --batch` keeps in the bucket."""
    for folder in await objects.folders(NOTES.partition("/")[0]):
        key = NOTES.format(folder=folder)
        content, _ = await objects.read(key)
        try:
            found = {id_: note_in(id_, entry) for id_, entry in json.loads(content or b"{}").items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        rests = {id_: without(note, is_erased) for id_, note in found.items()}
        kept = {id_: rest for id_, rest in rests.items() if rest is not None}
        if not kept:
            await objects.delete([key])
        elif kept != found:
            data = json.dumps({id_: asdict(rest) for id_, rest in kept.items()}).encode()
            await objects.write(key, data, mode="overwrite")
