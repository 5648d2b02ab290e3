"""In which script a text is written, as an ISO 15924 code."""

from __future__ import annotations

import unicodedata
from collections import Counter

_CODES = {
    "LATIN": "Latn",
    "CYRILLIC": "Cyrl",
    "GREEK": "Grek",
    "ARMENIAN": "Armn",
    "GEORGIAN": "Geor",
    "HEBREW": "Hebr",
    "ARABIC": "Arab",
    "THAANA": "Thaa",
    "ETHIOPIC": "Ethi",
    "DEVANAGARI": "Deva",
    "BENGALI": "Beng",
    "TAMIL": "Taml",
    "GURMUKHI": "Guru",
    "GUJARATI": "Gujr",
    "ORIYA": "Orya",
    "TELUGU": "Telu",
    "KANNADA": "Knda",
    "LAO": "Laoo",
    "MALAYALAM": "Mlym",
    "SINHALA": "Sinh",
    "THAI": "Thai",
    "TIBETAN": "Tibt",
    "MYANMAR": "Mymr",
    "KHMER": "Khmr",
    "MONGOLIAN": "Mong",
    "HANGUL": "Kore",
    "HIRAGANA": "Jpan",
    "KATAKANA": "Jpan",
    "CJK": "Hani",
    "TIFINAGH": "Tfng",
    "SYRIAC": "Syrc",
    "CHEROKEE": "Cher",
    "BOPOMOFO": "Hant",
}
"""Scripts by the first word of their characters' names in Unicode."""

MIN_LETTERS = 4
"""A text with fewer letters has no script."""
MAJORITY = 0.7
"""The share of a text's letters that must be of its script."""
MAX_CHARACTERS = 1000
"""How much of a text is looked at."""


def script_of_text(text: str) -> str:
    """The script of most letters of a text: ``Latn``, ``Cyrl``, ``Hans``, ...; empty if there is none.

    Chinese is ``Hans`` or ``Hant`` if it has characters of only one of the two, and otherwise ``Hani``. A text with
    kana is ``Jpan``.
    """
    counts = Counter(script_of_letter(letter) for letter in text[:MAX_CHARACTERS] if letter.isalpha())
    if counts["Jpan"] and counts["Jpan"] + counts["Hani"] >= MAJORITY * counts.total():
        return "Jpan"
    script, count = counts.most_common(1)[0] if counts else ("", 0)
    if script == "Hani" and count >= MAJORITY * counts.total():
        return _kind_of_han(text[:MAX_CHARACTERS])
    return script if count >= max(MIN_LETTERS, MAJORITY * counts.total()) else ""


def script_of_letter(letter: str) -> str:
    """The script of one letter; empty if it is in none of those known."""
    return _CODES.get(unicodedata.name(letter, "").partition(" ")[0], "")


def _kind_of_han(text: str) -> str:
    """Tells Simplified from Traditional characters by the national standards that contain only one of the forms."""
    simplified = sum(_is_in("gb2312", one) and not _is_in("big5", one) for one in text if one.isalpha())
    traditional = sum(_is_in("big5", one) and not _is_in("gb2312", one) for one in text if one.isalpha())
    if simplified > 3 * traditional:
        return "Hans"
    return "Hant" if traditional > 3 * simplified else "Hani"


def _is_in(standard: str, character: str) -> bool:
    try:
        character.encode(standard)
    except UnicodeEncodeError:
        return False
    return True
