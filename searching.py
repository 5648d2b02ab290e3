"""`lessons.py search`: which segment of which lesson says these words, in whatever language."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol
from zoneinfo import ZoneInfo

import typer

import console
import folding
from archive import Archive
from config import Settings
from console import progress, say, say_json, tell
from languages import is_same_language, language_tag
from logs import printable
from search_index import SearchIndex, Segment
from segments import InputError, parse_utc

SHORTEST_BEGINNING = 3
"""Characters from which on a word also finds those that begin with it, if it finds too little itself."""

SNIPPET_CHARACTERS = 160
MOST_WORDS = 32
"""Of a question; nobody types more, and each costs."""


@dataclass(frozen=True)
class Hit:
    """A segment that says it, in the language that says it best."""

    segment: Segment
    language: str
    snippet: str
    marks: tuple[tuple[int, int], ...]
    """Where in the snippet the words stand: characters start <= i < end."""


class Index(Protocol):
    """Something that finds segments by an expression of FTS5's kind."""

    def matches(self, expression: str, folders: Sequence[str] = ()) -> list[Segment]: ...


def search(
    words: Annotated[list[str], typer.Argument(metavar="WORDS...", help="Segments that have all of them.")],
    room: Annotated[
        list[str] | None, typer.Option("--room", help="In this room only; may be given again.")
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", metavar="TAG", help="In this language only, such as es.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="So many segments at most.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Answer with JSON.")] = False,
) -> None:
    """Search all lessons in all languages; the best matches first, the newest among equals.

    Case, accents, Arabic vowel signs and variants of letters do not matter. Words that stand together count most.
    Quotes and other signs are signs. The exit code is 1 if nothing is found.
    """
    settings = console.settings()
    wanted = _checked_tag(language) if language else ""
    question = " ".join(words)
    folders = [one.path.name for one in Archive.from_settings(settings).chosen(room)] if room else []
    with fresh_index(settings) as index:
        hits = find(index, question, folders, wanted, limit)[:limit]
    if as_json:
        say_json({"question": question, "hits": [_as_json(hit, settings) for hit in hits]})
    else:
        for hit in hits:
            _say_hit(hit, settings)
    if not hits:
        tell(f"Nothing found in {settings.output_dir} for: {question}")
        raise typer.Exit(console.TROUBLE)


def _checked_tag(text: str) -> str:
    try:
        return language_tag(text)
    except ValueError:
        raise InputError(f"--language {text}: a language looks like es or pt-BR") from None


def fresh_index(settings: Settings) -> SearchIndex:
    """The index, after reading what is new in the folders.

    Raises:
        InputError: there is no archive.
        StorageError: something cannot be read or written.
    """
    output_dir = Path(settings.output_dir)
    if not output_dir.is_dir():
        raise InputError(f"OUTPUT_DIR={output_dir} is not there: nothing has been recorded yet")
    index = SearchIndex(output_dir)
    if stale := index.stale():
        with progress("Indexing", index.unread_bytes(stale), "bytes") as advance:
            index.refresh(stale, advance)
    return index


# --- finding ---


def find(
    index: Index, question: str, folders: Sequence[str] = (), language: str = "", enough: int = 20
) -> list[Hit]:
    """Segments that say all words of a question, the best first. With ``enough`` of them nothing laxer is looked for.

    Raises:
        InputError: it has no word.
    """
    asked = folding.question(question)[:MOST_WORDS]
    if not asked:
        raise InputError(f"{question!r} has no word to search for")
    found: dict[tuple[str, str], Segment] = {}
    ranked: list[tuple[Rank, str, Segment]] = []
    for expression in _expressions(asked):
        found.update({(one.folder, one.file): one for one in index.matches(expression, folders)})
        ranked = [(*_best(one, asked, language), one) for one in found.values()]
        ranked = [item for item in ranked if item[1]]
        if len(ranked) >= enough:
            break
    ranked.sort(key=lambda item: (item[0], item[2].start), reverse=True)
    return [_hit(one, tag, asked) for _, tag, one in ranked]


def _expressions(asked: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """From strict to lenient: the words together, all of them anywhere, the last one only begun."""
    if len(asked) > 1 and not any(word[-1].endswith("*") for word in asked):
        yield _phrase(token for word in asked for token in word)
    every = [_word(word) for word in asked]
    yield " AND ".join(every)
    if len(asked[-1]) == 1 and SHORTEST_BEGINNING <= len(asked[-1][0]) and asked[-1][0][-1] != "*":
        yield " AND ".join([*every[:-1], f"{_phrase(asked[-1])} *"])


def _phrase(tokens: Iterable[str]) -> str:
    """Tokens that follow each other; in quotes nothing is an operator, and no token has a quote."""
    return f'"{" ".join(tokens)}"'


def _word(word: tuple[str, ...]) -> str:
    if word[-1].endswith("*"):
        return f"{_phrase([word[-1][:-1]])} *"
    bare = folding.bare(word[0])
    return _phrase(word) if bare == word[0] else f"({_phrase(word)} OR {_phrase([bare])})"


Rank = tuple[int, int, float]


def _best(segment: Segment, asked: Sequence[tuple[str, ...]], language: str) -> tuple[Rank, str]:
    """How well a segment says it, and in which language best; no language if the one that is wanted does not."""
    ranks = [(_rank(text, asked, tag == segment.spoken), tag) for tag, text in segment.texts.items()]
    if language:
        ranks = [one for one in ranks if is_same_language(one[1], language) and one[0][0] == len(asked)]
    return max(ranks, default=((0, 0, 0.0), ""))


def _rank(text: str, asked: Sequence[tuple[str, ...]], is_spoken: bool) -> Rank:
    """How many of the words one language has; whether they stand together; how much of the text they are."""
    tokens = folding.tokens(text)
    line = f" {' '.join(tokens)} "
    bare = f" {' '.join(map(folding.bare, tokens))} "
    counts = [line.count(needle) or bare.count(needle) for needle in map(_needle, asked)]
    begun = [count or line.count(_needle(word)[:-1]) for count, word in zip(counts, asked, strict=True)]
    together = f" {' '.join(token for word in asked for token in word)} " in line
    has_all = sum(map(bool, begun))
    return has_all, together + sum(map(bool, counts)), is_spoken * 0.01 + sum(begun) / max(8, len(tokens))


def _needle(word: tuple[str, ...]) -> str:
    if word[-1].endswith("*"):
        return f" {word[-1][:-1]}"
    bare = folding.bare(word[0])
    return f" {' '.join(word)} " if bare == word[0] else f" {bare} "


# --- showing ---


def _hit(segment: Segment, language: str, asked: Sequence[tuple[str, ...]]) -> Hit:
    text = segment.texts[language]
    marks = list(_marks(text, asked))
    first = marks[0][0] if marks else 0
    start = (
        0
        if len(text) <= SNIPPET_CHARACTERS
        else max(0, min(first - SNIPPET_CHARACTERS // 3, len(text) - SNIPPET_CHARACTERS))
    )
    end = min(len(text), start + SNIPPET_CHARACTERS)
    before, after = "… " if start else "", " …" if end < len(text) else ""
    shift = len(before) - start
    inside = tuple((one + shift, two + shift) for one, two in marks if start <= one and two <= end)
    return Hit(segment, language, before + text[start:end] + after, inside)


def _marks(text: str, asked: Sequence[tuple[str, ...]]) -> Iterator[tuple[int, int]]:
    """Where the words of the question stand in a text."""
    wanted = {folding.bare(word[0]) for word in asked if len(word) == 1 and word[0][-1] != "*"}
    parts = [_joined(word) for word in asked if len(word) > 1 or len(word[0]) <= 2]
    for word in folding.words(text):
        if len(word.tokens) == 1:
            token = folding.bare(word.tokens[0])
            if token in wanted or any(
                token.startswith(one) for one in wanted if len(one) >= SHORTEST_BEGINNING
            ):
                yield word.start, word.end
        else:
            piece = text[word.start : word.end]
            places = [(piece.find(part), len(part)) for part in parts if part in piece]
            yield from sorted((word.start + at, word.start + at + length) for at, length in places)


def _joined(pairs: tuple[str, ...]) -> str:
    """The characters that became pairs."""
    return pairs[0].rstrip("*") + "".join(pair[-1] for pair in pairs[1:])


def _say_hit(hit: Hit, settings: Settings) -> None:
    segment = hit.segment
    moment = parse_utc(segment.start).astimezone(ZoneInfo(settings.timezone))
    who = segment.participant_name or segment.participant_identity
    head = [segment.room, f"{moment:%Y-%m-%d %H:%M:%S}", *([who] if who else []), hit.language]
    say("  ".join(head))
    say(f"    {_emphasised(hit)}", is_safe=True)
    say(f"    {Path(settings.output_dir) / segment.folder / segment.file}")


def _emphasised(hit: Hit) -> str:
    """The snippet, safe to print, with the words in bold where a terminal shows it."""
    if not console.is_terminal():
        return printable(hit.snippet)
    pieces, position = [], 0
    for start, end in hit.marks:
        pieces += [
            printable(hit.snippet[position:start]),
            typer.style(printable(hit.snippet[start:end]), bold=True),
        ]
        position = end
    return "".join([*pieces, printable(hit.snippet[position:])])


def _as_json(hit: Hit, settings: Settings) -> dict[str, Any]:
    segment = hit.segment
    return {
        "room": segment.room,
        "room_sid": segment.room_sid,
        "folder": segment.folder,
        "number": segment.number,
        "file": str(Path(settings.output_dir) / segment.folder / segment.file),
        "start": segment.start,
        "duration_seconds": segment.duration_seconds,
        "participant_identity": segment.participant_identity,
        "participant_name": segment.participant_name,
        "language": hit.language,
        "spoken": segment.spoken,
        "snippet": hit.snippet,
        "marks": [list(mark) for mark in hit.marks],
        "text": segment.texts[hit.language],
    }
