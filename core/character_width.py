"""How wide a character is, in Latin letters."""

from __future__ import annotations

import functools
import unicodedata


@functools.cache
def character_width(character: str, wide: float) -> float:
    """0 for combining marks and invisible characters, ``wide`` for Chinese, Japanese and Korean ones, else 1."""
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0.0
    return wide if is_wide(character) else 1.0


def is_wide(character: str) -> bool:
    """Whether it is a Chinese, Japanese or Korean character, which takes the place of two Latin letters."""
    return unicodedata.east_asian_width(character) in "WF"
