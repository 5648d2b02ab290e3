"""Saves texts in the rooms' folders: the files beside the WAV, and the line in texts.jsonl."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from archive.folder_texts import FolderTexts
from core.records import SegmentRecord
from core.text_records import TextRecord, Translation
from translator import TextResult

logger = logging.getLogger("recorder")

MAX_FOLDERS = 256
"""How many folders' texts are kept in memory."""


class TextFolders:
    """The texts of all folders. Those used last are kept in memory."""

    def __init__(
        self,
        output_dir: Path,
        opened: Callable[[Path], FolderTexts] = FolderTexts,
        max_folders: int | None = MAX_FOLDERS,
    ) -> None:
        self._output_dir = output_dir
        self._opened = opened
        self._max_folders = max_folders
        self._folders: OrderedDict[str, FolderTexts] = OrderedDict()
        self._lock = threading.Lock()

    def texts_of(self, folder: str) -> FolderTexts:
        """The texts of one folder. May be called on any thread."""
        with self._lock:
            if folder not in self._folders:
                self._folders[folder] = self._opened(self._output_dir / folder)
            texts = self._folders[folder]
            self._folders.move_to_end(folder)
            if self._max_folders is not None and len(self._folders) > self._max_folders:
                self._folders.popitem(last=False)
            return texts

    def unfinished(self, folder: str, segments: Sequence[SegmentRecord]) -> list[SegmentRecord]:
        """Those of these segments that still need their text, or the removal of their audio."""
        return self.texts_of(folder).unfinished(segments)

    def is_gone(self, folder: str) -> bool:
        """Whether a room's folder has been removed. Blocks."""
        return self._output_dir.exists() and not (self._output_dir / folder).exists()


async def save_text(
    texts: FolderTexts, segment: SegmentRecord, result: TextResult, *, with_files: bool, is_audio_kept: bool
) -> bool:
    """Writes a segment's text. False: the segment had one already, or has been erased.

    Raises:
        StorageError, OSError: the disk refuses.
    """
    translation = result.translation
    files = _text_files(segment, translation) if with_files else {}
    record = replace(
        _record_of(segment),
        language=translation.language,
        transcript=translation.transcript,
        translations=translation.translations,
        missing=translation.missing,
        doubt=translation.doubt,
        files=tuple(files),
        model=result.model,
        latency_seconds=result.usage.seconds,
        audio_seconds=segment.duration_seconds,
        input_tokens=result.usage.input_tokens,
        output_tokens=result.usage.output_tokens,
        is_audio_kept=is_audio_kept,
    )
    is_new = await texts.save_with_files(record, {name: text + "\n" for name, text in files.items()})
    if is_new:
        without_files = segment.file if translation.transcript else f"{segment.file} has no words"
        logger.info(
            "Text saved: %s, %.1f s after it was spoken",
            ", ".join(files) or without_files,
            time.time() - segment.end.timestamp(),
            extra=_context(segment),
        )
        _log_what_is_wrong(segment, translation)
    return is_new


def _log_what_is_wrong(segment: SegmentRecord, translation: Translation) -> None:
    if translation.missing:
        missing = ", ".join(translation.missing)
        logger.warning("The text of %s lacks %s", segment.file, missing, extra=_context(segment))
    if translation.doubt:
        doubt = translation.doubt
        logger.warning("The text of %s is doubtful: %s", segment.file, doubt, extra=_context(segment))


async def save_refusal(texts: FolderTexts, segment: SegmentRecord, reason: str) -> bool:
    """Records why a segment will never have a text. False: the segment had a line already.

    Raises:
        StorageError, OSError: the disk refuses.
    """
    is_new = await asyncio.to_thread(texts.save, replace(_record_of(segment), refused=reason))
    if is_new:
        logger.error("No text for %s, and no retry: %s", segment.file, reason, extra=_context(segment))
    return is_new


def _text_files(segment: SegmentRecord, translation: Translation) -> dict[str, str]:
    """The texts that are written beside the WAV, by their file names."""
    if not translation.transcript:
        return {}
    by_language = {translation.language: translation.transcript, **translation.translations}
    return {f"{Path(segment.file).stem}_{language}.txt": text for language, text in by_language.items()}


def _record_of(segment: SegmentRecord) -> TextRecord:
    """A text record with the fields that come from the segment."""
    return TextRecord(
        number=segment.number,
        file=segment.file,
        at=datetime.now(UTC),
        start=segment.start,
        participant_identity=segment.participant_identity,
    )


def _context(segment: SegmentRecord) -> dict[str, str]:
    return {"room": segment.room_name, "participant": segment.participant_identity}
