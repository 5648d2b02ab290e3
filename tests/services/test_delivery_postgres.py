"""Delivery to a real PostgreSQL server, directly and through a pooler in transaction mode."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from archive.delivery_log import DeliveryLog
from archive.session_files import SessionFiles
from config import Settings
from core.errors import ConfigError, RecorderError, Refused, RetryLater
from core.records import SegmentRecord
from delivery.items import AudioItem, Selection
from delivery.postgres import PostgresTarget, id_of
from devtools.postgres_server import PostgresServer
from devtools.room_folders import until
from lesson_tools.expected import expected_of
from support.delivering import SOON, deliver, serving
from support.lessons_on_disk import BEN, closed, sha256, spoken, with_texts

pytestmark = pytest.mark.timeout(300)


def rows(
    server: PostgresServer, query: str = "SELECT * FROM audio_segments ORDER BY started_at"
) -> list[dict[str, Any]]:
    with psycopg.connect(server.url(), row_factory=dict_row) as connection:
        return connection.execute(query.encode()).fetchall()


def settings_for(url: str, folder: Path) -> Settings:
    return Settings.from_env({"DATABASE_URL": url, "OUTPUT_DIR": str(folder)}, for_worker=False)


def is_all_there(server: PostgresServer, records: list[SegmentRecord]) -> bool:
    there = [(row["file"], sha256(row["audio_data"])) for row in rows(server)]
    return there == [(record.file, record.sha256) for record in sorted(records, key=lambda one: one.start)]


async def test_every_segment_and_its_texts_are_rows(database: PostgresServer, tmp_path: Path) -> None:
    settings = settings_for(database.url(), tmp_path)
    records = spoken(settings)
    with_texts(tmp_path / "math101", records)
    assert await deliver(settings)
    assert is_all_there(database, records)
    row, record = rows(database)[0], records[0]
    assert row["id"] == id_of("math101", record)
    assert (row["room_id"], row["room_sid"], row["folder"]) == ("math101", "RM_math101", "math101")
    assert (row["participant_identity"], row["number"], row["sample_rate"]) == ("anna", 1, 16_000)
    assert row["started_at"] == record.start
    assert row["ended_at"] == record.end
    assert row["end_reason"] == "pause"
    texts = rows(database, "SELECT * FROM segment_texts ORDER BY segment_id, language")
    assert len(texts) == 6
    mine = [
        (one["language"], one["text"], one["is_transcript"])
        for one in texts
        if one["segment_id"] == row["id"]
    ]
    assert mine == [("en", "Number 1.", True), ("es", "Número 1.", False)]


async def test_a_second_delivery_changes_nothing(database: PostgresServer, tmp_path: Path) -> None:
    settings = settings_for(database.url(), tmp_path)
    with_texts(tmp_path / "math101", spoken(settings))
    assert await deliver(settings)
    before = rows(database), rows(database, "SELECT * FROM segment_texts ORDER BY segment_id, language")
    (tmp_path / "math101" / "delivered.jsonl").unlink()
    (tmp_path / ".outbox.sqlite").unlink()
    assert await deliver(settings)
    after = rows(database), rows(database, "SELECT * FROM segment_texts ORDER BY segment_id, language")
    assert after == before


async def test_it_works_through_a_pooler_in_transaction_mode(
    database: PostgresServer, pooler_port: int, tmp_path: Path
) -> None:
    """A pooler: two server connections for many clients, each transaction on a free one, without session state."""
    settings = settings_for(database.url(port=pooler_port), tmp_path)
    records = [record for room in "abcdef" for record in spoken(settings, f"room-{room}", 5)]
    for room in "abcdef":
        folder = tmp_path / f"room-{room}"
        with_texts(folder, [record for record in records if record.room_name == folder.name])
    assert await deliver(settings)
    assert sorted(sha256(row["audio_data"]) for row in rows(database)) == sorted(
        one.sha256 for one in records
    )
    assert len(rows(database, "SELECT 1 FROM segment_texts")) == 60
    assert rows(database, "SELECT name FROM pg_prepared_statements") == []


async def test_an_outage_costs_time_and_nothing_else(
    database: PostgresServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(database.url(), tmp_path)
    records = spoken(settings, count=2)
    async with serving(settings) as service:
        await until(lambda: is_all_there(database, records), "the first two", SOON)
        database.pause()
        records += spoken(settings, count=3)
        await until(lambda: service.status()[0].failures >= 3, "it is tried again", SOON)
        database.run()
        await until(lambda: service.status()[0].delivered >= 5, "delivery goes on", SOON)
        await until(lambda: is_all_there(database, records), "all of them", SOON)
    assert "works again" in caplog.text
    assert database.password not in caplog.text


async def test_tables_are_never_made_silently(
    empty_database: PostgresServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(empty_database.url(), tmp_path)
    records = spoken(settings)
    assert not await deliver(settings)
    assert "run `python lessons.py migrate`" in caplog.text
    assert DeliveryLog(tmp_path / "math101").refused() == {}
    target = PostgresTarget(empty_database.url())
    assert await target.migrate() == [1, 2, 3]
    assert await target.migrate() == []
    await target.aclose()
    assert await deliver(settings)
    assert is_all_there(empty_database, records)


@pytest.mark.parametrize(
    ("spoil", "kind", "said"),
    [
        (lambda server: server.url(password="wrong"), ConfigError, "user or password is wrong"),
        (lambda server: server.url(user="nobody"), ConfigError, "user or password is wrong"),
        (lambda server: server.url() + "x", ConfigError, "there is no such database"),
        (lambda server: server.url(port=1), RetryLater, "cannot be reached"),
        (lambda server: "postgresql://u:secret@no-such-host.invalid/d", RetryLater, "no such host"),
    ],
)
async def test_errors_say_in_one_line_who_must_act(
    database: PostgresServer, spoil: Callable[[PostgresServer], str], kind: type[RecorderError], said: str
) -> None:
    target = PostgresTarget(spoil(database))
    with pytest.raises(kind, match=said) as caught:
        await target.check()
    await target.aclose()
    assert "\n" not in str(caught.value)
    assert database.password not in target.name


async def test_the_server_checks_the_sound_itself(database: PostgresServer, tmp_path: Path) -> None:
    record = spoken(settings_for(database.url(), tmp_path), count=1)[0]
    target = PostgresTarget(database.url())
    with pytest.raises(Refused):
        await target.put(AudioItem(tmp_path / "math101", record, b"spoilt on the way"))
    await target.aclose()
    assert rows(database) == []


async def test_names_that_postgres_cannot_store_are_changed(database: PostgresServer, tmp_path: Path) -> None:
    record = spoken(settings_for(database.url(), tmp_path), count=1)[0]
    odd = replace(
        record, room_name="a\0b", participant_name="half \ud800", participant_identity="'; DROP TABLE x --"
    )
    target = PostgresTarget(database.url())
    await target.put(AudioItem.read(tmp_path / "math101", odd))
    await target.aclose()
    row = rows(database)[0]
    assert row["room_id"] == "a\ufffdb"
    assert row["participant_identity"] == "'; DROP TABLE x --"


async def test_the_least_rights_are_enough_and_not_more(database: PostgresServer, tmp_path: Path) -> None:
    with psycopg.connect(database.url(), autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS recorder")
        connection.execute("CREATE ROLE recorder LOGIN PASSWORD 'only-adds'")
    owner = PostgresTarget(database.url())
    await owner.migrate("recorder")
    url = database.url(user="recorder", password="only-adds")
    settings = settings_for(url, tmp_path)
    with_texts(tmp_path / "math101", spoken(settings))
    await asyncio.to_thread(closed, settings)
    assert await deliver(settings)
    assert len(rows(database)) == 3
    assert len(rows(database, "SELECT * FROM recorded_sessions")) == 1
    with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT audio_data FROM audio_segments")
    worker = PostgresTarget(url)
    with pytest.raises(Refused, match="may not"):
        await worker.remove(Selection(room="math101"), {})
    await owner.migrate("recorder", may_remove=True)
    assert await worker.remove(Selection(room="math101", participant="anna"), {}) == 3
    assert rows(database, "SELECT * FROM segment_texts") == []
    assert rows(database, "SELECT * FROM recorded_sessions") == []
    await owner.aclose()
    await worker.aclose()


async def test_a_second_role_does_not_take_the_rights_of_the_first(
    database: PostgresServer, tmp_path: Path
) -> None:
    roles = ("recorder", "r" * 63)
    with psycopg.connect(database.url(), autocommit=True) as connection:
        for role in roles:
            connection.execute(f"DROP ROLE IF EXISTS {role}".encode())
            connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'only-adds'".encode())
    owner = PostgresTarget(database.url())
    for role in (*roles, roles[0]):
        await owner.migrate(role, may_remove=True)
    await owner.aclose()
    for index, role in enumerate(roles):
        settings = settings_for(database.url(user=role, password="only-adds"), tmp_path / role[:5])
        with_texts(tmp_path / role[:5] / "math101", spoken(settings))
        assert await deliver(settings)
        assert len(rows(database)) == 3 * (index + 1)
        worker = PostgresTarget(settings.database_url)
        assert await worker.remove(Selection(room="math101"), {}, only_count=True) == 3 * (index + 1)
        await worker.aclose()


async def test_texts_that_are_only_captions_are_rows_too(database: PostgresServer, tmp_path: Path) -> None:
    """Without SAVE_TRANSLATIONS a text has no files."""
    settings = settings_for(database.url(), tmp_path)
    records = spoken(settings)
    texts = with_texts(tmp_path / "math101", records)
    for path in (tmp_path / "math101").glob("*.txt"):
        path.unlink()
    lines = [json.dumps(replace(text, files=()).to_json()) for text in texts]
    (tmp_path / "math101" / "texts.jsonl").write_text("\n".join(lines) + "\n")
    assert await deliver(settings)
    assert len(rows(database, "SELECT * FROM segment_texts")) == 6


async def test_a_session_is_a_row_that_follows_its_file(database: PostgresServer, tmp_path: Path) -> None:
    settings = settings_for(database.url(), tmp_path)
    records = spoken(settings) + spoken(settings, track=replace(BEN, participant_name="Be\0n"), count=1)
    path = await asyncio.to_thread(closed, settings)
    assert await deliver(settings)
    (row,) = rows(database, "SELECT * FROM recorded_sessions")
    assert (row["folder"], row["room_sid"], row["room_id"]) == ("math101", "RM_math101", "math101")
    assert (row["ended_at"], row["is_complete"]) == (max(record.end for record in records), False)
    assert [one["name"] for one in row["summary"]["participants"]] == ["Anna", "Be\ufffdn"]
    expected = await asyncio.to_thread(expected_of, settings)
    assert SessionFiles(path.parent, expected).refresh("RM_math101")
    assert await deliver(settings)
    (row,) = rows(database, "SELECT * FROM recorded_sessions")
    assert (row["is_complete"], row["summary"]["delivery"]["undelivered"]) == (True, 0)
    target = PostgresTarget(database.url())
    await target.remove(Selection(room="art"), {})
    await target.remove(Selection(participant="carl"), {})
    await target.remove(Selection(before=records[0].end), {})
    assert len(rows(database, "SELECT * FROM recorded_sessions")) == 1
    await target.remove(Selection(participant="anna"), {})
    await target.aclose()
    assert rows(database, "SELECT * FROM recorded_sessions") == []


async def test_row_level_security_is_on(database: PostgresServer) -> None:
    tables = rows(
        database,
        "SELECT relname, relrowsecurity FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
    )
    assert tables
    assert all(table["relrowsecurity"] for table in tables)


async def test_what_is_chosen_is_removed_and_nothing_else(database: PostgresServer, tmp_path: Path) -> None:
    settings = settings_for(database.url(), tmp_path)
    spoken(settings, "math101", 2)
    bens = spoken(settings, "math101", 2, track=BEN)
    other = spoken(settings, "art", 1)
    assert await deliver(settings)
    target = PostgresTarget(database.url())
    chosen = Selection("math101", "anna")
    assert await target.remove(chosen, {}, only_count=True) == 2
    assert await target.remove(chosen, {}) == 2
    assert await target.remove(Selection(before=other[0].end), {}) == 0
    await target.aclose()
    assert sorted(row["file"] + row["folder"] for row in rows(database)) == sorted(
        [*(one.file + "math101" for one in bens), other[0].file + "art"]
    )
