"""Reads and writes the delivery log: ``delivered.jsonl`` beside each manifest, one line for each item and target.

The outbox can be rebuilt from it and the manifest. If it is lost, everything is delivered again, which changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from archive import jsonl
from archive.files import FolderLock
from archive.jsonl import Bookmark, lines_of
from archive.line_index import Entry, LineIndex
from core.records import SegmentRecord, format_utc
from core.text_records import TextRecord

DELIVERED = "delivered.jsonl"
REFUSED = "refused"


@dataclass(frozen=True)
class Key:
    """Identifies one item of a folder. The same name with other content is another item."""

    item: str
    sha256: str = ""


def audio_key(record: SegmentRecord) -> Key:
    """The key of a segment's WAV."""
    return Key(record.file, record.sha256)


def text_key(text: TextRecord) -> Key:
    """The key of a segment's text files, with a digest of their content."""
    content = json.dumps([text.files, text.language, text.transcript, text.translations], ensure_ascii=False)
    digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
    return Key(f"{Path(text.file).stem}.txt#{digest[:16]}")


def lists_key(*states: str) -> Key:
    """The key of all lists together. ``states`` identify the present content of each list."""
    return Key(f"segments.jsonl#{hashlib.sha256('|'.join(states).encode()).hexdigest()[:16]}")


def keys_of(record: SegmentRecord, text: TextRecord | None, *, save_audio: bool) -> list[Key]:
    """The keys of what a target should have of a segment by now: the WAV, unless it is not kept, and the texts."""
    is_kept = save_audio and (text is None or text.is_audio_kept)
    audio = [audio_key(record)] if is_kept else []
    return audio + ([text_key(text)] if text is not None and text.files else [])


@dataclass(frozen=True)
class Undelivered:
    """One item that is missing in one target."""

    item: str
    target: str
    refused: str
    """Why it is a dead letter; empty if it is still to be delivered."""


@dataclass(frozen=True)
class ListPlace:
    """How far a list has been delivered: up to ``bookmark`` on this disk, which is in this part in the target."""

    bookmark: Bookmark = Bookmark()
    part: int = 1


class DeliveryLog:
    """The delivery log of one folder, as it was when it was read. Every method blocks."""

    def __init__(self, folder: Path) -> None:
        self._settled: dict[tuple[str, Key], str] = {}
        self._delivered: set[Key] = set()
        for _, line in lines_of(folder / DELIVERED):
            entry = jsonl.entry_in(line) or {}
            with contextlib.suppress(KeyError, TypeError):
                key = Key(str(entry["item"]), str(entry.get("sha256", "")))
                reason = self._settled[str(entry["target"]), key] = str(entry.get(REFUSED, ""))
                if not reason:
                    self._delivered.add(key)

    def is_settled(self, target: str, key: Key) -> bool:
        """Whether the item is delivered or a dead letter."""
        return (target, key) in self._settled

    def is_delivered(self, target: str, key: Key) -> bool:
        return self._settled.get((target, key)) == ""

    def is_anywhere(self, key: Key) -> bool:
        """Whether any target has the item."""
        return key in self._delivered

    def undelivered(self, keys: Sequence[Key], targets: Sequence[str]) -> Iterator[Undelivered]:
        """Those of these items that are missing in any of these targets."""
        for key in keys:
            for target in targets:
                if not self.is_delivered(target, key):
                    yield Undelivered(key.item, target, self._settled.get((target, key), ""))

    def refused(self) -> dict[tuple[str, Key], str]:
        """The dead letters, with the reasons."""
        return {one: reason for one, reason in self._settled.items() if reason}


class SettledItems:
    """The same questions about single items, answered without reading the whole log. Every method blocks."""

    def __init__(self, folder: Path) -> None:
        self._lines = LineIndex(folder / DELIVERED, _entry_in)

    def unsettled(self, target: str, keys: Sequence[Key]) -> set[Key]:
        """Those of these items that are neither delivered nor dead letters.

        Raises:
            OSError, StorageError: the disk refuses.
        """
        names = {_name_of(target, key): key for key in keys}
        known = self._lines.known(names)
        return {key for name, key in names.items() if name not in known}

    def is_settled(self, target: str, key: Key) -> bool:
        """Whether the item is delivered or a dead letter. Raises as :meth:`unsettled`."""
        return not self.unsettled(target, [key])

    def is_delivered(self, target: str, key: Key) -> bool:
        return self._refusal(target, key) == ""

    def undelivered(self, keys: Sequence[Key], targets: Sequence[str]) -> Iterator[Undelivered]:
        """Those of these items that are missing in any of these targets. Raises as :meth:`is_settled`."""
        for key in keys:
            for target in targets:
                refusal = self._refusal(target, key)
                if refusal != "":
                    yield Undelivered(key.item, target, refusal or "")

    def _refusal(self, target: str, key: Key) -> str | None:
        """Why the item is a dead letter; empty if it is delivered, None if it is not settled."""
        line = self._lines.find(_name_of(target, key))
        return None if line is None else str((jsonl.entry_in(line) or {}).get(REFUSED, ""))

    def place_of_list(self, target: str, file: str) -> ListPlace | None:
        """How far a list has been delivered; None: it is not known."""
        line = self._lines.find(_name_of_list(target, file))
        return jsonl.parsed(line, _place_in) if line is not None else None


def _place_in(entry: Mapping[str, Any]) -> ListPlace:
    place = ListPlace(Bookmark(int(entry["bytes"]), str(entry["digest"])), int(entry["part"]))
    if place.part < 1 or place.bookmark.bytes < 0:
        raise ValueError(place)
    return place


def _entry_in(line: bytes) -> Entry | None:
    entry = jsonl.entry_in(line) or {}
    try:
        if "list" in entry:
            return Entry(_name_of_list(str(entry["target"]), str(entry["list"])))
        key = Key(str(entry["item"]), str(entry.get("sha256", "")))
        return Entry(_name_of(str(entry["target"]), key))
    except KeyError:
        return None


def _name_of(target: str, key: Key) -> str:
    return json.dumps([target, key.item, key.sha256])


def _name_of_list(target: str, file: str) -> str:
    return json.dumps([target, file])


def note_list(folder: Path, target: str, file: str, place: ListPlace) -> None:
    """Adds a line that says how far a list has been delivered, as :func:`note` does."""
    bookmark = place.bookmark
    _add(
        folder,
        {
            "target": target,
            "list": file,
            "part": place.part,
            "bytes": bookmark.bytes,
            "digest": bookmark.digest,
        },
    )


def note(folder: Path, target: str, key: Key, refused: str = "") -> None:
    """Adds a line to the delivery log, without a sync: a crash may lose it. Blocks; raises OSError."""
    line: dict[str, Any] = {"target": target, "item": key.item}
    if key.sha256:
        line["sha256"] = key.sha256
    if refused:
        line[REFUSED] = refused
    _add(folder, line)


def _add(folder: Path, line: dict[str, Any]) -> None:
    line["at"] = format_utc(datetime.now(UTC))
    with FolderLock(folder):
        jsonl.append(folder / DELIVERED, line, sync=False)


def forget(folder: Path, *, items: set[str] | None = None, only_refused: bool = False) -> None:
    """Removes the lines about these items (None: about all), or only the dead letters among them. Blocks.

    An item is named without the digest of its content (see :func:`text_key`)."""

    def is_kept(line: bytes) -> bool:
        entry = jsonl.entry_in(line)
        return entry is not None and (
            (items is not None and str(entry.get("item")).partition("#")[0] not in items)
            or (only_refused and REFUSED not in entry)
        )

    with FolderLock(folder):
        jsonl.rewrite(folder / DELIVERED, is_kept)
