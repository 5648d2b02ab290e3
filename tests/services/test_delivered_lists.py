"""Lists in an object store, in numbered parts: nothing is sent twice, and no line is lost or there twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import pytest

from archive.delivery_log import DELIVERED
from archive.outbox_file import OUTBOX
from config import Settings
from core.records import SegmentRecord
from delivery.folder_store import set_up
from delivery.items import Selection
from delivery.object_store import ObjectTarget
from devtools.s3_server import BUCKET, Request, S3Server
from support.commands import run_in_thread
from support.delivering import deliver
from support.lessons_on_disk import BEN, spoken, with_gap, with_texts

pytestmark = pytest.mark.timeout(300)

LINES_A_PART = 2


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is full after two lines of a manifest; four times as much is a list of an older version."""
    monkeypatch.setattr("delivery.stored_list.PART_BYTES", 600)
    monkeypatch.setattr("delivery.stored_list.MAX_PART_BYTES", 2_400)
    monkeypatch.setattr("delivery.lists.LINES_AT_ONCE", 3)


def settings_for(s3: S3Server, folder: Path, **more: str) -> Settings:
    environ = {**s3.environment(), "OUTPUT_DIR": str(folder), "S3_PREFIX": "school", **more}
    return Settings.from_env(environ, for_worker=False)


def parts(s3: S3Server, file: str = "segments") -> dict[str, bytes]:
    """The parts of a list, by their names in the room's folder."""
    names = [key.removeprefix("school/math101/") for key in sorted(s3.keys())]
    of_list = [name for name in names if name == f"{file}.jsonl" or name.startswith(f"lists/{file}.")]
    return {name: s3.get(f"school/math101/{name}") for name in of_list}


def listed(s3: S3Server, file: str = "segments") -> list[str]:
    """The WAVs in a list's lines, in the order of the parts."""
    found = parts(s3, file)
    first = sorted(found, key=lambda name: name.startswith("lists/"))
    lines = [line for name in first for line in found[name].splitlines()]
    return [json.loads(line)["file"] for line in lines]


def files(records: Iterable[SegmentRecord]) -> list[str]:
    return [record.file for record in records]


def written(s3: S3Server) -> Counter[str]:
    """How often each part of a list was written."""
    paths = [request.path for request in s3.gate.requests if request.method == "PUT"]
    return Counter(path.partition("/math101/")[2] for path in paths if path.endswith(".jsonl"))


async def test_a_full_part_is_sent_once_and_only_the_last_one_again(s3: S3Server, tmp_path: Path) -> None:
    settings = settings_for(s3, tmp_path)
    records: list[SegmentRecord] = []
    for _ in range(5):
        records += spoken(settings, count=1)
        with_texts(tmp_path / "math101", records[-1:])
        assert await deliver(settings)
    names = ["segments.jsonl", *(f"lists/segments.{number:05d}.jsonl" for number in (2, 3))]
    assert list(parts(s3)) == sorted(names)
    assert listed(s3) == files(records) == listed(s3, "texts")
    assert [written(s3)[name] for name in names] == [LINES_A_PART] * 2 + [1]
    content = b"".join(parts(s3)[name] for name in names)
    assert content == (tmp_path / "math101" / "segments.jsonl").read_bytes()


async def test_a_large_first_delivery_and_lost_memory(s3: S3Server, tmp_path: Path) -> None:
    settings = settings_for(s3, tmp_path)
    records = spoken(settings, count=7)
    assert await deliver(settings)
    objects = s3.objects()
    assert listed(s3) == files(records)
    assert set(written(s3).values()) <= {1, 2}
    for name in (f"math101/{DELIVERED}", OUTBOX):
        (tmp_path / name).unlink()
    assert await deliver(settings)
    assert s3.objects() == objects
    records += spoken(settings, count=1)
    assert await deliver(settings)
    assert listed(s3) == files(records)


async def test_a_whole_list_of_an_older_version_stays_and_the_next_lines_follow_it(
    s3: S3Server, tmp_path: Path
) -> None:
    settings = settings_for(s3, tmp_path)
    records = spoken(settings, count=12)
    whole = (tmp_path / "math101" / "segments.jsonl").read_bytes()
    assert len(whole) > 2_400
    s3.put("school/math101/segments.jsonl", whole)
    records += spoken(settings, count=3)
    assert await deliver(settings)
    assert parts(s3)["segments.jsonl"] == whole
    assert listed(s3) == files(records)
    assert "segments.jsonl" not in written(s3)


async def test_an_older_version_that_goes_on_loses_nothing(s3: S3Server, tmp_path: Path) -> None:
    """It adds its whole list to the first part: the lines are there twice, and each counts once."""
    settings = settings_for(s3, tmp_path)
    records = spoken(settings, count=5)
    assert await deliver(settings)
    s3.put("school/math101/segments.jsonl", (tmp_path / "math101" / "segments.jsonl").read_bytes())
    records += spoken(settings, count=2)
    assert await deliver(settings)
    assert set(listed(s3)) == set(files(records))
    target = ObjectTarget.s3(settings)
    assert await target.remove(Selection(room="math101"), {}, only_count=True) == 7


async def test_two_disks_add_to_the_same_list(s3: S3Server, tmp_path: Path) -> None:
    first, second = settings_for(s3, tmp_path / "a"), settings_for(s3, tmp_path / "b")
    ours: list[SegmentRecord] = []
    theirs: list[SegmentRecord] = []
    for hour in range(2):
        ours += spoken(first, count=1)
        theirs += spoken(second, count=1, at=ours[0].start + timedelta(hours=hour + 1))
        assert await deliver(first)
        assert await deliver(second)
    assert sorted(listed(s3)) == sorted(files(ours + theirs))
    assert set(written(s3).values()) == {LINES_A_PART}


@pytest.mark.parametrize("fault", ["cut", "unanswered"])
@pytest.mark.parametrize("part", ["segments.jsonl", "lists/segments.00002.jsonl"])
async def test_an_interruption_between_two_parts_costs_nothing(
    s3: S3Server, tmp_path: Path, part: str, fault: str
) -> None:
    settings = settings_for(s3, tmp_path)
    records = spoken(settings, count=7)

    requests = []

    def interrupted(request: Request) -> str | None:
        if request.method != "PUT" or not request.path.endswith(f"/{part}"):
            return None
        requests.append(request)
        return fault

    s3.gate.fault = interrupted
    is_delivered = await deliver(settings, seconds=0.5)
    assert requests
    assert not (is_delivered and fault == "cut")
    assert set(listed(s3)) <= set(files(records))
    s3.gate.heal()
    assert await deliver(settings)
    assert listed(s3) == files(records)


async def test_where_a_key_may_not_list_parts_are_found_by_their_numbers(
    s3: S3Server, tmp_path: Path
) -> None:
    def is_nowhere(request: Request) -> str | None:
        is_there = request.path.partition(f"/{BUCKET}/")[2] in s3.keys()
        return "AccessDenied" if request.method in ("GET", "HEAD") and not is_there else None

    s3.gate.fault = is_nowhere
    settings = settings_for(s3, tmp_path)
    records = spoken(settings, count=3)
    assert await deliver(settings)
    objects = s3.objects()
    for name in (f"math101/{DELIVERED}", OUTBOX):
        (tmp_path / name).unlink()
    assert await deliver(settings)
    assert s3.objects() == objects
    records += spoken(settings, count=1)
    assert await deliver(settings)
    assert listed(s3) == files(records)


async def test_what_another_worker_overwrote_comes_back(tmp_path: Path) -> None:
    """A folder has no conditional writes: what was added last is looked at again."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    set_up(shelf)
    environ = {"OUTPUT_DIR": str(tmp_path / "disk"), "STORE_URL": shelf.as_uri()}
    settings = Settings.from_env(environ, for_worker=False)
    records = spoken(settings, count=1)
    assert await deliver(settings)
    before = (shelf / "math101" / "segments.jsonl").read_bytes()
    records += spoken(settings, count=1)
    assert await deliver(settings)
    (shelf / "math101" / "segments.jsonl").write_bytes(before)
    records += spoken(settings, count=3)
    assert await deliver(settings)
    content = b"".join(path.read_bytes() for path in sorted(shelf.glob("math101/**/*.jsonl")))
    assert sorted(json.loads(line)["file"] for line in content.splitlines()) == files(records)


# --- removing ---


async def test_an_erasure_rewrites_the_parts_it_concerns_and_empty_ones_vanish(
    s3: S3Server, tmp_path: Path
) -> None:
    settings = settings_for(s3, tmp_path)
    kept = spoken(settings, count=2)
    gone = spoken(settings, count=2, track=BEN)
    both = spoken(settings, count=2)
    gone += spoken(settings, count=1, track=BEN)
    everything = kept + gone[:2] + both + gone[2:]
    with_texts(tmp_path / "math101", everything)
    with_gap(tmp_path / "math101", gone[0])
    assert await deliver(settings)
    before = written(s3)
    environ = {**s3.environment(), "OUTPUT_DIR": str(tmp_path), "S3_PREFIX": "school"}
    done = await run_in_thread(
        "erase", "math101", "--participant", "ben", "--yes", output_dir=tmp_path, **environ
    )
    assert done.code == 0, done.err
    assert listed(s3) == files(kept + both) == listed(s3, "texts")
    assert list(parts(s3)) == ["lists/segments.00003.jsonl", "segments.jsonl"]
    assert not parts(s3, "gaps")
    rewritten = written(s3) - before
    assert "segments.jsonl" not in rewritten
    assert "lists/segments.00003.jsonl" not in rewritten
    assert not [key for key in s3.keys() if key.endswith("jsonl") and b"ben" in s3.get(key)]
    kept += both + spoken(settings, count=3)
    assert await deliver(settings)
    assert listed(s3) == files(kept), "the list here was rewritten, and no line is there twice"


async def test_old_segments_leave_the_parts_and_lost_memory_adds_nothing(
    s3: S3Server, tmp_path: Path
) -> None:
    settings = settings_for(s3, tmp_path)
    records = spoken(settings, count=6)
    assert await deliver(settings)
    target = ObjectTarget.s3(settings)
    assert await target.remove(Selection(before=records[4].start), {}) == 4
    assert list(parts(s3)) == ["lists/segments.00003.jsonl"]
    expired = settings_for(s3, tmp_path)
    records += spoken(expired, count=1)
    assert await deliver(expired)
    assert listed(s3) == files(records[4:])
    assert await target.remove(Selection(room="math101"), {}) == 3
    assert s3.keys() == []


# --- a store that was copied to a disk ---


async def test_a_downloaded_folder_is_read_whole(s3: S3Server, tmp_path: Path) -> None:
    settings = settings_for(s3, tmp_path / "disk")
    records = spoken(settings, count=5)
    with_texts(tmp_path / "disk" / "math101", records)
    assert await deliver(settings)
    copy = tmp_path / "copy"
    for key, data in s3.objects().items():
        path = copy / key.removeprefix("school/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    done = await run_in_thread("list", "--json", output_dir=copy)
    assert done.code == 0, done.err
    for name in ("segments.jsonl", "texts.jsonl"):
        assert (copy / "math101" / name).read_bytes() == (tmp_path / "disk" / "math101" / name).read_bytes()
    assert not (copy / "math101" / "lists").exists()
    assert (await run_in_thread("check", "math101", output_dir=copy)).code == 0
