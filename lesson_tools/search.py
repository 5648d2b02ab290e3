"""`lessons.py search`: finds the segments that have these words, in any language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol
from zoneinfo import ZoneInfo

import typer

from archive.rooms import Archive
from config import Settings
from core.errors import InputError
from core.language_tags import language_tag
from core.logs import printable
from core.records import parse_utc
from lesson_tools import console
from lesson_tools.console import AsJson, progress, say, say_json, tell
from search.index import SearchIndex, UnreadableFolder
from search.query import QueryWord, Step, query_words, steps
from search.ranking import Rank, Ranking, Segment, marks

if TYPE_CHECKING:
    from search.postgres import PostgresIndex

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

    def matches(self, step: Step, folders: Sequence[str] = (), language: str = "") -> list[Segment]: ...


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
    higher. Quotes and other characters have no special meaning. The exit code is 1 if nothing is found. If
    DATABASE_URL is set, that database is searched instead, with what all workers have delivered.
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
            try:
                index.refresh(stale, advance)
            except UnreadableFolder as error:  # the others are searched
                tell(str(error))
    return index


# --- finding ---


def find(
    index: Index, question: str, folders: Sequence[str] = (), language: str = "", most: int = 20
) -> list[Hit]:
    """Finds segments with all words of a question, the best first. Stops at the strictest step that finds ``most``.

    Raises:
        InputError: it has no word.
    """
    words = query_words(question)[:MAX_WORDS]
    if not words:
        raise InputError(f"{question!r} has no word to search for")
    ranking, seen = Ranking(words, language), set[tuple[str, str]]()
    ranked: list[tuple[Rank, str, Segment]] = []
    for step in steps(words):
        for segment in index.matches(step, folders, language):
            if (key := (segment.folder, segment.file)) in seen:
                continue
            seen.add(key)
            if best := ranking.best_text(segment):
                ranked.append((*best, segment))
        if len(ranked) >= most:
            break
    ranked.sort(key=lambda item: (item[0], item[2].start), reverse=True)
    return [_hit(segment, tag, words) for _, tag, segment in ranked[:most]]


# --- output ---


def _hit(segment: Segment, language: str, words: Sequence[QueryWord]) -> Hit:
    text = segment.texts[language]
    found = marks(text, words)
    first = found[0][0] if found else 0
    start = (
        0
        if len(text) <= SNIPPET_CHARACTERS
        else max(0, min(first - SNIPPET_CHARACTERS // 3, len(text) - SNIPPET_CHARACTERS))
    )
    end = min(len(text), start + SNIPPET_CHARACTERS)
    before, after = "… " if start else "", " …" if end < len(text) else ""
    shift = len(before) - start
    inside = tuple((one + shift, two + shift) for one, two in found if start <= one and two <= end)
    return Hit(segment, language, before + text[start:end] + after, inside)


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
