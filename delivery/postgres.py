"""Postgres (also Supabase) as a target of delivery: one row a segment, its texts in a second table, one row a session.

:mod:`delivery.postgres_schema` has the tables. A row's id is made from folder, file and SHA-256, so a segment is the
same row, no matter which worker inserts it and how often. The server itself checks the audio against its SHA-256 before
it accepts the row. Every statement is one round trip without a named prepared statement, so a pooler in transaction
mode (Supabase's port 6543) may run each on another connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from core import search_tokens
from core.errors import ConfigError
from core.records import EndReason, SegmentRecord
from core.session_records import SessionRecord
from core.text_records import TextRecord
from delivery.items import (
    AudioItem,
    Item,
    ListsItem,
    Selection,
    SessionItem,
    TextItem,
    session_bytes,
)
from delivery.postgres_connections import Connections
from delivery.postgres_schema import apply_migrations
from delivery.postgres_words import renew_batch, search_words

_NAMESPACE = uuid.UUID("6f1b0d1c-6d0e-4a53-9b43-0c4f7f0f5e11")

_COLUMNS = (
    "id, room_id, audio_data, room_sid, folder, file, number, participant_identity, participant_name, track_sid,"
    " track_source, started_at, ended_at, offset_seconds, duration_seconds, sample_rate, mean_probability,"
    " lowest_probability, end_reason, speaking_language, sha256"
)
_ADD_SEGMENT = (
    # The constraint is not named, since that would need the right to SELECT.
    f"INSERT INTO audio_segments ({_COLUMNS}) VALUES ({', '.join(['%b'] * 21)}) ON CONFLICT DO NOTHING"
)
_ADD_TEXT = """
    INSERT INTO segment_texts (segment_id, language, text, is_transcript, model, words, words_version)
    VALUES (%s, %s, %s, %s, %s, array_to_tsvector(%s::text[]), %s)
    ON CONFLICT (segment_id, language) DO UPDATE
    SET text = excluded.text, model = excluded.model, words = excluded.words, words_version = excluded.words_version
    WHERE segment_texts.text IS DISTINCT FROM excluded.text
"""
_ADD_SESSION = """
    INSERT INTO recorded_sessions (folder, room_sid, room_id, started_at, ended_at, is_complete, summary)
    VALUES (%s, %s, %s, %s, %s, %s, %s::jsonb)
    ON CONFLICT (folder, room_sid) DO UPDATE
    SET started_at = excluded.started_at, ended_at = excluded.ended_at, is_complete = excluded.is_complete,
    summary = excluded.summary, changed_at = now()
"""
_CHOSEN = """
    FROM audio_segments
    WHERE (%(room)s::text = '' OR room_id = %(room)s OR folder = %(room)s)
    AND (%(participant)s::text = '' OR participant_identity = %(participant)s)
    AND (%(before)s::timestamptz IS NULL OR ended_at < %(before)s OR id = ANY(%(known)s::uuid[]))
"""
_REMOVE_SESSIONS = """
    DELETE FROM recorded_sessions
    WHERE (%(room)s::text = '' OR room_id = %(room)s OR folder = %(room)s)
    AND (%(participant)s::text = ''
        OR summary->'participants' @> jsonb_build_array(jsonb_build_object('identity', %(participant)s::text)))
    AND (%(before)s::timestamptz IS NULL OR ended_at < %(before)s)
"""


class PostgresTarget:
    """One database."""

    def __init__(self, url: str) -> None:
        """Parses the URL; connects only when used.

        Raises:
            ConfigError: the URL is not valid.
        """
        from psycopg import Error
        from psycopg.conninfo import conninfo_to_dict

        try:
            parts = conninfo_to_dict(url)
        except Error:  # its text may contain the password
            raise ConfigError(
                "DATABASE_URL=(hidden) is wrong: Postgres cannot read it (is a sign in the password not escaped?)"
            ) from None
        # With the user, which distinguishes the projects at Supabase's pooler.
        self.name = "postgres://{user}@{host}:{port}/{dbname}".format(
            **{"user": "", "host": "", "port": 5432, "dbname": "", **parts}
        )
        self._connections = Connections(url)

    # Delivering.

    async def check(self) -> None:
        """See :class:`~delivery.items.Target`. Inserts rows and rolls them back."""
        await self._connections.run(self._try_insert())

    async def put(self, item: Item) -> None:
        """See :class:`~delivery.items.Target`. Lists are not stored: the rows have the same data."""
        if not isinstance(item, ListsItem):
            await self._connections.run(self._put(item))

    async def _put(self, item: AudioItem | TextItem | SessionItem) -> None:
        if isinstance(item, SessionItem):
            session, _ = await asyncio.to_thread(session_bytes, item)
            await self._connections.execute(_ADD_SESSION, _session_row(item.folder.name, session))
            return
        if isinstance(item, AudioItem):
            await self._connections.execute(_ADD_SEGMENT, _row(item.folder.name, item.record, item.data))
            return
        segment_id = id_of(item.folder.name, item.record)
        if not item.text.is_audio_kept:
            await self._connections.execute(_ADD_SEGMENT, _row(item.folder.name, item.record, None))
        for language, text, is_transcript in _texts(item.text):
            model, words = _storable(item.text.model), search_words(text)
            values = (segment_id, language, text, is_transcript, model, words, search_tokens.VERSION)
            await self._connections.execute(_ADD_TEXT, values)

    async def _try_insert(self) -> None:
        moment = datetime.now(UTC)
        empty = hashlib.sha256(b"").hexdigest()
        record = SegmentRecord(
            0, "check", "", "", "", "", "", "", moment, moment, None, 0.0, None, None, EndReason.PAUSE, empty
        )
        async with self._connections.connection() as connection, connection.transaction(force_rollback=True):
            folder = f".check-{uuid.uuid4()}"
            await connection.execute(_ADD_SEGMENT, _row(folder, record, b""))
            await connection.execute(_ADD_SESSION, (folder, "", "", moment, moment, False, "{}"))

    # Removing.

    async def remove(
        self, selection: Selection, known: Mapping[str, Sequence[SegmentRecord]], *, only_count: bool = False
    ) -> int:
        """See :class:`~delivery.items.Target`."""
        values = {
            "room": _storable(selection.room),
            "participant": _storable(selection.participant),
            "before": selection.before,
            "known": [id_of(folder, record) for folder, records in known.items() for record in records],
        }
        return await self._connections.run(self._remove(values, only_count))

    async def _remove(self, values: dict[str, Any], only_count: bool) -> int:
        async with self._connections.connection() as connection:
            if only_count:
                found = await (await connection.execute("SELECT count(id)" + _CHOSEN, values)).fetchone()
                return int(found[0]) if found else 0
            async with connection.transaction():
                await connection.execute(_REMOVE_SESSIONS, values)
                return (await connection.execute("DELETE" + _CHOSEN, values)).rowcount

    # Migrating.

    async def migrate(self, role: str = "", *, may_remove: bool = False) -> list[int]:
        """Creates the tables or brings them up to date; with ``role``, grants it the least rights that it needs.

        Returns the versions of the migrations that were applied. Everything is one transaction.

        Raises:
            ConfigError: the database refuses.
        """
        return await self._connections.run(self._migrate(role, may_remove))

    async def _migrate(self, role: str, may_remove: bool) -> list[int]:
        async with self._connections.connection() as connection:
            return await apply_migrations(connection, role, may_remove=may_remove)

    async def renew_words(self) -> int:
        """Makes the search words anew of texts that were delivered under other rules; returns how many there were.

        It can be interrupted and repeated.
        """
        count = 0
        last: tuple[Any, str] | None = None
        while keys := await self._connections.run(self._renew_batch(last)):
            count, last = count + len(keys), keys[-1]
        return count

    async def _renew_batch(self, last: tuple[Any, str] | None) -> list[tuple[Any, str]]:
        async with self._connections.connection() as connection:
            return await renew_batch(connection, last)

    async def aclose(self) -> None:
        """Closes the connections. Idempotent."""
        await self._connections.aclose()


# --- rows ---


def id_of(folder: str, record: SegmentRecord) -> uuid.UUID:
    """The id of a segment's row: the same for the same segment, and different for any other, also one of the same name
    that was recorded on another disk."""
    return uuid.uuid5(_NAMESPACE, _storable(f"{folder}/{record.file}/{record.sha256}"))


def _row(folder: str, record: SegmentRecord, audio: bytes | None) -> tuple[Any, ...]:
    return (
        id_of(folder, record),
        _storable(record.room_name),
        audio,
        _storable(record.room_sid),
        _storable(folder),
        _storable(record.file),
        record.number,
        _storable(record.participant_identity),
        _storable(record.participant_name),
        _storable(record.track_sid),
        _storable(record.track_source),
        record.start,
        record.end,
        record.offset_seconds,
        record.duration_seconds,
        record.sample_rate,
        record.mean_probability,
        record.lowest_probability,
        record.end_reason.value,
        _storable(record.speaking_language),
        record.sha256,
    )


def _session_row(folder: str, session: SessionRecord) -> tuple[Any, ...]:
    return (
        _storable(folder),
        _storable(session.room_sid),
        _storable(session.room_name),
        session.started_at,
        session.ended_at,
        session.is_complete,
        json.dumps(_all_storable(session.to_json())),
    )


def _all_storable(value: Any) -> Any:
    """The same JSON value with every text in it made valid for Postgres."""
    if isinstance(value, dict):
        return {_storable(key): _all_storable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_all_storable(one) for one in value]
    return _storable(value) if isinstance(value, str) else value


def _texts(text: TextRecord) -> list[tuple[str, str, bool]]:
    """The texts to store: language, text, and whether it is the transcript."""
    if not text.transcript:
        return []
    texts = [
        (language, words, False) for language, words in text.translations.items() if language != text.language
    ]
    return [
        (_storable(language), _storable(words), said)
        for language, words, said in [(text.language, text.transcript, True), *texts]
        if words
    ]


def _storable(text: str) -> str:
    """Makes text valid for Postgres: replaces NUL and halves of surrogate pairs."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
