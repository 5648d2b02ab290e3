"""Plain text from outside: one line, with the writing as it is, without characters that can do harm.

Invisible characters are spelling in many scripts: U+200C and U+200D in Persian, Sinhala, Malayalam and in emoji, U+200B
between the words of Khmer and Thai, direction marks in Arabic and Hebrew. Signs of the Quran such as U+06DD count as
format characters. Removed are only those that hide or reorder text, and what is no character.
"""

from __future__ import annotations

import re

_NO_CHARACTERS = "\ufdd0-\ufdef" + "".join(
    f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000)
)
_HARMFUL = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # controls
    "\u202a-\u202e\u2066-\u206f"  # embeddings, overrides, isolates, and deprecated format controls
    "\ufeff\ufff9-\ufffb"  # byte order mark, interlinear annotations
    f"\U000e0000-\U000e007f\ud800-\udfff{_NO_CHARACTERS}]+"  # tags, surrogates
)
_INVISIBLE = re.compile(
    "[\\s\u00ad\u034f\u061c\u180b-\u180e\u200b-\u200f\u2060-\u2064\ufe00-\ufe0f\U000e0100-\U000e01ef]*"
)


_BREAKS = re.compile("[ \t-\r\x1c-\x1f\x85\u2028\u2029]+")
"""Spaces and line ends. Other white space is spelling: U+202F before a Mongolian suffix, U+3000 in Japanese."""


def one_line(text: str) -> str:
    """Returns a text as one line without two plain spaces in a row; empty if nothing of it can be seen."""
    kept = _BREAKS.sub(" ", _HARMFUL.sub("", _BREAKS.sub(" ", text))).strip()
    return "" if _INVISIBLE.fullmatch(kept) else kept
