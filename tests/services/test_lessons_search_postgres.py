"""Search in a real PostgreSQL server, in what has been delivered to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from core.errors import ConfigError, RecorderError
from core.language_tags import is_same_language
from core.records import SegmentRecord
from core.text_records import TextRecord
from delivery.items import AudioItem, TextItem
from delivery.postgres import PostgresTarget
from delivery.postgres_schema import MIGRATIONS
from devtools.postgres_server import PostgresServer
from devtools.sample_room import open_room
from lesson_tools.search import find
from search import postgres as search_postgres
from search.postgres import PostgresIndex
from search.query import query_words, steps
from support.commands import run
from support.search_texts import KINDS, TEXTS, numbers, speak


@pytest.fixture
async def url(database: PostgresServer, tmp_path: Path) -> str:
    """A database to which a lesson with these texts has been delivered."""
    await deliver(database.url(), tmp_path, TEXTS)
    return database.url()


async def deliver(url: str, output_dir: Path, all_texts: Sequence[dict[str, str]]) -> None:
    target = PostgresTarget(url)
    folder = open_room(output_dir)
    for number, texts in enumerate(all_texts):
        record = speak(folder, number * 10, texts)
        await target.put(AudioItem.read(folder.path, record))
        await target.put(TextItem.read(folder.path, record, text_of(record, texts)))
    await target.aclose()


def text_of(record: SegmentRecord, texts: dict[str, str]) -> TextRecord:
    (spoken, transcript), *others = texts.items()
    return TextRecord(
        number=record.number,
        file=record.file,
        at=datetime.now(UTC),
        start=record.start,
        participant_identity=record.participant_identity,
        language=spoken,
        transcript=transcript,
        translations=dict(others),
        model="m",
    )


@pytest.mark.parametrize(
    ("question", "expected", "language"),
    [
        ("PHOTOSYNTHESIS sugar", 1, "en"),
        ("fotosintesis azucar", 1, "es"),
        ("photosyn", 1, "en"),
        ("مدرسة", 2, "ar"),
        ("المدرسه", 2, "ar"),
        ("東京タワー", 3, "ja"),
        ("行", 3, "ja"),
        ("京塔", 3, "zh"),
        ("ไทย", 4, "th"),
        ("strasse uber", 4, "de"),
        ("don't", 6, "en"),
    ],
)
async def test_what_was_delivered_is_found_as_on_disk(
    url: str, question: str, expected: int, language: str
) -> None:
    with PostgresIndex(url) as index:
        (hit,) = find(index, question)
    assert (hit.segment.number, hit.language) == (expected, language)
    assert hit.segment.start == f"2025-10-08T14:00:{expected - 1}0.000Z"
    assert hit.segment.texts == TEXTS[expected - 1]
    assert hit.marks


async def test_each_writing_is_found_as_on_disk(database: PostgresServer, tmp_path: Path) -> None:
    await deliver(database.url(), tmp_path, [{language: text} for language, text, _, _ in KINDS.values()])
    with PostgresIndex(database.url()) as index:
        for number, (language, _, questions, others) in enumerate(KINDS.values(), 1):
            missing = [question for question in questions if number not in numbers(find(index, question))]
            assert not missing, language
            assert not [question for question in others if number in numbers(find(index, question))], language
            assert number in numbers(find(index, questions[0], language=language))


async def test_a_language_is_searched_among_its_own_texts(
    database: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_postgres, "CANDIDATES", 5)
    texts = [{"en-GB": "light"}, *[{"es": "light"}] * 8]
    await deliver(database.url(), tmp_path, texts)
    with PostgresIndex(database.url()) as index:
        for language in ("en", "en-GB", "EN-gb-oxendict"):
            assert numbers(find(index, "light", language=language)) == [1]
        assert find(index, "light", language="en-US") == []


async def test_a_language_is_the_same_as_on_disk(database: PostgresServer, tmp_path: Path) -> None:
    tags = ("zh-Hant", "zh-Hans", "nb", "sr-Latn-RS", "sr")
    await deliver(database.url(), tmp_path, [{tag: "light"} for tag in tags])
    with PostgresIndex(database.url()) as index:
        for language in ("zh-TW", "zh-CN", "zh", "no", "sr-RS", "sr-Latn", "en"):
            found = sorted(numbers(find(index, "light", language=language)))
            assert found == [number for number, tag in enumerate(tags, 1) if is_same_language(tag, language)]


async def test_words_are_found_in_different_texts_of_a_segment(url: str) -> None:
    with PostgresIndex(url) as index:
        assert numbers(find(index, "photosyn azúcar")) == [1]
        assert find(index, "photosynthesis azúcar", language="en") == []


async def test_beginnings_are_found_through_the_index(url: str) -> None:
    """Without a scan of the table, which the planner prefers for the few texts of this test."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET enable_seqscan = off")
        for step in steps(query_words("photosyn sug")):
            queries = [" | ".join(map(search_postgres._phrase, phrases)) for phrases in step]
            for query in queries:
                statement = search_postgres._WITH_WORDS.format(name="query")
                plan = connection.execute("EXPLAIN " + statement, {"query": query}).fetchall()
                assert "Bitmap Index Scan on segment_texts_by_word" in str(plan)


def test_texts_of_older_rules_are_found_after_migrate(database: PostgresServer, tmp_path: Path) -> None:
    url = database.url()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        connection.execute(
            "CREATE TABLE voice_segmenter_migrations "
            "(version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        connection.execute(MIGRATIONS[0])
        connection.execute("INSERT INTO voice_segmenter_migrations (version) VALUES (1)")
        connection.execute(
            "INSERT INTO audio_segments VALUES (gen_random_uuid(), 'math101', NULL, now(), 'RM_1', 'math101', 'a.wav',"
            " 1, 'anna', 'Anna', 'TR_1', 'microphone', now(), now(), 0, 1, 16000, 1, 1, 'pause', '', 'x')"
        )
        connection.execute(
            "INSERT INTO segment_texts (segment_id, language, text, is_transcript, model, tokens) "
            "SELECT id, 'x-' || count, 'An e-mail from school ' || count, false, '', ARRAY['e', 'mail'] "
            "FROM audio_segments, generate_series(1, 2500) AS count"
        )
    assert run("search", "email", output_dir=tmp_path, DATABASE_URL=url).code == 2
    result = run("migrate", output_dir=tmp_path, DATABASE_URL=url)
    assert result.out.splitlines() == [
        "Migrations applied: 2, 3",
        "The search words of 2500 texts are renewed",
    ]
    assert run("search", "email", "schoo", "2500", output_dir=tmp_path, DATABASE_URL=url).code == 0
    assert run("migrate", output_dir=tmp_path, DATABASE_URL=url).out == "The tables are up to date\n"


async def test_a_very_long_text_is_delivered_and_found(database: PostgresServer, tmp_path: Path) -> None:
    text = " ".join(f"donaudampfschifffahrtsgesellschaft{number}" for number in range(20_000))
    await deliver(database.url(), tmp_path, [{"de": text}])
    with PostgresIndex(database.url()) as index:
        assert numbers(find(index, "donaudampfschifffahrtsgesellschaft7")) == [1]


async def test_rank_room_and_hostile_questions(url: str) -> None:
    with PostgresIndex(url) as index:
        assert numbers(find(index, "light")) == [5, 1]
        assert numbers(find(index, "light", ["math101"])) == [5, 1]
        assert find(index, "light", ["art"]) == []
        assert find(index, "light", language="es") == []
        for question in ("'; DROP TABLE audio_segments; --", "light\x00", "{a,b}", '"light', "%", "\ud800x"):
            try:
                find(index, question, ["\x00"])
            except RecorderError as error:
                assert "has no word" in str(error)
        assert numbers(find(index, "light")) == [5, 1]


async def test_the_command_asks_the_database(url: str, tmp_path: Path) -> None:
    result = run("search", "fotosintesis", "--json", output_dir=tmp_path / "none", DATABASE_URL=url)
    assert result.code == 0, result.err
    assert json.loads(result.out)["hits"][0]["number"] == 1
    assert run("search", "xyzzy", output_dir=tmp_path, DATABASE_URL=url).code == 1


async def test_what_cannot_be_read_is_one_line(url: str, tmp_path: Path) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE segment_texts")
    result = run("search", "light", output_dir=tmp_path, DATABASE_URL=url)
    assert (result.code, result.out) == (2, "")
    assert "run `python lessons.py migrate`" in result.err
    assert result.err.count("\n") == 1
    wrong = url.replace("postgresql://postgres:", "postgresql://postgres:wrong")
    result = run("search", "light", output_dir=tmp_path, DATABASE_URL=wrong)
    assert result.code == 2
    assert result.err == "DATABASE_URL: user or password is wrong\n"
    with pytest.raises(ConfigError):
        PostgresIndex(wrong)
