"""Search in a real PostgreSQL server, in what has been delivered to it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from core.errors import ConfigError, RecorderError
from core.records import SegmentRecord, TextRecord
from delivery.items import AudioItem, TextItem
from delivery.postgres import PostgresTarget
from devtools.postgres_server import PostgresServer
from devtools.sample_room import open_room
from lesson_tools.search import find
from search.postgres import PostgresIndex
from support.commands import run
from support.search_texts import TEXTS, numbers, speak


@pytest.fixture
async def url(database: PostgresServer, tmp_path: Path) -> str:
    """A database to which a lesson with these texts has been delivered."""
    target = PostgresTarget(database.url())
    folder = open_room(tmp_path)
    for number, texts in enumerate(TEXTS):
        record = speak(folder, number * 10, texts)
        await target.put(AudioItem(folder.path, record))
        await target.put(TextItem(folder.path, record, text_of(record, texts)))
    await target.aclose()
    return database.url()


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
