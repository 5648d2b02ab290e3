"""Reads the structure of a recording's file: how long it is by its header, and where another one was appended to it."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import IO

from lesson_tools.container_chunks import MAX_BYTES, MAX_CHUNKS, PADDING_BYTES, first_match, part_of_chunks
from lesson_tools.container_file import Part
from lesson_tools.mp3_header import tag_bytes

MAX_PARTS = 100

WITHOUT_TAG = (b"RIFF", b"FORM")
"""FFmpeg reads these only if no tag ID3 is before them."""

_FLV = b"FLV\x01"
_OGG = b"OggS"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_EBML = b"\x1a\x45\xdf\xa3"
_FLAC = re.compile(rb"fLaC[\0\x80]\0\0\x22")
"""The beginning of a FLAC: its mark, and the header of the block that is always the first one, of 34 bytes."""


def parts_of(path: Path) -> list[Part]:
    """Finds the recordings in a file: usually one; several if files were appended to each other.

    Raises:
        OSError: the file cannot be read.
    """
    size = os.path.getsize(path)
    parts: list[Part] = []
    with open(path, "rb") as file:
        while not parts or (parts[-1].end < size and not parts[-1].breaks_off and len(parts) < MAX_PARTS):
            parts.append(_part(file, parts[-1].end if parts else 0, size))
    if len(parts) == MAX_PARTS:
        parts[-1] = replace(parts[-1], end=size, promised_end=max(size, parts[-1].promised_end))
    return parts


def _part(file: IO[bytes], start: int, size: int) -> Part:
    file.seek(start)
    head = file.read(64)
    if tag := tag_bytes(head):
        file.seek(start + tag)
        behind = file.read(64)
        if behind[:4] in WITHOUT_TAG:
            start, head = start + tag, behind
    if head[:4] == b".snd" and len(head) >= 12:
        return _au(head, start, size)
    if head[:4] == _EBML:
        return _matroska(file, head, start, size)
    if head[:4] == _OGG:
        return _ogg(file, start, size)
    if head[:4] == b"fLaC":
        another = first_match(file, start + 8, size, _FLAC) or size
        return Part(start, another, another)
    if head[:4] == _FLV:
        return _flv(file, start, size)
    if head[:16] == _ASF:
        return _asf(file, start, size)
    return part_of_chunks(file, head, start, size) or Part(start, size, size)


def _au(head: bytes, start: int, size: int) -> Part:
    offset, length = struct.unpack(">II", head[4:12])
    promised = start + offset + length
    if length == 0xFFFF_FFFF or promised >= size:
        return Part(start, size, size if length == 0xFFFF_FFFF else promised)
    patches = {start + 8: b"\xff" * 4} if size - promised > PADDING_BYTES else {}
    return Part(start, size, promised, patches)


def _matroska(file: IO[bytes], head: bytes, start: int, size: int) -> Part:
    """Reads the length of the Matroska segment; a live recording has none."""
    at = head.find(b"\x18\x53\x80\x67")
    length, width = _ebml_number(head[at + 4 :]) if at > 0 else (None, 0)
    if length is None or length > MAX_BYTES:
        return Part(start, size, size)
    end = start + at + 4 + width + length
    file.seek(min(end, size))
    return Part(start, end, end) if file.read(4) == _EBML else Part(start, size, max(end, size))


def _ebml_number(data: bytes) -> tuple[int | None, int]:
    """A number of variable width, and its width in bytes; None if all its bits are set, which means unknown."""
    width = 9 - data[0].bit_length() if data and data[0] else 0
    if not width or len(data) < width:
        return None, 0
    value = int.from_bytes(data[:width]) & ((1 << 7 * width) - 1)
    return (None if value == (1 << 7 * width) - 1 else value), width


def _ogg(file: IO[bytes], start: int, size: int) -> Part:
    """Looks for the first page of another Ogg after this one: FFmpeg reads that only if its codec is the same."""
    at, has_begun = start, False
    for _ in range(MAX_CHUNKS):
        file.seek(at)
        head = file.read(27 + 255)
        if len(head) < 27:
            break
        if head[:4] != _OGG:
            at = first_match(file, at, size, re.compile(_OGG)) or size
            continue
        is_first = bool(head[5] & 2)
        if has_begun and is_first:
            return Part(start, at, at)
        has_begun = has_begun or not is_first
        at += 27 + head[26] + sum(head[27 : 27 + head[26]])
    return Part(start, size, size, breaks_off=_lacks_last_page(file, start, size))


def _lacks_last_page(file: IO[bytes], start: int, size: int) -> bool:
    """Whether an Ogg file does not end with the page that is marked as the last one."""
    file.seek(max(start, size - (1 << 17)))
    data = file.read(1 << 17)
    at = data.rfind(_OGG)
    if at < 0 or len(data) < at + 27:
        return True
    lengths = data[at + 27 : at + 27 + data[at + 26]]
    is_whole = len(lengths) == data[at + 26] and at + 27 + len(lengths) + sum(lengths) <= len(data)
    return not is_whole or not data[at + 5] & 4


def _flv(file: IO[bytes], start: int, size: int) -> Part:
    """Looks for another FLV after the last tag of this one."""
    at = start + 13
    for _ in range(MAX_CHUNKS):
        file.seek(at)
        head = file.read(11)
        if head[:4] == _FLV:
            return Part(start, at, at)
        if len(head) < 11:
            break
        at += 11 + int.from_bytes(head[1:4]) + 4
    return Part(start, size, size)


def _asf(file: IO[bytes], start: int, size: int) -> Part:
    """Reads the length of the file in the header of ASF (WMA, WMV); a broadcast has none."""
    file.seek(start)
    head = file.read(1 << 16)
    at = head.find(_ASF_FILE_PROPERTIES)
    if at < 0 or len(head) < at + 92:
        return Part(start, size, size)
    (length,), is_broadcast = struct.unpack("<Q", head[at + 40 : at + 48]), head[at + 88] & 1
    file.seek(start + min(length, size))
    if not is_broadcast and length and file.read(16) == _ASF:
        return Part(start, start + length, start + length)
    return Part(start, size, size if is_broadcast else max(size, start + length), is_live=bool(is_broadcast))
