"""Queries: the words that are asked for, in which spellings, and the steps from strict to lenient.

There are no operators: every character is searched for as it is. The first step finds the words adjacent, the second
anywhere, the third also finds words of which an asked one is a beginning or an inner part. Behind attached particles
(Arabic, Hebrew) a word begins, too.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from core import search_tokens
from core.search_tokens import INSIDE, MAX_WORD_CHARACTERS, is_spaceless, pairs

MIN_BEGINNING = 3
"""Characters that a word must have to be searched for as a beginning or an inner part of words."""
MIN_BEGINNING_OF_SYLLABLES = 2
"""The same in scripts whose letters are syllables."""

_ALPHABET = re.compile("[0-9a-z\u00b5-\u08ff\u10a0-\u10ff\u1c80-\u1cff\u1e00-\u1fff]")
"""Matches a letter of an alphabet (Latin to Arabic, Georgian), where a letter is a sound."""

_ARABIC, _HEBREW = re.compile("[\u0620-\u06ff]+"), re.compile("[\u05d0-\u05ea]+")
_ARTICLE = re.compile(r"^(?:[وف]?[بك]?ال|[وف]?لل)(?=\w{3})")


def _joined(*choices: str) -> tuple[str, ...]:
    return tuple("".join(parts) for parts in itertools.product(*(choice.split(",") for choice in choices)))


_WITH_ARTICLE = (*_joined(",و,ف", ",ب,ك", "ال"), *_joined(",و,ف", "لل"))
_ARABIC_PARTICLES = _joined(",و,ف", ",ب,ك,ل,س")
_HEBREW_PARTICLES = _joined(",ו", ",ש,כש", ",ב,כ,ל,מ,ה")


@dataclass(frozen=True)
class QueryWord:
    """A word of a query, normalized."""

    text: str
    """The word without hyphens and apostrophes."""
    in_text: tuple[str, ...]
    """Its tokens as an index has them from a text in which it is followed by a space."""
    forms: tuple[tuple[str, ...], ...]
    """The word itself as adjacent tokens, in all its spellings; none for a single character that may be half a pair."""
    beginnings: tuple[str, ...] = ()
    """Tokens that begin with one of these begin with the word."""
    inside: str = ""
    """Tokens that contain this contain the word; empty if the word is too short."""


@dataclass(frozen=True)
class Phrase:
    """Adjacent tokens; the last one may be only the beginning of a token."""

    tokens: tuple[str, ...]
    is_beginning: bool = False


Step = tuple[tuple[Phrase, ...], ...]
"""One search: of each of these, one of the phrases must be there."""


def query_words(text: str) -> list[QueryWord]:
    """The words of a query, in order."""
    found: list[QueryWord] = []
    for parts in search_tokens.parts(text):
        all_runs = [run for part in parts for run in search_tokens.runs(part)]
        if len(parts) == 1 or any(map(is_spaceless, all_runs)):
            found += [_spaceless(run) if is_spaceless(run) else _spaced(run) for run in all_runs]
        else:
            found.append(_compound(parts))
    return found


def steps(words: Sequence[QueryWord]) -> Iterator[Step]:
    """Yields the searches for segments with all of these words, from strict to lenient."""
    strict = tuple(tuple(_exactly(word)) for word in words)
    if len(words) > 1 and words[-1].forms:
        before = itertools.chain.from_iterable(word.in_text for word in words[:-1])
        yield ((Phrase((*before, *words[-1].forms[0])),),)
    yield strict
    lenient = tuple(tuple(_leniently(word)) for word in words)
    if lenient != strict:
        yield lenient


def _exactly(word: QueryWord) -> Iterator[Phrase]:
    if not word.forms:
        yield from (Phrase((beginning,), is_beginning=True) for beginning in word.beginnings)
    yield from map(Phrase, word.forms)


def _leniently(word: QueryWord) -> Iterator[Phrase]:
    yield from map(Phrase, word.forms)
    yield from (Phrase((beginning,), is_beginning=True) for beginning in word.beginnings)
    if word.inside:
        yield Phrase((INSIDE + word.inside,), is_beginning=True)


# --- one word ---


def _spaceless(run: str) -> QueryWord:
    run = run[: MAX_WORD_CHARACTERS + 1]
    if len(run) == 1:
        return QueryWord(run, (run,), (), (run,))
    return QueryWord(run, (*pairs(run), run[-1]), (pairs(run),))


def _compound(parts: Sequence[str]) -> QueryWord:
    """A word of several parts: found written together, too."""
    whole = "".join(parts)[:MAX_WORD_CHARACTERS]
    apart = tuple(part[:MAX_WORD_CHARACTERS] for part in parts[:MAX_WORD_CHARACTERS])
    return _spelt(whole, (*apart, whole), (apart, (whole,)), _with_particles(whole), whole)


def _spaced(run: str) -> QueryWord:
    word = run[:MAX_WORD_CHARACTERS]
    if not _ARABIC.fullmatch(word):
        return _spelt(word, (word,), ((word,),), _with_particles(word), word)
    core = _ARTICLE.sub("", word, count=1)
    forms = dict.fromkeys((word, *(article + core for article in _WITH_ARTICLE), core))
    beginnings = (*forms, *_with_particles(core))
    if core.endswith("ه"):  # ta marbuta becomes ta before a possessive
        beginnings += _with_particles(f"{core[:-1]}ت")
    return _spelt(word, (word,), tuple((form,) for form in forms), beginnings, core)


def _with_particles(word: str) -> tuple[str, ...]:
    particles = _ARABIC_PARTICLES if _ARABIC.fullmatch(word) else ()
    particles = _HEBREW_PARTICLES if _HEBREW.fullmatch(word) else particles
    return (word, *(particle + word for particle in particles if particle))


def _spelt(
    text: str,
    in_text: tuple[str, ...],
    forms: tuple[tuple[str, ...], ...],
    beginnings: tuple[str, ...],
    core: str,
) -> QueryWord:
    """A word that is searched for as a beginning and as an inner part, if its ``core`` is long enough."""
    least = MIN_BEGINNING if _ALPHABET.match(core) else MIN_BEGINNING_OF_SYLLABLES
    if len(core) < least:
        return QueryWord(text, in_text, forms)
    return QueryWord(text, in_text, forms, tuple(dict.fromkeys(beginnings)), core)
