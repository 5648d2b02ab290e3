"""Removes old recordings from this disk and from the targets, and warns before the disk is full.

A segment is removed only when it is delivered to every target, with its text and the lists, and has its text if text is
wanted; neither its age nor a full disk changes that. :mod:`delivery.erasure` removes the files and lines.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from archive.delivery_log import DELIVERED, DeliveryLog, SettledItems, keys_of
from archive.exports import exports_of, remove_exports
from archive.files import LOCK_FILE
from archive.folder_texts import FolderTexts
from archive.jsonl import end_of
from archive.manifest import listed_segments, read_gaps, read_manifest, record_in
from archive.names import GAPS, MANIFEST, TEXTS
from archive.rooms import Room
from archive.session_removal import prune_sessions
from archive.texts import read_texts
from config import Settings
from core.errors import RecorderError, StorageError
from core.records import SegmentRecord
from core.text_records import TextRecord
from delivery.erasure import files_of, forget_work, remove_folder, remove_lines, room_folders
from delivery.item_reader import key_of_lists
from delivery.items import Selection, Target, expired_before

logger = logging.getLogger("recorder")

LOOK_SECONDS = 30.0
PRUNE_SECONDS = 3600.0
"""How often all lines are read, for what has become old. Between, only what has just been delivered may leave."""
REMOTE_SECONDS = 86_400.0
QUIET_SECONDS = 3600.0
"""Lines are removed only in folders that have not changed for this long."""
BYTES_AN_HOUR = 32_000 * 3600
"""Size of one hour of speech."""


@dataclass(frozen=True)
class Leaving:
    """What may be removed from one folder."""

    folder: Path
    files: tuple[str, ...]
    """Names of existing WAVs and text files."""
    bytes: int
    lines: frozenset[str]
    """The segments, by their WAVs, whose lines are removed as well."""
    before: datetime | None
    """A segment that ended before this is old; None: none is."""
    is_whole: bool
    """Whether no segment of the folder is left afterwards."""
    exports: tuple[str, ...] = ()
    """Names of exported files of lessons that are old."""

    @property
    def is_nothing(self) -> bool:
        return not (self.files or self.lines or self.exports or self.is_whole)

    @property
    def is_gone(self) -> bool:
        """Whether the whole folder was to go, and has gone."""
        return self.is_whole and not (self.folder / MANIFEST).exists()


class Rules:
    """Decides by the settings what may be removed from this disk."""

    def __init__(self, settings: Settings, targets: Sequence[str], *, is_complete: bool = True) -> None:
        """``is_complete`` is False if the settings of a target are wrong: then nothing may be removed."""
        self._settings = settings
        self._targets = targets
        self._is_complete = is_complete

    @property
    def is_empty(self) -> bool:
        """Whether nothing will ever be removed."""
        goes_early = self._settings.keep_local == "until_delivered" and bool(self._targets)
        return not self._is_complete or not (goes_early or self._settings.retention_days)

    def leaving(self, folder: Path, now: datetime) -> Leaving:
        """What may be removed from a folder. Blocks; raises OSError."""
        records = list(read_manifest(folder))
        texts = read_texts(folder)
        delivery_log = DeliveryLog(folder)
        files: list[str] = []
        lines: set[str] = set()
        for record in records if not self.is_empty else ():
            text = texts.get(record.file)
            is_old = self._is_old(record, now)
            if (is_old or self._goes_early()) and self._is_delivered(delivery_log, record, text):
                files += [file for file in files_of(record, text) if (folder / file).is_file()]
                lines |= {record.file} if is_old else set()
        if lines and not (_is_quiet(folder) and self._are_lists_delivered(folder, delivery_log)):
            lines = set()
        size = sum((folder / file).stat().st_size for file in files)
        is_whole = lines == {record.file for record in records} and (bool(records) or self._is_left(folder))
        exports = self._old_exports(folder, now, is_whole)
        return Leaving(folder, tuple(files), size, frozenset(lines), self._cutoff(now), is_whole, exports)

    def _is_left(self, folder: Path) -> bool:
        """Whether a folder's segments have all gone, and an interruption has left its empty lists."""
        is_ours = (folder / LOCK_FILE).exists() and not (folder / MANIFEST).stat().st_size
        may_go = bool(self._settings.retention_days) and not self.is_empty
        return is_ours and may_go and _is_quiet(folder) and next(read_gaps(folder), None) is None

    def leaving_early(self, folder: Path) -> Leaving:
        """The sounds of a folder that may be removed as every target has them, with their text files. The lines stay.

        Only the sounds that are there are looked at, not all lines. Blocks; raises OSError, StorageError.
        """
        segments, texts, settled = listed_segments(folder), FolderTexts(folder), SettledItems(folder)
        files: list[str] = []
        for name in _sounds_in(folder) if self._goes_early() and not self.is_empty else ():
            line = segments.find(name)
            record = record_in(line) if line is not None else None
            if record is not None:
                text = texts.record_of(record)
                if self._is_delivered(settled, record, text):
                    files += [file for file in files_of(record, text) if (folder / file).is_file()]
        size = sum((folder / file).stat().st_size for file in files)
        return Leaving(folder, tuple(files), size, frozenset(), None, is_whole=False)

    def _old_exports(self, folder: Path, now: datetime, is_whole: bool) -> tuple[str, ...]:
        cutoff = self._cutoff(now)
        if cutoff is None or self.is_empty:
            return ()
        old = (export for export in exports_of(folder) if is_whole or export.ended_at < cutoff)
        return tuple(path.name for export in old for path in export.existing())

    def _cutoff(self, now: datetime) -> datetime | None:
        days = self._settings.retention_days
        return now - timedelta(days=days) if days else None

    def _is_old(self, record: SegmentRecord, now: datetime) -> bool:
        cutoff = self._cutoff(now)
        return cutoff is not None and record.end < cutoff

    def _goes_early(self) -> bool:
        return self._settings.keep_local == "until_delivered" and bool(self._targets)

    def _is_delivered(
        self, delivery_log: DeliveryLog | SettledItems, record: SegmentRecord, text: TextRecord | None
    ) -> bool:
        if self._settings.wants_text and text is None:
            return False
        before = expired_before(self._settings.remote_retention_days)
        if before is not None and record.end < before and self._is_old(record, datetime.now(UTC)):
            return True  # the targets are not to have it any more
        keys = keys_of(record, text, save_audio=self._settings.save_audio)
        return all(delivery_log.is_delivered(target, key) for key in keys for target in self._targets)

    def _are_lists_delivered(self, folder: Path, delivery_log: DeliveryLog) -> bool:
        key = key_of_lists(*(end_of(folder / name) for name in (MANIFEST, TEXTS, GAPS)))
        return all(delivery_log.is_delivered(target, key) for target in self._targets)


def remove_leaving(leaving: Leaving) -> None:
    """Removes the files, then the lines, then the folder if no segment is left. Blocks.

    Raises:
        OSError: a file cannot be removed. The others are, and the lines stay, so that the next run finds it.
    """
    refusal: OSError | None = None
    for file in leaving.files:
        try:
            (leaving.folder / file).unlink(missing_ok=True)
        except OSError as error:
            refusal = error
    before = leaving.before
    if leaving.exports:
        remove_exports(
            leaving.folder, lambda one: leaving.is_whole or (before is not None and one.ended_at < before)
        )
    if refusal is not None:
        raise refusal
    if leaving.lines:
        prune_sessions(leaving.folder, leaving.lines)
        remove_lines(leaving.folder, leaving.lines, lambda gap: before is not None and gap.end < before)
    if leaving.is_whole:
        remove_folder(leaving.folder)


def _sounds_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.name.endswith(".wav"))


def _is_quiet(folder: Path) -> bool:
    if Room(folder).may_gain_segments():
        return False
    times = [path.stat().st_mtime for name in (MANIFEST, TEXTS, GAPS) if (path := folder / name).exists()]
    return time.time() - max(times, default=0.0) > QUIET_SECONDS


# --- the service ---


class Housekeeping:
    """Removes what may be removed, regularly, and warns before the disk is full."""

    def __init__(self, settings: Settings, targets: Sequence[Target], *, is_complete: bool) -> None:
        self._settings = settings
        self._targets = targets
        self._rules = Rules(settings, [target.name for target in targets], is_complete=is_complete)
        self._output_dir = Path(settings.output_dir)
        self._seen: dict[Path, float] = {}
        """When the delivery log of each folder had last changed."""
        self._refused: set[Path] = set()
        """Folders to which the next look is as thorough as once an hour."""
        self._pruned_at = self._pruned_remote_at = -REMOTE_SECONDS
        self._warned_below = 100.0

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            try:
                gone = await asyncio.to_thread(self._look_after_the_disk)
                if gone:
                    await forget_work(self._output_dir, gone)
            except (OSError, StorageError) as error:
                logger.warning("Old recordings cannot be removed now: %s", error)
            except Exception as error:  # unexpected: the next pass tries again
                logger.error("Removing old recordings failed", exc_info=error)
            await self._prune_remote()
            await asyncio.sleep(LOOK_SECONDS)

    def _look_after_the_disk(self) -> list[Path]:
        """Removes what may be removed. Returns the folders that have gone."""
        self._warn_if_nearly_full()
        if self._rules.is_empty:
            return []
        is_time = time.monotonic() - self._pruned_at >= PRUNE_SECONDS
        self._pruned_at = time.monotonic() if is_time else self._pruned_at
        refused, self._refused = self._refused, set()
        return [
            folder
            for folder in room_folders(self._output_dir)
            if self._prune(folder, is_whole=is_time or folder in refused)
        ]

    def _prune(self, folder: Path, *, is_whole: bool) -> bool:
        """Removes what may go from one folder: by all its lines, or only what has just been delivered. A folder that
        refuses does not keep the others from it.

        Returns whether the whole folder has gone.
        """
        if not self._has_new_deliveries(folder) and not is_whole:
            return False
        try:
            rules = self._rules
            leaving = rules.leaving(folder, datetime.now(UTC)) if is_whole else rules.leaving_early(folder)
            if leaving.is_nothing:
                return False
            remove_leaving(leaving)
        except (OSError, StorageError) as error:
            self._refused.add(folder)
            logger.warning("Old recordings of %s cannot be removed now: %s", folder.name, error)
            return False
        logger.info(
            "%d files (%.1f MB) of %s were removed from this disk",
            len(leaving.files) + len(leaving.exports),
            leaving.bytes / 1e6,
            folder.name,
        )
        return leaving.is_gone

    def _has_new_deliveries(self, folder: Path) -> bool:
        try:
            changed = (folder / DELIVERED).stat().st_mtime
        except FileNotFoundError:
            return False
        is_new = self._seen.get(folder) != changed
        self._seen[folder] = changed
        return is_new

    def _warn_if_nearly_full(self) -> None:
        """Warns when the free space falls below the limit, and again each time it has halved."""
        limit = self._settings.disk_warning_percent
        usage = shutil.disk_usage(self._output_dir)
        percent = 100 * usage.free / usage.total
        if percent >= limit:
            self._warned_below = 100.0
        elif percent < self._warned_below / 2 or self._warned_below == 100.0:
            self._warned_below = percent
            logger.warning(
                "The disk is nearly full: %.0f MB (%.1f %%) free, enough for %.0f hours of speech. Nothing that is not"
                " delivered is deleted",
                usage.free / 1e6,
                percent,
                usage.free / BYTES_AN_HOUR,
            )

    async def _prune_remote(self) -> None:
        days = self._settings.remote_retention_days
        if not days or time.monotonic() - self._pruned_remote_at < REMOTE_SECONDS:
            return
        self._pruned_remote_at = time.monotonic()
        selection = Selection(before=datetime.now(UTC) - timedelta(days=days))
        for target in self._targets:
            try:
                count = await target.remove(selection, {})
                if count:
                    logger.info(
                        "%d segments older than %d days were removed from %s", count, days, target.name
                    )
            except RecorderError as error:
                logger.error("Old segments cannot be removed from %s today: %s", target.name, error)
