"""Reads the length of an MP3 from the count of its frames (Xing, Info, VBRI) in its first one.

FFmpeg does not believe the count if the file has another length, and then estimates the length by the bit rate.
"""

from __future__ import annotations

import re
from pathlib import Path

FIRST_BYTES = 4096
"""The first frame begins within this many bytes after the tags."""

_COUNTED = re.compile(
    rb"\xff([\xe2\xe3\xf2\xf3\xfa\xfb])(.).{10,35}"
    rb"(?:(?:Xing|Info)\0\0\0[\x01\x03\x05\x07\x09\x0b\x0d\x0f]|VBRI.{10})(.{4})",
    re.DOTALL,
)
"""A frame of layer III: its version, its rate, and the count of all frames."""

_RATES = (44_100, 48_000, 32_000)
"""Of MPEG 1, in Hz."""
_RATE_DIVISORS = {0: 4, 2: 2, 3: 1}
"""By the version's bits: MPEG 2.5, 2 and 1."""


def mp3_seconds(path: Path, start: int) -> float | None:
    """Returns the length in seconds of the MP3 that begins at a byte of a file; None: its frames are not counted.

    Raises:
        OSError: the file cannot be read.
    """
    found = _COUNTED.search(_first_bytes(path, start))
    if found is None:
        return None
    divisor, rate = _RATE_DIVISORS[found[1][0] >> 3 & 3], found[2][0] >> 2 & 3
    if rate == len(_RATES):
        return None
    samples = 1152 if divisor == 1 else 576
    return int.from_bytes(found[3]) * samples * divisor / _RATES[rate] or None


def tag_bytes(head: bytes) -> int:
    """The length of the tag ID3 with which a file begins, by its first ten bytes; 0: it begins with none."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])


def _first_bytes(path: Path, start: int) -> bytes:
    """Returns what follows the ID3 tag."""
    with open(path, "rb") as file:
        file.seek(start)
        file.seek(start + tag_bytes(file.read(10)))
        return file.read(FIRST_BYTES)
