"""Search in Postgres, over what all workers have delivered.

The worker delivers the tokens of each text with it (core/search_tokens.py), so the database tokenises nothing and
needs no extension: an index over arrays finds the segments, and ``lesson_tools.search`` ranks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core import search_tokens
from core.records import format_utc
from delivery.postgres_connections import CONNECT_SECONDS
from delivery.postgres_errors import classify_error
from search.index import CANDIDATES, Segment, Step

STATEMENT_SECONDS = 30

_FIND = """
    WITH found AS (
        SELECT id FROM audio_segments
        WHERE id IN (
            SELECT segment_id FROM segment_texts
            WHERE tokens @> %(tokens)s::text[]
            AND (%(prefix)s::text = '' OR EXISTS (
                SELECT FROM unnest(tokens) AS token WHERE starts_with(token, %(prefix)s)
            ))
        )
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

    def matches(self, step: Step, folders: Sequence[str] = ()) -> list[Segment]:
        """Finds the newest segments that have the words, newest first; only in these rooms or folders if named."""
        import psycopg

        words = step.words[:-1] if step.is_last_a_prefix else step.words
        prefix = step.words[-1][0] if step.is_last_a_prefix else ""
        values = {
            "tokens": [search_tokens.without_article(token.rstrip("*")) for word in words for token in word],
            "prefix": prefix,
            "rooms": [folder.replace("\0", "") for folder in folders],
            "most": CANDIDATES,
        }
        try:
            with self._connection.transaction():
                self._connection.execute(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'")
                rows = self._connection.execute(_FIND, values).fetchall()
        except psycopg.Error as error:
            raise _named(error) from None
        return [_segment(row) for row in rows]


def _named(error: Any) -> Exception:
    trouble = classify_error(error)
    return type(trouble)(f"DATABASE_URL: {trouble}")


def _segment(row: Sequence[Any]) -> Segment:
    folder, number, file, started_at, duration, room, room_sid, identity, name, spoken, texts = row
    return Segment(
        folder, number, file, format_utc(started_at), duration, room, room_sid, identity, name, spoken, texts
    )
