"""Postgres (Supabase's too): one row a segment, its texts in a second table, and the migrations that make them.

A row's id is made from folder, file and SHA-256, so the same segment is the same row whoever inserts it and however
often. The server itself checks the sound against its SHA-256 before it says yes. Every statement is one round trip
without a named prepared statement, so a pooler in transaction mode (Supabase's port 6543) may hand each to another
connection.

psycopg's asyncio side does not run on Windows' event loop, so all connections live on a loop of their own thread, on
every system alike.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

import folding
from deadline import within
from deliverables import CALL_TIMEOUT_SECONDS, Item, Lists, Selection, Sound, Words, sound_bytes
from segments import ConfigError, EndReason, RecorderError, Refused, RetryLater, SegmentRecord, TextRecord

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

CONNECTIONS = 4
CONNECT_SECONDS = 10
_NAMESPACE = uuid.UUID("6f1b0d1c-6d0e-4a53-9b43-0c4f7f0f5e11")

MIGRATIONS = (
    """
    CREATE TABLE audio_segments (
        id uuid PRIMARY KEY,
        room_id text NOT NULL,
        audio_data bytea,
        created_at timestamptz NOT NULL DEFAULT now(),
        room_sid text NOT NULL,
        folder text NOT NULL,
        file text NOT NULL,
        number bigint NOT NULL,
        participant_identity text NOT NULL,
        participant_name text NOT NULL,
        track_sid text NOT NULL,
        track_source text NOT NULL,
        started_at timestamptz NOT NULL,
        ended_at timestamptz NOT NULL,
        offset_seconds double precision,
        duration_seconds double precision NOT NULL,
        sample_rate integer NOT NULL,
        mean_probability double precision,
        lowest_probability double precision,
        end_reason text NOT NULL,
        speaking_language text NOT NULL,
        sha256 text NOT NULL,
        CONSTRAINT audio_is_whole CHECK (audio_data IS NULL OR encode(sha256(audio_data), 'hex') = sha256)
    );
    CREATE INDEX audio_segments_by_room ON audio_segments (room_id, started_at);
    CREATE INDEX audio_segments_by_end ON audio_segments (ended_at);
    ALTER TABLE audio_segments ENABLE ROW LEVEL SECURITY;
    CREATE TABLE segment_texts (
        segment_id uuid NOT NULL REFERENCES audio_segments ON DELETE CASCADE,
        language text NOT NULL,
        text text NOT NULL,
        is_transcript boolean NOT NULL,
        model text NOT NULL,
        tokens text[] NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (segment_id, language)
    );
    CREATE INDEX segment_texts_by_token ON segment_texts USING gin (tokens);
    ALTER TABLE segment_texts ENABLE ROW LEVEL SECURITY;
    """,
)
"""In the order in which they are applied; one that has been released is never changed."""

_RIGHTS = """
    GRANT USAGE ON SCHEMA {schema} TO {role};
    GRANT INSERT ON audio_segments TO {role};
    GRANT SELECT, INSERT, UPDATE ON segment_texts TO {role};
    DROP POLICY IF EXISTS recorder_adds ON audio_segments;
    CREATE POLICY recorder_adds ON audio_segments FOR INSERT TO {role} WITH CHECK (true);
    DROP POLICY IF EXISTS recorder_writes ON segment_texts;
    CREATE POLICY recorder_writes ON segment_texts TO {role} USING (true) WITH CHECK (true);
"""
_RIGHT_TO_REMOVE = """
    GRANT SELECT (id, room_id, folder, participant_identity, ended_at), DELETE ON audio_segments TO {role};
    DROP POLICY IF EXISTS recorder_sees ON audio_segments;
    CREATE POLICY recorder_sees ON audio_segments FOR SELECT TO {role} USING (true);
    DROP POLICY IF EXISTS recorder_removes ON audio_segments;
    CREATE POLICY recorder_removes ON audio_segments FOR DELETE TO {role} USING (true);
"""

_COLUMNS = (
    "id, room_id, audio_data, room_sid, folder, file, number, participant_identity, participant_name, track_sid,"
    " track_source, started_at, ended_at, offset_seconds, duration_seconds, sample_rate, mean_probability,"
    " lowest_probability, end_reason, speaking_language, sha256"
)
_ADD_SEGMENT = (
    # Without naming the constraint: with it, the right to SELECT would be needed.
    f"INSERT INTO audio_segments ({_COLUMNS}) VALUES ({', '.join(['%b'] * 21)}) ON CONFLICT DO NOTHING"
)
_ADD_TEXT = """
    INSERT INTO segment_texts (segment_id, language, text, is_transcript, model, tokens)
    VALUES (%s, %s, %s, %s, %s, %s)
    ON CONFLICT (segment_id, language) DO UPDATE
    SET text = excluded.text, model = excluded.model, tokens = excluded.tokens
    WHERE segment_texts.text IS DISTINCT FROM excluded.text
"""
_CHOSEN = """
    FROM audio_segments
    WHERE (%(room)s::text = '' OR room_id = %(room)s OR folder = %(room)s)
    AND (%(participant)s::text = '' OR participant_identity = %(participant)s)
    AND (%(before)s::timestamptz IS NULL OR ended_at < %(before)s)
"""


class PostgresTarget:
    """One database."""

    def __init__(self, url: str) -> None:
        """Reads the URL and connects to nothing.

        Raises:
            ConfigError: it cannot be read.
        """
        from psycopg import Error
        from psycopg.conninfo import conninfo_to_dict

        try:
            parts = conninfo_to_dict(url)
        except Error:  # what it says may hold the password
            raise ConfigError(
                "DATABASE_URL=(hidden) is wrong: Postgres cannot read it (is a sign in the password not escaped?)"
            ) from None
        # With the user: at Supabase's pooler it is what tells projects apart.
        self.name = "postgres://{user}@{host}:{port}/{dbname}".format(
            **{"user": "", "host": "", "port": 5432, "dbname": "", **parts}
        )
        self._url = url
        self._idle: list[psycopg.AsyncConnection[Any]] = []
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._thread = _LoopThread()

    # Delivering.

    async def check(self) -> None:
        """Inserts a row and takes it back."""
        await self._thread.run(self._in_time(self._try_insert()))

    async def put(self, item: Item) -> None:
        """See :class:`~deliverables.Target`. The lists are in the rows' columns."""
        if not isinstance(item, Lists):
            await self._thread.run(self._in_time(self._put(item)))

    async def _put(self, item: Sound | Words) -> None:
        if isinstance(item, Sound):
            audio = await asyncio.to_thread(sound_bytes, item)
            await self._execute(_ADD_SEGMENT, _row(item.folder.name, item.record, audio))
            return
        segment_id = id_of(item.folder.name, item.record)
        if not item.text.is_audio_kept:
            await self._execute(_ADD_SEGMENT, _row(item.folder.name, item.record, None))
        for language, text, is_transcript in _texts(item.text):
            model, tokens = _storable(item.text.model), sorted(folding.searchable(text))
            values = (segment_id, language, text, is_transcript, model, tokens)
            await self._execute(_ADD_TEXT, values)

    async def _try_insert(self) -> None:
        moment = datetime.now(timezone.utc)
        empty = hashlib.sha256(b"").hexdigest()
        record = SegmentRecord(
            0, "check", "", "", "", "", "", "", moment, moment, None, 0.0, None, None, EndReason.PAUSE, empty
        )
        async with self._connection() as connection, connection.transaction(force_rollback=True):
            await connection.execute(_ADD_SEGMENT, _row(f".check-{uuid.uuid4()}", record, b""))

    # Removing.

    async def remove(
        self, selection: Selection, known: Mapping[str, Sequence[SegmentRecord]], *, only_count: bool = False
    ) -> int:
        """See :class:`~deliverables.Target`."""
        values = {
            "room": _storable(selection.room),
            "participant": _storable(selection.participant),
            "before": selection.before,
        }
        return await self._thread.run(self._in_time(self._remove(values, only_count)))

    async def _remove(self, values: dict[str, Any], only_count: bool) -> int:
        async with self._connection() as connection:
            if only_count:
                found = await (await connection.execute("SELECT count(id)" + _CHOSEN, values)).fetchone()
                return int(found[0]) if found else 0
            return (await connection.execute("DELETE" + _CHOSEN, values)).rowcount

    # Migrating.

    async def migrate(self, role: str = "", *, may_remove: bool = False) -> list[int]:
        """Creates the tables or brings them up to date; with ``role``, gives it the least rights that it needs.

        Returns the migrations that were applied. All of it happens, or nothing.

        Raises:
            ConfigError: the database does not let us.
        """
        return await self._thread.run(self._in_time(self._migrate(role, may_remove)))

    async def _migrate(self, role: str, may_remove: bool) -> list[int]:
        from psycopg import sql

        applied = []
        async with self._connection() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('voice_segmenter'))")
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS voice_segmenter_migrations"
                " (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
            )
            await connection.execute("ALTER TABLE voice_segmenter_migrations ENABLE ROW LEVEL SECURITY")
            rows = await (
                await connection.execute("SELECT version FROM voice_segmenter_migrations")
            ).fetchall()
            done = {row[0] for row in rows}
            for version, statements in enumerate(MIGRATIONS, start=1):
                if version not in done:
                    await connection.execute(statements)
                    await connection.execute(
                        "INSERT INTO voice_segmenter_migrations (version) VALUES (%s)", (version,)
                    )
                    applied.append(version)
            if role:
                found = await (await connection.execute("SELECT current_schema()")).fetchone()
                names = {
                    "role": sql.Identifier(role),
                    "schema": sql.Identifier(found[0] if found else "public"),
                }
                rights = _RIGHTS + (_RIGHT_TO_REMOVE if may_remove else "")
                await connection.execute(sql.SQL(rights).format(**names))
        return applied

    # Connections. Everything below runs on the thread's loop.

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T:
        import psycopg

        try:
            return await within(CALL_TIMEOUT_SECONDS, work)
        except psycopg.Error as error:
            raise sorted_out(error) from None
        except (asyncio.TimeoutError, OSError) as error:
            raise RetryLater(f"the database does not answer ({type(error).__name__})") from None

    async def _execute(self, statement: str, values: Sequence[Any]) -> None:
        import psycopg

        for attempt in (1, 2):
            was_idle = bool(self._idle)
            try:
                async with self._connection() as connection:
                    await connection.execute(statement, values)
                return
            except psycopg.OperationalError as error:
                # A connection that the other side has closed while it was idle is no trouble worth a pause.
                if attempt == 2 or not was_idle or error.sqlstate is not None:
                    raise

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        async with self._slots:
            connection = self._idle.pop() if self._idle else await self._connect()
            try:
                yield connection
            except BaseException as error:
                if isinstance(error, Exception) and not connection.broken and not connection.closed:
                    self._idle.append(connection)
                else:
                    await connection.close()
                raise
            self._idle.append(connection)

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        import psycopg

        return await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            prepare_threshold=None,  # poolers in transaction mode know no prepared statements
            connect_timeout=CONNECT_SECONDS,
            application_name="voice-segmenter",
        )

    async def aclose(self) -> None:
        """Closes the connections. Idempotent."""
        await self._thread.close(self._close_idle)

    async def _close_idle(self) -> None:
        while self._idle:
            await self._idle.pop().close()


class _LoopThread:
    """An event loop that psycopg can live on, whatever the caller's is."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Does it there. Cancelling this cancels that."""
        if self._loop is None:
            self._loop = asyncio.SelectorEventLoop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="postgres", daemon=True)
            self._thread.start()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def close(self, last: Any) -> None:
        if self._loop is None or self._thread is None:
            return
        loop, thread, self._loop = self._loop, self._thread, None
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(last(), loop))
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)
        loop.close()


# --- rows ---


def id_of(folder: str, record: SegmentRecord) -> uuid.UUID:
    """The same for the same segment, and different for any other: also of a room recorded anew on another disk."""
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


def _texts(text: TextRecord) -> list[tuple[str, str, bool]]:
    """Language, text, and whether it is what was said."""
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
    """Text as Postgres takes it: neither NUL nor half a character."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


# --- errors ---

_CONNECTING = {
    "password authentication failed": "user or password is wrong",
    "no password supplied": "the password is missing",
    "does not exist": "there is no such database or user",
    "Tenant or user not found": "user or project is wrong (Supabase's pooler wants postgres.PROJECT as user)",
    "no pg_hba.conf entry": "the server does not let us in from here",
    "SSL": "the encryption is not what the server wants (sslmode)",
}
"""What a refused connection says, and what it means."""


def sorted_out(error: psycopg.Error) -> RecorderError:
    """Who must act. Never with the server's own text about values, which may hold what was said."""
    from psycopg import DataError, IntegrityError

    state = error.sqlstate or ""
    if state in ("42P01", "42703"):
        return ConfigError("its tables are missing or old: run `python lessons.py migrate`")
    if state == "42501":
        return Refused("the user may not do this (see docs/delivery.md for the rights it needs)")
    if state == "25006":
        return ConfigError("the database takes no writes (read-only: is it full?)")
    if state[:2] == "28" or state == "3D000":
        return ConfigError("user, password or database is wrong")
    if isinstance(error, (DataError, IntegrityError)) or state[:2] in ("22", "23", "54"):
        return Refused(f"Postgres refuses it ({state or 'what it holds'} {type(error).__name__})")
    if state:
        return RetryLater(f"the database answers {state} {type(error).__name__}")
    return _not_connected(str(error))


def _not_connected(text: str) -> RecorderError:
    for phrase, meaning in _CONNECTING.items():
        if phrase in text:
            return ConfigError(meaning)
    reason = "no such host" if "resolve" in text or "getaddrinfo" in text else "no connection"
    return RetryLater(f"the database cannot be reached ({reason})")
