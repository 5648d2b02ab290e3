"""`lessons.py erase` on this disk: what it refuses, what it removes, and that nothing brings it back."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archive.folder_texts import FolderTexts
from archive.manifest import read_gaps, read_manifest
from archive.names import SegmentNames
from archive.outbox import Order
from archive.recovery import recover_folder
from archive.rooms import Room
from archive.tombstones import begin, complete, erasures_in
from audio_processor import Closed, Grown, Opened
from config import Settings
from core.records import (
    EndReason,
    GapReason,
    GapRecord,
    RoomInfo,
    SegmentRecord,
    SpeechSegment,
    StreamClock,
    utc_now,
)
from core.text_records import Translation
from delivery.item_reader import ItemReader
from delivery.items import ListsItem, Selection
from devtools.room_folders import until
from lesson_tools.batches import ERASED_ITEM, note_in
from lesson_tools.export import command, contents
from recording.segment_writer import SegmentWriter
from storage import PartFile, RoomFolder, SegmentErased
from support.commands import run
from support.delivering import delivered_lists, opened
from support.lessons_on_disk import BEN, NOW, TRACK, spoken, with_gap, with_texts
from text.results import save_refusal, save_text
from translator import TextResult, Usage


def settings_for(folder: Path, **more: str) -> Settings:
    return Settings.from_env({"OUTPUT_DIR": str(folder), **more}, for_worker=False)


def sounds(folder: Path) -> list[str]:
    return sorted(f"{path.parent.name}/{path.name}" for path in folder.glob("*/*.wav"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Anna in two rooms, Ben in one of them."""
    settings = settings_for(tmp_path)
    spoken(settings, "math", 2)
    spoken(settings, "math", 1, track=BEN)
    spoken(settings, "art", 1)
    return tmp_path


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Name a room"),
        ([""], "name of the room is empty"),
        ([" \t"], "name of the room is empty"),
        (["math", ""], "name of the room is empty"),
        (["math", "--participant", ""], "name of the participant is empty"),
        (["math", "--participant", "  "], "name of the participant is empty"),
        (["--participant", ""], "name of the participant is empty"),
        (["*"], "no wild cards"),
        (["m?th"], "no wild cards"),
        (["math", "--participant", "*"], "no wild cards"),
        (["mathematics"], "Nothing is known of 'mathematics'"),
        (["math", "--participant", "carl"], "Nothing is known of 'math', 'carl'"),
        (["math", "art"], "needs --all"),
        (["--participant", "anna"], "needs --all"),
        (["--participant", "anna", "--all", "--count", "4"], "There are 3 segments, not 4"),
    ],
)
def test_a_name_that_could_mean_more_is_refused(archive: Path, arguments: list[str], said: str) -> None:
    before = sounds(archive)
    done = run("erase", *arguments, "--yes", output_dir=archive)
    assert (done.code, said in done.err) == (2, True), done.err
    assert sounds(archive) == before


def test_a_selection_of_everything_cannot_be_made() -> None:
    for names in ((), ("",), (" ",), ("math", "\n")):
        with pytest.raises(ValueError, match="everything"):
            Selection(*names)


def test_more_than_one_room_needs_the_number_typed_back(archive: Path) -> None:
    before = sounds(archive)
    done = run("erase", "--participant", "anna", "--all", "--yes", output_dir=archive)
    assert (done.code, "Nothing was done" in done.err) == (1, True), "nobody has typed it"
    assert sounds(archive) == before
    done = run("erase", "--participant", "anna", "--all", "--dry-run", "--json", output_dir=archive)
    assert (done.code, sounds(archive)) == (0, before)
    found = json.loads(done.out)
    assert {one["folder"]: one["segments"] for one in found["local"]} == {"art": 1, "math": 2}
    done = run("erase", "--participant", "anna", "--all", "--count", "3", output_dir=archive)
    assert done.code == 0, done.err
    assert [name.partition("/")[0] for name in sounds(archive)] == ["math"]


# --- what is removed ---


def everything_in(*folders: Path) -> bytes:
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return b"\n".join(path.name.encode() + b"\n" + path.read_bytes() for path in files)


def media_of(output_dir: Path, room: str, records: list[SegmentRecord]) -> dict[str, bytes]:
    """The WAVs and text files of these segments."""
    stems = {Path(record.file).stem for record in records}
    return {
        f"{room}/{path.name}": path.read_bytes()
        for stem in stems
        for path in (output_dir / room).glob(f"{stem}*")
    }


def test_a_room_goes_with_all_that_was_made_of_it(tmp_path: Path) -> None:
    settings, shared = settings_for(tmp_path / "out"), tmp_path / "shared"
    records = spoken(settings, "math", 2)
    folder = tmp_path / "out" / "math"
    with_texts(folder, records)
    with_gap(folder, records[0])
    assert run("export", "math", output_dir=tmp_path / "out").code == 0
    assert run("export", "math", "--embed", "--to", str(shared), output_dir=tmp_path / "out").code == 0
    (shared / "lesson.txt").write_text("of somebody else")
    (folder / "segments.jsonl.broken").write_text("torn")
    (folder / ".heard").write_text("{}")
    os.utime(folder / ".heard", (0, 0))
    (folder / "segment_003_20260105_090500_en.txt.part").write_text("left by a crash")
    assert (shared / "lesson.html").exists()
    done = run("erase", "math", "--yes", "--json", output_dir=tmp_path / "out")
    assert done.code == 0, done.err
    receipt = json.loads(done.out)
    assert (receipt["segments_here"], receipt["is_complete"]) == (2, True)
    assert not folder.exists()
    assert [path.name for path in shared.iterdir()] == ["lesson.txt"]


def test_the_receipt_names_nobody(archive: Path) -> None:
    assert run("erase", "math", "--participant", "anna", "--yes", output_dir=archive).code == 0
    receipt = json.loads((archive / "erased.json").read_text())["erasures"][0]
    assert (receipt["segments_here"], receipt["is_complete"]) == (2, True)
    assert not [name for name in ("anna", "Anna", "math") if name in json.dumps(receipt)]


def test_of_one_person_nothing_is_left_and_of_others_everything(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    annas = spoken(settings, "math", 2) + spoken(settings, "art", 1)
    bens = spoken(settings, "math", 2, track=BEN)
    for room, records in (("math", [*annas[:2], *bens]), ("art", annas[2:])):
        with_texts(tmp_path / room, records)
    carls = spoken(settings, "music", 1, track=BEN)
    with_gap(tmp_path / "music", annas[0])  # she has said nothing there
    with_gap(tmp_path / "math", bens[0])
    batches = tmp_path / ".batches"
    batches.mkdir()
    note = {"model": "m", "is_forced": False, "languages": [], "name": "batches/1"}
    items = [("math", one.to_json()) for one in (annas[0], bens[0])]
    (batches / "b.json").write_text(json.dumps({**note, "id": "b", "items": items}))
    (batches / "a.json").write_text(json.dumps({**note, "id": "a", "items": items[:1]}))
    torn = json.dumps(annas[0].to_json())[:-30] + "\n"
    for name in ("segments.jsonl", "segments.jsonl.broken"):
        with (tmp_path / "math" / name).open("a") as file:
            file.write(torn)
    before = media_of(tmp_path, "math", bens) | media_of(tmp_path, "music", carls)
    assert run("search", "number", output_dir=tmp_path).code == 0
    done = run("erase", "--participant", "anna", "--all", "--count", "3", output_dir=tmp_path)
    assert done.code == 0, done.err
    assert b"anna" not in everything_in(tmp_path)
    assert media_of(tmp_path, "math", bens) | media_of(tmp_path, "music", carls) == before
    assert len(list(tmp_path.glob("m*/*.wav")) + list(tmp_path.glob("m*/*.txt"))) == len(before) == 7
    assert not (tmp_path / "art").exists()
    assert [path.name for path in batches.iterdir()] == ["b.json"]
    assert note_in("b", json.loads((batches / "b.json").read_text())).items == (ERASED_ITEM, items[1])
    assert "music: 1 segment, 0:00 of speech, in order" in run("check", output_dir=tmp_path).out


def test_what_cannot_be_removed_is_said_and_goes_with_the_next_run(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink, refused = Path.unlink, sounds(archive)[1]

    def refusing(path: Path, missing_ok: bool = False) -> None:
        if str(path).endswith(refused):
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refusing)
        done = run("erase", "math", "--yes", output_dir=archive)
    assert (done.code, f"{refused} cannot be removed" in done.err) == (1, True)
    assert sounds(archive) == [name for name in sounds(archive) if name.startswith("art/") or name == refused]
    assert next(Room(archive / "math").records(), None) is None, "it is being erased"
    assert run("erase", "math", "--yes", output_dir=archive).code == 0
    assert not (archive / "math").exists()
    assert all(one.is_complete for one in erasures_in(archive))


# --- nothing brings it back ---


def begun(settings: Settings, at: datetime) -> PartFile:
    folder = RoomFolder.open(settings, RoomInfo("math", "RM_math", at))
    return folder.begin(TRACK, StreamClock(at), 0, 0)


def heard(samples: int = 8_000) -> SpeechSegment:
    return SpeechSegment(0, 0, np.ones(samples, np.int16), 0.9, 0.5, EndReason.PAUSE)


def test_a_segment_that_is_being_spoken_is_not_kept_and_the_next_one_is(archive: Path) -> None:
    settings = settings_for(archive)
    part = begun(settings, utc_now())
    part.append(np.ones(8_000, np.int16))
    done = run("erase", "math", "--participant", "anna", "--yes", output_dir=archive)
    assert done.code == 0, done.err
    with pytest.raises(SegmentErased):
        part.commit(heard())
    assert [record.participant_identity for record in read_manifest(archive / "math")] == ["ben"]
    assert not list((archive / "math").glob(".segment*")) + list((archive / "math").glob("*.part"))
    begun(settings, utc_now()).commit(heard())
    assert [record.participant_identity for record in read_manifest(archive / "math")] == ["ben", "anna"]


async def test_the_recorder_goes_on_after_an_erased_segment(tmp_path: Path) -> None:
    room = SegmentWriter(settings_for(tmp_path), RoomInfo("math", "RM_math", utc_now()))
    sink, clock = room.sink(TRACK), StreamClock(utc_now() - timedelta(seconds=60))
    sink.take(Opened(0, 0), clock)
    sink.take(Grown(0, heard().pcm), clock)
    await until(lambda: list(tmp_path.glob("math/*.part")), "it is being written", 10)
    begin(tmp_path, ["math"], "anna")
    sink.take(Closed(heard()), clock)
    sink.take(Closed(heard()), StreamClock(utc_now() + timedelta(seconds=1)))
    totals = await room.aclose()
    assert (totals.segments, totals.lost_seconds) == (1, 0)
    assert len(list(tmp_path.glob("math/*.wav"))) == len(list(read_manifest(tmp_path / "math"))) == 1


def test_what_a_crash_has_left_is_not_recovered(archive: Path) -> None:
    settings = settings_for(archive)
    left = begun(settings, utc_now())
    left.append(np.ones(8_000, np.int16))
    assert run("erase", "math", "--participant", "anna", "--yes", output_dir=archive).code == 0
    left.abandon()
    assert recover_folder(archive / "math", SegmentNames.from_settings(settings)) == []
    assert [record.participant_identity for record in read_manifest(archive / "math")] == ["ben"]


def test_a_recording_can_be_imported_again_after_it_was_erased(archive: Path) -> None:
    assert run("erase", "math", "--yes", output_dir=archive).code == 0
    assert len(spoken(settings_for(archive), "math", 2, at=NOW)) == 2, "its date is older than the erasure"


def test_a_text_that_comes_too_late_is_not_written(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    records = spoken(settings, "math", 1) + spoken(settings, "math", 1, track=BEN)
    texts = FolderTexts(tmp_path / "math")
    assert not texts.has(records[0])
    assert run("erase", "math", "--participant", "anna", "--yes", output_dir=tmp_path).code == 0
    result = TextResult(Translation("en", "Late.", {"es": "Tarde."}), "m", Usage())
    for record, is_kept in ((records[0], False), (records[1], True)):
        saving = save_text(texts, record, result, with_files=True, is_audio_kept=True)
        assert asyncio.run(saving) is is_kept
    assert not asyncio.run(save_refusal(texts, records[0], "its WAV is gone"))
    assert len(list((tmp_path / "math").glob("*.txt"))) == 2
    assert b"anna" not in everything_in(tmp_path)


def test_the_files_of_a_text_that_comes_too_late_are_never_on_the_disk(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is killed before it adds the line would leave them."""
    record = next(read_manifest(archive / "art"))
    texts = FolderTexts(archive / "art")
    assert not texts.has(record)
    begin(archive, ["art"], "")
    monkeypatch.setattr(texts, "save", lambda record: pytest.fail("it was killed"))
    result = TextResult(Translation("en", "Late.", {}), "m", Usage())
    saving = save_text(texts, record, result, with_files=True, is_audio_kept=True)
    assert not asyncio.run(saving)
    assert not list((archive / "art").glob("*.txt"))


async def test_while_it_is_being_erased_no_reader_sees_it(tmp_path: Path) -> None:
    """An erasure that a target holds up has removed neither the lists nor, perhaps, the files."""
    settings = settings_for(tmp_path)
    annas, bens = spoken(settings, "math", 1), spoken(settings, "math", 1, track=BEN)
    with_texts(tmp_path / "math", annas + bens)
    with_gap(tmp_path / "math", annas[0])
    with_gap(tmp_path / "math", bens[0])
    begin(tmp_path, ["math"], "anna")
    assert [record.file for record in Room(tmp_path / "math").records()] == [bens[0].file]
    assert run("search", "number", output_dir=tmp_path).out.count("Number") == 1
    assert run("export", "math", output_dir=tmp_path).code == 0
    assert "Anna" not in (tmp_path / "math" / "lesson.json").read_text()
    async with opened(tmp_path) as outbox:
        reader = ItemReader(settings, outbox, "shelf", "delivery shelf")
        assert await reader.look(with_lists=True)
        works = await outbox.claim("delivery shelf", Order.NEWEST_FIRST, 50)
    about = [
        SegmentRecord.from_json(work.payload["record"]).participant_identity
        for work in works
        if "record" in work.payload
    ]
    assert set(about) == {"ben"}
    files = ("segments.jsonl", "texts.jsonl", "gaps.jsonl")
    manifest, texts, gaps = ((tmp_path / "math" / file).stat().st_size for file in files)
    lists = ListsItem(tmp_path / "math", manifest, texts, gaps)
    delivered = await delivered_lists(lists, tmp_path.with_name(f"{tmp_path.name}-shelf"))
    for file in files:
        (line,) = delivered[file]
        assert b"ben" in line


def test_an_export_that_was_being_made_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(tmp_path)
    with_texts(tmp_path / "math", spoken(settings, "math", 1) + spoken(settings, "math", 1, track=BEN))
    made = contents.contents

    def erased_meanwhile(*arguments: Any) -> Any:
        found = list(made(*arguments))
        assert run("erase", "math", "--participant", "anna", "--yes", output_dir=tmp_path).code == 0
        return found

    monkeypatch.setattr(command, "contents", erased_meanwhile)
    done = run("export", "math", output_dir=tmp_path)
    assert (done.code, "has just been erased" in done.err) == (1, True)
    assert not list((tmp_path / "math").glob("lesson*"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_what_root_has_erased_stays_the_recorders(archive: Path) -> None:
    """In a container somebody may run the command as root, beside a worker that is not."""
    for path in (archive, *archive.rglob("*")):
        os.chown(path, 10001, 10001)
    assert run("erase", "math", "--participant", "anna", "--yes", output_dir=archive).code == 0
    files = (archive / "erased.json", archive / "math" / "segments.jsonl")
    assert [path.stat().st_uid for path in files] == [10001, 10001]


def test_a_list_of_erasures_that_cannot_be_read_does_not_stop_the_recorder(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(archive, ["art"], "")
    read = Path.read_bytes

    def refusing(path: Path) -> bytes:
        if path.name == "erased.json":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refusing)
    assert len(spoken(settings_for(archive), "math", 1, at=utc_now())) == 1


def test_a_damaged_list_of_erasures_does_not_stop_the_recorder(archive: Path) -> None:
    (archive / "erased.json").write_text('{"erasures": [{"id"')
    assert len(spoken(settings_for(archive), "math", 1, at=utc_now())) == 1
    done = run("erase", "math", "--yes", output_dir=archive)
    assert (done.code, "erased.json is damaged" in done.err) == (1, True)


# --- the list of erasures itself ---


@pytest.mark.parametrize("name", ["erased.json", "Erased.JSON"])
def test_a_room_that_is_named_like_the_list_of_erasures_is_recorded_and_erased(
    tmp_path: Path, name: str
) -> None:
    settings = settings_for(tmp_path)
    assert spoken(settings, name, 1) and spoken(settings, "math", 1)
    assert run("erase", "math", "--yes", output_dir=tmp_path).code == 0
    assert spoken(settings, name, 1), "the list is there now"
    assert len(sounds(tmp_path)) == 2
    assert run("erase", name, "--yes", output_dir=tmp_path).code == 0
    assert sounds(tmp_path) == []


def test_a_list_of_erasures_that_is_a_folder_stops_no_recorder(
    archive: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (archive / "erased.json").mkdir()
    assert len(spoken(settings_for(archive), "math", 2, at=utc_now())) == 2
    assert caplog.text.count("What has been erased is not known") == 1
    assert len(list(Room(archive / "math").records())) == 5


def test_a_disk_that_cannot_read_the_list_keeps_what_is_known_of_it(
    archive: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begin(archive, ["art"], "")
    (known,) = erasures_in(archive)
    stat = os.stat

    def refusing(path: Any, *more: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("erased.json"):
            raise OSError(116, "Stale file handle", str(path))
        return stat(path, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refusing)
        assert [erasures_in(archive), erasures_in(archive)] == [(known,), (known,)]
        assert len(spoken(settings_for(archive), "math", 1, at=utc_now())) == 1
    assert caplog.text.count("What has been erased is not known") == 1
    assert erasures_in(archive) == (known,)


def test_while_an_erasure_is_not_complete_no_command_shows_what_it_covers(archive: Path) -> None:
    for room in ("math", "art"):
        with_texts(archive / room, list(Room(archive / room).records()))
    assert run("search", "number", output_dir=archive).out.count(".wav") == 4
    begin(archive, [], "anna")
    assert "Anna" not in run("search", "number", output_dir=archive).out
    done = run("check", "--repair", output_dir=archive)
    assert "the erasure of 2 segments is not complete: repeat it" in done.out and done.code == 1
    assert "not in the manifest" not in done.out
    assert run("export-person", "anna", "--to", str(archive / "a.zip"), output_dir=archive).code == 2
    assert run("erase", "--participant", "anna", "--all", "--count", "3", output_dir=archive).code == 0
    assert "not complete" not in run("check", output_dir=archive).out


# --- what an erasure does not cover ---


def test_one_session_is_erased_and_the_others_of_its_room_stay(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, ROOM_DIR="{room}-{date}")
    (yesterday,) = spoken(settings, "math", 1, at=NOW - timedelta(days=1))
    (today,) = spoken(settings, "math", 1, at=NOW)
    live = begun(settings, utc_now())
    live.append(np.ones(8_000, np.int16))
    assert run("erase", "math-20260104", "--yes", output_dir=tmp_path).code == 0
    assert live.commit(heard()).room_name == "math"
    assert not (tmp_path / "math-20260104" / yesterday.file).exists()
    assert (tmp_path / "math-20260105" / today.file).exists()
    assert run("erase", "math", "--yes", output_dir=tmp_path).code == 0
    assert sounds(tmp_path) == []


def begun_by_older_version(output_dir: Path, *rooms: str) -> None:
    """It did not note which of the names were given, and of a folder also its room's name."""
    begin(output_dir, rooms, "")
    content = json.loads((output_dir / "erased.json").read_text())
    for entry in content["erasures"]:
        del entry["given"]
    (output_dir / "erased.json").write_text(json.dumps(content))


@pytest.mark.parametrize("is_removed", [False, True])
def test_repeating_an_erasure_of_a_folder_completes_that_of_an_older_version(
    tmp_path: Path, is_removed: bool
) -> None:
    settings = settings_for(tmp_path, ROOM_DIR="{room}-{date}")
    for days in (1, 0):
        spoken(settings, "math", 1, at=NOW - timedelta(days=days))
    begun_by_older_version(tmp_path, "math-20260104", "math")
    if is_removed:
        shutil.rmtree(tmp_path / "math-20260104")
    today = Room(tmp_path / "math-20260105")
    assert not list(today.records()), "it cannot be read while the erasure of the other folder is open"
    assert run("erase", "math-20260104", "--yes", output_dir=tmp_path).code == 0
    assert len(list(today.records())) == 1 and not (tmp_path / "math-20260104").exists()


@pytest.mark.parametrize("is_older", [False, True])
def test_an_erasure_of_a_room_is_completed_by_its_name_and_not_by_one_of_its_folders(
    tmp_path: Path, is_older: bool
) -> None:
    settings = settings_for(tmp_path, ROOM_DIR="{room}-{date}")
    for days in (1, 0):
        spoken(settings, "math", 1, at=NOW - timedelta(days=days))
    names = ("math-20260104", "math-20260105", "math")
    if is_older:
        begun_by_older_version(tmp_path, *names)
        assert run("erase", "math-20260104", "--yes", output_dir=tmp_path).code == 0
        assert not list(Room(tmp_path / "math-20260105").records()), "the other folder is to go, too"
    else:
        begin(tmp_path, names, "", ["math"])
        shutil.rmtree(tmp_path / "math-20260104")  # and then it was interrupted
    assert run("erase", "math", "--yes", output_dir=tmp_path).code == 0
    assert sounds(tmp_path) == []
    assert is_older or all(one.is_complete for one in erasures_in(tmp_path))


def test_an_unknown_name_is_refused_although_an_erasure_of_another_is_open(archive: Path) -> None:
    begin(archive, ["math"], "")
    begin(archive, [], "anna")
    for unknown in (["mth"], ["--participant", "ana", "--all"], ["art", "--participant", "carl"]):
        done = run("erase", *unknown, "--yes", "--count", "0", output_dir=archive)
        assert done.code == 2 and "Nothing is known" in done.err, (unknown, done)


def test_a_gap_of_what_was_erased_is_not_recorded_and_a_later_one_is(archive: Path) -> None:
    began = utc_now()
    folder = RoomFolder.open(settings_for(archive), RoomInfo("math", "RM_math", began))
    assert run("erase", "math", "--participant", "anna", "--yes", output_dir=archive).code == 0
    later = utc_now() + timedelta(seconds=1)
    end = later + timedelta(seconds=5)
    for who, start in (("anna", began), ("ben", began), ("anna", later)):
        folder.note_gap(GapRecord("math", "RM_math", who, f"TR_{who}", start, end, GapReason.PAUSED))
    found = [(gap.participant_identity, gap.start > began) for gap in read_gaps(archive / "math")]
    assert found == [("ben", False), ("anna", True)]


def test_an_erasure_that_is_dated_in_the_future_ends_when_that_is_noticed(
    archive: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The clock was an hour ahead when it was written, and has been put right since."""
    settings = settings_for(archive)
    before = begun(settings, utc_now())
    with monkeypatch.context() as patch:
        patch.setattr("archive.tombstones.utc_now", lambda: utc_now() + timedelta(hours=1))
        erasure = begin(archive, ["math"], "anna")
        complete(archive, erasure, {}, is_complete=True)
        assert erasures_in(archive)
    with pytest.raises(SegmentErased):
        before.commit(heard())
    assert caplog.text.count("is dated in the future") == 1
    assert begun(settings, utc_now() + timedelta(seconds=1)).commit(heard())
    begin(archive, ["art"], "")
    assert begun(settings, utc_now()).commit(heard()), "it does not begin again with the next erasure"
    assert caplog.text.count("is dated in the future") == 1
