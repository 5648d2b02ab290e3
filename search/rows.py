"""Reads and writes the rows of one folder in the index of `lessons.py search`: its segments and their words."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from archive.jsonl import Bookmark
from archive.texts import Text, Texts, entry_in, file_in, text_of_entry
from core import search_tokens
from core.records import SegmentRecord

PLACES = tuple(f"language{place}" for place in range(64))
"""The columns of the words, one for each language in the order in which they come; further ones share the last."""

_ROWS_PER_MILLISECOND = 4096
_INTO = f"(words, rowid, {', '.join(PLACES)}) VALUES (?, ?{', ?' * len(PLACES)})"


class FolderRows:
    """The rows of one folder. The caller opens and ends the transaction."""

    def __init__(self, database: sqlite3.Connection, name: str) -> None:
        self._database = database
        database.execute("INSERT OR IGNORE INTO folder (name) VALUES (?)", (name,))
        self.id, *marks = database.execute(
            "SELECT id, manifest_bytes, manifest_digest, texts_bytes, texts_digest FROM folder WHERE name = ?",
            (name,),
        ).fetchone()
        self.manifest, self.texts = Bookmark(*marks[:2]), Bookmark(*marks[2:])
        self._places: dict[str, int] = {}

    def mark(self, which: str, bookmark: Bookmark) -> None:
        self._database.execute(
            f"UPDATE folder SET {which}_bytes = ?, {which}_digest = ? WHERE id = ?",
            (bookmark.bytes, bookmark.digest, self.id),
        )

    def forget(self) -> None:
        """Removes all of the folder's segments."""
        rows = self._database.execute(
            "SELECT id, tokens FROM segment WHERE folder = ?", (self.id,)
        ).fetchall()
        for row, tokens in rows:
            if tokens is not None:
                self._unlist(row, json.loads(tokens))
        self._database.execute("DELETE FROM segment WHERE folder = ?", (self.id,))
        for which in ("manifest", "texts"):
            self.mark(which, Bookmark())
        self.manifest = self.texts = Bookmark()

    def add(self, records: Iterable[SegmentRecord], texts: Texts | None) -> None:
        """Adds segments, with their words if ``texts`` has them."""
        for record in sorted(records, key=lambda record: record.start):
            row = self._free_row(record.start)
            self._database.execute(
                "INSERT INTO segment (id, folder, number, file, start, duration, room, room_sid, identity, name) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    row,
                    self.id,
                    record.number,
                    record.file,
                    record.to_json()["start"],
                    record.duration_seconds,
                    record.room_name,
                    record.room_sid,
                    record.participant_identity,
                    record.participant_name,
                ),
            )
            text = texts.get(record) if texts is not None else None
            if text is not None and text.by_language:
                self._list(row, text)

    def add_texts(self, lines: Iterable[bytes], path: Path) -> None:
        """Adds the texts in lines of texts.jsonl; a later line about a segment replaces an earlier one."""
        found: list[tuple[int, str | None, Text]] = []
        for line in lines:
            entry = entry_in(line)
            row = self._row_of(entry["number"], file_in(entry)) if entry is not None else None
            if entry is not None and row is not None:
                found.append((row[0], row[2], text_of_entry(path, row[1], entry)))
        latest = {row: (before, text) for row, before, text in found}
        for place in sorted(latest):  # in order of time, which is how FTS5 takes them fastest
            before, text = latest[place]
            if before is not None:
                self._unlist(place, json.loads(before))
            self._list(place, text)

    def _row_of(self, number: int, file: str | None) -> tuple[int, str, str | None] | None:
        """Finds the row of a text's segment. A text without a file name belongs to the only file of its number."""
        if not -(2**63) <= number < 2**63:
            return None
        rows: list[tuple[int, str, str | None]] = self._database.execute(
            "SELECT id, file, tokens FROM segment WHERE folder = ? AND number = ? ORDER BY id",
            (self.id, number),
        ).fetchall()
        if file is None and len({row[1] for row in rows}) > 1:
            return None
        return next((row for row in reversed(rows) if file in (None, row[1])), None)

    def _free_row(self, start: datetime) -> int:
        milliseconds = int(start.timestamp() * 1000)
        first, beyond = milliseconds * _ROWS_PER_MILLISECOND, (milliseconds + 1) * _ROWS_PER_MILLISECOND
        (last,) = self._database.execute(
            "SELECT max(id) FROM segment WHERE id >= ? AND id < ?", (first, beyond)
        ).fetchone()
        return first if last is None else int(last) + 1

    def _list(self, row: int, text: Text) -> None:
        texts = dict(text.by_language)
        tokens = {tag: " ".join(search_tokens.tokens(words)) for tag, words in texts.items()}
        self._database.execute(
            "UPDATE segment SET spoken = ?, texts = ?, tokens = ? WHERE id = ?",
            (text.spoken, _json(texts), _json(tokens), row),
        )
        if texts:
            self._database.execute(f"INSERT INTO words {_INTO}", (None, row, *self._columns(tokens)))

    def _unlist(self, row: int, tokens: Mapping[str, str]) -> None:
        """Removes a row; FTS5 needs the old tokens for it, as the table stores no content."""
        self._database.execute(f"INSERT INTO words {_INTO}", ("delete", row, *self._columns(tokens)))

    def _columns(self, tokens: Mapping[str, str]) -> list[str | None]:
        """The words of each column: a text's tokens, then those of what is within its words."""
        columns: list[str | None] = [None] * len(PLACES)
        for tag, line in tokens.items():
            inside = itertools.chain.from_iterable(map(search_tokens.insides, line.split(" ")))
            place = self._place(tag)
            columns[place] = " ".join([*filter(None, (columns[place], line)), *inside])
        return columns

    def _place(self, tag: str) -> int:
        if tag not in self._places:
            self._places = dict(self._database.execute("SELECT tag, place FROM language"))
        if tag not in self._places:
            place = self._places[tag] = min(len(self._places), len(PLACES) - 1)
            self._database.execute("INSERT INTO language (tag, place) VALUES (?, ?)", (tag, place))
        return self._places[tag]


def _json(texts: Mapping[str, str]) -> str | None:
    return json.dumps(texts, ensure_ascii=False) if texts else None
