"""The words under which `lessons.py search` finds a text in Postgres, and their renewal when the rules have changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from core import search_tokens

if TYPE_CHECKING:
    import psycopg

MAX_BYTES = 1 << 19
"""Most bytes of one text's words; Postgres takes twice as much."""

BATCH = 1000
"""Texts that are renewed in one transaction."""

_NEXT = """
    SELECT segment_id, language, text FROM segment_texts
    WHERE words_version < %s AND (%s::uuid IS NULL OR (segment_id, language) > (%s::uuid, %s::text))
    ORDER BY segment_id, language LIMIT %s
"""
_RENEW = """
    UPDATE segment_texts SET words = array_to_tsvector(%s::text[]), words_version = %s
    WHERE segment_id = %s AND language = %s AND text = %s
"""


def search_words(text: str) -> list[str]:
    """Returns a text's search tokens; of a text that is too long, only the first ones."""
    kept, size = list[str](), 0
    for token in search_tokens.searchable(text):
        size += len(token.encode())
        if size > MAX_BYTES:
            break
        kept.append(token)
    return kept


async def renew_batch(
    connection: psycopg.AsyncConnection[Any], last: Sequence[Any] | None
) -> list[tuple[Any, str]]:
    """Renews the words of the next texts behind the key ``last``; returns the keys of these texts."""
    segment_id, language = last or (None, None)
    version = search_tokens.VERSION
    async with connection.transaction(), connection.cursor() as cursor:
        await cursor.execute(_NEXT, (version, segment_id, segment_id, language, BATCH))
        rows = await cursor.fetchall()
        if rows:
            await cursor.executemany(
                _RENEW, [(search_words(text), version, key, tag, text) for key, tag, text in rows]
            )
    return [(key, tag) for key, tag, _ in rows]
