"""Reads the structure of containers that are rows of chunks (WAV, AIFF, CAF, W64, AVI, MP4): how long they are by their
headers, and where another file begins after them. Only the headers of top-level chunks are read.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import IO

from lesson_tools.container_file import Part

MAX_CHUNKS = 500_000
"""Top-level chunks that are looked at. An FLV of an hour has some hundred thousand tags."""

MAX_BYTES = 1 << 40
"""A length beyond this is not one: programs write such numbers if they cannot go back to the header."""

PLACEHOLDER_RANGE = 4096
"""A length that differs from 2 or 4 GiB by at most this many bytes is not one either: some subtract their headers."""

SEARCHED_BYTES = 1 << 16
"""How much of a file is searched at once."""

MAX_CORRECTIONS = 1000
"""How many broken places of an MP4 are corrected."""

PADDING_BYTES = 1024
"""This much after the sound is padding, not sound that the header does not count."""


@dataclass(frozen=True)
class _Chunk:
    name: bytes
    start: int
    body: int
    end: int | None
    """According to its header; None: the header does not say."""


@dataclass(frozen=True)
class _Format:
    """How a container of chunks is built."""

    first: int
    """Where the first chunk begins."""
    header_bytes: int
    chunk: Callable[[bytes, int], _Chunk]
    """Parses a chunk's header at a position."""
    sound: bytes = b""
    """The chunk with the sound, if a wrong length of it can be corrected."""
    correction: Callable[[_Chunk, int], dict[int, bytes]] = lambda sound, size: {}
    """Patches by which that chunk reaches to the end of the file, from the chunk and the size of the file."""
    beginnings: tuple[bytes, ...] = ()
    """The names of chunks that begin another file."""
    align: int = 1


def _riff_chunk(head: bytes, at: int) -> _Chunk:
    (length,) = struct.unpack("<I", head[4:])
    is_unknown = _is_placeholder(length) or (head[:4] == b"data" and length == 0)
    return _Chunk(head[:4], at, at + 8, None if is_unknown else at + 8 + length)


def _is_placeholder(length: int) -> bool:
    """Whether a length of 32 bits is one that programs write before they know it: about the greatest number."""
    return length > 0xFFFF_FFFF - PLACEHOLDER_RANGE or abs(length - 0x8000_0000) <= PLACEHOLDER_RANGE


def _iff_chunk(head: bytes, at: int) -> _Chunk:
    (length,) = struct.unpack(">I", head[4:])
    return _Chunk(head[:4], at, at + 8, at + 8 + length)


def _caf_chunk(head: bytes, at: int) -> _Chunk:
    (length,) = struct.unpack(">q", head[4:])
    return _Chunk(head[:4], at, at + 12, at + 12 + length if length >= 0 else None)


def _w64_chunk(head: bytes, at: int) -> _Chunk:
    (length,) = struct.unpack("<Q", head[16:])
    return _Chunk(head[:4], at, at + 24, at + length if length >= 24 else None)


def _w64_correction(sound: _Chunk, size: int) -> dict[int, bytes]:
    """FFmpeg seeks to the end of the chunk, so it must be in the file."""
    return {sound.start + 16: struct.pack("<Q", size - sound.start)}


def _length_at(offset: int, unknown: bytes) -> Callable[[_Chunk, int], dict[int, bytes]]:
    """The correction for containers that have a number for an unknown length."""
    return lambda sound, size: {sound.start + offset: unknown}


def _mp4_box(head: bytes, at: int) -> _Chunk:
    (length,) = struct.unpack(">I", head[:4])
    if length == 1:
        (length,) = struct.unpack(">Q", head[8:])
    return _Chunk(head[4:8], at, at + 8, at + length if length >= 8 else None)


_AFTER_SOUND = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"JUNK", b"_PMX", b"data", b"SSND")
"""Chunks that are taken for such even if they reach beyond the end of the file."""

_WAVES = (b"RIFF", b"RF64", b"BW64")
_RIFF = _Format(12, 8, _riff_chunk, b"data", _length_at(4, b"\xff" * 4), _WAVES, 2)
_AVI = _Format(0, 8, _riff_chunk, beginnings=(b"RIFF",), align=2)
_IFF = _Format(12, 8, _iff_chunk, b"SSND", _length_at(4, b"\x7f\xff\xff\xff"), (b"FORM",), 2)
_CAF = _Format(8, 12, _caf_chunk, b"data", _length_at(4, b"\xff" * 8), (b"caff",))
_W64 = _Format(40, 24, _w64_chunk, b"data", _w64_correction, (b"riff",), 8)
_MP4 = _Format(0, 16, _mp4_box)


def part_of_chunks(file: IO[bytes], head: bytes, start: int, size: int) -> Part | None:
    """The part of a file that begins at a position with these bytes; None: it is no such container."""
    if head[:4] == b"RIFF":
        return _of_chunks(file, _AVI if head[8:12] == b"AVI " else _RIFF, start, size)
    if head[:4] in _WAVES:
        return _rf64(file, start, size)
    if head[4:8] == b"ftyp":
        return _mp4(file, start, size)
    format_ = {b"FORM": _IFF, b"caff": _CAF, b"riff": _W64}.get(head[:4])
    return _of_chunks(file, format_, start, size) if format_ else None


def _rf64(file: IO[bytes], start: int, size: int) -> Part:
    """Reads a WAV whose lengths are in a chunk ds64, of 64 bits. Corrected it is a WAV without a length."""
    file.seek(start + 12)
    name, _, _, length = struct.unpack("<4sIQQ", file.read(24).ljust(24, b"\0"))

    def chunk(head: bytes, at: int) -> _Chunk:
        is_sound = head[:4] == b"data" and name == b"ds64"
        end = at + 8 + length if length else None
        return _Chunk(b"data", at, at + 8, end) if is_sound else _riff_chunk(head, at)

    def correction(sound: _Chunk, size: int) -> dict[int, bytes]:
        return {start: b"RIFF", **_RIFF.correction(sound, size)}

    return _of_chunks(file, replace(_RIFF, chunk=chunk, correction=correction), start, size)


def _of_chunks(file: IO[bytes], format_: _Format, start: int, size: int) -> Part:
    promised_end, sound = start, None
    for chunk in _chunks(file, format_, start, size):
        is_first = chunk.start == start
        if chunk.name in format_.beginnings and not is_first and _begins_a_file(file, format_, chunk):
            return Part(start, chunk.start, chunk.start)
        if sound is not None and (chunk.name == format_.sound or not _is_plausible(chunk, size)):
            if size - chunk.start <= PADDING_BYTES:
                break
            return Part(start, size, promised_end, format_.correction(sound, size))
        if chunk.name == format_.sound:
            sound = chunk
        promised_end = chunk.end or size
    patches = format_.correction(sound, size) if sound is not None and sound.end is None else {}
    return Part(start, size, max(promised_end, size), patches, is_live=format_ is _AVI and chunk.end is None)


def _mp4(file: IO[bytes], start: int, size: int) -> Part:
    """Reads the boxes of an MP4. Where one is broken, it is corrected so that FFmpeg finds those after it.

    Of an MP4 in fragments FFmpeg reads nothing before a broken box; if no whole one follows, it ends with the last one.
    """
    end, promised_end, patches, names = start, start, dict[int, bytes](), set[bytes]()
    sound: _Chunk | None = None
    boxes = _chunks(file, _MP4, start, size)
    while (box := next(boxes, None)) is not None:
        if box.name == b"ftyp" and box.start != start:
            return Part(start, box.start, box.start, patches)
        promised_end = box.end or size
        sound = box if box.name == b"mdat" else sound
        is_fragmented = b"moof" in names
        if not _is_plausible(box, size) and (is_fragmented or b"moov" not in names):
            broken, wanted = (box, b"moof") if is_fragmented else (sound, b"moov")
            behind = (
                _box_behind(file, box.start + 8, size, wanted) if len(patches) < MAX_CORRECTIONS else None
            )
            if broken and behind:
                patches[broken.start], promised_end = _box_header(file, broken, behind), behind
                boxes = _chunks(file, replace(_MP4, first=behind - start), start, size)
            elif is_fragmented:
                end = size if box.name == b"mdat" else box.start
                return Part(start, end, max(end, promised_end), patches, breaks_off=True)
        end = promised_end
        names.add(box.name)
    is_cut = b"moof" in names and end < size
    return Part(start, size, max(promised_end, size), patches, breaks_off=is_cut)


def _box_behind(file: IO[bytes], position: int, size: int, name: bytes) -> int | None:
    """The start of the next whole box of a name, which begins with a header of its own kind; None: there is none."""
    inner = {b"moof": b"mfhd", b"moov": b"mvhd"}[name]
    pattern = re.compile(b"(?s).{4}" + name + b".{4}" + inner)
    while (at := first_match(file, position, size, pattern)) is not None:
        file.seek(at)
        if at + int.from_bytes(file.read(4)) <= size:
            break
        position = at + 8
    return at


def _box_header(file: IO[bytes], box: _Chunk, end: int) -> bytes:
    """The header by which a box ends at a position. What is no sound becomes a free box."""
    file.seek(box.start)
    is_sound, length = box.name == b"mdat", end - box.start
    is_long = length >= 1 << 32 or (is_sound and file.read(4) == b"\0\0\0\1")
    name = box.name if is_sound else b"free"
    return struct.pack(">I4sQ", 1, name, length) if is_long else struct.pack(">I4s", length, name)


def _chunks(file: IO[bytes], format_: _Format, start: int, size: int) -> Iterator[_Chunk]:
    at = start + format_.first
    for _ in range(MAX_CHUNKS):
        if at + 8 > size:
            return
        file.seek(at)
        chunk = format_.chunk(file.read(format_.header_bytes).ljust(format_.header_bytes, b"\0"), at)
        if chunk.end is not None and chunk.end - at > MAX_BYTES:
            chunk = replace(chunk, end=None)
        yield chunk
        if chunk.end is None:
            return
        at = chunk.end + (start - chunk.end) % format_.align


def _is_plausible(chunk: _Chunk, size: int) -> bool:
    """Whether it is a chunk, not sound that the header does not count."""
    is_whole = chunk.end is not None and chunk.end <= size
    return all(0x20 <= byte < 0x7F for byte in chunk.name) and (is_whole or chunk.name in _AFTER_SOUND)


def _begins_a_file(file: IO[bytes], format_: _Format, chunk: _Chunk) -> bool:
    """Whether a chunk begins another file, not a further part of this one (as OpenDML has it)."""
    file.seek(chunk.start)
    return file.read(12)[8:12] != b"AVIX"


def first_match(file: IO[bytes], position: int, size: int, pattern: re.Pattern[bytes]) -> int | None:
    """Where a pattern of at most 16 bytes is in a file, from a position on; None: nowhere."""
    while position < size:
        file.seek(position)
        block = file.read(SEARCHED_BYTES)
        if found := pattern.search(block):
            return position + found.start()
        position += max(1, len(block) - 15)
    return None
