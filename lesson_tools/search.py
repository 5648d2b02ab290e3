"""`lessons.py search`: finds the segments that have these words, in any language."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol
from zoneinfo import ZoneInfo

import typer

from archive.rooms import Archive
from config import Settings
from core import search_tokens
from core.errors import InputError
from core.language_tags import is_same_language, language_tag
from core.logs import printable
from core.records import parse_utc
from lesson_tools import console
from lesson_tools.console import AsJson, progress, say, say_json, tell
from search.index import SearchIndex, Segment, Step

if TYPE_CHECKING:
    from search.postgres import PostgresIndex

MIN_PREFIX = 3
"""If a word finds too few segments, words that begin with it are found, too; not if it is shorter than this."""

SNIPPET_CHARACTERS = 160
MAX_WORDS = 32
"""Further words of a question are ignored: each takes time."""


@dataclass(frozen=True)
class Hit:
    """A segment that matches, with the text in the language that matches best."""

    segment: Segment
    language: str
    snippet: str
    marks: tuple[tuple[int, int], ...]
    """Where the words are in the snippet: characters start <= i < end."""


class Index(Protocol):
    """Finds segments: the index on disk, or a database."""

    def matches(self, step: Step, folders: Sequence[str] = ()) -> list[Segment]: ...


def search(
    words: Annotated[
        list[str], typer.Argument(metavar="WORDS...", help="Find segments that have all of these words.")
    ],
    room: Annotated[
        list[str] | None, typer.Option("--room", help="In this room only; may be given again.")
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", metavar="TAG", help="In this language only, such as es.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=1000, help="Show at most this many segments.")
    ] = 20,
    local: Annotated[
        bool, typer.Option("--local", help="Search this disk, even if DATABASE_URL is set.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search all lessons in all languages; the best matches first, the newest among equals.

    Case, accents, Arabic vowel signs and variants of letters do not matter. Words next to each other rank
    higher. Quotes and other signs have no special meaning. The exit code is 1 if nothing is found. If DATABASE_URL is
    set, that database is searched instead, with what all workers have delivered.
    """
    settings = console.settings()
    wanted = _checked_tag(language) if language else ""
    question = " ".join(words)
    with _opened(settings, local) as index:
        folders = room or []
        if isinstance(index, SearchIndex) and room:
            folders = [one.path.name for one in Archive.from_settings(settings).chosen(room)]
        hits = find(index, question, folders, wanted, limit)
    if as_json:
        say_json({"question": question, "hits": [_as_json(hit, settings) for hit in hits]})
    else:
        for hit in hits:
            _say_hit(hit, settings)
    if not hits:
        place = "DATABASE_URL" if settings.database_url and not local else settings.output_dir
        tell(f"Nothing found in {place} for: {question}")
        raise typer.Exit(console.TROUBLE)


def _checked_tag(text: str) -> str:
    try:
        return language_tag(text)
    except ValueError:
        raise InputError(f"--language {text}: a language looks like es or pt-BR") from None


def _opened(settings: Settings, local: bool) -> SearchIndex | PostgresIndex:
    if settings.database_url and not local:
        from search.postgres import PostgresIndex  # with its driver

        return PostgresIndex(settings.database_url)
    return fresh_index(settings)


def fresh_index(settings: Settings) -> SearchIndex:
    """Opens the index, and reads what is new in the folders.

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
    index: Index, question: str, folders: Sequence[str] = (), language: str = "", most: int = 20
) -> list[Hit]:
    """Finds segments with all words of a question, the best first. Stops at the strictest step that finds ``most``.

    Raises:
        InputError: it has no word.
    """
    asked = search_tokens.question(question)[:MAX_WORDS]
    if not asked:
        raise InputError(f"{question!r} has no word to search for")
    found: dict[tuple[str, str], Segment] = {}
    ranked: list[tuple[Rank, str, Segment]] = []
    for step in _steps(asked):
        found.update({(one.folder, one.file): one for one in index.matches(step, folders)})
        ranked = [(*_best(one, asked, language), one) for one in found.values()]
        ranked = [item for item in ranked if item[1]]
        if len(ranked) >= most:
            break
    ranked.sort(key=lambda item: (item[0], item[2].start), reverse=True)
    return [_hit(one, tag, asked) for _, tag, one in ranked[:most]]


def _steps(asked: Sequence[tuple[str, ...]]) -> Iterator[Step]:
    """Yields steps from strict to lenient: words adjacent, words anywhere, last word as a prefix."""
    words = tuple(asked)
    if len(words) > 1 and not any(word[-1].endswith("*") for word in words):
        yield Step(words, are_adjacent=True)
    yield Step(words)
    last = words[-1]
    if len(last) == 1 and len(last[0]) >= MIN_PREFIX and not last[0].endswith("*"):
        yield Step(words, is_last_a_prefix=True)


Rank = tuple[int, int, float]


def _best(segment: Segment, asked: Sequence[tuple[str, ...]], language: str) -> tuple[Rank, str]:
    """Ranks a segment, and picks its best language; empty if the wanted language does not match."""
    tokens = segment.tokens or {
        tag: " ".join(search_tokens.tokens(text)) for tag, text in segment.texts.items()
    }
    ranks = [(_rank(line, asked, tag == segment.spoken), tag) for tag, line in tokens.items()]
    if language:
        ranks = [one for one in ranks if is_same_language(one[1], language) and one[0][0] == len(asked)]
    return max(ranks, default=((0, 0, 0.0), ""))


def _rank(tokens: str, asked: Sequence[tuple[str, ...]], is_spoken: bool) -> Rank:
    """Ranks one text: how many of the words it has; whether they are adjacent; their share of the text."""
    line = bare = f" {tokens} "
    needles = [_needle(word) for word in asked]
    if not "".join(needles).isascii() and not line.isascii():
        bare = f" {' '.join(map(search_tokens.without_article, tokens.split(' ')))} "
    counts = [line.count(needle) or bare.count(needle) for needle in needles]
    begun = [
        count or line.count(f" {word[0].rstrip('*')}") for count, word in zip(counts, asked, strict=True)
    ]
    together = f" {' '.join(token for word in asked for token in word)} " in line
    length = max(8, line.count(" ") - 1)
    return sum(map(bool, begun)), together + sum(map(bool, counts)), is_spoken * 0.01 + sum(begun) / length


def _needle(word: tuple[str, ...]) -> str:
    if word[-1].endswith("*"):
        return f" {word[-1][:-1]}"
    bare = search_tokens.without_article(word[0])
    return f" {' '.join(word)} " if bare == word[0] else f" {bare} "


# --- output ---


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
    """Yields where the words of the question are in a text."""
    wanted = {
        search_tokens.without_article(word[0]) for word in asked if len(word) == 1 and word[0][-1] != "*"
    }
    parts = [_joined(word) for word in asked if len(word) > 1 or len(word[0]) <= 2]
    for word in search_tokens.words(text):
        if len(word.tokens) == 1:
            token = search_tokens.without_article(word.tokens[0])
            if token in wanted or any(token.startswith(one) for one in wanted if len(one) >= MIN_PREFIX):
                yield word.start, word.end
        else:
            piece = text[word.start : word.end]
            places = [(piece.find(part), len(part)) for part in parts if part in piece]
            yield from sorted((word.start + at, word.start + at + length) for at, length in places)


def _joined(pairs: tuple[str, ...]) -> str:
    """Joins token pairs to the characters they were made of."""
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
    """Returns the snippet, safe to print, with the words in bold on a terminal."""
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
