"""Search in Postgres, over what all workers have delivered.

The worker delivers the tokens of each text with it (core/search_tokens.py), so the database tokenises nothing and
needs no extension: an index over them finds the segments, and ``search.ranking`` verifies and ranks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.language_tags import is_same_language
from core.records import format_utc
from delivery.postgres_connections import CONNECT_SECONDS
from delivery.postgres_errors import classify_error
from search.index import CANDIDATES
from search.query import Phrase, Step
from search.ranking import Segment

STATEMENT_SECONDS = 30

_FIND = """
    WITH found AS (
        SELECT id FROM audio_segments
        WHERE id IN ({words})
        AND (cardinality(%(rooms)s::text[]) = 0 OR room_id = ANY(%(rooms)s) OR folder = ANY(%(rooms)s))
        ORDER BY started_at DESC
        LIMIT %(most)s
    )
    SELECT folder, number, file, started_at, duration_seconds, room_id, room_sid, participant_identity,
        participant_name, max(language) FILTER (WHERE is_transcript), jsonb_object_agg(language, text)
    FROM found JOIN audio_segments USING (id) JOIN segment_texts ON segment_id = id
    GROUP BY audio_segments.id
    ORDER BY started_at DESC
"""
_WITH_WORDS = "SELECT segment_id FROM segment_texts WHERE words @@ %({name})s::tsquery"
_IN_LANGUAGE = " AND language = ANY(%(languages)s)"
_LANGUAGES = "SELECT DISTINCT language FROM segment_texts WHERE words @@ %(words0)s::tsquery"


class PostgresIndex:
    """The texts of one database.

    Raises:
        RecorderError: it cannot be reached or read; the text says who must act.
    """

    def __init__(self, url: str) -> None:
        import psycopg

        try:
            # Without prepared statements: a pooler in transaction mode hands each to another connection.
            self._connection = psycopg.connect(
                url, autocommit=True, connect_timeout=CONNECT_SECONDS, prepare_threshold=None
            )
        except psycopg.Error as error:
            raise _named(error) from None

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> PostgresIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def matches(self, step: Step, folders: Sequence[str] = (), language: str = "") -> list[Segment]:
        """Finds the newest segments that have the words, newest first; only in these rooms or folders and this language
        if named."""
        import psycopg

        queries = [" | ".join(map(_phrase, phrases)) for phrases in step]
        if language:  # one text must have them all, so there is only words0
            queries = [" & ".join(f"({query})" for query in queries)]
        names = [f"words{number}" for number in range(len(queries))]
        wanted = " INTERSECT ".join(
            _WITH_WORDS.format(name=name) + (_IN_LANGUAGE if language else "") for name in names
        )
        values: dict[str, Any] = {
            **dict(zip(names, queries, strict=True)),
            "rooms": [folder.replace("\0", "") for folder in folders],
            "most": CANDIDATES,
        }
        try:
            with self._connection.transaction():
                self._connection.execute(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'")
                if language:
                    known = self._connection.execute(_LANGUAGES, values).fetchall()
                    values["languages"] = [tag for (tag,) in known if is_same_language(tag, language)]
                rows = self._connection.execute(_FIND.format(words=wanted), values).fetchall()
        except psycopg.Error as error:
            raise _named(error) from None
        return [_segment(row) for row in rows]


def _phrase(phrase: Phrase) -> str:
    """A phrase as a tsquery. The order of tokens is not stored: ``search.ranking`` verifies it.

    Tokens are quoted, so none is an operator, and no token contains a quote or a backslash.
    """
    last = ":*" if phrase.is_beginning else ""
    return "(" + " & ".join(f"'{token}'" for token in phrase.tokens) + last + ")"


def _named(error: Any) -> Exception:
    trouble = classify_error(error)
    return type(trouble)(f"DATABASE_URL: {trouble}")


def _segment(row: Sequence[Any]) -> Segment:
    folder, number, file, started_at, duration, room, room_sid, identity, name, spoken, texts = row
    return Segment(
        folder, number, file, format_utc(started_at), duration, room, room_sid, identity, name, spoken, texts
    )
