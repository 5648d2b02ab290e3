"""Removes differences of spelling that a search ignores: case, diacritics, and variants of a letter or a sound.

Arabic is written with and without vowel signs, tatweel and hamza, and its last letter varies (ه for ة, ي for ى). Indic
scripts write a nasal before a consonant as anusvara, as chandrabindu or as its own letter (हिंदी, हिन्दी), and often
without nukta. Hiragana and katakana, Hebrew's final letters, and the order of Thai's and Lao's signs are the same.
"""

from __future__ import annotations

import functools
import re
import unicodedata

IGNORED = (
    "\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"  # accents
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"  # Hebrew points
    "\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed"  # Arabic signs, tatweel
    "\u0898-\u089f\u08ca-\u08ff"  # signs of the Qur'an
    "\u093c\u09bc\u0a3c\u0abc\u0b3c\u0c3c\u0cbc"  # nukta
    "\u30fb"  # the dot between foreign words in Japanese
    "\u00ad\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"  # invisible joiners and hints
    "\ufe00-\ufe0f\ufeff\U000e0000-\U000e01ef"
)
"""Characters that are removed, as the inside of a regular expression's class."""

_INDIC = (0x0900, 0x0980, 0x0A00, 0x0A80, 0x0B00, 0x0C00, 0x0C80, 0x0D00)
"""Unicode blocks of scripts with the same layout: Devanagari, Bengali, Gurmukhi, Gujarati, Odia, Telugu, Kannada,
Malayalam. Tamil has it too, but no anusvara."""

_VARIANTS = str.maketrans(
    {
        "أ": "ا", "إ": "ا", "آ": "ا", "ٱ": "ا", "ى": "ي", "ی": "ي", "ې": "ي", "ئ": "ي", "ؤ": "و", "ة": "ه", "ک": "ك",
        "ہ": "ه", "ۃ": "ه", "ە": "ه", "ھ": "ه", "ں": "ن",
        "ך": "כ", "ם": "מ", "ן": "נ", "ף": "פ", "ץ": "צ",
        "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h", "ŧ": "t",
        "ς": "σ", "ё": "е", "\u02bc": "",
        "ੰ": "ਂ", "ৎ": "ত্",
        "ൺ": "ണ്", "ൻ": "ന്", "ർ": "ര്", "ൽ": "ല്", "ൾ": "ള്", "ൿ": "ക്",
        **{chr(block + 0x01): chr(block + 0x02) for block in _INDIC},  # chandrabindu to anusvara
        **{chr(code): chr(code - 0x60) for code in range(0x30A1, 0x30F7)},  # katakana to hiragana
    }
)  # fmt: skip


def _letters(*offsets: int) -> str:
    return "".join(chr(block + offset) for block in _INDIC for offset in offsets)


_ignored = re.compile(f"[{IGNORED}]+")
_nasal = re.compile(f"([{_letters(0x19, 0x1E, 0x23, 0x28, 0x2E)}])[{_letters(0x4D)}]")
"""ṅ, ñ, ṇ, n or m without a vowel."""
_tone_behind_nasal = re.compile("([\u0e4d\u0ecd])([\u0e48-\u0e4b\u0ec8-\u0ecb])")


@functools.lru_cache(maxsize=65_536)
def normalized(word: str) -> str:
    """A word in lower case, without diacritics and variants of spelling; digits of any script become ASCII digits."""
    if word.isascii():
        return word.lower()
    plain = _ignored.sub("", unicodedata.normalize("NFKD", word.casefold())).casefold()
    plain = unicodedata.normalize("NFC", plain).translate(_VARIANTS)
    plain = _nasal.sub(_anusvara, plain)
    plain = _tone_behind_nasal.sub(r"\2\1", plain).replace("เเ", "แ").replace("ເເ", "ແ")
    return "".join(map(_digit, plain))


def _anusvara(nasal: re.Match[str]) -> str:
    return chr((ord(nasal[1]) & ~0x7F) + 0x02)


def _digit(character: str) -> str:
    value = unicodedata.decimal(character, None)
    return character if value is None else str(value)
