"""Manifests into the outbox: every line once, however long the manifest is and however it changes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from archive import outbox
from archive.manifest_reader import ManifestReader
from archive.names import MANIFEST
from archive.outbox import Order, Outbox
from archive.outbox_file import OUTBOX
from core.records import SegmentRecord
from support.delivering import opened
from support.disk import needs_posix
from support.segment_records import segment


def commit(folder: Path, *numbers: int) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / MANIFEST).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(segment(number).to_json()) + "\n" for number in numbers)


async def waiting(box: Outbox) -> list[tuple[str, int]]:
    works = await box.claim("text", Order.NEWEST_FIRST, 10_000)
    return sorted((work.folder, SegmentRecord.from_json(work.payload).number) for work in works)


def everything(folder: str, segments: Sequence[SegmentRecord]) -> Sequence[SegmentRecord]:
    return segments


def only_even(folder: str, segments: Sequence[SegmentRecord]) -> Sequence[SegmentRecord]:
    return [segment for segment in segments if segment.number % 2 == 0]


async def test_every_line_of_every_room_is_added_once(tmp_path: Path) -> None:
    commit(tmp_path / "a", 1, 2)
    commit(tmp_path / "b", 1)
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "empty").mkdir()
    async with opened(tmp_path) as box:
        reader = ManifestReader(box, tmp_path, "text", everything)
        await reader.look_everywhere()
        assert await waiting(box) == [("a", 1), ("a", 2), ("b", 1)]
        commit(tmp_path / "a", 3)
        assert await reader.look_at(["a"])
        assert not await reader.look_at(["a", "b", "not there"])
        assert await waiting(box) == [("a", 3)]
        commit(tmp_path / "b", 2)
        await reader.look_everywhere()
        assert await waiting(box) == [("b", 2)]
    async with opened(tmp_path) as box:
        await ManifestReader(box, tmp_path, "text", everything).look_everywhere()
        assert len(await waiting(box)) == 5, "given back, and not added again"


async def test_only_what_is_wanted_is_added(tmp_path: Path) -> None:
    commit(tmp_path / "a", 1, 2, 3, 4)
    async with opened(tmp_path) as box:
        reader = ManifestReader(box, tmp_path, "text", only_even)
        await reader.look_everywhere()
        assert await waiting(box) == [("a", 2), ("a", 4)]


async def test_a_long_manifest_is_read_to_its_end(tmp_path: Path) -> None:
    commit(tmp_path / "a", *range(1, 5_001))
    async with opened(tmp_path) as box:
        await ManifestReader(box, tmp_path, "text", everything).look_everywhere()
        assert (await box.backlog("text")).count == 5_000


async def test_what_has_no_room_comes_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAX_WAITING", 3)
    commit(tmp_path / "a", 1, 2, 3)
    commit(tmp_path / "b", 1, 2)
    async with opened(tmp_path) as box:
        reader = ManifestReader(box, tmp_path, "text", everything)
        await reader.look_everywhere()
        seen = []
        for _ in range(3):
            works = await box.claim("text", Order.NEWEST_FIRST, 10)
            seen += [(work.folder, work.file) for work in works]
            for work in works:
                await box.done(work)
            await reader.look_everywhere()
        assert len(seen) == len(set(seen)) == 5


async def test_lines_that_are_not_ours_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    commit(tmp_path / "a", 1)
    bad = [
        "",
        "{",
        "[]",
        json.dumps({**segment(2).to_json(), "file": "../x.wav"}),
        json.dumps({**segment(2).to_json(), "file": "..\\x.wav"}),
        json.dumps({**segment(2).to_json(), "caption_languages": 5}),
        json.dumps({**segment(2).to_json(), "file": "\udc80.wav"}),
    ]
    with (tmp_path / "a" / MANIFEST).open("a") as file:
        file.writelines(line + "\n" for line in bad)
    commit(tmp_path / "a", 3)
    async with opened(tmp_path) as box:
        await ManifestReader(box, tmp_path, "text", everything).look_everywhere()
        assert await waiting(box) == [("a", 1), ("a", 3)]
    assert caplog.text.count("is broken and was skipped") == len(bad)


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode elsewhere")
async def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    commit(tmp_path / "a", 1)
    commit(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")), 1)
    async with opened(tmp_path) as box:
        await ManifestReader(box, tmp_path, "text", everything).look_everywhere()
        assert await waiting(box) == [("a", 1)]


async def test_a_rewritten_manifest_is_read_from_its_beginning(tmp_path: Path) -> None:
    commit(tmp_path / "a", 1, 2)
    async with opened(tmp_path) as box:
        reader = ManifestReader(box, tmp_path, "text", everything)
        await reader.look_everywhere()
        (tmp_path / "a" / MANIFEST).unlink()
        await reader.look_everywhere()
        commit(tmp_path / "a", 2, 3)
        await reader.look_everywhere()
        assert await waiting(box) == [("a", 1), ("a", 2), ("a", 3)]


@needs_posix
async def test_a_lost_outbox_is_noticed(tmp_path: Path) -> None:
    commit(tmp_path / "a", 1, 2)
    async with opened(tmp_path) as box:
        reader = ManifestReader(box, tmp_path, "text", everything)
        await reader.look_everywhere()
        assert len(await waiting(box)) == 2
        for path in tmp_path.glob(OUTBOX + "*"):
            path.unlink()
        await reader.look_everywhere()
        assert await waiting(box) == [("a", 1), ("a", 2)]
