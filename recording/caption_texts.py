"""Reads the texts of a room's segments from its ``texts.jsonl``, and checks them before they are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from archive.jsonl import Bookmark, bookmark_before_end, new_lines
from archive.texts import entry_in
from core.language_tags import language_tag_or_empty
from core.text_records import Translation
from recording.caption_languages import MAX_LANGUAGES

MAX_TEXT_CHARACTERS = 4000
TAIL_BYTES = 1 << 16
"""How much of an existing file is read at first, from its end."""


class TextsFollower:
    """Reads what is appended to a room's ``texts.jsonl``. Does disk work: call it on a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bookmark: Bookmark | None = None

    def new_texts(self) -> list[tuple[int, Translation | None]]:
        """Returns the texts added since the last call: segment number and text, None if there will be no text.

        The first call returns the last texts of the file: a text may be written before ``segment_saved`` is called.
        """
        if self._bookmark is None:
            if not self._path.exists():
                return []
            self._bookmark = bookmark_before_end(self._path, TAIL_BYTES)
        lines, self._bookmark = new_lines(self._path, self._bookmark)
        found = (caption_text_in(line) for line in lines)
        return [text for text in found if text is not None]


def caption_text_in(line: bytes) -> tuple[int, Translation | None] | None:
    """The checked content of a line of ``texts.jsonl``; None if the line is not valid."""
    entry = entry_in(line)
    if entry is None:
        return None
    return entry["number"], None if "refused" in entry else _translation(entry)


def _translation(fields: dict[str, Any]) -> Translation | None:
    """The checked text; None if there is no valid transcript."""
    language, transcript = _language(fields.get("language")), _text(fields.get("transcript"))
    found = fields.get("translations")
    translations = list(found.items())[: 2 * MAX_LANGUAGES] if isinstance(found, dict) else []
    if not language or not transcript:
        return None
    checked = {_language(tag): _text(text) for tag, text in translations}
    return Translation(language, transcript, {tag: text for tag, text in checked.items() if tag and text})


def _language(value: object) -> str:
    return language_tag_or_empty(value) if isinstance(value, str) else ""


def _text(value: object) -> str:
    return value.strip()[:MAX_TEXT_CHARACTERS] if isinstance(value, str) else ""
