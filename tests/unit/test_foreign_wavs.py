"""WAVs in a room's folder that are not the recorder's: not sent, not transcribed, not moved, not erased."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from archive.rooms import Room
from archive.wav import wav_header
from core.records import SegmentRecord
from delivery.folder_store import set_up
from delivery.items import Selection
from delivery.object_store import ObjectTarget
from devtools.sample_room import ANNA, CLOCK, noise, open_room, segment_of, settings_for
from lesson_tools.transcription import TranscriptionOptions, tasks_of
from storage import RoomFolder
from support.commands import run

FOREIGN = ("whole lesson.wav", "half copied.wav")


@pytest.fixture
def folder(tmp_path: Path) -> RoomFolder:
    folder = open_room(tmp_path / "segments")
    part = folder.begin(ANNA, CLOCK, 0, 0)
    part.commit(segment_of(noise(16_000)))
    add_foreign(folder.path)
    return folder


def add_foreign(folder: Path) -> None:
    whole = wav_header(16_000) + bytes(32_000)
    (folder / FOREIGN[0]).write_bytes(whole)
    (folder / FOREIGN[1]).write_bytes(whole[:20_000])


def foreign_in(folder: Path) -> list[str]:
    return [name for name in FOREIGN if (folder / name).exists()]


def test_they_are_no_segments_and_no_fault(tmp_path: Path, folder: RoomFolder) -> None:
    before = [(folder.path / name).read_bytes() for name in FOREIGN]
    assert open_room(tmp_path / "segments").recover() == []
    assert run("check", "--repair", output_dir=tmp_path / "segments").code == 0
    assert len(list(Room(folder.path).records())) == 1
    assert [(folder.path / name).read_bytes() for name in FOREIGN] == before


def test_they_are_not_transcribed(folder: RoomFolder) -> None:
    options = TranscriptionOptions("model", ("es",))
    assert [task.record.number for task in tasks_of(Room(folder.path), options)] == [1]


def test_a_room_that_is_erased_leaves_them(folder: RoomFolder) -> None:
    assert run("erase", "math101", "--yes", output_dir=folder.path.parent).code == 0
    assert sorted(path.name for path in folder.path.iterdir()) == sorted(FOREIGN)


def test_a_room_that_is_erased_in_a_store_leaves_them(tmp_path: Path, folder: RoomFolder) -> None:
    store = tmp_path / "store"
    (store / "math101").mkdir(parents=True)
    set_up(store)
    add_foreign(store / "math101")
    for path in folder.path.iterdir():
        (store / "math101" / path.name).write_bytes(path.read_bytes())
    (store / "math101" / "segment_009_20251008_150000.wav").write_bytes(
        wav_header(0)
    )  # its line is not there yet
    target = ObjectTarget.at_store_url(settings_for(tmp_path, store_url=store.as_uri()))
    known: dict[str, list[SegmentRecord]] = {}
    assert asyncio.run(target.remove(Selection(room="math101"), known)) == 2
    assert foreign_in(store / "math101") == list(FOREIGN)
    assert not list((store / "math101").glob("segment_*"))
