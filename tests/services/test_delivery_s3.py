"""Delivery to a real S3 server that fails on command: afterwards every segment is there, once, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from archive.delivery_log import DELIVERED, DeliveryLog, audio_key
from archive.outbox_file import OUTBOX
from config import Settings
from core.records import SegmentRecord
from delivery.erasure import room_folders
from delivery.folder_store import set_up
from delivery.retention import Rules, remove_leaving
from delivery.targets import open_targets, problems_of
from devtools.room_folders import until
from devtools.s3_server import BUCKET, Request, S3Server
from support import ROOT
from support.delivering import SOON, deliver, serving
from support.lessons_on_disk import BEN, NOW, sha256, spoken, with_texts

pytestmark = pytest.mark.timeout(300)


def settings_for(s3: S3Server, folder: Path, **more: str) -> Settings:
    environ = {**s3.environment(), "OUTPUT_DIR": str(folder), "S3_PREFIX": "school", **more}
    return Settings.from_env(environ, for_worker=False)


def is_all_there(s3: S3Server, records: list[SegmentRecord], room: str = "math101") -> bool:
    wanted = {f"school/{room}/{record.file}": record.sha256 for record in records}
    sounds = {key for key in s3.keys() if key.endswith(".wav") and f"/{room}/" in key}
    return sounds == wanted.keys() and {key: sha256(s3.get(key)) for key in sounds} == wanted


def listed(s3: S3Server, room: str = "math101") -> list[str]:
    """The segments in the delivered manifest."""
    lines = s3.get(f"school/{room}/segments.jsonl").splitlines()
    return [json.loads(line)["file"] for line in lines]


def stored(s3: S3Server) -> list[str]:
    """Names of what was written, in the order in which it arrived."""
    paths = [request.path for request in s3.gate.requests if request.method == "PUT"]
    return [path.rpartition("/")[2] for path in paths]


async def test_everything_is_there_as_on_disk_and_the_manifest_came_last(
    s3: S3Server, tmp_path: Path
) -> None:
    settings = settings_for(s3, tmp_path)
    records = spoken(settings)
    texts = with_texts(tmp_path / "math101", records)
    assert await deliver(settings)
    on_disk = {
        f"school/math101/{path.name}": path.read_bytes()
        for path in (tmp_path / "math101").iterdir()
        if path.suffix in (".wav", ".txt") or path.name in ("segments.jsonl", "texts.jsonl")
    }
    assert s3.objects() == on_disk
    assert len(on_disk) == 3 * 3 + 2
    assert stored(s3)[-2:] == ["texts.jsonl", "segments.jsonl"]
    assert len(stored(s3)) == len(on_disk), "nothing was sent twice"
    sound = s3.headers_of(f"school/math101/{records[0].file}")
    assert sound["content-type"] == "audio/wav"
    assert s3.headers_of(f"school/math101/{texts[0].files[0]}")["content-type"] == "text/plain; charset=utf-8"
    assert s3.headers_of("school/math101/segments.jsonl")["content-type"] == "application/x-ndjson"
    assert all("x-amz-checksum-sha256" in one.headers for one in s3.gate.requests if one.method == "PUT")


async def test_what_was_delivered_is_not_sent_again(s3: S3Server, tmp_path: Path) -> None:
    settings = settings_for(s3, tmp_path)
    spoken(settings)
    assert await deliver(settings)
    before = len(s3.gate.requests)
    assert await deliver(settings)
    (tmp_path / OUTBOX).unlink()
    assert await deliver(settings)
    assert len(s3.gate.requests) == before
    (tmp_path / "math101" / DELIVERED).unlink()
    (tmp_path / OUTBOX).unlink()
    objects = s3.objects()
    assert await deliver(settings)
    assert s3.objects() == objects, "and if all memory is lost, it changes nothing"


@pytest.mark.parametrize("fault", ["InternalError", "SlowDown", "cut", "unanswered", "BadDigest"])
async def test_transient_errors_are_retried(s3: S3Server, tmp_path: Path, fault: str) -> None:
    settings = settings_for(s3, tmp_path)
    records = spoken(settings)
    s3.gate.fail_next(fault, fault, fault)
    async with serving(settings) as service:
        await until(lambda: service.status()[0].failures >= 2, "the fault was met", SOON)
        measured = service.metrics.registry.get_sample_value
        of_target = {"target": service.status()[0].target}
        assert (measured("recorder_delivery_failures_total", of_target) or 0) >= 2
        records += spoken(settings, count=1)
        await until(lambda: is_all_there(s3, records), "all segments", SOON)
    assert await deliver(settings)
    assert listed(s3) == [record.file for record in records]
    assert service.status()[0].refused == 0


async def test_an_outage_costs_time_and_nothing_else(
    s3: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    settings = settings_for(s3, tmp_path, KEEP_LOCAL="until_delivered")
    records = spoken(settings, count=2)
    async with serving(settings) as service:
        await until(lambda: is_all_there(s3, records), "the first two", SOON)
        s3.close()
        records += spoken(settings, count=3)
        await until(lambda: "cannot be reached" in caplog.text, "the outage is said", SOON)
        await until(lambda: service.status()[0].failures >= 3, "it is tried again", SOON)
        for folder in room_folders(tmp_path):
            leaving = Rules(settings, [service.status()[0].target]).leaving(folder, records[0].end)
            assert set(leaving.files) <= {record.file for record in records[:2]}
        s3.open()
        await until(lambda: is_all_there(s3, records), "all of them", SOON)
    assert "works again" in caplog.text


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("wrong key", "S3_KEY_SECRET is wrong"),
        ("unknown key", "S3_KEY_ID is not known"),
        ("bucket missing", "S3_BUCKET"),
        ("clock", "clock is wrong"),
        ("full", "the store is full"),
        ("forbidden", "it refuses everything"),
    ],
)
async def test_what_the_operator_must_correct_is_logged_and_waits(
    s3: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, trouble: str, said: str
) -> None:
    settings = settings_for(s3, tmp_path)
    records = spoken(settings)
    if trouble == "wrong key":
        s3.gate.key_secret = "another"
    elif trouble == "unknown key":
        s3.gate.fail_always("InvalidAccessKeyId")
    elif trouble == "bucket missing":
        s3.remove_bucket()
    elif trouble == "clock":
        s3.gate.clock_off_by = timedelta(minutes=40)
    else:
        s3.gate.fail_always("XMinioStorageFull" if trouble == "full" else "AccessDenied")
    async with serving(settings) as service:
        await until(lambda: service.status()[0].failures >= 3, "it was tried", SOON)
        assert said in caplog.text
        assert settings.s3_key_secret not in caplog.text
        assert DeliveryLog(tmp_path / "math101").refused() == {}, "no dead letter for it"
        s3.gate.key_secret = settings.s3_key_secret
        s3.gate.clock_off_by = timedelta()
        s3.gate.heal()
        if trouble == "bucket missing":
            s3.make_bucket()
        await until(lambda: is_all_there(s3, records), "all segments", SOON)


@pytest.mark.parametrize(("code", "reason"), [("EntityTooLarge", "too large"), ("AccessDenied", "forbidden")])
async def test_a_refused_item_is_a_dead_letter_and_blocks_nothing(
    s3: S3Server, tmp_path: Path, code: str, reason: str
) -> None:
    settings = settings_for(s3, tmp_path)
    records = spoken(settings)
    s3.gate.fault = lambda request: code if records[1].file in request.path else None
    assert await deliver(settings)
    assert is_all_there(s3, [records[0], records[2]])
    refused = DeliveryLog(tmp_path / "math101").refused()
    assert {key.item: why for (_, key), why in refused.items()} == {records[1].file: reason}
    s3.gate.heal()
    before = len(s3.gate.requests)
    assert await deliver(settings)
    assert len(s3.gate.requests) == before, "it is not tried again"


async def test_a_file_that_is_not_what_the_manifest_says_is_not_sent(s3: S3Server, tmp_path: Path) -> None:
    settings = settings_for(s3, tmp_path)
    records = spoken(settings)
    (tmp_path / "math101" / records[0].file).write_bytes(b"RIFF")
    (tmp_path / "math101" / records[1].file).unlink()
    assert await deliver(settings)
    assert is_all_there(s3, records[2:])
    reasons = DeliveryLog(tmp_path / "math101").refused().values()
    assert [("SHA-256" in why, "gone" in why) for why in reasons] == [(True, False), (False, True)]


async def test_an_object_of_somebody_else_is_never_overwritten(s3: S3Server, tmp_path: Path) -> None:
    settings = settings_for(s3, tmp_path)
    records = spoken(settings)
    s3.put(f"school/math101/{records[0].file}", b"older")
    assert await deliver(settings)
    assert s3.get(f"school/math101/{records[0].file}") == b"older"
    assert len(DeliveryLog(tmp_path / "math101").refused()) == 1


async def test_a_key_that_may_not_list_is_enough(s3: S3Server, tmp_path: Path) -> None:
    """S3 then answers 403 for a missing object."""

    def is_nowhere(request: Request) -> str | None:
        is_there = request.path.partition(f"/{BUCKET}/")[2] in s3.keys()
        return "AccessDenied" if request.method == "GET" and not is_there else None

    settings = settings_for(s3, tmp_path)
    s3.gate.fault = is_nowhere
    records = spoken(settings)
    with_texts(tmp_path / "math101", records)
    assert await deliver(settings)
    assert listed(s3) == [record.file for record in records]
    records += spoken(settings, at=NOW + timedelta(hours=1))
    assert await deliver(settings)
    assert is_all_there(s3, records)
    assert listed(s3) == [record.file for record in records]
    assert DeliveryLog(tmp_path / "math101").refused() == {}


async def test_a_list_that_may_not_be_read_is_not_overwritten(s3: S3Server, tmp_path: Path) -> None:
    settings = settings_for(s3, tmp_path)
    records = spoken(settings)
    s3.put("school/math101/segments.jsonl", b"of somebody else\n")
    s3.gate.fault = lambda request: "AccessDenied" if request.method == "GET" else None
    assert await deliver(settings)
    assert is_all_there(s3, records)
    assert s3.get("school/math101/segments.jsonl") == b"of somebody else\n"
    assert list(DeliveryLog(tmp_path / "math101").refused().values()) == ["forbidden"]


@pytest.mark.parametrize("header", ["if-none-match", "if-match", "x-amz-checksum-sha256"])
async def test_a_server_without_conditional_writes_or_checksums_works_too(
    s3: S3Server, tmp_path: Path, header: str
) -> None:
    """Some stores lack conditional writes, some lack checksums other than the one in the signature."""
    s3.gate.fault = lambda request: "NotImplemented" if header in request.headers else None
    settings = settings_for(s3, tmp_path)
    records = spoken(settings)
    s3.put(f"school/math101/{records[0].file}", b"older")
    assert await deliver(settings)
    records += spoken(settings, count=2)
    assert await deliver(settings)
    assert s3.get(f"school/math101/{records[0].file}") == b"older", "nor does it overwrite anything there"
    s3.put(f"school/math101/{records[0].file}", (tmp_path / "math101" / records[0].file).read_bytes())
    assert is_all_there(s3, records)
    assert listed(s3) == [record.file for record in records]


async def test_lists_name_only_delivered_files_and_no_other_paths(s3: S3Server, tmp_path: Path) -> None:
    settings = settings_for(s3, tmp_path / "out")
    records = spoken(settings, count=1)
    (tmp_path / "secret.txt").write_text("secret")
    text = with_texts(tmp_path / "out" / "math101", records)[0]
    line = replace(text, files=("../../secret.txt",)).to_json()
    (tmp_path / "out" / "math101" / "texts.jsonl").write_text(json.dumps(line) + "\n")
    evil = {**records[0].to_json(), "file": "../../secret.wav"}
    manifest = tmp_path / "out" / "math101" / "segments.jsonl"
    manifest.write_text(manifest.read_text() + json.dumps(evil) + "\n")
    assert await deliver(settings)
    assert not [data for data in s3.objects().values() if data == b"secret"]


async def test_order_is_kept_in_each_room_under_faults(s3: S3Server, tmp_path: Path) -> None:
    settings = settings_for(s3, tmp_path)
    rooms = [f"room{index}" for index in range(4)]
    records = {room: spoken(settings, room, 6) for room in rooms}
    dice = random.Random(7)
    lock = threading.Lock()

    def fault(request: Request) -> str | None:
        with lock:
            return (
                dice.choice([None, None, "SlowDown", "cut", "unanswered"])
                if request.method == "PUT"
                else None
            )

    s3.gate.fault = fault
    async with serving(settings):
        for room in rooms:
            await until(lambda room=room: is_all_there(s3, records[room], room), f"all of {room}", SOON)  # type: ignore[misc]
    s3.gate.heal()
    for room in rooms:
        paths = [request.path for request in s3.gate.requests if request.method == "PUT"]
        arrived = [path.rpartition("/")[2] for path in paths if f"/{room}/" in path and path.endswith(".wav")]
        assert list(dict.fromkeys(arrived)) == [record.file for record in records[room]]


async def test_two_disks_with_the_same_room_lose_nothing_of_each_other(s3: S3Server, tmp_path: Path) -> None:
    """A container's disk is lost with it, and the next container counts from 1 again."""
    first, second = settings_for(s3, tmp_path / "a"), settings_for(s3, tmp_path / "b")
    ours = spoken(first, count=2)
    theirs = spoken(second, count=2, at=ours[0].start + timedelta(hours=1))
    assert await deliver(first)
    assert await deliver(second)
    ours += spoken(first, count=1, at=ours[0].start + timedelta(hours=2))
    assert await deliver(first)
    assert is_all_there(s3, ours + theirs)
    assert sorted(listed(s3)) == sorted(record.file for record in ours + theirs)


async def test_without_sound_only_texts_and_lists_go(s3: S3Server, tmp_path: Path) -> None:
    environ = {"SAVE_AUDIO": "false", "SAVE_TRANSLATIONS": "true", "GEMINI_API_KEY": "x"}
    settings = settings_for(s3, tmp_path, **environ)
    with_texts(tmp_path / "math101", spoken(settings))
    assert await deliver(settings)
    assert sorted(Path(key).suffix for key in s3.keys()) == [".jsonl"] * 2 + [".txt"] * 6


# --- killed ---

CHILD = """
import asyncio, sys
from pathlib import Path
from config import Settings
from core.backoff import Backoff
from delivery.service import DeliveryService
from archive.outbox import Outbox
from delivery.targets import open_targets
import os
settings = Settings.from_env(os.environ, for_worker=False)
service = DeliveryService(settings, open_targets(settings)[0], Outbox(Path(settings.output_dir)), Backoff(0.02, 0.1))
asyncio.run(service.run())
"""


@contextlib.contextmanager
def child(settings: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that delivers until it is killed."""
    environ = {**os.environ, **settings, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", CHILD], cwd=ROOT, env=environ)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("moment", ["before the upload", "between upload and record"])
@pytest.mark.parametrize("which", [0, 2])
async def test_a_kill_costs_nothing(s3: S3Server, tmp_path: Path, moment: str, which: int) -> None:
    settings = settings_for(s3, tmp_path)
    records = spoken(settings, count=4)
    environ = {**s3.environment(), "OUTPUT_DIR": str(tmp_path), "S3_PREFIX": "school"}
    reached, killed = threading.Event(), threading.Event()

    def hold(request: Request) -> str | None:
        if records[which].file in request.path and not killed.is_set():
            reached.set()
            killed.wait(SOON)
            return "cut"
        return None

    if moment == "before the upload":
        s3.gate.fault = hold
    else:
        s3.gate.stored = hold
    with child(environ) as process:
        await asyncio.to_thread(reached.wait, SOON)
        assert reached.is_set()
        process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        process.wait()
        killed.set()
    delivery_log = DeliveryLog(tmp_path / "math101")
    target = open_targets(settings)[0][0].name
    assert not delivery_log.is_delivered(target, audio_key(records[which]))
    with child(environ):
        await until(lambda: is_all_there(s3, records), "all segments", SOON)
    assert await deliver(settings)
    assert listed(s3) == [record.file for record in records]


# --- retention ---


async def test_files_leave_when_they_are_delivered_and_not_before(s3: S3Server, tmp_path: Path) -> None:
    environ = {"KEEP_LOCAL": "until_delivered", "SAVE_TRANSLATIONS": "true", "GEMINI_API_KEY": "x"}
    settings = settings_for(s3, tmp_path, **environ)
    folder = tmp_path / "math101"
    records = spoken(settings, count=3)
    name = open_targets(settings)[0][0].name
    rules = Rules(settings, [name])
    with_texts(folder, records[:2])
    s3.gate.fault = lambda request: "InternalError" if records[1].file in request.path else None
    assert not await deliver(settings, seconds=0.3)
    leaving = rules.leaving(folder, records[-1].end)
    assert [file for file in leaving.files if file.endswith(".wav")] == [records[0].file]
    s3.gate.heal()
    assert await deliver(settings)
    leaving = rules.leaving(folder, records[-1].end)
    remove_leaving(leaving)
    left = sorted(path.name for path in folder.iterdir() if path.suffix in (".wav", ".txt"))
    assert left == [records[2].file], "its text is still to come"
    assert spoken(settings, count=1)[0].number == 4
    assert await deliver(settings)
    assert not Rules(settings, [name, "another target"]).leaving(folder, records[-1].end).files
    assert not Rules(settings, [name], is_complete=False).leaving(folder, records[-1].end).files


async def test_old_files_and_their_lines_leave_and_the_rest_stays(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delivery.retention.QUIET_SECONDS", -1)
    settings = settings_for(s3, tmp_path, RETENTION_DAYS="30")
    folder = tmp_path / "math101"
    old = spoken(settings, count=2)
    new = spoken(settings, count=1, at=old[0].start + timedelta(days=20))
    now = old[0].start + timedelta(days=31)
    rules = Rules(settings, [open_targets(settings)[0][0].name])
    assert not rules.leaving(folder, now).files, "nothing is delivered yet"
    assert await deliver(settings)
    leaving = rules.leaving(folder, now)
    assert set(leaving.files) == leaving.lines == {record.file for record in old}
    remove_leaving(leaving)
    assert [path.name for path in folder.glob("*.wav")] == [new[0].file]
    assert await deliver(settings)
    assert len(listed(s3)) == 3, "what was delivered stays delivered"
    assert is_all_there(s3, old + new)
    remove_leaving(rules.leaving(folder, now + timedelta(days=30)))
    assert not folder.exists()


# --- settings ---


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"S3_BUCKET": "b"}, "S3_KEY_ID, S3_KEY_SECRET not set"),
        ({"S3_ENDPOINT": "https://x"}, "S3_BUCKET, S3_KEY_ID, S3_KEY_SECRET not set"),
        ({"S3_BUCKET": "b", "S3_KEY_ID": "k", "S3_KEY_SECRET": "s3cret"}, "S3_REGION is not set"),
        (
            {"S3_BUCKET": "b", "S3_KEY_ID": "k", "S3_KEY_SECRET": "s", "S3_ENDPOINT": "host"},
            "S3_ENDPOINT=host",
        ),
        ({"STORE_URL": "ftp://x"}, "STORE_URL"),
        ({"DATABASE_URL": "mysql://u:s3cret@h/d"}, "DATABASE_URL"),
        ({"DATABASE_URL": "postgresql://u:s3cret@h/d?pgbouncer=true"}, "DATABASE_URL"),
    ],
)
def test_half_a_setting_is_one_line_and_no_target(environ: dict[str, str], said: str) -> None:
    targets, problems = open_targets(Settings.from_env(environ, for_worker=False))
    assert not targets
    assert len(problems) == 1
    assert said in problems[0]
    assert "s3cret" not in problems[0]
    assert "\n" not in problems[0]


def test_without_settings_there_is_nothing_to_say() -> None:
    assert open_targets(Settings()) == ([], [])
    assert problems_of(Settings()) == []


async def test_a_folder_is_a_store_too(tmp_path: Path) -> None:
    environ = {"OUTPUT_DIR": str(tmp_path / "disk"), "STORE_URL": (tmp_path / "nas").as_uri()}
    settings = Settings.from_env(environ, for_worker=False)
    (tmp_path / "nas").mkdir()
    set_up(tmp_path / "nas")
    records = spoken(settings) + spoken(settings, count=1, track=BEN)
    assert await deliver(settings)
    assert await deliver(settings)
    copies = sorted((tmp_path / "nas" / "math101").iterdir())
    assert [copy.name for copy in copies] == sorted([*(record.file for record in records), "segments.jsonl"])
    assert {sha256(copy.read_bytes()) for copy in copies if copy.suffix == ".wav"} == {
        one.sha256 for one in records
    }
