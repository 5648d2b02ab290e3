"""Ranks segments that an index has found, and finds where the words of a query are in a text.

An index finds at least the segments that have the words; here it is verified that they do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from core import search_tokens
from core.language_tags import is_same_language
from search.query import QueryWord


@dataclass(frozen=True)
class Segment:
    """A segment with its texts, as an index has it."""

    folder: str
    number: int
    file: str
    start: str
    """UTC, ISO 8601."""
    duration_seconds: float
    room: str
    room_sid: str
    participant_identity: str
    participant_name: str
    spoken: str | None
    texts: Mapping[str, str]
    """By language."""
    tokens: Mapping[str, str] = field(default_factory=dict)
    """The tokens of each, separated by spaces; empty if they are not stored."""


@dataclass(frozen=True, order=True)
class Rank:
    """How well a text matches; the greater, the better."""

    found: int = 0
    """How many words of the query it has."""
    exact: int = 0
    """How many of them are whole words; one more if all are adjacent."""
    beginnings: int = 0
    """How many of the others are beginnings of words."""
    share: float = 0.0
    """Their share of the text, and a little for what was spoken over a translation."""


def best_text(segment: Segment, words: Sequence[QueryWord], language: str = "") -> tuple[Rank, str] | None:
    """Ranks a segment by its best text, and returns that text's language; None if it does not have all words.

    With ``language`` one text in that language must have them all; without, each may be in any of the texts.
    """
    there = [False] * len(words)
    best: tuple[Rank, str] | None = None
    for tag, text in segment.texts.items():
        if language and not is_same_language(tag, language):
            continue
        line = segment.tokens.get(tag)
        rank, found = _rank(
            " ".join(search_tokens.tokens(text)) if line is None else line, words, tag == segment.spoken
        )
        if language and not all(found):
            continue
        there = [one or other for one, other in zip(there, found, strict=True)]
        best = max(best or (rank, tag), (rank, tag))
    return best if all(there) else None


def _rank(tokens: str, words: Sequence[QueryWord], is_spoken: bool) -> tuple[Rank, list[bool]]:
    """Ranks one text, and returns which of the words it has."""
    line = f" {tokens} "
    whole = [sum(line.count(f" {' '.join(form)} ") for form in word.forms) for word in words]
    begun = [0 if exact else _begun(line, word) for word, exact in zip(words, whole, strict=True)]
    counts = [
        exact or beginning or (line.count(word.inside) if word.inside else 0)
        for word, exact, beginning in zip(words, whole, begun, strict=True)
    ]
    exact = sum(bool(count) for count in whole)
    exact += sum(bool(count) for word, count in zip(words, begun, strict=True) if not word.forms)
    length = max(8, line.count(" ") - 1)
    rank = Rank(
        sum(map(bool, counts)),
        exact + _are_adjacent(line, words),
        sum(map(bool, begun)),
        is_spoken * 0.01 + sum(counts) / length,
    )
    return rank, [count > 0 for count in counts]


def _begun(line: str, word: QueryWord) -> int:
    return sum(line.count(f" {beginning}") for beginning in word.beginnings)


def _are_adjacent(line: str, words: Sequence[QueryWord]) -> bool:
    before = [token for word in words[:-1] for token in word.in_text]
    last = words[-1].forms[0] if words[-1].forms else words[-1].in_text
    return len(words) > 1 and f" {' '.join([*before, *last])} " in line


def marks(text: str, words: Sequence[QueryWord]) -> list[tuple[int, int]]:
    """Where the words of a query are in a text, in order: characters start <= i < end.

    A word that contains one of them is marked as a whole; in a script without spaces, only what was asked for.
    """
    found = []
    for place in search_tokens.words(text):
        if any(map(search_tokens.is_spaceless, place.tokens)):
            piece = text[place.start : place.end]
            spans = {span for word in words for span in search_tokens.places(piece, word.text)}
            found += [(place.start + start, place.start + end) for start, end in spans]
        elif any(_is_in(word, place.tokens) for word in words):
            found.append((place.start, place.end))
    return list(_apart(sorted(found)))


def _is_in(word: QueryWord, tokens: Sequence[str]) -> bool:
    return any(
        (token,) in word.forms
        or token.startswith(word.beginnings)
        or (word.inside != "" and word.inside in token)
        for token in tokens
    )


def _apart(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yields the spans that do not overlap an earlier one."""
    behind = 0
    for start, end in spans:
        if start >= behind:
            yield start, end
            behind = end
