"""`lessons.py check`: every fault in a folder is found, nothing else is, and a repair does no harm."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from archive import delivery_log
from archive.handover_note import RoomProgress
from archive.manifest import append_manifest
from archive.names import HANDOVER_NOTE, MANIFEST
from archive.rooms import Room
from archive.session_counts import Expected
from core.records import EndReason, GapReason, GapRecord, RoomInfo, SegmentRecord, TrackInfo
from core.text_records import TextRecord
from devtools.sample_room import ANNA, BOB, CLOCK, ROOM, noise, open_room, segment_of
from lesson_tools.findings import Kind, Report
from lesson_tools.inspection import inspect
from lesson_tools.repair import repaired
from storage import RoomFolder
from support.commands import run
from support.disk import NAMES, assert_sound

ANNA_AGAIN = replace(ANNA, track_sid="TR_A2")


def speak(
    folder: RoomFolder,
    at: int = 0,
    samples: int = 16_000,
    track: TrackInfo = ANNA,
    reason: EndReason = EndReason.PAUSE,
) -> SegmentRecord:
    """Saves a segment that begins at a sample."""
    return folder.begin(track, CLOCK, at, at).commit(segment_of(noise(samples, at), at, reason))


@pytest.fixture
def folder(tmp_path: Path) -> RoomFolder:
    """A room with three segments, in order."""
    folder = open_room(tmp_path)
    for at in (0, 32_000, 64_000):
        speak(folder, at)
    return folder


def look(folder: RoomFolder, wanted: Expected | None = None, *, checksums: bool = True) -> Report:
    return inspect(Room(folder.path), NAMES, wanted, checksums=checksums)


def kinds(report: Report) -> list[Kind]:
    return [finding.kind for finding in report.findings]


def after_repair(folder: RoomFolder) -> Report:
    report = look(folder)
    return repaired(Room(folder.path), NAMES, Expected(), report)


def wav(folder: RoomFolder, number: int) -> Path:
    return next(folder.path.glob(f"segment_{number:03d}_*.wav"))


def rewrite(folder: RoomFolder, change: Callable[[list[SegmentRecord]], list[SegmentRecord]]) -> None:
    """Replaces the manifest by the result of ``change``."""
    records = change(list(Room(folder.path).records()))
    (folder.path / MANIFEST).unlink()
    for record in records:
        append_manifest(folder.path, record)


def test_a_folder_as_the_recorder_leaves_it_is_in_order(folder: RoomFolder) -> None:
    report = look(folder)
    assert report.findings == []
    assert report.segments == 3
    assert report.speech_seconds == pytest.approx(3.0)


def test_a_missing_wav_is_found_and_nothing_is_made_up(folder: RoomFolder) -> None:
    wav(folder, 2).unlink()
    assert kinds(look(folder)) == [Kind.MISSING_WAV]
    assert kinds(after_repair(folder)) == [Kind.MISSING_WAV]


def test_a_wav_may_be_gone_where_only_text_is_kept(folder: RoomFolder) -> None:
    record = next(Room(folder.path).records())
    wav(folder, 1).unlink()
    line = {"number": 1, "file": record.file, "language": "en", "transcript": "Hello", "translations": {}}
    texts = folder.path / "texts.jsonl"
    texts.write_text(json.dumps({**line, "is_audio_kept": False}) + "\n")
    assert kinds(look(folder)) == [Kind.TEXT_MISSING, Kind.TEXT_MISSING]
    texts.write_text(json.dumps(line) + "\n")
    assert kinds(look(folder)) == [Kind.MISSING_WAV, Kind.TEXT_MISSING, Kind.TEXT_MISSING]


def test_changed_sound_is_found_by_its_checksum(folder: RoomFolder) -> None:
    with open(wav(folder, 2), "r+b") as file:
        file.seek(1000)
        file.write(b"\x00\x01\x02")
    assert kinds(look(folder)) == [Kind.CHECKSUM]
    assert kinds(look(folder, checksums=False)) == []
    assert kinds(after_repair(folder)) == [Kind.CHECKSUM]


def test_a_damaged_header_is_restored(folder: RoomFolder) -> None:
    whole = wav(folder, 2).read_bytes()
    with open(wav(folder, 2), "r+b") as file:
        file.write(b"\x00" * 44)
    report = look(folder)
    assert kinds(report) == [Kind.WAV_HEADER]
    assert report.findings[0].can_be_repaired
    assert kinds(after_repair(folder)) == []
    assert wav(folder, 2).read_bytes() == whole


def test_what_was_added_behind_a_wav_is_taken_off(folder: RoomFolder) -> None:
    whole = wav(folder, 2).read_bytes()
    wav(folder, 2).write_bytes(whole + b"junk" * 3)
    assert kinds(look(folder)) == [Kind.WAV_LENGTH]
    assert kinds(after_repair(folder)) == []
    assert wav(folder, 2).read_bytes() == whole


@pytest.mark.parametrize("size", [0, 10, 44, 2_000])
@pytest.mark.parametrize("checksums", [True, False])
def test_a_wav_that_was_cut_off_is_found(folder: RoomFolder, size: int, checksums: bool) -> None:
    os.truncate(wav(folder, 2), size)
    (finding,) = look(folder, checksums=checksums).findings
    assert finding.kind in (Kind.CHECKSUM, Kind.WAV_HEADER, Kind.WAV_LENGTH)
    assert not finding.can_be_repaired


def test_broken_lines_are_moved_and_their_wavs_listed_again(folder: RoomFolder) -> None:
    path = folder.path / MANIFEST
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:60] + b"\n" + b"\xff\n" + lines[2])
    report = look(folder)
    assert kinds(report) == [Kind.BROKEN_LINE, Kind.BROKEN_LINE, Kind.UNLISTED_WAV]
    assert kinds(after_repair(folder)) == []
    assert_sound_but(folder, f"{MANIFEST}.broken")
    assert (folder.path / f"{MANIFEST}.broken").read_bytes() == lines[1][:60] + b"\n\xff\n"


def assert_sound_but(folder: RoomFolder, aside: str) -> None:
    """Everything is in order once the file of broken lines has been deleted."""
    copy = folder.path.with_name("copy")
    shutil.copytree(folder.path, copy)
    (copy / aside).unlink()
    assert_sound(copy)


def test_what_a_crash_left_is_found_and_recovered(folder: RoomFolder) -> None:
    part = folder.begin(BOB, CLOCK, 0, 0)
    part.append(noise(8_000))
    part.abandon()
    assert kinds(look(folder)) == [Kind.PART_LEFT]
    report = after_repair(folder)
    assert report.findings == []
    assert report.repaired == [f"{part.name}: recovered, 0.5 s"]
    assert_sound(folder.path)


def test_a_lost_manifest_is_written_again(folder: RoomFolder) -> None:
    (folder.path / MANIFEST).unlink()
    assert kinds(look(folder)) == [Kind.UNLISTED_WAV] * 3
    assert kinds(after_repair(folder)) == []
    assert_sound(folder.path)


def test_numbers_that_are_missing_or_twice(folder: RoomFolder) -> None:
    wav(folder, 2).unlink()
    rewrite(folder, lambda records: [records[0], replace(records[2], number=7)])
    assert [finding.what for finding in look(folder).findings] == [
        "number 2 is missing: never finished, lost or deleted",
        "numbers 4 to 6 are missing: never finished, lost or deleted",
    ]
    rewrite(folder, lambda records: [records[0], replace(records[1], number=10**30)])
    assert [finding.what for finding in look(folder).findings] == [
        "number 2 is missing: never finished, lost or deleted",
        f"numbers 4 to {10**30 - 1} are missing: never finished, lost or deleted",
    ]
    rewrite(folder, lambda records: [replace(record, number=1) for record in records])
    assert kinds(look(folder)) == [Kind.DUPLICATE_NUMBER]


def test_overlaps_in_time_are_found_on_one_track_only(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    speak(folder, 0)
    speak(folder, 8_000, track=BOB)
    speak(folder, 8_000, track=ANNA_AGAIN)
    assert look(folder).findings == []
    speak(folder, 12_000)
    (finding,) = look(folder).findings
    assert finding.what == "segments 1 and 4 overlap by 0.250 s on one track"


def test_speech_that_was_cut_must_go_on_without_a_gap(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    speak(folder, 0, reason=EndReason.MAX_LENGTH)
    speak(folder, 16_000, reason=EndReason.MAX_LENGTH)
    assert look(folder).findings == []
    speak(folder, 40_000)
    (finding,) = look(folder).findings
    assert (finding.kind, finding.what) == (
        Kind.GAP,
        "between segments 2 and 3 0.500 s of speech are missing",
    )


def test_times_that_contradict_each_other(folder: RoomFolder) -> None:
    rewrite(
        folder, lambda records: [*records[:2], replace(records[2], end=records[2].end + timedelta(hours=1))]
    )
    assert kinds(look(folder)) == [Kind.TIMES]


def test_missing_texts_are_reported_if_texts_are_expected(folder: RoomFolder) -> None:
    assert kinds(look(folder, Expected(texts=True))) == [Kind.TEXT_MISSING] * 3
    one, two, three = Room(folder.path).records()
    stem = Path(one.file).stem
    line = {"language": "en", "transcript": "Hi", "translations": {"es": "Hola"}}
    lines = [
        {"number": 1, "file": one.file, **line, "files": [f"{stem}_en.txt", f"{stem}_es.txt", "../../x"]},
        {"number": 2, "file": two.file, "refused": "blocked: SAFETY"},
    ]
    (folder.path / "texts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines) + "{\n")
    (folder.path / f"{stem}_es.txt").write_text("Hola\n")
    report = look(folder)
    assert kinds(report) == [
        Kind.TEXT_FILE_MISSING,
        Kind.TEXT_REFUSED,
        Kind.TEXT_MISSING,
        Kind.BROKEN_TEXT_LINE,
    ]
    assert [finding.kind for finding in report.faults] == [
        Kind.TEXT_FILE_MISSING,
        Kind.TEXT_REFUSED,
        Kind.TEXT_MISSING,
    ]
    assert Kind.TEXT_FILE_MISSING not in kinds(after_repair(folder))
    assert (folder.path / f"{stem}_en.txt").read_text() == "Hi\n"
    if sys.platform != "win32":
        assert (folder.path / f"{stem}_en.txt").stat().st_mode & 0o777 == 0o600


def test_what_is_not_delivered_is_found(folder: RoomFolder) -> None:
    one, two, three = Room(folder.path).records()
    text = TextRecord(
        1, one.file, one.end, one.start, "anna", language="en", transcript="Hi", files=("t.txt",)
    )
    silent = TextRecord(2, two.file, two.end, two.start, "anna")
    lines = [json.dumps(entry.to_json()) + "\n" for entry in (text, silent)]
    (folder.path / "texts.jsonl").write_text("".join(lines))
    delivery_log.note(folder.path, "s3://lessons", delivery_log.audio_key(one))
    delivery_log.note(folder.path, "s3://lessons", delivery_log.audio_key(two), refused="too large")
    found = look(folder, Expected(targets=("s3://lessons",))).findings
    assert [finding.what for finding in found if finding.kind is Kind.UNDELIVERED] == [
        f"the text of {one.file} is not delivered to s3://lessons yet",
        f"{two.file} was refused by s3://lessons: too large",
        f"{three.file} is not delivered to s3://lessons yet",
    ], "a text without words has no files, and is not delivered"
    found = look(folder, Expected(targets=("s3://lessons",), audio=False)).findings
    assert [finding.file for finding in found if finding.kind is Kind.UNDELIVERED] == [one.file]


def test_the_command_knows_the_targets(tmp_path: Path, folder: RoomFolder) -> None:
    store = tmp_path.parent / f"{tmp_path.name}-store"
    store.mkdir()
    result = run("check", output_dir=tmp_path, STORE_URL=store.as_uri())
    assert result.code == 1
    assert result.out.count(" is not delivered to file://") == 3


def test_a_room_that_is_being_recorded_is_recognised_and_not_touched(folder: RoomFolder) -> None:
    living = folder.begin(ANNA, CLOCK, 320_000, 320_000)
    pcm = noise(24_000)
    living.append(pcm[:8_000])
    left = folder.begin(BOB, CLOCK, 0, 0)
    left.append(noise(4_000))
    left.abandon()
    assert sorted(kinds(look(folder))) == sorted([Kind.BEING_RECORDED, Kind.PART_LEFT])
    report = after_repair(folder)
    assert kinds(report) == [Kind.BEING_RECORDED]
    assert report.faults == []
    record = living.commit(segment_of(pcm, 320_000))
    assert look(folder).findings == []
    assert_sound(folder.path)
    assert record.number == 4


def test_a_room_in_which_nobody_speaks_just_now_is_being_recorded(folder: RoomFolder) -> None:
    folder.handover.write(RoomProgress(datetime.now(UTC), {}))
    assert kinds(look(folder)) == [Kind.BEING_RECORDED]
    os.utime(folder.path / HANDOVER_NOTE, (0, 0))
    assert kinds(look(folder)) == []


def test_recorded_gaps_are_reported_and_are_no_fault(folder: RoomFolder) -> None:
    end = CLOCK.anchor + timedelta(seconds=3)
    folder.note_gap(GapRecord("math101", "RM_1", "anna", "TR_A", CLOCK.anchor, end, GapReason.UNSAVED))
    report = look(folder)
    assert [finding.what for finding in report.findings] == [
        "speech of anna may be missing from 2025-10-08T14:05:23.000Z to 2025-10-08T14:05:26.000Z (unsaved)"
    ]
    assert report.faults == []


def test_other_files_in_the_folder_are_ignored(folder: RoomFolder) -> None:
    (folder.path / "notes.txt").write_text("mine")
    (folder.path / "lecture.mp4").write_bytes(b"x")
    (folder.path / "song.wav").write_bytes(b"RIFF....")
    assert look(folder).findings == []


# --- the command ---


def test_the_command_says_and_exits_what_it_found(tmp_path: Path, folder: RoomFolder) -> None:
    speak(open_room(tmp_path, RoomInfo("art", "RM_2", ROOM.started_at)))
    assert run("check", output_dir=tmp_path).code == 0
    wav(folder, 2).unlink()
    result = run("check", output_dir=tmp_path)
    assert result.code == 1
    assert result.out.splitlines() == [
        "art: 1 segment, 0:01 of speech, in order",
        "math101: 3 segments, 0:03 of speech, 1 fault",
        f"  {list(Room(folder.path).records())[1].file} is missing",
    ]
    assert run("check", "art", output_dir=tmp_path).code == 0
    answer = json.loads(run("check", "math101", "--json", output_dir=tmp_path).out)
    assert [finding["kind"] for finding in answer["rooms"][0]["findings"]] == ["missing_wav"]


def test_the_command_repairs(tmp_path: Path, folder: RoomFolder) -> None:
    part = folder.begin(BOB, CLOCK, 0, 0)
    part.append(noise(8_000))
    part.abandon()
    assert run("check", output_dir=tmp_path).code == 1
    result = run("check", "--repair", output_dir=tmp_path)
    assert (result.code, result.out.splitlines()[1]) == (0, f"  repaired: {part.name}: recovered, 0.5 s")
    assert run("check", output_dir=tmp_path).code == 0


def test_a_room_that_is_none_is_one_line(tmp_path: Path, folder: RoomFolder) -> None:
    (tmp_path / "photos").mkdir()
    result = run("check", "photos", output_dir=tmp_path)
    assert (result.code, result.err) == (2, f"{tmp_path / 'photos'} contains no recording\n")
    result = run("check", "math", output_dir=tmp_path)
    assert (result.code, result.err) == (2, f"There is no room 'math' in {tmp_path} (perhaps 'math101')\n")
