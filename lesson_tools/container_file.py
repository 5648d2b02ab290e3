"""Reads the structure of a recording's file: how long it is by its header, and where another file was appended to it.

Only the headers of top-level chunks are read. :class:`ContainerFile` gives PyAV one part of the file; a header that
promises less sound than there is, is corrected in it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

MAX_CHUNKS = 500_000
"""Top-level chunks that are looked at. An FLV of an hour has some hundred thousand tags."""

MAX_PARTS = 100

MAX_BYTES = 1 << 40
"""A length beyond this is not one: programs write such numbers if they cannot go back to the header."""

PLACEHOLDER_RANGE = 4096
"""A length that differs from 2 or 4 GiB by at most this many bytes is not one either: some subtract their headers."""

PADDING_BYTES = 1024
"""This much after the sound is padding, not sound that the header does not count."""


@dataclass(frozen=True)
class Part:
    """One recording in a file: bytes start <= i < end."""

    start: int
    end: int
    promised_end: int
    """Where it ends according to its header; after ``end``: the file is incomplete."""
    patches: Mapping[int, bytes] = field(default_factory=dict)
    """Bytes of the header to be replaced, by their position in the file."""

    breaks_off: bool = False
    """It lacks its end, and how much is missing is not known."""
    is_live: bool = False
    """It was written by a program that could not go back to its header: no length in it counts."""

    @property
    def share_there(self) -> float:
        """Which share of the promised bytes is there, from 0 to 1."""
        return min(1.0, (self.end - self.start) / max(1, self.promised_end - self.start))

    @property
    def promised_share(self) -> float:
        """Which share of the bytes that are there is promised, from 0 to 1."""
        return min(1.0, (self.promised_end - self.start) / max(1, self.end - self.start))


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
    return parts


class ContainerFile:
    """A file object with one part of a file, for PyAV.

    Args:
        problems: gets the errors of the disk. PyAV would only print them.
    """

    def __init__(self, path: Path, part: Part, problems: list[OSError]) -> None:
        self.name = f"recording{path.suffix if path.suffix.isascii() else ''}"
        """PyAV guesses the format by it. The real name may not be valid Unicode, or may look like an address."""
        self._problems = problems
        self._file = open(path, "rb")
        self._part = part
        self._file.seek(part.start)

    def read(self, count: int) -> bytes:
        """Reads at most ``count`` bytes; nothing at the end, or where the disk refuses."""
        start = self._file.tell()
        try:
            data = self._file.read(max(0, min(count, self._part.end - start)))
        except OSError as error:
            self._problems.append(error)
            return b""
        for position, patch in self._part.patches.items():
            if position < start + len(data) and start < position + len(patch):
                data = _patched(data, position - start, patch)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a position in the part, or to its nearer end: a disk refuses one that is far off. Returns it."""
        part = self._part
        base = {os.SEEK_SET: part.start, os.SEEK_CUR: self._file.tell(), os.SEEK_END: part.end}
        return self._file.seek(min(max(part.start, base[whence] + offset), part.end)) - part.start

    def tell(self) -> int:
        return self._file.tell() - self._part.start

    def close(self) -> None:
        self._file.close()


def _patched(data: bytes, offset: int, patch: bytes) -> bytes:
    begin, skip = max(0, offset), max(0, -offset)
    piece = patch[skip : skip + len(data) - begin]
    return data[:begin] + piece + data[begin + len(piece) :]


# --- the structure of containers ---


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


_FLV = b"FLV\x01"
_OGG = b"OggS"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_EBML = b"\x1a\x45\xdf\xa3"
_AFTER_SOUND = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"JUNK", b"_PMX", b"data", b"SSND")
"""Chunks that are taken for such even if they reach beyond the end of the file."""

_WAVES = (b"RIFF", b"RF64", b"BW64")
_RIFF = _Format(12, 8, _riff_chunk, b"data", _length_at(4, b"\xff" * 4), _WAVES, 2)
_AVI = _Format(0, 8, _riff_chunk, beginnings=(b"RIFF",), align=2)
_IFF = _Format(12, 8, _iff_chunk, b"SSND", _length_at(4, b"\x7f\xff\xff\xff"), (b"FORM",), 2)
_CAF = _Format(8, 12, _caf_chunk, b"data", _length_at(4, b"\xff" * 8), (b"caff",))
_W64 = _Format(40, 24, _w64_chunk, b"data", _w64_correction, (b"riff",), 8)
_MP4 = _Format(0, 16, _mp4_box)


def _part(file: IO[bytes], start: int, size: int) -> Part:
    file.seek(start)
    head = file.read(64)
    if head[:4] == b"RIFF":
        return _of_chunks(file, _AVI if head[8:12] == b"AVI " else _RIFF, start, size)
    if head[:4] in _WAVES:
        return _rf64(file, start, size)
    if head[:4] == b".snd" and len(head) >= 12:
        return _au(head, start, size)
    if head[:4] == _EBML:
        return _matroska(file, head, start, size)
    if head[:4] == _OGG:
        return Part(start, size, size, breaks_off=_lacks_last_page(file, start, size))
    if head[:4] == _FLV:
        return _flv(file, start, size)
    if head[:16] == _ASF:
        return _asf(file, start, size)
    if head[4:8] == b"ftyp":
        return _mp4(file, start, size)
    format_ = {b"FORM": _IFF, b"caff": _CAF, b"riff": _W64}.get(head[:4])
    return _of_chunks(file, format_, start, size) if format_ else Part(start, size, size)


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
        if sound is not None and not _is_plausible(chunk, size):
            if size - chunk.start <= PADDING_BYTES:
                break
            return Part(start, size, promised_end, format_.correction(sound, size))
        if chunk.name == format_.sound:
            sound = chunk
        promised_end = chunk.end or size
    patches = format_.correction(sound, size) if sound is not None and sound.end is None else {}
    return Part(start, size, max(promised_end, size), patches, is_live=format_ is _AVI and chunk.end is None)


def _mp4(file: IO[bytes], start: int, size: int) -> Part:
    """Finds the last whole box of an MP4 in fragments: FFmpeg reads none of those before a broken one."""
    end, promised_end, is_fragmented = start, start, False
    for box in _chunks(file, _MP4, start, size):
        if box.name == b"ftyp" and box.start != start:
            return Part(start, box.start, box.start)
        promised_end = box.end or size
        if is_fragmented and not _is_plausible(box, size):
            end = size if box.name == b"mdat" else box.start
            return Part(start, end, max(end, promised_end), breaks_off=True)
        end = promised_end
        is_fragmented = is_fragmented or box.name == b"moof"
    return Part(start, size, max(promised_end, size), breaks_off=is_fragmented and end < size)


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
