"""`lessons.py transcribe s3://...`: processes as machines, a real S3 server, the real SDK against a local one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from commands import ROOT, Result, environment
from harness import until
from lessons_on_disk import spoken

import leases
from bucket import CLAIMS, Bucket
from config import Settings
from devtools.gemini_server import KEY, GeminiServer
from devtools.s3_server import BUCKET, Request, S3Server
from leases import LeaseLost, Leases
from names import TEXTS
from rooms import Room
from segments import SegmentRecord

pytestmark = pytest.mark.timeout(300)

URL = f"s3://{BUCKET}/school"

MACHINE = """
import sys

sys.path.insert(0, sys.argv.pop(1))
import bucket_transcription, leases, lessons

leases.LEASE_SECONDS, leases.RENEW_SECONDS, leases.SPARE_SECONDS = 8.0, 1.0, 2.0
bucket_transcription.PART_NUMBERS, bucket_transcription.LOOK_AGAIN_SECONDS = 4, 0.2
try:
    lessons.main(sys.argv[1:])
except SystemExit as ending:
    lessons._end_at_once(ending)
"""
"""lessons.py, in a hurry to see that another machine is dead, and with small parts."""


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
    """An archive in a bucket, and machines that work on it."""

    def __init__(self, s3: S3Server, gemini: GeminiServer, folder: Path) -> None:
        self.s3 = s3
        self.gemini = gemini
        self.folder = folder
        self.records: dict[str, list[SegmentRecord]] = {}

    def give(self, room: str = "math101", count: int = 3) -> list[SegmentRecord]:
        """A lesson as delivery leaves it there."""
        source = self.folder / "source"
        settings = Settings.from_env({"OUTPUT_DIR": str(source)}, for_worker=False)
        self.records[room] = spoken(settings, room, count)
        for path in (source / room).iterdir():
            if not path.name.startswith("."):
                self.s3.put(f"school/{room}/{path.name}", path.read_bytes())
        return self.records[room]

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        settings = {
            "GEMINI_API_KEY": KEY,
            "GOOGLE_GEMINI_BASE_URL": self.gemini.url,
            "TARGET_LANGUAGES": "es,ar",
            "OUTPUT_DIR": str(self.folder / "machine"),
            **self.s3.environment(),
            **settings,
        }
        if not arguments or not arguments[0].startswith("s3:"):
            arguments = (URL, *arguments)
        command = [sys.executable, "-c", MACHINE, str(ROOT), "transcribe", *arguments]
        return subprocess.Popen(
            command,
            env=environment(**settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    async def run(self, *arguments: str, **settings: str) -> Result:
        return await ended(self.start(*arguments, **settings))

    def texts(self, room: str = "math101") -> list[dict[str, object]]:
        """The lines in the bucket."""
        lines = self.s3.objects().get(f"school/{room}/{TEXTS}", b"").splitlines()
        return [json.loads(line) for line in lines]

    def is_complete(self) -> bool:
        """Every segment has its line, once, and all files that this names are there."""
        objects = self.s3.objects()
        for room, records in self.records.items():
            lines = self.texts(room)
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


async def ended(process: subprocess.Popen[str]) -> Result:
    """How a machine's command ended. A traceback is never an answer."""
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


# --- several machines ---


async def test_two_machines_at_once_do_nothing_twice(school: School) -> None:
    for room, count in (("math101", 13), ("art", 5), ("history", 2)):
        school.give(room, count)
    school.gemini.latency_seconds = 0.2
    machines = [school.start("--yes", "--json", GEMINI_MAX_AT_ONCE="2") for _ in range(2)]
    results = await asyncio.gather(*map(ended, machines))
    assert [result.code for result in results] == [0, 0], results
    assert sum(json.loads(result.out)["texts"] for result in results) == 20
    assert school.is_complete()
    assert set(school.asked().values()) == {1}


async def test_what_a_killed_machine_had_is_taken_over(school: School) -> None:
    school.give()
    school.gemini.spoil = lambda call: "hang" if school.gemini.calls else ""
    first = school.start("--yes", GEMINI_MAX_AT_ONCE="1")
    await until(school.texts, "a first text in the bucket", 90)
    first.kill()
    await asyncio.to_thread(first.communicate)
    assert len(school.texts()) == 1
    school.gemini.spoil = lambda call: ""
    others = [school.start("--yes") for _ in range(2)]
    results = await asyncio.gather(*map(ended, others))
    assert [result.code for result in results] == [0, 0], results
    assert all("waits for them" in result.err for result in results)
    assert school.is_complete()
    assert set(school.asked().values()) == {1}, "what is in the bucket is not asked for again"


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
async def test_one_that_is_stopped_leaves_its_part_at_once(school: School) -> None:
    school.give()
    school.gemini.spoil = lambda call: "hang" if school.gemini.calls else ""
    first = school.start("--yes", GEMINI_MAX_AT_ONCE="1")
    await until(lambda: school.gemini.calls, "a first answer", 90)
    first.send_signal(signal.SIGTERM)
    assert (await ended(first)).code == 130
    claim = school.s3.objects()[f"school/{CLAIMS}/math101/0.json"]
    assert json.loads(claim)["holder"] == ""
    school.gemini.spoil = lambda call: ""
    result = await school.run("--yes")
    assert result.code == 0 and "waits" not in result.err
    assert school.is_complete()


# --- batches ---


async def test_a_batch_is_collected_by_another_machine(school: School) -> None:
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
    assert len(school.gemini.batches) == 2, "one for each part"
    assert set(school.asked().values()) == {1}


async def test_a_machine_that_is_killed_with_its_batch_on_the_way_has_sent_it_once(school: School) -> None:
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


async def test_a_lease_leads_out_of_no_folder(school: School) -> None:
    school.give()
    school.gemini.is_batch_over = False
    assert (await school.run("--batch", "--yes")).code == 3
    school.gemini.is_batch_over = True
    key = f"school/{CLAIMS}/math101/0.json"
    claim = json.loads(school.s3.objects()[key])
    for note in claim["notes"].values():
        note["items"] = [["../elsewhere", line] for _, line in note["items"]]
    school.s3.put(key, json.dumps(claim).encode())
    result = await school.run("--batch", "--yes")
    assert result.out.startswith("0 texts collected, 3 segments submitted"), result.err


# --- what is wrong ---


async def test_what_is_no_lesson_is_left_alone(school: School) -> None:
    records = school.give()
    foreign = {
        "school/notes.txt": b"ours?",
        "school/math101/deeper/segment_001_20260105_090000.wav": b"RIFF",
        "school/math101/holiday.wav": b"RIFF",
        "school/pictures/one.jpg": b"JPEG",
        "school/music/song.wav": b"RIFF",
        f"school/{CLAIMS}/math101/0.json": b"[not ours",
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
    del foreign[f"school/{CLAIMS}/math101/0.json"]
    assert {key: objects[key] for key in foreign} == foreign


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["s3:///school"], {}, "'s3:///school' is no archive"),
        (["s3://nowhere/school"], {}, "no such bucket"),
        ([f"s3://{BUCKET}/elsewhere"], {}, "There is no lesson in"),
        ([URL, "chess"], {}, "There is no lesson in s3://lessons/school of chess"),
        ([URL], {"S3_KEY_ID": ""}, "S3_KEY_ID not set"),
        ([URL], {"S3_KEY_ID": "wrong"}, "S3_KEY_ID is not known there"),
        ([URL], {"S3_KEY_SECRET": "wrong"}, "S3_KEY_SECRET is wrong"),
        ([URL], {"GEMINI_API_KEY": ""}, "GEMINI_API_KEY is not set"),
        ([URL, "--batch"], {"GEMINI_API_KEY": ""}, "GEMINI_API_KEY is not set"),
        ([URL], {"GEMINI_API_KEY": "wrong"}, "Gemini refuses the key"),
    ],
)
async def test_what_is_wrong_is_said_in_one_line(
    school: School, arguments: list[str], settings: dict[str, str], said: str
) -> None:
    school.give(count=1)
    result = await school.run(*arguments, "--yes", **settings)
    assert result.code == 2, result
    assert said in result.err.splitlines()[-1]
    assert school.texts() == []


async def test_nobody_shares_what_has_no_conditions(school: School) -> None:
    school.give()

    def knows_none(request: Request) -> str | None:
        return "NotImplemented" if {"if-match", "if-none-match"} & request.headers.keys() else None

    school.s3.gate.fault = knows_none
    result = await school.run("--yes")
    assert result.code == 2
    assert "has no conditional writes" in result.err.splitlines()[-1]
    school.s3.gate.heal()
    school.s3.gate.ignored_headers = ("if-match", "if-none-match")
    result = await school.run("--yes")
    assert result.code == 2
    assert "ignores the condition" in result.err.splitlines()[-1]
    assert school.gemini.calls == []


async def test_a_key_that_is_no_path_is_named(school: School) -> None:
    school.give()
    school.s3.put("school/math101//segment.wav", b"")
    result = await school.run("--yes")
    assert result.code == 2
    assert "has a key that is no path" in result.err.splitlines()[-1]


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
    monkeypatch.setattr("bucket.KEYS_A_PAGE", 3)
    wanted = {"math101": 7, "math101-b": 1, "Übung 1": 3}
    for room, count in wanted.items():
        for number in range(count):
            s3.put(f"school/{room}/{number}.wav", b"")
    s3.put("school-b/math101/8.wav", b"")
    assert {room: len(names) async for room, names in bucket.rooms()} == wanted
    assert sorted(await bucket.names_in("math101")) == [f"{number}.wav" for number in range(7)]


# --- leases ---


async def test_of_many_one_gets_a_lease(bucket: Bucket) -> None:
    many = [Leases(bucket) for _ in range(10)]
    taken = [one for one in await asyncio.gather(*(each.take("part") for each in many)) if one is not None]
    assert len(taken) == 1
    await taken[0].release()
    taken = [one for one in await asyncio.gather(*(each.take("part") for each in many)) if one is not None]
    assert len(taken) == 1


async def test_of_many_one_takes_over_from_the_dead(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = await Leases(bucket).take("part")
    assert dead is not None
    dead.notes["batch"] = "under way"
    await dead.renew()
    many = [Leases(bucket) for _ in range(10)]
    assert [await each.take("part") for each in many] == [None] * 10, "they see it for the first time"
    assert [await each.take("part") for each in many] == [None] * 10, "it may be alive"
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.0)
    taken = [one for one in await asyncio.gather(*(each.take("part") for each in many)) if one is not None]
    assert len(taken) == 1
    assert taken[0].notes == {"batch": "under way"}
    with pytest.raises(LeaseLost):
        await dead.renew()
    with pytest.raises(LeaseLost):
        await dead.release()
    await taken[0].renew()


async def test_who_renews_keeps_it(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = await Leases(bucket).take("part"), Leases(bucket)
    assert mine is not None
    assert await other.take("part") is None
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.0)
    await mine.renew()
    assert await other.take("part") is None


async def test_an_answer_that_was_lost_loses_no_lease(bucket: Bucket, s3: S3Server) -> None:
    mine = await Leases(bucket).take("part")
    assert mine is not None
    s3.gate.fail_next("unanswered")
    with contextlib.suppress(Exception):
        await mine.renew()
    await mine.renew()


async def test_who_loses_a_lease_stops_working(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.05)
    mine, other = await Leases(bucket).take("part"), Leases(bucket)
    assert mine is not None
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    working = asyncio.create_task(mine.hold(work()))
    written = None
    while written is None:  # it may have been renewed between the two
        written = await bucket.write_if("part", b'{"holder": "somebody"}', (await bucket.read("part"))[1])
    with pytest.raises(LeaseLost):
        await working
    assert cancelled.is_set()
    assert await other.take("part") is None
