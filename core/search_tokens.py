"""Search tokens: words as the search indexes store them and as queries ask for them.

A word is one token, in the spelling of :mod:`core.spelling`. A word with hyphens or apostrophes is the tokens of its
parts, and one token without them (``e``, ``mail``, ``email``). Scripts without spaces between words (Chinese, Japanese,
Thai, Lao, Khmer, Burmese and others) become pairs of neighbouring characters, so that any part of a sentence can be
found; so do Korean and Amharic, whose particles are written without spaces. For long words of other scripts the tokens
of :func:`insides` tell what follows within the word.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from core.spelling import IGNORED, normalized

VERSION = 2
"""The version of these rules. Increase it with every change: an index of another version is rebuilt."""

MAX_WORD_CHARACTERS = 64
"""Longer words are cut to this; of a query's word not more tokens than this are searched for."""

MIN_HEAD_CHARACTERS, MIN_INSIDE_CHARACTERS = 3, 3
"""An inner part of a word is found after at least this many characters, if it has at least this many."""

INSIDE = "\u2026"
"""Marks a token that is only a part of a word. No text has this token."""

_APOSTROPHES = "'`\u00b4\u00b7\u02b9-\u02bf\u05f3\u05f4\u2018\u2019\u201b\u2032\ua78c\uff07"
_HYPHENS = "\u058a\u05be\u2010-\u2013\u2212\ufe63\uff0d\\-"
_CONNECTOR = (
    f"[{_APOSTROPHES}{_HYPHENS}]"
    '|(?<=[\u05d0-\u05ea])"(?=[\u05d0-\u05ea])'  # as Hebrew abbreviations are typed
)
_SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9ff\uaa60-\uaadf"  # South-East Asia
    "\u1780-\u17ff\U00011700-\U0001174f"  # Khmer, Ahom
    "\u3005-\u3007\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\ua000-\ua4cf\u1100-\u11ff\u3130-\u318f\uac00-\ud7ff"  # Yi, Korean
    "\u1200-\u139f\u2d80-\u2ddf\uab00-\uab2f"  # Ethiopic
)

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
    """Matches letters, digits and their combining marks, with single hyphens and apostrophes between them."""
    letters = rf"(?:[^\W_{_APOSTROPHES}]|[{_class_of('Mn', 'Mc')}{IGNORED}])+"
    return re.compile(f"{letters}(?:(?:{_CONNECTOR}){letters})*")


@functools.cache
def _cluster() -> re.Pattern[str]:
    """Matches a character with its combining marks."""
    return re.compile(rf".[{_class_of('Mn', 'Mc')}{IGNORED}]*", re.DOTALL)


_ascii_word = re.compile(r"[A-Za-z0-9]+(?:['`-][A-Za-z0-9]+)*")
_connector = re.compile(
    # Persian's zero-width non-joiner divides a word, that of other scripts only shapes it.
    f"{_CONNECTOR}|(?<=[\u0600-\u08ff])\u200c+(?=[\u0600-\u08ff])"
)
_spaceless = re.compile(f"[{_SPACELESS}]+")


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
    return [token for found in _pattern(text).findall(text) for token in _tokens_of(found)]


def parts(text: str) -> Iterator[tuple[str, ...]]:
    """The words of a text, each as its parts between hyphens and apostrophes, normalized."""
    for found in _pattern(text).findall(text):
        if some := _parts(found):
            yield some


def searchable(text: str) -> list[str]:
    """Every token under which a text can be found, once each, for a database that does not keep the order of tokens."""
    whole = dict.fromkeys(tokens(text))
    return list(dict.fromkeys(itertools.chain(whole, *map(insides, whole))))


@functools.lru_cache(maxsize=65_536)
def insides(token: str) -> tuple[str, ...]:
    """Marked tokens for all that may follow within a long word: ``…schule`` and others for ``grundschule``."""
    if len(token) < MIN_HEAD_CHARACTERS + MIN_INSIDE_CHARACTERS or token.isdecimal() or is_spaceless(token):
        return ()
    starts = range(MIN_HEAD_CHARACTERS, len(token) - MIN_INSIDE_CHARACTERS + 1)
    return tuple(INSIDE + token[start:] for start in starts if unicodedata.category(token[start])[0] != "M")


def is_spaceless(token: str) -> bool:
    """Whether a token, or a run of :func:`runs`, is of a script that is indexed in pairs of characters."""
    return _spaceless.match(token) is not None


def runs(normal: str) -> Iterator[str]:
    """Splits a normalized word into runs of scripts with spaces and of scripts without."""
    position = 0
    for found in _spaceless.finditer(normal):
        if found.start() > position:
            yield normal[position : found.start()]
        yield found[0]
        position = found.end()
    if position < len(normal):
        yield normal[position:]


def pairs(run: str) -> tuple[str, ...]:
    """The pairs of neighbouring characters of a run."""
    return tuple(run[index : index + 2] for index in range(len(run) - 1))


def places(text: str, wanted: str) -> Iterator[tuple[int, int]]:
    """Where a normalized string is in a text."""
    normal, origins = "", list[int]()
    for cluster in _cluster().finditer(text):
        plain = normalized(cluster[0])
        normal += plain
        origins += [cluster.start()] * len(plain)
    origins.append(len(text))
    at = normal.find(wanted)
    while at >= 0:
        yield origins[at], origins[at + len(wanted)]
        at = normal.find(wanted, at + len(wanted))


def _pattern(text: str) -> re.Pattern[str]:
    return _ascii_word if text.isascii() else _word()


def _parts(word: str) -> tuple[str, ...]:
    return tuple(filter(None, map(normalized, _connector.split(word))))


@functools.lru_cache(maxsize=65_536)
def _tokens_of(word: str) -> tuple[str, ...]:
    found: list[str] = []
    all_parts = _parts(word)
    for run in itertools.chain.from_iterable(map(runs, all_parts)):
        if is_spaceless(run):
            found += [*pairs(run), run[-1]]
        else:
            found.append(run[:MAX_WORD_CHARACTERS])
    if len(all_parts) > 1 and not any(map(_spaceless.search, all_parts)):
        found.append("".join(all_parts)[:MAX_WORD_CHARACTERS])
    return tuple(found)
