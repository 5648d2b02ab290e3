"""The migrations that create the tables in Postgres, and the least rights that a role needs."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

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
    # Unlike an array's, the index over a tsvector finds the beginnings of words. Empty until the words are renewed.
    """
    ALTER TABLE segment_texts
        DROP COLUMN tokens,
        ADD COLUMN words tsvector,
        ADD COLUMN words_version smallint NOT NULL DEFAULT 0;
    CREATE INDEX segment_texts_by_word ON segment_texts USING gin (words);
    """,
    """
    CREATE TABLE recorded_sessions (
        folder text NOT NULL,
        room_sid text NOT NULL,
        room_id text NOT NULL,
        started_at timestamptz NOT NULL,
        ended_at timestamptz NOT NULL,
        is_complete boolean NOT NULL,
        summary jsonb NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        changed_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (folder, room_sid)
    );
    CREATE INDEX recorded_sessions_by_room ON recorded_sessions (room_id, started_at);
    ALTER TABLE recorded_sessions ENABLE ROW LEVEL SECURITY;
    """,
)
"""The migrations in their order; one that has been released is never changed."""

_RIGHTS = """
    GRANT USAGE ON SCHEMA {schema} TO {role};
    GRANT INSERT ON audio_segments TO {role};
    GRANT SELECT, INSERT, UPDATE ON segment_texts TO {role};
    GRANT SELECT, INSERT, UPDATE ON recorded_sessions TO {role};
    DROP POLICY IF EXISTS {adds} ON audio_segments;
    CREATE POLICY {adds} ON audio_segments FOR INSERT TO {role} WITH CHECK (true);
    DROP POLICY IF EXISTS {writes} ON segment_texts;
    CREATE POLICY {writes} ON segment_texts TO {role} USING (true) WITH CHECK (true);
    DROP POLICY IF EXISTS {writes} ON recorded_sessions;
    CREATE POLICY {writes} ON recorded_sessions TO {role} USING (true) WITH CHECK (true);
"""
_RIGHT_TO_REMOVE = """
    GRANT SELECT (id, room_id, folder, participant_identity, ended_at), DELETE ON audio_segments TO {role};
    GRANT DELETE ON recorded_sessions TO {role};
    DROP POLICY IF EXISTS {sees} ON audio_segments;
    CREATE POLICY {sees} ON audio_segments FOR SELECT TO {role} USING (true);
    DROP POLICY IF EXISTS {removes} ON audio_segments;
    CREATE POLICY {removes} ON audio_segments FOR DELETE TO {role} USING (true);
"""


_POLICIES = ("adds", "writes", "sees", "removes")


def _policy(what: str, role: str) -> str:
    """The name of a role's policy. Each role has its own; a role's name may be as long as a name can be."""
    return f"recorder_{what}_{hashlib.sha256(role.encode()).hexdigest()[:12]}"


async def apply_migrations(
    connection: psycopg.AsyncConnection[Any], role: str, *, may_remove: bool
) -> list[int]:
    """Creates the tables or brings them up to date; with ``role``, grants it the least rights that it needs.

    Returns the versions of the migrations that were applied. Everything is one transaction.
    """
    from psycopg import sql

    applied = []
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext('voice_segmenter'))")
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS voice_segmenter_migrations"
            " (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        await connection.execute("ALTER TABLE voice_segmenter_migrations ENABLE ROW LEVEL SECURITY")
        rows = await (await connection.execute("SELECT version FROM voice_segmenter_migrations")).fetchall()
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
                **{what: sql.Identifier(_policy(what, role)) for what in _POLICIES},
            }
            rights = _RIGHTS + (_RIGHT_TO_REMOVE if may_remove else "")
            await connection.execute(sql.SQL(rights).format(**names))
    return applied
