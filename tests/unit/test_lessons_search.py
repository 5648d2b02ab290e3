"""`lessons.py search`: every script and spelling, an index that is up to date after every change, hostile queries."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from core import notify, search_tokens
from core.errors import InputError
from core.records import RoomInfo
from devtools.room_folders import until
from devtools.sample_room import ROOM, open_room
from lesson_tools.search import find
from search import index as search_index
from search.index import INDEX, FreshIndex, SearchIndex
from storage import RoomFolder
from support.commands import run
from support.search_texts import KINDS, TEXTS, note, numbers, speak


@pytest.fixture
def room(tmp_path: Path) -> RoomFolder:
    """A room whose segments say these texts, the last one latest."""
    folder = open_room(tmp_path)
    for number, texts in enumerate(TEXTS):
        speak(folder, number * 10, texts)
    return folder


@pytest.fixture
def index(tmp_path: Path, room: RoomFolder) -> Iterator[SearchIndex]:
    with SearchIndex(tmp_path) as index:
        index.refresh(index.stale())
        yield index


@pytest.mark.parametrize(
    ("question", "expected", "language"),
    [
        ("photosynthesis", 1, "en"),
        ("PHOTOSYNTHESIS Sugar", 1, "en"),
        ("fotosintesis azucar", 1, "es"),
        ("fotosíntesis", 1, "es"),
        ("photosyn", 1, "en"),
        ("مدرسة", 2, "ar"),
        ("المدرسه", 2, "ar"),
        ("المَدْرَسَةُ", 2, "ar"),
        ("الـــمدرسة", 2, "ar"),
        ("الي الابد", 2, "ar"),
        ("إلى الأبد", 2, "ar"),
        ("東京タワー", 3, "ja"),
        ("タワー", 3, "ja"),
        ("行", 3, "ja"),
        ("京塔", 3, "zh"),
        ("塔", 3, "zh"),
        ("ภาษา", 4, "th"),
        ("ไทย", 4, "th"),
        ("strasse", 4, "de"),
        ("STRASSE UBER", 4, "de"),
        ("빛이다", 5, "ko"),
        ("हिन्दी", 6, "hi"),
        ("don't", 6, "en"),
        ("dont", 6, "en"),
        ("don\u2019t say", 6, "en"),
        ('"quoted"', 6, "en"),
    ],
)
def test_what_was_said_is_found_however_it_is_typed(
    index: SearchIndex, question: str, expected: int, language: str
) -> None:
    (hit,) = find(index, question)
    assert (hit.segment.number, hit.language) == (expected, language)
    assert hit.marks, "the words are marked"


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchIndex]:
    """An index of one text of each kind, in their order."""
    output_dir = tmp_path_factory.mktemp("kinds")
    folder = open_room(output_dir)
    for number, (language, text, _, _) in enumerate(KINDS.values()):
        speak(folder, number * 10, {language: text})
    with SearchIndex(output_dir) as index:
        index.refresh(index.stale())
        yield index


@pytest.mark.parametrize("kind", KINDS)
def test_each_writing_is_found_within_words_and_in_its_spellings(kinds: SearchIndex, kind: str) -> None:
    number, (language, _, questions, others) = list(KINDS).index(kind) + 1, KINDS[kind]
    for question in questions:
        hits = {hit.segment.number: hit for hit in find(kinds, question)}
        assert number in hits, question
        assert hits[number].marks, question
        assert number in numbers(find(kinds, question, language=language)), question
    assert not [question for question in others if number in numbers(find(kinds, question))]


def test_the_words_are_marked_where_they_stand(index: SearchIndex) -> None:
    def marked(question: str) -> list[str]:
        (hit,) = find(index, question)
        return [hit.snippet[start:end] for start, end in hit.marks]

    assert marked("fotosintesis luz") == ["fotosíntesis", "luz"]
    assert marked("مدرسه") == ["المَدْرَسَةُ"]
    assert marked("東京タワー") == ["東京タワー"]
    assert marked("ไทย") == ["ไทย"]
    assert marked("이") == ["이"]
    assert marked("synthesis") == ["Photosynthesis"]
    assert marked("dont quote") == ["Don't", "quoted"]


def test_the_best_comes_first(index: SearchIndex, room: RoomFolder) -> None:
    assert numbers(find(index, "light")) == [5, 1], "the one that says it most"
    speak(room, 100, {"en": "the light of the day is not into anything"})
    speak(room, 110, {"en": "into the light"})
    index.refresh(index.stale())
    assert numbers(find(index, "light into"))[0] == 1, "words that stand together"
    speak(room, 120, {"en": "The school opens at eight."})
    index.refresh(index.stale())
    assert numbers(find(index, "school"))[0] == 9, "the newest among equals"


def test_all_words_must_be_there(index: SearchIndex) -> None:
    assert find(index, "school sugar") == []
    assert find(index, "photosynthesis azúcar"), "even if in two languages"


def test_a_language_and_a_room_can_be_asked_for(tmp_path: Path, index: SearchIndex, room: RoomFolder) -> None:
    art = open_room(tmp_path, RoomInfo("art", "RM_2", ROOM.started_at + timedelta(days=1)))
    speak(art, 0, {"en-GB": "Light and shadow"})
    index.refresh(index.stale())
    assert [hit.segment.folder for hit in find(index, "light")] == ["math101", "art", "math101"]
    assert [hit.segment.folder for hit in find(index, "light", ["art"])] == ["art"]
    assert find(index, "light", language="es") == []
    assert len(find(index, "light", language="en")) == 3


def test_a_language_is_searched_among_all_of_its_texts(
    index: SearchIndex, room: RoomFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if many newer segments have the word in another language, and if there are many languages."""
    monkeypatch.setattr(search_index, "CANDIDATES", 5)
    first = speak(room, 100, {"en-GB": "Radio", "es": "La radio y la luz"})
    languages = [f"{one}{other}a" for one in "qrstuvwx" for other in "abcdefghi"]
    for number, language in enumerate(languages):
        speak(room, 110 + number, {"de": "Radio", language: f"radio {language}"})
    index.refresh(index.stale())
    for language in ("en", "en-GB", "es"):
        assert numbers(find(index, "radio", language=language)) == [first.number]
    assert find(index, "radio", language="fr") == find(index, "radio", language="en-US") == []
    assert find(index, "radio luz", language="en") == [], "both words in one text"
    for number, language in enumerate(languages, first.number + 1):
        assert numbers(find(index, language, language=language)) == [number]
    note(room, first, {"en-GB": "Television"})
    index.refresh(index.stale())
    assert find(index, "radio", language="en") == []


def test_whole_words_come_before_beginnings_and_these_before_inner_parts(
    index: SearchIndex, room: RoomFolder
) -> None:
    texts = [
        "Wir haben Unterricht in der Schule",
        "Der Schulebus fährt jetzt hier",
        "Die Grundschule ist hier jetzt",
    ]
    records = [speak(room, 100 + number, {"de": text}) for number, text in enumerate(texts)]
    index.refresh(index.stale())
    assert numbers(find(index, "schule")) == [record.number for record in records]


@pytest.mark.parametrize(
    "question",
    [
        '"', '""', "'", "a\"b", "NEAR(a b)", "a OR b", "NOT x", "light AND", "tokens:light", "li*ght*", "^light",
        "-light", "(light", "light)", "{a b}", "light\x00", "\ud800 light", "x" * 10_000, "word " * 5_000, "% _ \\",
        "'; DROP TABLE segment; --",
        "💡", "\u202elight", "٣", "a" + "\u0301" * 500,
    ],
)  # fmt: skip
def test_any_query_is_treated_as_words(index: SearchIndex, question: str) -> None:
    try:
        hits = find(index, question)
    except InputError as error:
        assert "has no word" in str(error)
    else:
        assert all(hit.segment.number for hit in hits)
    assert find(index, "photosynthesis")


def test_operators_are_words(index: SearchIndex) -> None:
    assert numbers(find(index, "NOT AND")) == [6]
    assert find(index, "photosynthesis OR school") == []


def test_only_what_is_new_is_read(tmp_path: Path, index: SearchIndex, room: RoomFolder) -> None:
    assert index.stale() == []
    speak(room, 200, {"en": "Something quite new"})
    assert index.stale() == ["math101"]
    index.refresh(index.stale())
    assert numbers(find(index, "something new")) == [7]
    assert index.stale() == []


def test_a_text_that_is_made_again_replaces_the_old_one(
    tmp_path: Path, index: SearchIndex, room: RoomFolder
) -> None:
    record = speak(room, 200, {"en": "The old wording"})
    index.refresh(index.stale())
    note(room, record, {"en": "The better wording", "fr": "Mieux dit"})
    index.refresh(index.stale())
    assert find(index, "old wording") == []
    assert numbers(find(index, "better wording")) == numbers(find(index, "mieux")) == [record.number]


def test_a_folder_that_is_gone_or_replaced_is_forgotten(
    tmp_path: Path, index: SearchIndex, room: RoomFolder
) -> None:
    texts, manifest = room.path / "texts.jsonl", room.path / "segments.jsonl"
    kept = manifest.read_bytes().splitlines(keepends=True)[1:]
    manifest.write_bytes(b"".join(kept))
    index.refresh(index.stale())
    assert find(index, "photosynthesis") == []
    assert numbers(find(index, "school")) == [2]
    for path in (texts, manifest):
        path.unlink()
    assert index.stale() == ["math101"]
    index.refresh(index.stale())
    assert find(index, "school") == []
    assert index.stale() == []


def test_two_recorders_that_delivered_to_one_place_keep_their_words_apart(tmp_path: Path) -> None:
    """Both have counted from 1, and their lists were merged."""
    folder = open_room(tmp_path)
    manifest, texts = folder.path / "segments.jsonl", folder.path / "texts.jsonl"
    ours, theirs = speak(folder, 0, {"en": "ours"}), speak(folder, 60, {"en": "theirs"})
    for path in (manifest, texts):
        path.write_bytes(path.read_bytes().replace(b'"number": 2', b'"number": 1'))
    with SearchIndex(tmp_path) as index:
        index.refresh(index.stale())
        for word, file in (("ours", ours.file), ("theirs", theirs.file)):
            assert [hit.segment.file for hit in find(index, word)] == [file]


def test_texts_that_are_only_files_are_found(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    record = speak(folder, 0, {"en": "x"})
    (folder.path / "texts.jsonl").unlink()
    (folder.path / record.file.replace(".wav", "_es.txt")).write_text("Hola mundo\n")
    with SearchIndex(tmp_path) as index:
        index.refresh(index.stale())
        assert numbers(find(index, "mundo")) == [1]


def test_broken_lines_and_foreign_folders_do_no_harm(tmp_path: Path, room: RoomFolder) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    for name in ("segments.jsonl", "texts.jsonl"):
        with open(room.path / name, "ab") as file:
            file.write(
                b"{\n\xff\n[]\n" + b'{"number": ' + b"9" * 500 + b"}\n" + b'{"number": 99, "language": 5}\n'
            )
    with SearchIndex(tmp_path) as index:
        index.refresh(index.stale())
        assert numbers(find(index, "school")) == [2]
        assert index.stale() == []


@pytest.mark.parametrize("content", [b"", b"not a database " * 1000, b"SQLite format 3\x00" + b"\xff" * 8000])
def test_a_broken_index_is_rebuilt(tmp_path: Path, room: RoomFolder, content: bytes) -> None:
    (tmp_path / INDEX).write_bytes(content)
    with SearchIndex(tmp_path) as index:
        index.refresh(index.stale())
        assert numbers(find(index, "school")) == [2]


def test_an_index_of_other_rules_is_rebuilt(
    tmp_path: Path, index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_tokens, "VERSION", search_tokens.VERSION + 1)
    with SearchIndex(tmp_path) as anew:
        assert anew.stale() == ["math101"]


def test_an_index_of_an_older_schema_is_rebuilt(tmp_path: Path, room: RoomFolder) -> None:
    database = sqlite3.connect(tmp_path / INDEX)
    database.executescript(
        "CREATE TABLE folder (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, stamp TEXT NOT NULL DEFAULT '');"
        "CREATE TABLE segment (id INTEGER PRIMARY KEY, folder INTEGER NOT NULL, folded TEXT);"
        "CREATE VIRTUAL TABLE words USING fts5(tokens, content='', tokenize='ascii', columnsize=0);"
        "PRAGMA user_version = 3001;"
    )
    database.close()
    result = run("search", "photosyn", "luz", output_dir=tmp_path)
    assert (result.code, result.out.count("\n")) == (0, 3), result.err


def test_segments_of_the_same_millisecond_are_all_found(tmp_path: Path) -> None:
    for sid in ("RM_1", "RM_2", "RM_3"):
        folder = open_room(tmp_path, RoomInfo(sid, sid, ROOM.started_at))
        speak(folder, 0, {"en": "the same moment"})
    with SearchIndex(tmp_path) as index:
        index.refresh(index.stale())
        assert len(find(index, "same moment")) == 3


async def test_the_worker_keeps_the_index_fresh(
    tmp_path: Path, room: RoomFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_index, "SETTLE_SECONDS", 0.01)
    task = asyncio.create_task(FreshIndex(tmp_path).run())
    await asyncio.sleep(0)

    def is_fresh() -> bool:
        notify.notify(room.path / "texts.jsonl")
        with SearchIndex(tmp_path) as index:
            return index.stale() == []

    try:
        await until(is_fresh, "the index is fresh")
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    with SearchIndex(tmp_path) as index:
        assert numbers(find(index, "school")) == [2]


def test_the_index_is_private(tmp_path: Path, index: SearchIndex) -> None:
    if sys.platform != "win32":
        assert {path.stat().st_mode & 0o777 for path in tmp_path.glob(f"{INDEX}*")} == {0o600}
    with sqlite3.connect(tmp_path / INDEX) as database:
        database.execute("INSERT INTO words (words) VALUES ('integrity-check')")
    database.close()


# --- the command ---


def test_the_command_shows_where_it_was_said(tmp_path: Path, room: RoomFolder) -> None:
    result = run("search", "la", "fotosintesis", output_dir=tmp_path, TIMEZONE="Europe/Berlin")
    assert result.code == 0
    head, snippet, file = result.out.splitlines()
    assert head == "math101  2025-10-08 16:00:00  Anna Ünal  es"
    assert snippet.strip() == TEXTS[0]["es"]
    assert Path(file.strip()).is_file()
    assert result.err == ""
    (hit,) = json.loads(run("search", "fotosintesis", "--json", output_dir=tmp_path).out)["hits"]
    assert (hit["number"], hit["language"], hit["text"]) == (1, "es", TEXTS[0]["es"])
    assert Path(hit["file"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["xyzzy"], 1, "Nothing found in "),
        (["?!"], 2, "'?!' has no word to search for"),
        (["x", "--language", "jp"], 2, "--language jp: a language looks like es or pt-BR"),
        (["x", "--room", "nowhere"], 2, "There is no room 'nowhere' in "),
    ],
)
def test_what_cannot_be_answered_is_one_line(
    tmp_path: Path, room: RoomFolder, arguments: list[str], code: int, said: str
) -> None:
    result = run("search", *arguments, output_dir=tmp_path)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith(said)
    assert result.err.count("\n") == 1
