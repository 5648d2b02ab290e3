"""Text for every segment that is on disk: beside the recording, never in its way.

The manifest is the list of what there is to do and ``texts.jsonl``, one line for each segment that is done or refused
for good, of what has been done. So unfinished work survives anything, and there is no queue that could be lost: after
an outage, a restart or a room's end the service sees in the folders what is missing, and takes the newest first.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import random
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiofiles
import aiofiles.os

from config import Settings
from segments import Refused, RetryLater, SegmentRecord
from storage import PRIVATE_FILE, read_manifest
from translator import BadAnswer, TextResult, Translator

logger = logging.getLogger("recorder")

TEXTS = "texts.jsonl"
SCAN_SECONDS = 1.0
MOST_CALLS_AT_ONCE = 4
MOST_BAD_ANSWERS = 4
CONTEXT_SENTENCES = 3
FIRST_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 300.0


@dataclass
class _Folder:
    """What is known of one room's folder."""

    path: Path
    manifest_size: int = -1
    records: list[SegmentRecord] = field(default_factory=list)
    done: set[int] = field(default_factory=set)
    bad_answers: Counter[int] = field(default_factory=Counter)
    context: deque[str] = field(default_factory=lambda: deque(maxlen=CONTEXT_SENTENCES))

    def undone(self) -> Iterator[SegmentRecord]:
        return (record for record in self.records if record.number not in self.done)


class TextService:
    """Finds segments without text and gets it, one service a disk."""

    def __init__(self, settings: Settings, translator: Translator) -> None:
        self._settings = settings
        self._translator = translator
        self._folders: dict[Path, _Folder] = {}
        self._running: dict[tuple[Path, int], asyncio.Task[None]] = {}
        self._failures = 0
        self._not_before = 0.0

    async def run(self) -> None:
        """Works until cancelled; calls under way are then left to the next start."""
        try:
            while True:
                try:
                    await asyncio.to_thread(self._look)
                    self._begin_calls()
                except OSError as error:
                    logger.warning(
                        "Folders cannot be searched for missing text now: %s", error.strerror or error
                    )
                await asyncio.sleep(SCAN_SECONDS)
        finally:
            for task in list(self._running.values()):
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)
            await self._translator.aclose()

    # What there is to do.

    def _look(self) -> None:
        """Reads the manifests that have grown. On a thread."""
        for entry in os.scandir(self._settings.output_dir):
            if not entry.is_dir(follow_symlinks=False):
                continue
            folder = self._folders.setdefault(Path(entry.path), _Folder(Path(entry.path)))
            with contextlib.suppress(FileNotFoundError):
                size = os.stat(folder.path / "segments.jsonl").st_size
                if size != folder.manifest_size:
                    folder.records = list(read_manifest(folder.path))
                    folder.done = folder.done or _numbers_done(folder.path)
                    folder.manifest_size = size

    def _begin_calls(self) -> None:
        if time.monotonic() < self._not_before:
            return
        waiting = [(folder, record) for folder in self._folders.values() for record in folder.undone()]
        waiting.sort(key=lambda item: item[1].start, reverse=True)
        for folder, record in waiting:
            key = (folder.path, record.number)
            if len(self._running) >= MOST_CALLS_AT_ONCE:
                return
            if key not in self._running:
                task = asyncio.create_task(self._get_text(folder, record))
                self._running[key] = task
                task.add_done_callback(functools.partial(self._forget, key))

    def _forget(self, key: tuple[Path, int], task: asyncio.Task[None]) -> None:
        self._running.pop(key, None)
        if not task.cancelled() and task.exception() is not None:
            self._pause(RetryLater("something unforeseen"))
            logger.error("Getting text failed", exc_info=task.exception())

    # Getting it.

    async def _get_text(self, folder: _Folder, record: SegmentRecord) -> None:
        context = {"room": record.room_name, "participant": record.participant_identity}
        try:
            result = await self._translator.translate(folder.path / record.file, tuple(folder.context))
            files = await self._write(folder, record, result)
        except Refused as refusal:
            await self._note(folder, record, {"refused": str(refusal)})
            logger.error("No text for %s, for good: %s", record.file, refusal, extra=context)
        except BadAnswer as answer:
            await self._ask_again_or_refuse(folder, record, answer)
        except RetryLater as trouble:
            self._pause(trouble)
        except FileNotFoundError:
            await self._note(folder, record, {"refused": "its WAV is gone"})
        except OSError as error:
            self._pause(RetryLater(f"the disk refuses: {error.strerror or error}"))
        else:
            self._failures = 0
            logger.info("Text saved: %s", ", ".join(files) or f"{record.file} has no words", extra=context)

    async def _ask_again_or_refuse(self, folder: _Folder, record: SegmentRecord, answer: BadAnswer) -> None:
        """A bad answer is this segment's trouble alone, and not asked for without end: every call costs."""
        folder.bad_answers[record.number] += 1
        if folder.bad_answers[record.number] >= MOST_BAD_ANSWERS:
            await self._note(folder, record, {"refused": str(answer)})
            logger.error(
                "No text for %s, for good: %s", record.file, answer, extra={"room": record.room_name}
            )

    async def _write(self, folder: _Folder, record: SegmentRecord, result: TextResult) -> list[str]:
        """Text files first, then the line that says so, and only then may the WAV go."""
        stem, translation = Path(record.file).stem, result.translation
        texts = {**translation.translations, translation.language: translation.transcript}
        written = []
        for language, text in texts.items():
            if translation.transcript and text:
                written.append(f"{stem}_{language}.txt")
                await _write_text(folder.path / written[-1], text + "\n")
        outcome = {
            "language": translation.language,
            "files": written,
            "model": result.model,
            "latency_seconds": round(result.seconds, 3),
            "input_tokens": result.input_tokens,
            "output_tokens": result.output_tokens,
        }
        await self._note(folder, record, outcome)
        if translation.transcript:
            folder.context.append(translation.transcript)
        if not self._settings.save_audio:
            await aiofiles.os.unlink(folder.path / record.file)
        return written

    async def _note(self, folder: _Folder, record: SegmentRecord, outcome: dict[str, Any]) -> None:
        line = json.dumps({"number": record.number, "file": record.file, **outcome}, ensure_ascii=False)
        await asyncio.to_thread(_append_line, folder.path / TEXTS, line)
        folder.done.add(record.number)

    def _pause(self, trouble: RetryLater) -> None:
        """All calls wait: what troubles one troubles the next. With jitter, or the server's own hint."""
        self._failures += 1
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 1, 10))
        pause = trouble.after_seconds or random.uniform(longest / 2, longest)
        self._not_before = max(self._not_before, time.monotonic() + pause)
        level = logging.WARNING if self._failures == 1 else logging.DEBUG
        logger.log(level, "Text has to wait %.0f s: %s", pause, trouble)


def _numbers_done(folder: Path) -> set[int]:
    try:
        lines = (folder / TEXTS).read_bytes().splitlines()
    except FileNotFoundError:
        return set()
    done = set()
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            done.add(int(json.loads(line)["number"]))
    return done


async def _write_text(path: Path, text: str) -> None:
    """Writes a private file that is there whole or not at all."""
    part = path.with_suffix(".txt.part")
    async with aiofiles.open(part, "w", encoding="utf-8", newline="\n", opener=_private) as file:
        await file.write(text)
        await file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
    await aiofiles.os.replace(part, path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE_FILE)


def _append_line(path: Path, line: str) -> None:
    """Adds a line and makes it last; a line that was torn before is ended first, so that it spoils no other."""
    descriptor = os.open(
        path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), PRIVATE_FILE
    )
    with os.fdopen(descriptor, "a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else "\n" + line
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
