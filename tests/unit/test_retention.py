"""Retention: what may be deleted from a disk, and the warning before it is full."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections import namedtuple
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from archive.delivery_log import DELIVERED, DeliveryLog, Key, forget, note
from archive.exports import note_export
from archive.jsonl import new_lines
from archive.manifest import read_gaps, read_manifest
from archive.names import HANDOVER_NOTE, MANIFEST
from archive.outbox import Outbox
from config import Settings
from core.backoff import Backoff
from core.errors import RetryLater
from core.records import SegmentRecord
from delivery.erasure import remove_lines
from delivery.items import AudioItem, Item, ListsItem, Selection, TextItem
from delivery.retention import Housekeeping, Leaving, Rules, remove_leaving
from delivery.service import DeliveryService
from devtools.room_folders import until
from support.commands import run_in_thread
from support.delivering import delivered_lists, state_of
from support.lessons_on_disk import NOW, spoken, with_gap, with_texts

Usage = namedtuple("Usage", "total used free")
SOON = 30.0


class Shelf:
    """A target in memory."""

    name = "shelf"

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.removed: list[Selection] = []
        self.is_down = False

    async def check(self) -> None:
        if self.is_down:
            raise RetryLater("it is down")

    async def put(self, item: Item) -> None:
        await self.check()
        self.items.append(item)

    async def remove(
        self, selection: Selection, known: Mapping[str, Sequence[SegmentRecord]], *, only_count: bool = False
    ) -> int:
        self.removed.append(selection)
        return 1

    async def aclose(self) -> None: ...


def settings_for(folder: Path, **more: str) -> Settings:
    return Settings.from_env({"OUTPUT_DIR": str(folder), **more}, for_worker=False)


async def deliver(settings: Settings, shelf: Shelf) -> bool:
    outbox = Outbox(Path(settings.output_dir))
    service = DeliveryService(settings, [shelf], outbox, Backoff(0.01, 0.05))
    try:
        return await service.drain(0)
    finally:
        await service.aclose()
        await outbox.aclose()


async def test_the_backlog_is_counted_with_its_age(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    spoken(settings, count=3)
    shelf = Shelf()
    shelf.is_down = True
    outbox = Outbox(tmp_path)
    service = DeliveryService(settings, [shelf], outbox, Backoff(0.01, 0.05))
    assert not await service.drain(0)
    (status,) = service.status()
    assert (status.waiting, status.delivered, status.refused, status.trouble) == (4, 0, 0, "it is down")
    assert status.oldest_seconds == pytest.approx((datetime.now(UTC) - NOW).total_seconds(), abs=60)
    shelf.is_down = False
    assert await service.drain(SOON)
    (status,) = service.status()
    assert (status.waiting, status.delivered, status.oldest_seconds, status.trouble) == (0, 4, 0, "")
    await service.metrics.refresh()
    measured = service.metrics.registry.get_sample_value
    for name, value in (("waiting", 0), ("delivered_total", 4), ("in_trouble", 0)):
        assert measured(f"recorder_delivery_{name}", {"target": status.target}) == value
    await service.aclose()
    await outbox.aclose()


async def test_the_worker_deletes_what_is_delivered_and_keeps_the_rest(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, KEEP_LOCAL="until_delivered", REMOTE_RETENTION_DAYS="9")
    yesterday = datetime.now(UTC) - timedelta(days=1)
    spoken(settings, "math", 2, at=yesterday)
    shelf = Shelf()
    assert await deliver(settings, shelf)
    later = spoken(settings, "math", 1, at=yesterday)
    housekeeping = asyncio.create_task(Housekeeping(settings, [shelf], is_complete=True).run())
    folder = tmp_path / "math"
    await until(lambda: len(list(folder.glob("*.wav"))) == 1, "two have left", SOON)
    await until(lambda: shelf.removed, "old ones leave the target", SOON)
    housekeeping.cancel()
    await asyncio.gather(housekeeping, return_exceptions=True)
    assert (folder / later[0].file).exists(), "it is not delivered"
    assert len((folder / "segments.jsonl").read_bytes().splitlines()) == 3
    assert shelf.removed[0].before is not None and not shelf.removed[0].room


async def test_what_is_delivered_between_two_thorough_looks_leaves_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delivery.retention.LOOK_SECONDS", 0.1)
    settings, shelf = settings_for(tmp_path, KEEP_LOCAL="until_delivered"), Shelf()
    spoken(settings, "math", 2)
    housekeeping = asyncio.create_task(Housekeeping(settings, [shelf], is_complete=True).run())
    await asyncio.sleep(0.3)
    assert len(list((tmp_path / "math").glob("*.wav"))) == 2
    assert await deliver(settings, shelf)
    await until(lambda: not list((tmp_path / "math").glob("*.wav")), "both have left", SOON)
    housekeeping.cancel()
    await asyncio.gather(housekeeping, return_exceptions=True)
    assert len((tmp_path / "math" / "segments.jsonl").read_bytes().splitlines()) == 2


async def test_a_backlog_larger_than_the_outbox_is_delivered_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archive.outbox.MAX_WAITING", 4)
    monkeypatch.setattr("delivery.item_reader.new_lines", lambda path, mark: new_lines(path, mark, most=2))
    settings = settings_for(tmp_path)
    records = spoken(settings, "math", 9)
    shelf = Shelf()
    assert await deliver(settings, shelf)
    sounds = [item.record.file for item in shelf.items if isinstance(item, AudioItem)]
    assert sounds == [record.file for record in records]
    assert isinstance(shelf.items[-1], ListsItem)
    assert shelf.items[-1].manifest_bytes == (tmp_path / "math" / "segments.jsonl").stat().st_size


async def test_another_programs_list_of_the_same_name_stays_here(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    spoken(settings, "math", 1)
    theirs = tmp_path / "dataset" / "segments.jsonl"
    theirs.parent.mkdir()
    theirs.write_text('{"audio": "a.flac"}\n')
    shelf = Shelf()
    assert await deliver(settings, shelf)
    assert {item.folder.name for item in shelf.items} == {"math"}


async def test_a_gap_noticed_later_is_delivered_and_goes_when_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delivery.retention.QUIET_SECONDS", -1)
    settings = settings_for(tmp_path, RETENTION_DAYS="30")
    folder, shelf = tmp_path / "math", Shelf()
    old = spoken(settings, "math", 1)
    new = spoken(settings, "math", 1, at=NOW + timedelta(days=20))
    assert await deliver(settings, shelf)
    with_gap(folder, old[0])
    with_gap(folder, new[0])
    now = NOW + timedelta(days=31)
    rules = Rules(settings, [shelf.name])
    assert not rules.leaving(folder, now).lines, "the gaps are not delivered"
    assert await deliver(settings, shelf)
    assert isinstance(shelf.items[-1], ListsItem)
    assert shelf.items[-1].gaps_bytes == (folder / "gaps.jsonl").stat().st_size
    remove_leaving(rules.leaving(folder, now))
    assert [gap.start for gap in read_gaps(folder)] == [new[0].start]
    remove_leaving(rules.leaving(folder, now + timedelta(days=30)))
    assert folder.exists(), "its lists have changed and are delivered first"
    assert await deliver(settings, shelf)
    remove_leaving(rules.leaving(folder, now + timedelta(days=30)))
    assert not folder.exists()


async def test_a_record_that_cannot_be_written_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(tmp_path)
    spoken(settings, "math", 1)
    full = [OSError(28, "No space left on device")] * 2

    def refusing(folder: Path, target: str, key: Key, refused: str = "") -> None:
        if full:
            raise full.pop()
        note(folder, target, key, refused)

    monkeypatch.setattr("delivery.attempts.note", refusing)
    shelf = Shelf()
    outbox = Outbox(tmp_path)
    service = DeliveryService(settings, [shelf], outbox, Backoff(0.01, 0.05))
    assert await service.drain(SOON)
    await service.aclose()
    await outbox.aclose()
    assert len(shelf.items) == 4, "twice more; the target has it once"
    assert len((tmp_path / "math" / DELIVERED).read_bytes().splitlines()) == 2


def test_without_targets_age_alone_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delivery.retention.QUIET_SECONDS", -1)
    settings = settings_for(tmp_path, RETENTION_DAYS="30", KEEP_LOCAL="until_delivered")
    spoken(settings, "math", 2)
    (tmp_path / "math" / "notes.doc").write_text("not ours")
    rules = Rules(settings, [])
    assert not rules.leaving(tmp_path / "math", NOW + timedelta(days=29)).files
    leaving = rules.leaving(tmp_path / "math", NOW + timedelta(days=31))
    assert leaving.is_whole
    remove_leaving(leaving)
    assert [path.name for path in (tmp_path / "math").iterdir()] == ["notes.doc"]


def test_what_waits_for_its_text_stays(tmp_path: Path) -> None:
    environ = {"RETENTION_DAYS": "30", "SAVE_TRANSLATIONS": "true", "GEMINI_API_KEY": "x"}
    settings = settings_for(tmp_path, **environ)
    records = spoken(settings, "math", 2)
    with_texts(tmp_path / "math", records[:1])
    leaving = Rules(settings, []).leaving(tmp_path / "math", NOW + timedelta(days=31))
    assert [file for file in leaving.files if file.endswith(".wav")] == [records[0].file]


async def test_what_has_left_the_target_does_not_return(tmp_path: Path) -> None:
    """The lists here still have it, and the record of what was delivered may be lost."""
    settings = settings_for(tmp_path, REMOTE_RETENTION_DAYS="30")
    old = spoken(settings, "math", 1, at=datetime.now(UTC) - timedelta(days=31))
    new = spoken(settings, "math", 1, at=datetime.now(UTC) - timedelta(days=29))
    folder, shelf = tmp_path / "math", Shelf()
    with_texts(folder, old + new)
    with_gap(folder, old[0])
    with_gap(folder, new[0])
    assert await deliver(settings, shelf)
    of_segments = [item for item in shelf.items if isinstance(item, (AudioItem, TextItem))]
    assert {item.record.file for item in of_segments} == {new[0].file}
    lists = shelf.items[-1]
    assert isinstance(lists, ListsItem)
    delivered = await delivered_lists(lists, tmp_path.with_name(f"{tmp_path.name}-shelf"))
    for name in ("segments.jsonl", "texts.jsonl", "gaps.jsonl"):
        (line,) = delivered[name]
        assert new[0].to_json()["start"].encode() in line
    for rules_for, may_go in (("40", False), ("20", True)):
        both = settings_for(tmp_path, REMOTE_RETENTION_DAYS="30", RETENTION_DAYS=rules_for)
        files = Rules(both, [shelf.name]).leaving(folder, datetime.now(UTC)).files
        assert (old[0].file in files) is may_go, "no target is to have it any more"


def test_what_was_exported_goes_with_its_lesson(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, RETENTION_DAYS="30")
    folder, elsewhere = tmp_path / "math", tmp_path / "elsewhere"
    elsewhere.mkdir()
    spoken(settings, "math", 1)
    for target, name, ended_at in (
        (folder, "lesson_20260105_090000.html", NOW),
        (folder, "lesson_20260125_090000.html", NOW + timedelta(days=20)),
        (elsewhere, "lesson_20260105_090000.html", NOW),
    ):
        note_export(folder, target, ended_at, {name: b"words"})
        (target / name).write_bytes(b"words")
    (folder / "lesson.de.vtt").write_text("by an older version")
    os.utime(folder / "lesson.de.vtt", (NOW.timestamp(), NOW.timestamp()))
    (folder / "lesson.pdf").write_text("of somebody else")
    os.utime(folder / "lesson.pdf", (NOW.timestamp(), NOW.timestamp()))
    leaving = Rules(settings, []).leaving(folder, NOW + timedelta(days=31))
    assert sorted(leaving.exports) == ["lesson.de.vtt"] + ["lesson_20260105_090000.html"] * 2
    remove_leaving(leaving)
    left = sorted(path.name for path in folder.iterdir() if path.name.startswith("lesson"))
    assert left == ["lesson.pdf", "lesson_20260125_090000.html"]
    assert not list(elsewhere.iterdir())


def test_one_file_that_stays_keeps_its_lines_and_no_other_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("delivery.retention.QUIET_SECONDS", -1)
    settings = settings_for(tmp_path, RETENTION_DAYS="30")
    stays = spoken(settings, "art", 3)[1].file
    spoken(settings, "math", 1)
    unlink = Path.unlink

    def refusing(path: Path, missing_ok: bool = False) -> None:
        if path.name == stays and path.parent.name == "art":
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path, missing_ok)

    housekeeping = Housekeeping(settings, [], is_complete=True)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refusing)
        housekeeping._look_after_the_disk()
    assert "art cannot be removed now" in caplog.text
    assert [path.name for path in tmp_path.glob("*/*.wav")] == [stays]
    assert (tmp_path / "art" / "segments.jsonl").exists()
    Housekeeping(settings, [], is_complete=True)._look_after_the_disk()
    assert not list(tmp_path.glob("*/*.wav"))


def test_a_room_that_is_being_recorded_keeps_its_lists(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, RETENTION_DAYS="30")
    spoken(settings, "math", 2)
    leaving = Rules(settings, []).leaving(tmp_path / "math", NOW + timedelta(days=31))
    assert len(leaving.files) == 2
    assert not leaving.lines, "something has happened here within the hour"


def whole_folder_that_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Settings, Leaving]:
    """An old lesson of which everything may be removed."""
    monkeypatch.setattr("delivery.retention.QUIET_SECONDS", -1)
    settings = settings_for(tmp_path, RETENTION_DAYS="30")
    spoken(settings, "math", 2)
    leaving = Rules(settings, []).leaving(tmp_path / "math", NOW + timedelta(days=31))
    assert leaving.is_whole
    return settings, leaving


def test_a_lesson_that_begins_while_an_old_folder_goes_keeps_its_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, leaving = whole_folder_that_goes(tmp_path, monkeypatch)
    (begun,) = spoken(settings, "math", 1, at=NOW + timedelta(days=31))
    remove_leaving(leaving)
    assert [record.file for record in read_manifest(tmp_path / "math")] == [begun.file]


def test_an_empty_folder_stays_while_its_room_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, leaving = whole_folder_that_goes(tmp_path, monkeypatch)
    (tmp_path / "math" / HANDOVER_NOTE).write_text("{}")
    remove_leaving(leaving)
    assert (tmp_path / "math" / HANDOVER_NOTE).exists()
    os.utime(tmp_path / "math" / HANDOVER_NOTE, (0, 0))
    remove_leaving(leaving)
    assert not (tmp_path / "math").exists()


def test_empty_lists_that_an_interruption_has_left_go_with_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, leaving = whole_folder_that_goes(tmp_path, monkeypatch)
    for file in leaving.files:
        (leaving.folder / file).unlink()
    remove_lines(leaving.folder, leaving.lines, lambda gap: True)
    foreign = tmp_path / "theirs"
    foreign.mkdir()
    (foreign / MANIFEST).touch()
    rules, later = Rules(settings, []), NOW + timedelta(days=31)
    assert rules.leaving(foreign, later).is_nothing
    left = rules.leaving(leaving.folder, later)
    assert left.is_whole and not left.is_nothing
    remove_leaving(left)
    assert left.is_gone and not leaving.folder.exists()


def test_a_file_that_a_crash_has_left_keeps_no_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delivery.retention.QUIET_SECONDS", -1)
    settings = settings_for(tmp_path, RETENTION_DAYS="30")
    (record, *_) = spoken(settings, "math", 2)
    for name in (".proof-0a1b2c3d.part", ".proof-0a1b2c3d", f"{Path(record.file).stem}_en.txt.part"):
        (tmp_path / "math" / name).write_bytes(b"left")
    leaving = Rules(settings, []).leaving(tmp_path / "math", NOW + timedelta(days=31))
    assert leaving.is_whole
    remove_leaving(leaving)
    assert not (tmp_path / "math").exists()


@pytest.mark.parametrize("by_command", [False, True])
async def test_a_room_that_comes_back_after_its_folder_went_is_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_command: bool
) -> None:
    """Also where a segment has the name of one that has gone: numbers begin anew."""
    monkeypatch.setattr("delivery.retention.QUIET_SECONDS", -1)
    settings, shelf = settings_for(tmp_path, RETENTION_DAYS="30"), Shelf()
    (before,) = spoken(settings, "math", 1)
    assert await deliver(settings, shelf)
    if by_command:
        assert (await run_in_thread("prune", output_dir=tmp_path, RETENTION_DAYS="30")).code == 0
    else:
        housekeeping = asyncio.create_task(Housekeeping(settings, [], is_complete=True).run())
        kind = "delivery shelf"
        await until(lambda: state_of(tmp_path, before.file, kind, "math") is None, "it is forgotten", SOON)
        housekeeping.cancel()
    assert not (tmp_path / "math").exists()
    (after,) = spoken(settings, "math", 1)
    assert after.file == before.file
    assert await deliver(settings, shelf)
    assert [item.record.sha256 for item in shelf.items if isinstance(item, AudioItem)] == [
        before.sha256,
        after.sha256,
    ]


def test_the_warning_comes_early_and_not_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    housekeeping = Housekeeping(settings_for(tmp_path), [], is_complete=True)
    for percent, warnings in ((50, 0), (11, 0), (9, 1), (8, 1), (4, 2), (3, 2), (30, 2), (9, 3)):
        usage = Usage(100 * 2**30, 0, percent * 2**30)
        monkeypatch.setattr(shutil, "disk_usage", lambda path, usage=usage: usage)
        housekeeping._look_after_the_disk()
        assert caplog.text.count("The disk is nearly full") == warnings, f"at {percent} %"


def test_a_delivery_log_with_incomplete_and_invalid_lines_is_read(tmp_path: Path) -> None:
    note(tmp_path, "a", Key("one.wav", "1"))
    with (tmp_path / DELIVERED).open("ab") as file:
        file.write(b'[1]\n{"item": "x"}\n\xff\n{"target": "a", "item": "tor')
    note(tmp_path, "a", Key("two.wav", "2"), "too large")
    note(tmp_path, "b", Key("two.wav", "2"))
    delivery_log = DeliveryLog(tmp_path)
    assert delivery_log.is_delivered("a", Key("one.wav", "1"))
    assert not delivery_log.is_settled("a", Key("one.wav", "other content"))
    assert delivery_log.is_settled("a", Key("two.wav", "2"))
    assert not delivery_log.is_delivered("a", Key("two.wav", "2"))
    forget(tmp_path, only_refused=True)
    delivery_log = DeliveryLog(tmp_path)
    assert not delivery_log.is_settled("a", Key("two.wav", "2"))
    assert delivery_log.is_delivered("b", Key("two.wav", "2"))
    forget(tmp_path, items={"two.wav"})
    assert not DeliveryLog(tmp_path).is_settled("b", Key("two.wav", "2"))
    assert DeliveryLog(tmp_path).is_delivered("a", Key("one.wav", "1"))
    if sys.platform != "win32":
        assert (tmp_path / DELIVERED).stat().st_mode & 0o777 == 0o600
