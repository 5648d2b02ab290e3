"""The session files of a room: who writes them, when, and what happens to what is wrong in their places."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from archive import delivery_log
from archive.files import Reservation, write_private
from archive.folder_texts import FolderTexts
from archive.handover_note import RoomProgress
from archive.manifest import append_manifest
from archive.names import HANDOVER_NOTE, session_file
from archive.outbox import TEXT, Work
from archive.rooms import Room
from archive.session_counts import Expected, SessionCount
from archive.session_files import SessionFiles, read_session, reopen_session
from archive.session_keeper import SessionKeeper
from archive.session_list import sessions_in
from archive.session_removal import prune_sessions
from archive.tombstones import begin
from config import Settings
from core.records import SegmentRecord
from core.session_records import ClosedBy, SessionRecord
from core.text_records import TextRecord
from delivery.erasure import remove_lines
from delivery.items import Item, SessionItem, session_bytes
from delivery.service import DeliveryService
from devtools.room_folders import until
from devtools.sample_room import open_room
from support.commands import run
from support.counting import lines_read
from support.delivering import opened
from support.lessons_on_disk import BEN, NOW, spoken, with_gap, with_texts
from support.segment_records import segment

SHELF = Expected(texts=True, languages=("es",), targets=("shelf",))


def room(folder: Path, *sids: str, each: int = 3) -> Path:
    """A folder with some sessions of three segments."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, sid in enumerate(sids):
        for number in range(each * index + 1, each * (index + 1) + 1):
            append_manifest(folder, of_session(sid, number))
    return folder


def of_session(sid: str, number: int) -> SegmentRecord:
    return replace(segment(number), room_sid=sid)


def add_text(folder: Path, record: SegmentRecord, **texts: str) -> None:
    text = TextRecord(record.number, record.file, record.end, record.start, "anna", "en", "One.", texts)
    assert FolderTexts(folder).save(text)


def deliver(folder: Path, record: SegmentRecord) -> None:
    delivery_log.note(folder, "shelf", delivery_log.audio_key(record))


def closed(folder: Path, sid: str = "RM_1", expected: Expected | None = None) -> SessionRecord:
    assert SessionFiles(folder, expected or Expected()).close(sid, ClosedBy.RECORDER)
    found = read_session(folder, sid)
    assert found is not None
    return found


# --- writing ---


def test_a_session_that_is_over_has_one_private_file(tmp_path: Path) -> None:
    folder = room(tmp_path / "math101", "RM_1", "RM_2")
    with_gap(folder, of_session("RM_2", 4))
    ended_at = segment(6).end + timedelta(seconds=30)
    assert SessionFiles(folder, Expected()).close("RM_2", ClosedBy.RECORDER, ended_at)
    path = folder / "session_RM_2.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    assert (found["room_sid"], found["segments"], found["closed_by"]) == ("RM_2", 3, "recorder")
    assert (found["first_number"], found["last_number"]) == (4, 6)
    assert found["ended_at"] == "2025-10-08T14:06:58.000Z"
    assert found["gaps"] == {"no_recorder": {"count": 1, "seconds": 5.0}}
    assert found["is_complete"] is True
    if sys.platform != "win32":
        assert path.stat().st_mode & 0o777 == 0o600
    assert read_session(folder, "RM_1") is None
    assert not SessionFiles(folder, Expected()).close("RM_2", ClosedBy.RECORDER, ended_at), "nothing is new"


@pytest.mark.parametrize("sid", ["../RM", "RM/1", "a" * 400, "RM:1", "con", "\ud800", ".RM", "ي"])
def test_any_sid_makes_a_name_in_the_folder(tmp_path: Path, sid: str) -> None:
    folder = room(tmp_path / "math101", sid)
    assert closed(folder, sid).room_sid == sid
    assert {path.parent for path in tmp_path.rglob("session_*")} == {folder}


def test_segments_of_which_nobody_knows_the_session_get_no_file(tmp_path: Path) -> None:
    folder = room(tmp_path / "math101", "")
    assert not SessionFiles(folder, Expected()).close("", ClosedBy.RECOVERY)
    assert not list(folder.glob("session_*"))


def test_a_session_without_speech_gets_no_file(tmp_path: Path) -> None:
    folder = room(tmp_path / "math101", "RM_1")
    assert not SessionFiles(folder, Expected()).close("RM_2", ClosedBy.RECORDER)


def test_texts_and_deliveries_are_counted_and_counted_again(tmp_path: Path) -> None:
    folder = room(tmp_path / "math101", "RM_0", "RM_1")
    records = [of_session("RM_1", number) for number in (4, 5, 6)]
    found = closed(folder, expected=SHELF)
    assert (found.without_text, found.delivery.undelivered, found.is_complete) == (3, 3, False)
    files = SessionFiles(folder, SHELF)
    assert not files.refresh("RM_1")
    for record in records:
        add_text(folder, record, es="Uno.")
        deliver(folder, record)
    assert files.refresh("RM_1")
    done = read_session(folder, "RM_1")
    assert done is not None and done.is_complete and done.ended_at == found.ended_at
    assert not files.refresh("RM_0"), "it has no file, so it is still recorded"


def test_the_work_does_not_grow_with_the_other_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(others: int) -> int:
        folder = room(tmp_path / f"room{others}", *(f"RM_{index}" for index in range(others)), "RM_new")
        files = SessionFiles(folder, SHELF)
        files.count("RM_new")  # the index has the lines now
        with lines_read(monkeypatch) as count:
            files.close("RM_new", ClosedBy.RECORDER)
        return count()

    assert work(1) == work(30)


def test_lines_that_are_added_while_it_is_counted_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = room(tmp_path / "math101", "RM_1")
    count, left = SessionFiles.count, [4, 5]

    def counting(files: SessionFiles, sid: str) -> SessionCount:
        found = count(files, sid)
        if left:
            append_manifest(folder, of_session(sid, left.pop()))
        return found

    monkeypatch.setattr(SessionFiles, "count", counting)
    assert closed(folder).segments == 5


def test_an_erasure_that_begins_while_it_is_counted_leaves_nobody_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = room(tmp_path / "math101", "RM_1")
    append_manifest(folder, replace(of_session("RM_1", 9), participant_identity="ben"))
    count, has_begun = SessionFiles.count, False

    def counting(files: SessionFiles, sid: str) -> SessionCount:
        nonlocal has_begun
        found = count(files, sid)
        if not has_begun:
            has_begun = True
            begin(tmp_path, (), "ben")
        return found

    monkeypatch.setattr(SessionFiles, "count", counting)
    assert [one.identity for one in closed(folder).participants] == ["anna"]


# --- what is in its place ---


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "x").touch()


def _link(path: Path) -> None:
    (path.parent / "elsewhere").write_text("mine", encoding="utf-8")
    path.symlink_to(path.parent / "elsewhere")


HOSTILE: dict[str, Callable[[Path], object]] = {
    "folder": _folder,
    "link": _link,
    "garbage": lambda path: path.write_bytes(b"\xff\0{"),
    "nested": lambda path: path.write_bytes(b"[" * 100_000),
    "empty": lambda path: path.touch(),
    "other": lambda path: path.write_bytes(b'{"mine": 1}'),
    "pipe": lambda path: os.mkfifo(path),
    "huge": lambda path: path.write_bytes(b" " * (9 << 20)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_session_file_counts_as_none_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    if sys.platform == "win32" and what in ("pipe", "link"):
        pytest.skip("Windows has no such file for everybody")
    folder = room(tmp_path / "math101", "RM_1")
    path = folder / session_file("RM_1")
    HOSTILE[what](path)
    for _ in range(2):
        assert read_session(folder, "RM_1") is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    found, broken = sessions_in(Room(folder), Expected())
    assert ([session.segments for session in found], broken) == ([3], 0)
    files = SessionFiles(folder, Expected())
    if what == "folder":
        with pytest.raises(OSError):
            files.close("RM_1", ClosedBy.RECORDER)
        reopen_session(folder, "RM_1")
        assert (path / "x").exists()
    else:
        assert files.close("RM_1", ClosedBy.RECORDER)
        assert read_session(folder, "RM_1") is not None
    if what == "link":
        assert (folder / "elsewhere").read_text(encoding="utf-8") == "mine"


def test_a_recorder_that_joins_removes_the_file(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    room(folder.path, folder.room.sid)
    closed(folder.path, folder.room.sid)
    reopen_session(folder.path, folder.room.sid)
    assert not list(folder.path.glob("session_*"))


# --- recovery ---


async def recovered(output_dir: Path, expected: Expected | None = None) -> SessionKeeper:
    """Runs the recovery until every session has been looked at."""
    async with opened(output_dir) as outbox:
        keeper = SessionKeeper(output_dir, expected or Expected(), outbox, (TEXT,))
        await keeper.recover_once()
        return keeper


async def test_a_session_that_a_crash_has_left_gets_its_file(tmp_path: Path) -> None:
    folder = room(tmp_path / "math101", "RM_1", "RM_2", "")
    closed(folder, "RM_1")
    await recovered(tmp_path)
    found = [read_session(folder, sid) for sid in ("RM_1", "RM_2")]
    assert [one.closed_by if one else None for one in found] == [ClosedBy.RECORDER, ClosedBy.RECOVERY]
    assert len(list(folder.glob("session_*"))) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
async def test_a_folder_whose_name_is_no_text_disturbs_nothing(tmp_path: Path) -> None:
    odd, folder = room(tmp_path / "a\udcff", "RM_1"), room(tmp_path / "math101", "RM_1")
    closed(odd)
    shelf = Shelf()
    await recovered(tmp_path)
    await delivered(tmp_path, shelf)
    assert shelf.sessions == [(folder / "session_RM_1.json").read_bytes()]


async def test_a_session_that_is_recorded_gets_none(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    room(folder.path, "RM_before", folder.room.sid)
    folder.handover.write(RoomProgress(folder.room.started_at, {}))
    await recovered(tmp_path)
    assert [path.name for path in folder.path.glob("session_*")] == ["session_RM_before.json"]
    long_ago = time.time() - 60
    folder.handover.hold()
    os.utime(folder.path / HANDOVER_NOTE, (long_ago, long_ago))
    await recovered(tmp_path)
    assert read_session(folder.path, folder.room.sid) is None, "a recorder holds the note, however old it is"
    folder.handover.leave()
    await recovered(tmp_path)
    assert read_session(folder.path, folder.room.sid) is not None


async def test_what_is_done_is_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(5):
        room(tmp_path / f"room{index}", "RM_1", "RM_2")
    await recovered(tmp_path)
    with lines_read(monkeypatch) as count:
        await recovered(tmp_path)
    assert count() == 0


async def test_a_session_that_has_gained_lines_is_counted_again(tmp_path: Path) -> None:
    folder = room(tmp_path / "math101", "RM_1")
    closed(folder)
    append_manifest(folder, of_session("RM_1", 9))
    async with opened(tmp_path) as outbox:
        keeper = SessionKeeper(tmp_path, Expected(), outbox, ())
        await keeper.recover_once()
        task = asyncio.create_task(keeper.run())
        await until(lambda: (read_session(folder, "RM_1") or closed(folder)).segments == 4, "it is counted")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_progress_that_was_missed_is_counted_after_the_start(tmp_path: Path) -> None:
    folder = room(tmp_path / "math101", "RM_1", each=1)
    room(tmp_path / "art", "RM_1", each=1)
    for name in ("math101", "art"):
        closed(tmp_path / name, expected=Expected(texts=True))
    add_text(folder, of_session("RM_1", 1))  # and then the worker was killed
    async with opened(tmp_path) as outbox:
        keeper = SessionKeeper(tmp_path, Expected(texts=True), outbox, (TEXT,))
        await keeper.recover_once()
        task = asyncio.create_task(keeper.run())
        await until(lambda: bool((found := read_session(folder, "RM_1")) and found.is_complete), "complete")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_the_disk_refuses_is_logged_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [room(tmp_path / name, "RM_1") for name in ("math101", "art")]

    def refused(path: Path, data: bytes) -> None:
        if path.parent == folders[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_private(path, data)

    with monkeypatch.context() as patched:
        patched.setattr("archive.session_files.write_private", refused)
        keeper = await recovered(tmp_path)
        assert read_session(folders[1], "RM_1") is not None, "the others have theirs"
        assert len(caplog.records) == 1
    async with opened(tmp_path):
        await keeper.recover_once()
    assert read_session(folders[0], "RM_1") is not None
    assert len(caplog.records) == 1


async def test_of_several_workers_one_looks_for_sessions_at_a_time(tmp_path: Path) -> None:
    folder = room(tmp_path / "math101", "RM_1")
    with Reservation(tmp_path, "sessions"):
        await recovered(tmp_path)
    assert read_session(folder, "RM_1") is None
    await recovered(tmp_path)
    assert read_session(folder, "RM_1") is not None


# --- keeping it up to date ---


async def test_the_recorder_says_when_a_session_is_over(tmp_path: Path) -> None:
    folder = room(tmp_path / "math101", "RM_1")
    async with opened(tmp_path) as outbox:
        keeper = SessionKeeper(tmp_path, Expected(), outbox, ())
        ended_at = segment(9).end
        keeper.over("math101", "RM_1", ended_at)
        task = asyncio.create_task(keeper.run())
        await until(lambda: read_session(folder, "RM_1") is not None, "the file")
        await asyncio.to_thread(keeper.over, "math101", "RM_1", ended_at + timedelta(seconds=1))
        await until(lambda: _ended_at(folder) > ended_at, "it is written at once, from any thread")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _ended_at(folder: Path) -> datetime:
    found = read_session(folder, "RM_1")
    return found.ended_at if found else NOW


async def test_it_is_counted_again_when_nothing_is_waiting_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archive.session_keeper.LOOK_SECONDS", 0.05)
    folder = room(tmp_path / "math101", "RM_1")
    closed(folder, expected=Expected(texts=True))
    async with opened(tmp_path) as outbox:
        records = [of_session("RM_1", number) for number in (1, 2, 3)]
        works = [Work(TEXT, "math101", record.file, 0.0, {}) for record in records]
        await outbox.add(works)
        counted: list[str] = []
        refresh = SessionFiles.refresh

        def noted(files: SessionFiles, sid: str) -> bool:
            counted.append(sid)
            return refresh(files, sid)

        monkeypatch.setattr(SessionFiles, "refresh", noted)
        keeper = SessionKeeper(tmp_path, Expected(texts=True), outbox, (TEXT,))
        task = asyncio.create_task(keeper.run())
        for record, work in zip(records, works, strict=True):
            await asyncio.sleep(0.15)
            assert not counted
            add_text(folder, record)
            await outbox.done(work)
            keeper.progressed("math101", "RM_1")
        await until(lambda: bool((found := read_session(folder, "RM_1")) and found.is_complete), "complete")
        assert counted == ["RM_1"]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_target_that_is_down_delays_it_only_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archive.session_keeper.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("archive.session_keeper.BUSY_SECONDS", 0.2)
    folder = room(tmp_path / "math101", "RM_1", each=1)
    closed(folder, expected=Expected(texts=True))
    async with opened(tmp_path) as outbox:
        await outbox.add([Work("delivery shelf", "math101", "a.wav", 0.0, {})])
        keeper = SessionKeeper(tmp_path, Expected(texts=True), outbox, (TEXT, "delivery shelf"))
        task = asyncio.create_task(keeper.run())
        add_text(folder, of_session("RM_1", 1))
        keeper.progressed("math101", "RM_1")
        await until(lambda: bool((found := read_session(folder, "RM_1")) and found.is_complete), "complete")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# --- reading ---


def test_complete_sessions_are_told_without_reading_their_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = room(tmp_path / "math101", "RM_1", "RM_2")
    counted = sessions_in(Room(folder), Expected())
    for sid in ("RM_1", "RM_2"):
        closed(folder, sid)
    with lines_read(monkeypatch) as count:
        found = sessions_in(Room(folder), Expected())
    assert count() == 0
    assert [replace(one, closed_by=ClosedBy.RECOVERY) for one in found[0]] == counted[0]
    with (folder / "segments.jsonl").open("ab") as file:
        file.write(b"{broken\n")
    assert sessions_in(Room(folder), Expected())[1] == 1


def test_of_a_room_with_one_session_that_goes_on_only_its_lines_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sids = [f"RM_{index}" for index in range(20)]
    folder = room(tmp_path / "math101", *sids)
    for sid in sids[:-1]:
        closed(folder, sid)
    with_gap(folder, of_session(sids[-1], 58))
    with lines_read(monkeypatch) as count:
        found, _ = sessions_in(Room(folder), Expected())
    assert count() <= 6
    (tmp_path / ".lines.sqlite").unlink()
    assert _counts(found) == _counts(sessions_in(Room(folder), Expected())[0])


def _counts(sessions: list[SessionRecord]) -> list[SessionRecord]:
    return [replace(session, closed_by=ClosedBy.RECOVERY) for session in sessions]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: append_manifest(folder, of_session("RM_1", 7)),
        lambda folder: append_manifest(folder, of_session("RM_3", 7)),
        lambda folder: (folder / "session_RM_1.json").unlink(),
        lambda folder: (folder.parent / ".lines.sqlite").unlink(),
        lambda folder: (folder.parent / ".lines.sqlite").write_bytes(b"garbage" * 1000),
    ],
    ids=["a line more", "a session more", "a file less", "no index", "a broken index"],
)
def test_what_the_files_do_not_tell_is_counted(tmp_path: Path, change: Callable[[Path], object]) -> None:
    folder = room(tmp_path / "math101", "RM_1", "RM_2")
    for sid in ("RM_1", "RM_2"):
        closed(folder, sid)
    change(folder)
    found, _ = sessions_in(Room(folder), Expected())
    assert sum(session.segments for session in found) == len(list(Room(folder).records()))


@pytest.mark.parametrize(
    "wanted", [Expected(texts=True), Expected(languages=("es",)), Expected(targets=("shelf",))]
)
def test_a_file_that_does_not_answer_what_is_wanted_now_is_not_used(tmp_path: Path, wanted: Expected) -> None:
    folder = room(tmp_path / "math101", "RM_1")
    closed(folder)
    (found,), _ = sessions_in(Room(folder), wanted)
    assert (found.texts.is_wanted, set(found.texts.missing), set(found.delivery.targets)) == (
        wanted.texts,
        set(wanted.languages),
        set(wanted.targets),
    )


# --- retention ---


def test_retention_marks_what_it_takes_lines_from_and_removes_the_rest(tmp_path: Path) -> None:
    folder = room(tmp_path / "math101", "RM_1", "RM_2", "RM_3")
    before = [closed(folder, sid) for sid in ("RM_1", "RM_2", "RM_3")]
    prune_sessions(folder, [f"segment_{number:03d}.wav" for number in (1, 2, 3, 4)])
    assert read_session(folder, "RM_1") is None
    assert read_session(folder, "RM_2") == replace(before[1], is_pruned=True)
    assert read_session(folder, "RM_3") == before[2]
    assert not SessionFiles(folder, Expected()).refresh("RM_2"), "its totals do not change any more"


# --- commands ---


def listed(output_dir: Path, name: str = "math101") -> list[dict[str, object]]:
    done = run("list", name, "--json", output_dir=output_dir)
    assert done.code == 0, done.err
    found: list[dict[str, object]] = json.loads(done.out)["rooms"][0]["sessions"]
    return found


def findings(output_dir: Path, *options: str) -> list[str]:
    done = run("check", "--quick", "--json", *options, output_dir=output_dir)
    kinds = [one["kind"] for one in json.loads(done.out)["rooms"][0]["findings"]]
    return [kind for kind in kinds if kind.startswith("session_")]


def quiet(folder: Path) -> None:
    """Makes the lists old, so that no worker can be about to write a session's file."""
    for name in ("segments.jsonl", "texts.jsonl", "delivered.jsonl"):
        if (folder / name).exists():
            os.utime(folder / name, (time.time() - 3600,) * 2)


def _change(name: str, value: object) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        content = json.loads(path.read_bytes())
        content[name] = value
        path.write_text(json.dumps(content), encoding="utf-8")

    return change


def _stray(path: Path) -> None:
    """Adds the file of a session that the manifest does not have."""
    content = path.read_text(encoding="utf-8").replace("RM_math101", "RM_gone")
    path.with_name("session_RM_gone.json").write_text(content, encoding="utf-8")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A room with a session of two people, which has its file."""
    settings = Settings(output_dir=str(tmp_path))
    spoken(settings, "math101", 2)
    spoken(settings, "math101", 1, track=BEN)
    closed(tmp_path / "math101", "RM_math101")
    quiet(tmp_path / "math101")
    return tmp_path


def test_check_says_nothing_about_a_file_that_is_right(archive: Path) -> None:
    assert findings(archive) == []


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda path: path.unlink(), "session_file_missing"),
        (lambda path: path.write_bytes(b"{"), "session_file_damaged"),
        (_change("segments", 7), "session_file_wrong"),
        (_change("participants", []), "session_file_wrong"),
        (_change("gaps", {"deaf": {"count": 1, "seconds": 2.0}}), "session_file_wrong"),
        (_stray, "session_file_wrong"),
    ],
    ids=["missing", "damaged", "other number", "other people", "other gaps", "of no session"],
)
def test_check_finds_what_is_wrong_and_repairs_it(
    archive: Path, change: Callable[[Path], object], kind: str
) -> None:
    path = archive / "math101" / "session_RM_math101.json"
    before = read_session(path.parent, "RM_math101")
    change(path)
    assert findings(archive) == [kind]
    assert findings(archive, "--repair") == []
    found = read_session(path.parent, "RM_math101")
    assert found is not None and before is not None
    assert replace(found, closed_by=before.closed_by) == before
    assert len(list(path.parent.glob("session_*"))) == 1


def test_check_leaves_a_folder_in_its_place_alone(archive: Path) -> None:
    path = archive / "math101" / "session_RM_math101.json"
    path.unlink()
    _folder(path)
    assert findings(archive, "--repair") == ["session_file_damaged"]
    assert (path / "x").exists()


def test_check_waits_for_a_worker_that_may_be_about_to_write_it(archive: Path) -> None:
    path = archive / "math101" / "session_RM_math101.json"
    path.unlink()
    os.utime(archive / "math101" / "segments.jsonl")
    assert findings(archive) == []


def test_list_is_the_same_with_and_without_the_file(archive: Path) -> None:
    before = listed(archive)
    (archive / "math101" / "session_RM_math101.json").unlink()
    assert listed(archive) == before
    assert before[0]["participants"] == ["anna", "ben"]


def test_export_says_what_is_not_done(archive: Path) -> None:
    folder = archive / "math101"
    records = list(Room(folder).records())
    with_texts(folder, records[:2])
    done = run("export", "math101", "--format", "json", output_dir=archive)
    assert (done.code, "1 without text" in done.err, "1.5 s of speech" in done.out) == (0, True, False)
    answer = json.loads(run("export", "math101", "--json", output_dir=archive).out)["lessons"][0]
    assert (answer["is_complete"], answer["speech_seconds"]) == (False, 1.5)
    assert answer["not_done"] == ["1 without text"]


def test_an_erased_person_is_in_no_session_file(archive: Path) -> None:
    folder = archive / "math101"
    done = run("erase", "math101", "--participant", "ben", "--yes", output_dir=archive)
    assert done.code == 0, done.err
    found = read_session(folder, "RM_math101")
    assert found is not None
    assert ([one.identity for one in found.participants], found.segments) == (["anna"], 2)
    assert b"ben" not in (folder / "session_RM_math101.json").read_bytes().lower()
    assert run("erase", "math101", "--yes", output_dir=archive).code == 0
    assert not folder.exists()


def test_a_person_whose_lines_retention_has_removed_is_erased(archive: Path) -> None:
    folder = archive / "math101"
    bens = [record.file for record in Room(folder).records() if record.participant_identity == "ben"]
    prune_sessions(folder, bens)
    remove_lines(folder, bens, lambda gap: False)
    for name in bens:
        (folder / name).unlink()
    assert b"ben" in (folder / "session_RM_math101.json").read_bytes()
    done = run("erase", "--participant", "ben", "--all", "--count", "0", output_dir=archive)
    assert done.code == 0, done.err
    found = read_session(folder, "RM_math101")
    assert found is not None and found.is_pruned
    assert ([one.identity for one in found.participants], found.segments) == (["anna"], 2)


def test_a_damaged_file_of_an_erased_session_goes(archive: Path) -> None:
    path = archive / "math101" / "session_RM_math101.json"
    path.write_bytes(b'{"ben')
    mine = path.with_name("session_notes.json")
    mine.write_text("mine", encoding="utf-8")
    assert run("erase", "math101", "--participant", "ben", "--yes", output_dir=archive).code == 0
    assert not path.exists()
    assert run("erase", "math101", "--yes", output_dir=archive).code == 0
    assert mine.read_text(encoding="utf-8") == "mine", "it is not the recorder's"


# --- delivery ---


class Shelf:
    """A target in memory, which has the session files by their names."""

    name = "shelf"

    def __init__(self) -> None:
        self.sessions: list[bytes] = []

    async def check(self) -> None: ...

    async def put(self, item: Item) -> None:
        if isinstance(item, SessionItem):
            self.sessions.append(session_bytes(item)[1])

    async def remove(self, *_: object, **__: object) -> int:
        return 0

    async def aclose(self) -> None: ...


async def delivered(output_dir: Path, shelf: Shelf, remote_retention_days: int = 0) -> DeliveryService:
    settings = Settings(output_dir=str(output_dir), remote_retention_days=remote_retention_days)
    async with opened(output_dir) as outbox:
        service = DeliveryService(settings, [shelf], outbox)
        assert await service.drain(0)
        await service.aclose()
        return service


async def test_a_file_is_delivered_and_again_when_it_has_changed(archive: Path) -> None:
    folder, shelf = archive / "math101", Shelf()
    await delivered(archive, shelf)
    await delivered(archive, shelf)
    path = folder / "session_RM_math101.json"
    assert shelf.sessions == [path.read_bytes()]
    assert SessionFiles(folder, Expected(targets=("shelf",))).refresh("RM_math101")
    await delivered(archive, shelf)
    assert shelf.sessions[1:] == [path.read_bytes()]
    (archive / ".outbox.sqlite").unlink()
    await delivered(archive, shelf)
    assert len(shelf.sessions) == 2, "the delivery log knows what was delivered"


async def test_what_is_no_session_file_delays_no_delivery(archive: Path) -> None:
    folder, shelf = archive / "math101", Shelf()
    (folder / "session_RM_math101.json").unlink()
    _folder(folder / "session_RM_math101.json")
    service = await delivered(archive, shelf)
    assert (shelf.sessions, service.status()[0].refused) == ([], 0)


async def test_a_file_that_is_gone_by_then_is_no_dead_letter(archive: Path) -> None:
    shelf = Shelf()
    async with opened(archive) as outbox:
        service = DeliveryService(Settings(output_dir=str(archive)), [shelf], outbox)
        await service.look()
        reopen_session(archive / "math101", "RM_math101")
        assert await service.drain(0)
        await service.aclose()
        assert (service.status()[0].refused, shelf.sessions) == (0, [])


async def test_a_session_that_the_target_no_longer_has_is_not_delivered_again(archive: Path) -> None:
    shelf = Shelf()
    await delivered(archive, shelf, remote_retention_days=1)
    assert shelf.sessions == []


async def test_a_running_worker_delivers_what_a_command_has_written(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delivery.session_reader.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("delivery.service.LOOK_SECONDS", 0.1)
    folder, shelf = archive / "math101", Shelf()
    async with opened(archive) as outbox:
        service = DeliveryService(Settings(output_dir=str(archive)), [shelf], outbox)
        task = asyncio.create_task(service.run())
        await until(lambda: len(shelf.sessions) == 1, "it is delivered")
        content = (folder / "session_RM_math101.json").read_bytes().replace(b'"recorder"', b'"recovery"')
        write_private(folder / "session_RM_math101.json", content)
        await until(lambda: len(shelf.sessions) == 2, "it is delivered again")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
