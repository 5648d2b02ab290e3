"""Work for one segment does not grow with what lies in its folder or beside it: counted, not timed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from archive import folder_watch, jsonl, line_index, orphans
from archive.delivery_log import DELIVERED, audio_key, note, text_key
from archive.folder_texts import FolderTexts
from archive.folder_watch import FolderWatch
from archive.handover_note import RoomProgress
from archive.jsonl import encoded, end_of
from archive.manifest_reader import ManifestReader
from archive.names import GAPS, HANDOVER_NOTE, MANIFEST, TEXTS
from config import Settings
from core.records import SegmentRecord, utc_now
from core.text_records import TextRecord
from delivery.item_reader import ItemReader, key_of_lists
from delivery.retention import Rules
from devtools.sample_room import open_room
from support.counting import lines_read
from support.delivering import opened
from support.segment_records import segment
from text.results import TextFolders

SIZES = (20, 400)
TARGET = "shelf"


def text_of(record: SegmentRecord) -> TextRecord:
    said = f"Sentence {record.number}."
    return TextRecord(record.number, record.file, record.end, record.start, "anna", "en", said)


def old_room(folder: Path, segments: int) -> Path:
    """A room whose segments have their texts and are delivered."""
    folder.mkdir(parents=True)
    records = [segment(number) for number in range(1, segments + 1)]
    texts = [text_of(record) for record in records]
    keys = [key for pair in zip(map(audio_key, records), map(text_key, texts), strict=True) for key in pair]
    (folder / MANIFEST).write_bytes(b"".join(encoded(record.to_json()) for record in records))
    (folder / TEXTS).write_bytes(b"".join(encoded(text.to_json()) for text in texts))
    (folder / DELIVERED).write_bytes(
        b"".join(encoded({"target": TARGET, "item": key.item, "sha256": key.sha256}) for key in keys)
    )
    return folder


def add_segment(folder: Path) -> SegmentRecord:
    number = (folder / MANIFEST).read_bytes().count(b"\n") + 1
    with (folder / MANIFEST).open("ab") as file:
        file.write(encoded(segment(number).to_json()))
    return segment(number)


def test_a_text_reads_as_many_lines_in_a_room_of_any_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    for size in SIZES:
        folder = old_room(tmp_path / str(size) / "math101", size)
        texts = FolderTexts(folder)
        assert texts.save(text_of(add_segment(folder)))  # reads everything once
        record = add_segment(folder)
        with lines_read(monkeypatch) as read:
            assert not FolderTexts(folder).has(record), "nor after a restart of the worker"
            assert texts.spoken_languages() == ("en",)
            assert texts.save(text_of(record))
            assert not texts.save(text_of(record))
        counts.append(read())
    assert counts[0] == counts[1] <= 10


async def test_a_delivery_reads_as_many_lines_in_a_room_of_any_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    for size in SIZES:
        folder = old_room(tmp_path / str(size) / "math101", size)
        settings = Settings(output_dir=str(folder.parent))
        texts = FolderTexts(folder)
        assert texts.has(segment(1))  # reads everything once
        async with opened(folder.parent) as outbox:
            reader = ItemReader(settings, outbox, TARGET, "delivery")
            await reader.look(with_lists=True)
            assert (await outbox.backlog("delivery")).count == 1, "only the lists are not delivered yet"
            record = add_segment(folder)
            with lines_read(monkeypatch) as read:
                assert await reader.look_at(["math101"])
                assert texts.save(text_of(record))
                assert await reader.look_at(["math101"])
            counts.append(read())
            assert (await outbox.backlog("delivery")).count == 3
    assert counts[0] == counts[1] <= 20


async def test_a_first_start_opens_a_long_list_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    open_regular = jsonl.open_regular
    for size in SIZES:
        folder = old_room(tmp_path / str(size) / "math101", size)
        count = 0

        def counted(path: Path) -> IO[bytes] | None:
            nonlocal count
            count += 1
            return open_regular(path)

        for module in (jsonl, line_index):
            monkeypatch.setattr(module, "open_regular", counted)
        async with opened(folder.parent) as outbox:
            unfinished = TextFolders(folder.parent).unfinished
            await ManifestReader(outbox, folder.parent, "text", unfinished).look_everywhere()
            settings = Settings(output_dir=str(folder.parent))
            await ItemReader(settings, outbox, TARGET, "delivery").look(with_lists=False)
            assert (await outbox.backlog("text")).count == 0
            assert (await outbox.backlog("delivery")).count == 1, "only the lists are not delivered yet"
        counts.append(count)
    assert counts[1] <= counts[0] + 2 <= 20, "once for some hundred lines"


def test_rooms_in_which_nothing_happens_are_looked_at_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    monkeypatch.setattr(folder_watch, "COARSE_SECONDS", -1.0)
    for number in range(60):
        (tmp_path / f"old {number}").mkdir()
        (tmp_path / f"old {number}" / MANIFEST).write_text("")
        os.utime(tmp_path / f"old {number}" / MANIFEST, (0, 0))
    (tmp_path / "in use").mkdir()
    (tmp_path / "in use" / MANIFEST).write_text("")
    watch = FolderWatch(tmp_path, (MANIFEST,))
    assert len(watch.due()) == 61, "at first all"
    seen: set[str] = set()
    for _ in range(31):
        clock += 2.0
        due = watch.due()
        assert "in use" in due and len(due) <= 1 + 3
        seen |= due
    assert len(seen) == 61, "all within a minute"
    (tmp_path / "new").mkdir()
    clock += 2.0
    assert "new" in watch.due()
    os.utime(tmp_path / "old 7" / MANIFEST)
    for _ in range(31):
        clock += 2.0
        due = watch.due()
    assert {"in use", "old 7", "new"} <= due
    assert len(watch.due(everything=True)) == 62
    clock += folder_watch.ACTIVE_SECONDS
    for file in (tmp_path / "in use" / MANIFEST, tmp_path / "old 7" / MANIFEST):
        os.utime(file, (0, 0))
    watch.due()
    assert watch.due() == set()


def test_a_room_that_is_joined_reads_no_old_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the end of its manifest, if no crash has left anything."""
    folder = open_room(tmp_path)
    monkeypatch.setattr("archive.manifest.LAST_BYTES", 4_000)
    counts = []
    for size in SIZES:
        old_room(tmp_path / "old", size)
        for path in (tmp_path / "old").iterdir():
            path.replace(folder.path / path.name)
        (tmp_path / "old").rmdir()
        for number in range(1, size + 1):
            (folder.path / segment(number).file).touch()
        with lines_read(monkeypatch) as read:
            joined = open_room(tmp_path)
            assert joined.recover() == []
            joined.handover.write(RoomProgress(utc_now(), {}))
        counts.append(read())
    assert counts[0] == counts[1] <= 12


async def test_a_worker_that_starts_beside_many_rooms_asks_the_outbox_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    transactions = count = 0
    for rooms in (2, 20):
        folder = tmp_path / str(rooms)
        for number in range(rooms):
            room = old_room(folder / f"room {number}", 2)
            lists = key_of_lists(*(end_of(room / name) for name in (MANIFEST, TEXTS, GAPS)))
            note(room, TARGET, lists)
        settings = Settings(output_dir=str(folder))
        for _ in range(2):  # a first start, and another one
            transactions = 0
            async with opened(folder) as outbox:
                transaction = outbox._file.transaction

                def counted(body: Callable[[], Any], run: Callable[..., Any] = transaction) -> Any:
                    nonlocal transactions
                    transactions += 1
                    return run(body)

                monkeypatch.setattr(outbox._file, "transaction", counted)
                await ItemReader(settings, outbox, TARGET, "delivery").look(with_lists=False)
                await ManifestReader(outbox, folder, "text", lambda folder, segments: ()).look_everywhere()
                count = transactions
        counts.append(count)
    assert counts[0] == counts[1] <= 6


def test_what_has_just_been_delivered_is_found_by_the_files_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    for size in SIZES:
        folder = old_room(tmp_path / str(size) / "math101", size)
        settings = Settings(output_dir=str(folder.parent), keep_local="until_delivered")
        rules = Rules(settings, [TARGET])
        (folder / segment(7).file).write_bytes(b"sound")
        (folder / "of somebody else.wav").touch()
        (folder / add_segment(folder).file).touch()  # it is not delivered
        expected = rules.leaving(folder, utc_now())
        assert rules.leaving_early(folder).files == expected.files == (segment(7).file,)
        with lines_read(monkeypatch) as read:
            assert rules.leaving_early(folder).bytes == 5
        counts.append(read())
    assert counts[0] == counts[1] == 0
    assert not Rules(settings, [TARGET, "another target"]).leaving_early(folder).files
    assert not Rules(settings, [TARGET], is_complete=False).leaving_early(folder).files
    assert not Rules(Settings(output_dir=str(folder.parent)), [TARGET]).leaving_early(folder).files


def test_of_rooms_that_are_over_only_the_age_of_their_notes_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        (tmp_path / f"room {number}").mkdir()
        (tmp_path / f"room {number}" / HANDOVER_NOTE).write_text("{}")
        os.utime(tmp_path / f"room {number}" / HANDOVER_NOTE, (0, 0))
    (tmp_path / "in use").mkdir()
    (tmp_path / "in use" / HANDOVER_NOTE).write_text("{}")
    looked_at: list[str] = []
    monkeypatch.setattr(orphans, "_orphan_in", lambda folder, name: looked_at.append(folder.name))
    assert list(orphans.find_orphans(tmp_path, "")) == []
    assert looked_at == ["in use"]
