"""Reads the texts of segments: ``texts.jsonl`` in a room's folder, and the text files beside the WAVs.

The key is a segment's number with the name of its WAV, never the number alone: two recorders that deliver to one bucket
both count from 1. A line without a ``file`` belongs to the only segment of that number, and to none if there are
several. The last line about a segment counts.

Everything here blocks. :mod:`archive.folder_texts` adds texts.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from archive import jsonl
from archive.jsonl import MAX_LINE_BYTES, Lines, lines_of
from archive.manifest import read_manifest
from archive.names import TEXTS
from core.errors import StorageError
from core.records import SegmentRecord
from core.text_records import TextRecord

LANGUAGE_TAG = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
"""BCP 47 as far as it names spoken languages; also what makes a tag safe as part of a file name."""

SegmentKey = tuple[int, str]
"""A segment's number and the name of its WAV."""


def key_of(segment: SegmentRecord | TextRecord) -> SegmentKey:
    """The key of a segment, or of the segment of a text."""
    return segment.number, segment.file


# --- one line ---


@dataclass(frozen=True)
class Text:
    """The text of a segment."""

    spoken: str | None
    """BCP 47 tag of the language spoken; None if it is not known."""
    by_language: Mapping[str, str]
    """Texts by BCP 47 tag, including the transcript; empty if nothing intelligible was said."""
    refused: str | None = None
    """Why there is no text. It can be asked for again."""
    missing: tuple[str, ...] = ()
    """The languages that were asked for, and could not be had."""
    doubt: str = ""
    """Why it may not be what was said; empty: there is no such reason."""
    model: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    """Names of the text files beside the WAV, by language."""
    is_audio_kept: bool = True
    """False: the WAV is removed once its text is saved (SAVE_AUDIO=false)."""

    @property
    def transcript(self) -> str | None:
        """The text in the language spoken."""
        return self.by_language.get(self.spoken) if self.spoken is not None else None


def entry_in(line: bytes) -> dict[str, Any] | None:
    """Parses a line of texts.jsonl as a dictionary with a ``number``; None for anything else."""
    entry = jsonl.entry_in(line)
    return entry if entry is not None and type(entry.get("number")) is int else None


def file_in(entry: Mapping[str, Any]) -> str | None:
    """The name of the WAV that an entry is about; None if it does not name one."""
    file = entry.get("file")
    return file if isinstance(file, str) else None


def text_in(line: bytes) -> TextRecord | None:
    """Parses a line of texts.jsonl that has all fields of a record; None for anything else."""
    return jsonl.parsed(line, TextRecord.from_json)


def text_of_entry(folder: Path, wav: str, entry: Mapping[str, Any], tags: Iterable[str] = ()) -> Text:
    """The text of a segment by its line in texts.jsonl.

    If the line does not contain the text, the text files in the languages ``tags`` and those that it names are read.
    """
    if entry.get("refused") is not None:
        return Text(None, {}, refused=str(entry["refused"]))
    spoken, named = _tag(entry.get("language")), _named_files(wav, entry)
    if isinstance(entry.get("transcript"), str):
        texts = _quoted(entry, spoken)
    else:
        texts = _contents(folder, {**named, **_files_of(wav, tags)})
    return Text(
        spoken,
        texts,
        missing=_strings(entry.get("missing")),
        doubt=entry["doubt"] if isinstance(entry.get("doubt"), str) else "",
        model=entry["model"] if isinstance(entry.get("model"), str) else None,
        files=named,
        is_audio_kept=entry.get("is_audio_kept") is not False,
    )


def _quoted(entry: Mapping[str, Any], spoken: str | None) -> dict[str, str]:
    """The texts that an entry contains, the transcript first."""
    texts = {spoken: entry["transcript"]} if spoken is not None and entry["transcript"] else {}
    translations = entry.get("translations")
    for tag, text in translations.items() if isinstance(translations, dict) else ():
        if _tag(tag) is not None and isinstance(text, str) and text and tag not in texts:
            texts[tag] = text
    return texts


def _strings(value: object) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def _tag(value: object) -> str | None:
    return value if isinstance(value, str) and LANGUAGE_TAG.fullmatch(value) else None


# --- text files ---


def _contents(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    found = {tag: _content(folder / file) for tag, file in files.items()}
    return {tag: text for tag, text in found.items() if text}


def _content(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        file = None if path.is_symlink() else jsonl.open_regular(path)
        if file is not None:
            with file:
                return file.read(MAX_LINE_BYTES).decode("utf-8", "replace").strip()
    return None


def _files_of(wav: str, tags: Iterable[str]) -> dict[str, str]:
    return {tag: f"{Path(wav).stem}_{tag}.txt" for tag in tags}


def _named_files(wav: str, entry: Mapping[str, Any]) -> dict[str, str]:
    """The text files that an entry names, by language, without names that are not this segment's."""
    names = entry.get("files")
    stem = f"{Path(wav).stem}_"
    texts = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    tags = {name.removeprefix(stem).removesuffix(".txt"): name for name in texts}
    return {
        tag: name for tag, name in tags.items() if LANGUAGE_TAG.fullmatch(tag) and name == f"{stem}{tag}.txt"
    }


def _tags_by_stem(folder: Path) -> dict[str, list[str]]:
    """Languages of the .txt files, by the part of their names before the language."""
    found: dict[str, list[str]] = {}
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder)):
            stem, _, tag = name.removesuffix(".txt").rpartition("_")
            if name.endswith(".txt") and stem and LANGUAGE_TAG.fullmatch(tag):
                found.setdefault(stem, []).append(tag)
    return found


# --- finding texts ---


class Texts:
    """The texts of one room. Only their positions in texts.jsonl are kept in memory.

    If a segment has no line in texts.jsonl, or one that does not contain the text, the ``.txt`` files beside the WAV
    are read.

    Raises:
        StorageError: texts.jsonl, or the manifest, cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.lines = Lines()
        """Counts of the lines of texts.jsonl."""
        self._folder = folder
        self._positions: dict[SegmentKey, int] = {}
        """Position in texts.jsonl of the last line about each segment."""
        self._positions_by_number: dict[int, int] = {}
        """The same for lines that name no file, if the manifest has only one segment of that number."""
        self._tags_of_stem: dict[str, list[str]] | None = None
        self._file: IO[bytes] | None = None
        with _as_storage_error(folder / TEXTS):
            self._index()

    def __len__(self) -> int:
        """How many segments have a line in texts.jsonl."""
        return len(self._positions) + len(self._positions_by_number)

    def __contains__(self, record: object) -> bool:
        """Whether a segment has a text or is refused."""
        return isinstance(record, SegmentRecord) and (
            self._position(record) is not None or bool(self._tags(record))
        )

    def get(self, record: SegmentRecord) -> Text | None:
        """The text of a segment; None if there is none yet."""
        line = self._line(record)
        entry = entry_in(line) if line is not None else None
        if entry is not None:
            return text_of_entry(self._folder, record.file, entry, self._tags(record))
        files = _files_of(record.file, self._tags(record))
        return Text(None, _contents(self._folder, files), files=files) if files else None

    def entry(self, record: SegmentRecord) -> TextRecord | None:
        """The record in the segment's line in texts.jsonl."""
        line = self._line(record)
        return text_in(line) if line is not None else None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Texts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _index(self) -> None:
        for position, line in lines_of(self._folder / TEXTS):
            self.lines.read += 1
            entry = entry_in(line)
            if entry is None:
                self.lines.broken.append(self.lines.read)
            elif (file := file_in(entry)) is not None:
                self._positions[entry["number"], file] = position
            else:
                self._positions_by_number[entry["number"]] = position
        if self._positions_by_number:
            segments = {key_of(record) for record in read_manifest(self._folder)}
            counts = Counter(number for number, _ in segments)
            self._positions_by_number = {
                number: position
                for number, position in self._positions_by_number.items()
                if counts[number] == 1
            }

    def _position(self, record: SegmentRecord) -> int | None:
        found = (self._positions.get(key_of(record)), self._positions_by_number.get(record.number))
        return max((position for position in found if position is not None), default=None)

    def _line(self, record: SegmentRecord) -> bytes | None:
        position = self._position(record)
        if position is None:
            return None
        with _as_storage_error(self._folder / TEXTS):
            if self._file is None:
                self._file = open(self._folder / TEXTS, "rb")
            self._file.seek(position)
            return self._file.readline(MAX_LINE_BYTES)

    def _tags(self, record: SegmentRecord) -> list[str]:
        if self._tags_of_stem is None:
            self._tags_of_stem = _tags_by_stem(self._folder)
        return self._tags_of_stem.get(Path(record.file).stem, [])


@contextlib.contextmanager
def _as_storage_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from None


def read_texts(folder: Path) -> dict[str, TextRecord]:
    """Reads the last line about each segment, by the name of its WAV.

    Raises:
        OSError: texts.jsonl exists and cannot be read.
    """
    texts = (text_in(line) for _, line in lines_of(folder / TEXTS))
    return {text.file: text for text in texts if text is not None}
