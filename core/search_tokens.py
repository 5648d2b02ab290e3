"""Search tokens: words without case, diacritics and spelling variants, as the index stores them and queries use them.

Arabic is written with and without vowel signs, tatweel and hamza, and its last letter varies (ه for ة, ي for ى): all
spellings give the same token. Scripts without spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese)
become pairs of neighbouring characters, so that any part of a sentence can be found.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

VERSION = 1
"""The version of these rules. Increase it with every change: an index of another version is rebuilt."""

MAX_WORD_CHARACTERS = 64
"""Longer words are cut to this."""

_IGNORED = (
    "\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"  # accents
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"  # Hebrew points
    "\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"  # Arabic signs, tatweel
    "\u200b-\u200f\u2060\ufeff\u00ad\ufe00-\ufe0f\U000e0100-\U000e01ef"  # invisible joiners and hints
)
_SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai and Lao, Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_VARIANTS = str.maketrans(
    {
        "أ": "ا", "إ": "ا", "آ": "ا", "ٱ": "ا", "ى": "ي", "ی": "ي", "ئ": "ي", "ؤ": "و", "ة": "ه", "ک": "ك",
        "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ς": "σ", "ё": "е",
        "'": "", "\u2019": "", "\u02bc": "",
    }
)  # fmt: skip


_BLOCKS_WITH_MARKS = (
    range(0x300, 0x3400),
    range(0xA000, 0xAC00),
    range(0xFB00, 0xFE30),
    range(0x10000, 0x12000),
    range(0x16A00, 0x17000),
    range(0x1BC00, 0x1BD00),
    range(0x1CF00, 0x1D300),
    range(0x1DA00, 0x1EC00),
)
"""The Unicode blocks that contain combining marks. Scanning all of Unicode would delay the first search."""


def _class_of(*categories: str) -> str:
    """All characters of Unicode categories as the inside of a regular expression's class."""
    ranges: list[list[int]] = []
    for code in itertools.chain.from_iterable(_BLOCKS_WITH_MARKS):
        if unicodedata.category(chr(code)) in categories:
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


@functools.cache
def _word() -> re.Pattern[str]:
    """Matches a run of letters, digits, their combining marks, and apostrophes (which are removed afterwards)."""
    return re.compile(rf"(?:[^\W_]|[{_class_of('Mn', 'Mc')}{_IGNORED}'\u2019\u02bc])+")


def _pattern(text: str) -> re.Pattern[str]:
    return _ascii_word if text.isascii() else _word()


_ignored = re.compile(f"[{_IGNORED}]+")
_spaceless = re.compile(f"[{_SPACELESS}]+")
_ascii_word = re.compile(r"[A-Za-z0-9']+")


@dataclass(frozen=True)
class TokenizedWord:
    """The tokens of a word, or of a run of characters without spaces, and its position in the text."""

    tokens: tuple[str, ...]
    start: int
    end: int


def words(text: str) -> Iterator[TokenizedWord]:
    """The words of a text with their positions."""
    for found in _pattern(text).finditer(text):
        tokens = _tokens_of(found[0])
        if tokens:
            yield TokenizedWord(tokens, found.start(), found.end())


def tokens(text: str) -> list[str]:
    """The tokens of a text for the index, in order."""
    if text.isascii():
        found = (word.replace("'", "")[:MAX_WORD_CHARACTERS] for word in _ascii_word.findall(text.lower()))
        return [word for word in found if word]
    return [token for found in _word().findall(text) for token in _tokens_of(found)]


def searchable(text: str) -> set[str]:
    """Every token under which a text can be found, for a database that does not keep the order of tokens."""
    found = set(tokens(text))
    single = {character for token in found if _spaceless.match(token) for character in token}
    return found | single | {without_article(token) for token in found}


def question(text: str) -> list[tuple[str, ...]]:
    """The words of a query, each as a sequence of adjacent tokens.

    There are no operators: every character is searched for as it is. A single character of a script without spaces
    becomes a prefix of pairs, written with ``*`` at its end.
    """
    asked: list[tuple[str, ...]] = []
    for found in _pattern(text).findall(text):
        for run in _runs(normalized(found)):
            if not _spaceless.match(run):
                asked.append((run[:MAX_WORD_CHARACTERS],))
            elif len(run) == 1:
                asked.append((f"{run}*",))
            else:
                asked.append(tuple(_pairs(run)))
    return asked


_ARTICLE = re.compile(r"[وفبك]?ال(?=\w{3})|لل(?=\w{3})")


def without_article(token: str) -> str:
    """An Arabic word without the article and attached particles; any other word unchanged."""
    return token if token.isascii() else _ARTICLE.sub("", token, count=1) if _ARTICLE.match(token) else token


@functools.lru_cache(maxsize=65_536)
def normalized(word: str) -> str:
    """A word in lower case, without diacritics, apostrophes and spelling variants."""
    if word.isascii():
        return word.lower().replace("'", "")
    plain = _ignored.sub("", unicodedata.normalize("NFKD", word.casefold()))
    plain = unicodedata.normalize("NFC", plain).translate(_VARIANTS)
    return "".join(_digit(character) for character in plain)


def _digit(character: str) -> str:
    """The ASCII form of a digit of any script (``1`` for ١ and १); other characters unchanged."""
    value = unicodedata.decimal(character, None)
    return character if value is None else str(value)


@functools.lru_cache(maxsize=65_536)
def _tokens_of(word: str) -> tuple[str, ...]:
    found: list[str] = []
    for run in _runs(normalized(word)):
        if _spaceless.match(run):
            found += [*_pairs(run), run[-1]]
        else:
            found.append(run[:MAX_WORD_CHARACTERS])
    return tuple(found)


def _runs(normal: str) -> Iterator[str]:
    """Splits a normalized word into runs of scripts with spaces and of scripts without."""
    position = 0
    for found in _spaceless.finditer(normal):
        if found.start() > position:
            yield normal[position : found.start()]
        yield found[0]
        position = found.end()
    if position < len(normal):
        yield normal[position:]


def _pairs(run: str) -> list[str]:
    return [run[index : index + 2] for index in range(len(run) - 1)]
