"""`lessons.py transcribe s3://...`: a real S3 server, the real SDK against a local one, processes that are killed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from archive.names import MANIFEST, TEXTS
from archive.rooms import Room
from config import Settings
from core.records import SegmentRecord
from devtools.gemini_server import KEY, GeminiServer
from devtools.room_folders import until
from devtools.s3_server import BUCKET, Request, S3Server
from lesson_tools.batches import ERASED_ITEM, Note
from lesson_tools.bucket import Bucket
from lesson_tools.bucket_room import NOTES, RoomNotes, Upload, batches_of, copy_of
from support import ROOT
from support.commands import Result, environment, run_in_thread
from support.lessons_on_disk import closed, spoken, with_texts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

URL = f"s3://{BUCKET}/school"

NOTES_OF_MATH = f"school/{NOTES.format(folder='math101')}"


@pytest.fixture
async def gemini() -> AsyncIterator[GeminiServer]:
    async with GeminiServer() as server:
        yield server


@pytest.fixture(scope="module")
def one_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(one_server: S3Server) -> Iterator[S3Server]:
    one_server.reset()
    yield one_server
    one_server.gate.heal()


class School:
    """An archive in a bucket, and commands that work on it."""

    def __init__(self, s3: S3Server, gemini: GeminiServer, folder: Path) -> None:
        self.s3 = s3
        self.gemini = gemini
        self.folder = folder
        self.records: dict[str, list[SegmentRecord]] = {}

    def give(self, room: str = "math101", count: int = 3) -> list[SegmentRecord]:
        """Puts a lesson into the bucket as delivery does."""
        source = self.folder / "source"
        settings = Settings.from_env({"OUTPUT_DIR": str(source)}, for_worker=False)
        self.records[room] = spoken(settings, room, count)
        closed(settings, room)
        for path in (source / room).iterdir():
            if not path.name.startswith("."):
                self.s3.put(f"school/{room}/{path.name}", path.read_bytes())
        return self.records[room]

    def _arguments(self, arguments: Sequence[str]) -> list[str]:
        named = bool(arguments) and arguments[0].startswith("s3:")
        return ["transcribe", *([] if named else [URL]), *arguments]

    def _settings(self, changes: Mapping[str, str]) -> dict[str, str]:
        return {
            "GEMINI_API_KEY": KEY,
            "GOOGLE_GEMINI_BASE_URL": self.gemini.url,
            "TARGET_LANGUAGES": "es,ar",
            "OUTPUT_DIR": str(self.folder / "machine"),
            **self.s3.environment(),
            **changes,
        }

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        """Starts a process of its own."""
        return subprocess.Popen(
            [sys.executable, str(ROOT / "lessons.py"), *self._arguments(arguments)],
            env=environment(**self._settings(settings)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    async def run(self, *arguments: str, **settings: str) -> Result:
        return await run_in_thread(*self._arguments(arguments), output_dir=None, **self._settings(settings))

    def texts(self, room: str = "math101") -> list[dict[str, object]]:
        """The lines in the bucket."""
        return _lines(self.s3.get(f"school/{room}/{TEXTS}"))

    def is_complete(self) -> bool:
        """Every segment has its line, once, and all files that this names are there."""
        objects = self.s3.objects()
        for room, records in self.records.items():
            lines = _lines(objects[f"school/{room}/{TEXTS}"])
            assert Counter(line["file"] for line in lines) == Counter(record.file for record in records)
            for line in lines:
                files = line["files"]
                assert isinstance(files, list) and len(files) == 3
                assert all(objects[f"school/{room}/{file}"] for file in files)
        return True

    def asked(self) -> Counter[str]:
        """How often each sound was sent to Gemini."""
        return Counter(hashlib.sha256(call.pcm.tobytes()).hexdigest() for call in self.gemini.calls)

    def download(self, room: str = "math101") -> Room:
        folder = self.folder / "download" / room
        folder.mkdir(parents=True)
        for key, data in self.s3.objects().items():
            if key.startswith(f"school/{room}/"):
                (folder / key.rpartition("/")[2]).write_bytes(data)
        return Room(folder)


def _lines(data: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in data.splitlines()]


async def ended(process: subprocess.Popen[str]) -> Result:
    """A command's result. A traceback fails the test."""
    try:
        out, err = await asyncio.to_thread(process.communicate, timeout=120)
    finally:
        process.kill()
    assert "Traceback" not in err, err
    return Result(process.returncode, out, err)


@pytest.fixture
def school(s3: S3Server, gemini: GeminiServer, tmp_path: Path) -> School:
    return School(s3, gemini, tmp_path)


def fetched(s3: S3Server) -> list[str]:
    """The sounds that were read."""
    return [
        one.path
        for one in s3.gate.requests
        if one.method == "GET" and one.path.partition("?")[0].endswith(".wav")
    ]


# --- now ---


async def test_all_segments_get_their_texts_once(school: School) -> None:
    school.give(count=6)
    school.give("art", 2)
    result = await school.run("--yes", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["texts"] == 8
    assert "8 segments" in result.err
    assert school.is_complete()
    again = await school.run("--yes")
    assert (again.code, again.out) == (0, "Nothing to do: every segment has its text\n")
    assert len(school.gemini.calls) == len(fetched(school.s3)) == 8
    room = school.download()
    with room.texts() as texts:
        found = [texts.get(record) for record in room.records()]
    assert [sorted(text.by_language) for text in found if text is not None] == [["ar", "en", "es"]] * 6


async def test_the_estimate_fetches_no_sound_and_changes_nothing(school: School) -> None:
    school.give()
    before = school.s3.objects()
    result = await school.run("--estimate", "--json")
    cost = json.loads(result.out)
    assert (result.code, cost["segments"], cost["audio_seconds"]) == (0, 3, 1.5)
    assert not fetched(school.s3) and not school.gemini.calls
    assert school.s3.objects() == before


async def test_the_estimate_counts_what_was_refused(school: School) -> None:
    school.give()
    school.gemini.spoil = lambda call: "blocked"
    assert (await school.run("--yes")).code == 1
    for arguments in (["--estimate"], ["--estimate", "--batch"], ["--yes"]):
        result = await school.run(*arguments)
        assert (result.code, result.out) == (0, "Nothing to do\n")
        assert "The text of 3 segments was refused: --refused asks for it again" in result.err


async def test_a_room_can_be_named_and_languages_added(school: School) -> None:
    school.give()
    school.give("art")
    assert (await school.run(URL, "art", "--yes", TARGET_LANGUAGES="es")).code == 0
    assert (len(school.texts()), len(school.texts("art"))) == (0, 3)
    result = await school.run("--yes", "--force", "--languages", "fr")
    assert result.code == 0, result.err
    assert (len(school.texts()), len(school.texts("art"))) == (3, 6), "the last line counts"
    room = school.download("art")
    with room.texts() as texts:
        found = [texts.get(record) for record in room.records()]
    assert [sorted(text.by_language) for text in found if text is not None] == [["en", "es", "fr"]] * 3
    assert (await school.run("--yes", "--force", "--languages", "fr")).out.startswith("Nothing to do")


# --- shards, and one that ends early ---


async def test_two_shards_cover_everything_once(school: School) -> None:
    for number in range(8):
        school.give(f"room{number}", 1 + number % 3)
    shards = [school.start("--yes", "--json", "--shard", f"{number}/2") for number in (1, 2)]
    results = await asyncio.gather(*map(ended, shards))
    assert [result.code for result in results] == [0, 0], results
    made = [json.loads(result.out)["texts"] for result in results]
    assert sum(made) == sum(map(len, school.records.values())) and min(made) > 0
    assert school.is_complete()
    assert set(school.asked().values()) == {1}


async def test_a_killed_run_can_be_started_again(school: School) -> None:
    school.give()
    school.gemini.spoil = lambda call: "hang" if school.gemini.calls else ""
    first = school.start("--yes", GEMINI_MAX_AT_ONCE="1")
    await until(school.texts, "a first text in the bucket", 90)
    first.kill()
    await asyncio.to_thread(first.communicate)
    assert len(school.texts()) == 1
    school.gemini.spoil = lambda call: ""
    result = await school.run("--yes", "--json", OUTPUT_DIR=str(school.folder / "another"))
    assert (result.code, json.loads(result.out)["texts"]) == (0, 2), result.err
    assert school.is_complete()
    assert set(school.asked().values()) == {1}, "what is in the bucket is not asked for again"


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
async def test_a_stopped_run_uploads_its_texts(school: School) -> None:
    school.give()
    school.gemini.spoil = lambda call: "hang" if school.gemini.calls else ""
    first = school.start("--yes", GEMINI_MAX_AT_ONCE="1")
    await until(lambda: school.gemini.calls, "a first answer", 90)
    first.send_signal(signal.SIGTERM)
    assert (await ended(first)).code == 130
    school.gemini.spoil = lambda call: ""
    assert (await school.run("--yes")).code == 0
    assert school.is_complete()


async def test_the_budget_is_counted_in_the_output_folder(school: School) -> None:
    school.give()
    first = school.start("--yes", GEMINI_MAX_PER_DAY="2")
    await until(lambda: len(school.texts()) == 2, "what the budget allows", 90)
    await asyncio.sleep(1)
    first.kill()
    assert "GEMINI_MAX_PER_DAY" in (await asyncio.to_thread(first.communicate))[1]
    assert len(school.gemini.calls) == 2
    result = await school.run("--yes", OUTPUT_DIR=str(school.folder / "another"), GEMINI_MAX_PER_DAY="2")
    assert result.code == 0, result.err
    assert school.is_complete()


# --- batches ---


async def test_a_batch_is_collected_from_anywhere(school: School) -> None:
    school.give(count=6)
    school.gemini.is_batch_over = False
    first = await school.run("--batch", "--yes")
    assert (first.code, first.out) == (3, "0 texts collected, 6 segments submitted, 6 still to come\n"), (
        first.err
    )
    at_once = await school.run("--yes")
    assert at_once.code == 3 and "6 segments are in batches" in at_once.err
    school.gemini.is_batch_over = True
    second = await school.run("--batch", "--yes", OUTPUT_DIR=str(school.folder / "another"))
    assert (second.code, second.out) == (0, "6 texts collected, 0 segments submitted, 0 still to come\n"), (
        second.err
    )
    assert school.is_complete()
    assert len(school.gemini.batches) == 1
    assert json.loads(school.s3.get(NOTES_OF_MATH)) == {}
    assert set(school.asked().values()) == {1}


async def test_a_run_killed_after_submitting_a_batch_does_not_submit_it_again(school: School) -> None:
    school.give()
    school.gemini.batch_mishap = lambda step: "hang" if step == "created" else ""
    first = school.start("--batch", "--yes")
    await until(lambda: school.gemini.batches, "the batch is made", 90)
    first.kill()
    await asyncio.to_thread(first.communicate)
    school.gemini.batch_mishap = lambda step: ""
    result = await school.run("--batch", "--yes")
    assert (result.code, result.out) == (0, "3 texts collected, 0 segments submitted, 0 still to come\n"), (
        result.err
    )
    assert len(school.gemini.batches) == 1
    assert school.is_complete()


async def test_a_batch_note_cannot_name_a_path_outside_its_room(school: School) -> None:
    school.give()
    school.gemini.is_batch_over = False
    assert (await school.run("--batch", "--yes")).code == 3
    school.gemini.is_batch_over = True
    notes = json.loads(school.s3.get(NOTES_OF_MATH))
    for note in notes.values():
        note["items"] = [["../elsewhere", line] for _, line in note["items"]]
    school.s3.put(NOTES_OF_MATH, json.dumps(notes).encode())
    result = await school.run("--batch", "--yes")
    assert result.out.startswith("0 texts collected, 3 segments submitted"), result.err


# --- what is erased meanwhile ---


async def test_a_segment_that_is_erased_meanwhile_gets_no_text_and_no_note(
    school: School, bucket: Bucket, tmp_path: Path
) -> None:
    erased, kept = school.give(count=2)
    room = await copy_of(bucket, "math101", [record.file for record in (erased, kept)], tmp_path)
    upload = Upload(bucket, room)
    for record in (erased, kept):
        upload.expect(record)
    key = f"school/math101/{MANIFEST}"
    lines = school.s3.get(key).splitlines(keepends=True)
    school.s3.put(key, b"".join(line for line in lines if erased.file.encode() not in line))
    with_texts(room.path, [erased, kept])
    await upload.upload()
    assert [line["file"] for line in school.texts()] == [kept.file]
    names = {name.rpartition("/")[2] for name in school.s3.keys() if name.endswith(".txt")}
    assert names == {f"{Path(kept.file).stem}_{language}.txt" for language in ("en", "es")}
    items = tuple(("math101", record.to_json()) for record in (erased, kept))
    notes = RoomNotes(bucket, upload, "math101", ())
    for id_, some in (("both", items), ("none", items[:1])):
        await notes.keep(Note(id_, "m", False, some))
    written = await batches_of(bucket, "math101")
    assert [(note.id, note.items) for note in written] == [("both", (ERASED_ITEM, items[1]))]


# --- what is wrong ---


async def test_what_is_no_lesson_is_left_alone(school: School) -> None:
    records = school.give()
    foreign = {
        "school/notes.txt": b"ours?",
        "school/math101/deeper/segment_001_20260105_090000.wav": b"RIFF",
        "school/math101/holiday.wav": b"RIFF",
        "school/pictures/one.jpg": b"JPEG",
        "school/music/song.wav": b"RIFF",
        NOTES_OF_MATH: b"[not ours",
    }
    for key, data in foreign.items():
        school.s3.put(key, data)
    school.s3.put(f"school/math101/{records[0].file}", b"no sound at all")
    result = await school.run("--yes")
    assert result.code == 1, result.err
    lines = {str(line["file"]): line for line in school.texts()}
    assert len(lines) == 3
    assert "its WAV cannot be read" in str(lines[records[0].file]["refused"])
    objects = school.s3.objects()
    assert {key: objects[key] for key in foreign} == foreign


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["s3:///school"], {}, "'s3:///school' is not the URL of an archive"),
        (["s3://nowhere/school"], {}, "no such bucket"),
        ([f"s3://{BUCKET}/elsewhere"], {}, "There is no lesson in"),
        ([URL, "chess"], {}, "There is no lesson in s3://lessons/school of chess"),
        ([URL], {"S3_KEY_ID": ""}, "S3_KEY_ID not set"),
        ([URL], {"S3_KEY_ID": "wrong"}, "S3_KEY_ID is not known there"),
        ([URL], {"S3_KEY_SECRET": "wrong"}, "S3_KEY_SECRET is wrong"),
        ([URL], {"GEMINI_API_KEY": ""}, "GEMINI_API_KEY is not set"),
        ([URL, "--batch"], {"GEMINI_API_KEY": ""}, "GEMINI_API_KEY is not set"),
        ([URL], {"GEMINI_API_KEY": "wrong"}, "Gemini refuses the key"),
        ([URL, "--shard", "0/2"], {}, "--shard 0/2: it must be K/N with 1 <= K <= N"),
        ([URL, "--shard", "3/2"], {}, "--shard 3/2: it must be K/N with 1 <= K <= N"),
    ],
)
async def test_errors_are_one_line(
    school: School, arguments: list[str], settings: dict[str, str], said: str
) -> None:
    school.give(count=1)
    result = await school.run(*arguments, "--yes", **settings)
    assert result.code == 2, result
    assert said in result.err.splitlines()[-1]
    assert school.texts() == []


async def test_a_store_without_conditional_writes_will_do(school: School) -> None:
    school.give()

    def knows_none(request: Request) -> str | None:
        return "NotImplemented" if {"if-match", "if-none-match"} & request.headers.keys() else None

    school.s3.gate.fault = knows_none
    result = await school.run("--yes")
    assert result.code == 0, result.err
    assert school.is_complete()


async def test_a_key_that_is_no_path_is_named(school: School) -> None:
    school.give()
    school.s3.put("school/math101//segment.wav", b"")
    result = await school.run("--yes")
    assert result.code == 2
    assert "contains a key that is not a valid path" in result.err.splitlines()[-1]


async def test_a_short_outage_of_the_store_is_waited_for(school: School) -> None:
    school.give()
    school.s3.gate.fail_next("SlowDown", "InternalError", method="GET")
    result = await school.run("--yes")
    assert result.code == 0, result.err
    assert school.is_complete()


# --- the bucket ---


@pytest.fixture
def bucket(s3: S3Server) -> Bucket:
    return Bucket.at(URL, Settings.from_env(s3.environment(), for_worker=False))


async def test_rooms_are_listed_page_by_page(
    bucket: Bucket, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lesson_tools.bucket.KEYS_A_PAGE", 3)
    wanted = {"math101": 7, "math101-b": 1, "Übung 1": 3}
    for room, count in wanted.items():
        for number in range(count):
            s3.put(f"school/{room}/{number}.wav", b"")
    s3.put("school-b/math101/8.wav", b"")
    assert {room: len(names) async for room, names in bucket.rooms()} == wanted
    assert sorted(await bucket.names_in("math101")) == [f"{number}.wav" for number in range(7)]
