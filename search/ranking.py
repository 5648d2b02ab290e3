"""Ranks segments that an index has found, and finds where the words of a query are in a text.

An index finds at least the segments that have the words; here it is verified that they do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

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


class Rank(NamedTuple):
    """How well a text matches; the greater, the better."""

    found: int
    """How many words of the query it has."""
    exact: int
    """How many of them are whole words; one more if all are adjacent."""
    beginnings: int
    """How many of the others are beginnings of words."""
    share: float
    """Their share of the text, and a little for what was spoken over a translation."""


class Ranking:
    """Ranks segments for the words of a query.

    With ``language`` one text in that language must have all words; without, each may be in any of the texts.
    """

    def __init__(self, words: Sequence[QueryWord], language: str = "") -> None:
        self._language = language
        self._needles = [
            (
                tuple(f" {' '.join(form)} " for form in word.forms),
                tuple(f" {beginning}" for beginning in word.beginnings),
                word.inside,
            )
            for word in words
        ]
        tokens = [token for word in words[:-1] for token in word.in_text]
        tokens += words[-1].forms[0] if words[-1].forms else words[-1].in_text
        self._adjacent = f" {' '.join(tokens)} " if len(words) > 1 else ""

    def best_text(self, segment: Segment) -> tuple[Rank, str] | None:
        """Ranks a segment by its best text, and returns that text's language; None if it does not have all words."""
        missing = set(range(len(self._needles)))
        best: tuple[Rank, str] | None = None
        for tag, text in segment.texts.items():
            if self._language and not is_same_language(tag, self._language):
                continue
            line = segment.tokens.get(tag)
            tokens = " ".join(search_tokens.tokens(text)) if line is None else line
            rank, found = self._rank(f" {tokens} ", tag == segment.spoken)
            if self._language and len(found) < len(self._needles):
                continue
            missing.difference_update(found)
            if best is None or (rank, tag) > best:
                best = rank, tag
        return None if missing else best

    def _rank(self, line: str, is_spoken: bool) -> tuple[Rank, list[int]]:
        """Ranks one text, and returns which of the words it has."""
        found, exact, beginnings, total = list[int](), 0, 0, 0
        for number, (forms, begun, inside) in enumerate(self._needles):
            count = sum(map(line.count, forms))
            if count:
                exact += 1
            elif count := sum(map(line.count, begun)):
                beginnings += 1
                exact += not forms
            elif inside:
                count = line.count(inside)
            if count:
                found.append(number)
                total += count
        if self._adjacent and len(found) == len(self._needles):
            exact += self._adjacent in line
        length = max(8, line.count(" ") - 1)
        return Rank(len(found), exact, beginnings, is_spoken * 0.01 + total / length), found


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
