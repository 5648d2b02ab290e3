"""What has been delivered where: ``delivered.jsonl`` beside each manifest, one line for each item and target.

The outbox only remembers; this is the truth, with the manifest. Lost, it costs a second delivery that changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from files import FolderLock, open_private, write_private
from segments import SegmentRecord, TextRecord, format_utc

DELIVERED = "delivered.jsonl"
REFUSED = "refused"


@dataclass(frozen=True)
class Key:
    """Names one item of a folder. Other content is another item."""

    item: str
    sha256: str = ""


def sound_key(record: SegmentRecord) -> Key:
    return Key(record.file, record.sha256)


def words_key(text: TextRecord) -> Key:
    content = json.dumps([text.files, text.language, text.transcript, text.translations], ensure_ascii=False)
    digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
    return Key(f"{Path(text.file).stem}.txt#{digest[:16]}")


def lists_key(*states: str) -> Key:
    """Of all lists together, by what tells their states apart."""
    return Key(f"segments.jsonl#{hashlib.sha256('|'.join(states).encode()).hexdigest()[:16]}")


def keys_of(record: SegmentRecord, text: TextRecord | None, *, save_audio: bool = True) -> list[Key]:
    """What a target should have of a segment by now: its sound, unless that is not kept, and its texts."""
    is_kept = save_audio and (text is None or text.is_audio_kept)
    sounds = [sound_key(record)] if is_kept else []
    return sounds + ([words_key(text)] if text is not None and text.files else [])


@dataclass(frozen=True)
class Undelivered:
    """One item that one target has not got."""

    item: str
    target: str
    refused: str
    """Why it has been set aside; empty while it is still on its way."""


class Ledger:
    """The record of one folder, as it was when it was read. Everything blocks."""

    def __init__(self, folder: Path) -> None:
        self._settled: dict[tuple[str, Key], str] = {}
        self._delivered: set[Key] = set()
        for line in _lines(folder):
            with contextlib.suppress(KeyError, TypeError):
                key = Key(str(line["item"]), str(line.get("sha256", "")))
                reason = self._settled[str(line["target"]), key] = str(line.get(REFUSED, ""))
                if not reason:
                    self._delivered.add(key)

    def is_settled(self, target: str, key: Key) -> bool:
        """Delivered, or set aside for good."""
        return (target, key) in self._settled

    def is_delivered(self, target: str, key: Key) -> bool:
        return self._settled.get((target, key)) == ""

    def is_anywhere(self, key: Key) -> bool:
        """Whether some target has it."""
        return key in self._delivered

    def undelivered(self, keys: Sequence[Key], targets: Sequence[str]) -> Iterator[Undelivered]:
        """What of these items some target has not got."""
        for key in keys:
            for target in targets:
                if not self.is_delivered(target, key):
                    yield Undelivered(key.item, target, self._settled.get((target, key), ""))

    def refused(self) -> dict[tuple[str, Key], str]:
        """What has been set aside, and why."""
        return {one: reason for one, reason in self._settled.items() if reason}


def note(folder: Path, target: str, key: Key, refused: str = "") -> None:
    """Adds a line. A crash right after may lose it. Blocks; raises OSError."""
    line: dict[str, Any] = {"target": target, "item": key.item}
    if key.sha256:
        line["sha256"] = key.sha256
    if refused:
        line[REFUSED] = refused
    line["at"] = format_utc(datetime.now(timezone.utc))
    data = json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    with open_private(folder / DELIVERED, os.O_RDWR | os.O_CREAT | os.O_APPEND) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            data = data if file.read(1) == b"\n" else b"\n" + data  # a torn line spoils no other
        file.write(data)


def forget(folder: Path, *, items: set[str] | None = None, only_refused: bool = False) -> None:
    """Strikes lines out: those about these items (all, if None), or only the refusals among them."""
    with FolderLock(folder):
        kept = [
            line
            for line in _lines(folder)
            if (items is not None and line.get("item") not in items) or (only_refused and REFUSED not in line)
        ]
        if (folder / DELIVERED).exists():
            lines = [json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in kept]
            write_private(folder / DELIVERED, b"".join(lines))


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    try:
        file = open(folder / DELIVERED, "rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            with contextlib.suppress(ValueError, RecursionError):
                found = json.loads(line)
                if isinstance(found, dict):
                    yield found
