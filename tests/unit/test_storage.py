"""Files and the manifest: crashes, full disks, other recorders, and files of other programs."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from archive.files import prepare_output_dir, prove_disk
from archive.manifest import read_manifest, records_in
from archive.names import HIGHEST_NUMBER, MANIFEST
from archive.recovery import recover_all, recover_folder
from archive.wav import wav_header
from core.errors import StorageError
from core.records import EndReason, Pcm, RoomInfo, SegmentRecord, TrackInfo
from devtools.room_folders import samples
from devtools.sample_room import ANNA, BOB, CLOCK, ROOM, noise, open_room, segment_of, settings_for
from storage import PartFile, RoomFolder
from support import ROOT
from support.disk import (
    NAMES,
    RefusingDisk,
    Wreck,
    assert_sound,
    leftovers,
    manifest,
    needs_posix,
    place,
    wavs,
)
from support.writer import STRIDE, sound_of

PIECE = 1_600


def begin(folder: RoomFolder, track: TrackInfo = ANNA, start_sample: int = 0) -> PartFile:
    return folder.begin(track, CLOCK, start_sample, start_sample)


def save(folder: RoomFolder, pcm: Pcm, track: TrackInfo = ANNA, start_sample: int = 0) -> SegmentRecord:
    part = begin(folder, track, start_sample)
    part.append(pcm)
    return part.commit(segment_of(pcm, start_sample))


def abandoned(folder: RoomFolder, pcm: Pcm, track: TrackInfo = ANNA, start_sample: int = 0) -> Path:
    """A part that a crash has left: no recorder is writing it."""
    part = begin(folder, track, start_sample)
    part.append(pcm)
    crash(part)
    return folder.path / f"{part.name}.part"


def crash(part: PartFile) -> None:
    """What the system does with the files of a dead process."""
    part.abandon()


def recover(folder: RoomFolder) -> list[SegmentRecord]:
    return recover_folder(folder.path, NAMES)


# --- one segment ---


def test_a_segment_becomes_a_wav_and_a_line(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    pcm = noise(40_000)
    record = save(folder, pcm, start_sample=8_000)
    assert wavs(folder.path) == ["segment_001_20251008_140523.wav"]
    (line,) = assert_sound(folder.path, {record.file: pcm})
    assert line == {
        "schema_version": 1,
        "number": 1,
        "file": "segment_001_20251008_140523.wav",
        "room_name": "math101",
        "room_sid": "RM_1",
        "participant_identity": "anna",
        "participant_name": "Anna Ünal",
        "track_sid": "TR_A",
        "track_source": "microphone",
        "start": "2025-10-08T14:05:23.500Z",
        "end": "2025-10-08T14:05:26.000Z",
        "offset_seconds": 323.5,
        "duration_seconds": 2.5,
        "sample_rate": 16_000,
        "mean_probability": 0.9,
        "lowest_probability": 0.5,
        "end_reason": "pause",
        "sha256": line["sha256"],
        "speaking_language": "",
        "caption_languages": [],
    }
    assert list(read_manifest(folder.path)) == [record]


def test_the_header_is_that_of_a_wav_file(tmp_path: Path) -> None:
    import wave

    folder = open_room(tmp_path)
    record = save(folder, noise(1_000))
    with wave.open(str(folder.path / record.file)) as wav:
        assert (wav.getframerate(), wav.getnchannels(), wav.getsampwidth()) == (16_000, 1, 2)
        assert wav.getnframes() == 1_000
    assert (folder.path / record.file).stat().st_size == 44 + 2_000


def test_a_part_is_a_valid_wav_after_every_piece(tmp_path: Path) -> None:
    folder, pcm = open_room(tmp_path), noise(10 * PIECE)
    part = begin(folder)
    path = folder.path / f"{part.name}.part"
    assert len(samples(path)) == 0
    for end in range(PIECE, len(pcm) + 1, PIECE):
        part.append(pcm[end - PIECE : end])
        np.testing.assert_array_equal(samples(path), pcm[:end])
    part.commit(segment_of(pcm))


def test_a_piece_is_synced_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = begin(open_room(tmp_path))
    synced: list[int] = []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        sync(descriptor)
        synced.append(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    part.append(noise(10))
    assert len(synced) == 1
    part.commit(segment_of(noise(10)))


def test_a_segment_without_a_piece_before_its_end_is_saved_whole(tmp_path: Path) -> None:
    folder, pcm = open_room(tmp_path), noise(5_000)
    part = begin(folder)
    record = part.commit(segment_of(pcm))
    assert_sound(folder.path, {record.file: pcm})


def test_a_segment_may_end_shorter_than_it_had_grown(tmp_path: Path) -> None:
    folder, pcm = open_room(tmp_path), noise(5_000)
    part = begin(folder)
    part.append(pcm)
    record = part.commit(segment_of(pcm[:3_000]))
    assert_sound(folder.path, {record.file: pcm[:3_000]})


@needs_posix
def test_files_and_folders_are_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = open_room(tmp_path / "segments")
        save(folder, noise(100))
        abandoned(folder, noise(100))
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "segments").stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.path.iterdir()}
    assert set(modes.values()) == {0o600}, modes


def test_names_of_people_stand_in_the_manifest_as_they_are(tmp_path: Path) -> None:
    folder = open_room(tmp_path, RoomInfo("a\x00b\nc/..", "RM_1", ROOM.started_at))
    hostile = TrackInfo("../../x\n\u202e", '"}\n{"number": 9', "TR_A", "microphone")
    save(folder, noise(100), hostile)
    (record,) = read_manifest(folder.path)
    assert record.participant_identity == hostile.participant_identity
    assert record.participant_name == hostile.participant_name
    assert record.room_name == "a\x00b\nc/.."
    assert folder.path.parent == tmp_path


def test_a_name_that_is_not_valid_unicode_is_kept_through_a_crash(tmp_path: Path) -> None:
    room, track = replace(ROOM, name="a\udc80"), replace(ANNA, participant_name="\ud800")
    folder = open_room(tmp_path, room)
    folder.begin(track, CLOCK, 0, 0).commit(segment_of(noise(16_000)))
    part = folder.begin(track, CLOCK, 16_000, 16_000)
    part.append(noise(16_000))
    part.abandon()
    folder.recover()
    assert [(one.room_name, one.participant_name) for one in read_manifest(folder.path)] == [
        ("a\udc80", "\ud800")
    ] * 2


@needs_posix
def test_a_folder_that_vanishes_in_mid_speech_is_made_again(tmp_path: Path) -> None:
    folder, pcm = open_room(tmp_path), noise(5_000)
    part = begin(folder)
    part.append(pcm[:1_000])
    shutil.rmtree(folder.path)
    part.append(pcm[1_000:2_000])
    record = part.commit(segment_of(pcm))
    assert_sound(folder.path, {record.file: pcm})


@needs_posix
def test_a_part_that_somebody_deletes_in_mid_speech_is_written_again(tmp_path: Path) -> None:
    folder, pcm = open_room(tmp_path), noise(5_000)
    part = begin(folder)
    part.append(pcm[:1_000])
    (folder.path / f"{part.name}.part").unlink()
    record = part.commit(segment_of(pcm))
    assert_sound(folder.path, {record.file: pcm})


# --- folders and numbers ---


def test_rooms_that_differ_only_in_case_have_folders_of_their_own(tmp_path: Path) -> None:
    rooms = [replace(ROOM, name=name) for name in ("Room", "room", "ROOM", "straße", "STRASSE")]
    folders = [open_room(tmp_path, room).path.name for room in rooms]
    assert len({name.casefold() for name in folders}) == len(rooms)
    assert folders[0] == "Room"


def test_a_room_comes_back_to_its_folder(tmp_path: Path) -> None:
    rooms = [replace(ROOM, name=name) for name in ("Room", "room", "ROOM", "a/b", "nul")]
    first = [open_room(tmp_path, room).path for room in rooms]
    again = [open_room(tmp_path, room).path for room in reversed(rooms)]
    assert first == again[::-1]


def test_no_room_can_be_named_into_the_folder_of_another(tmp_path: Path) -> None:
    """A room with the name of another room's folder, except for its case."""
    open_room(tmp_path, replace(ROOM, name="Room"))
    digest = hashlib.sha256(b"room").hexdigest()[:10]
    assert not digest.isdigit()
    intruder = open_room(tmp_path, replace(ROOM, name=f"Room-{digest.upper()}"))
    victim = open_room(tmp_path, replace(ROOM, name="room"))
    assert intruder.path.name.casefold() != victim.path.name.casefold()


@pytest.mark.parametrize(("file", "name"), [("notes", "notes"), ("notes", "Notes"), (".x", "erased.json")])
def test_a_file_in_the_output_folder_takes_no_room_its_folder(tmp_path: Path, file: str, name: str) -> None:
    (tmp_path / file).write_text("of somebody else")
    first, again = (open_room(tmp_path, replace(ROOM, name=name)).path for _ in range(2))
    assert first == again == tmp_path / f"{name}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def test_a_folder_can_be_named_after_session_and_date(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, room_dir="{date} {room} {room_sid}", timezone="Asia/Tokyo")
    room = RoomInfo("math", "RM_1", datetime(2025, 10, 8, 23, tzinfo=UTC))
    assert RoomFolder.open(settings, room).path.name == "20251009 math RM_1"


def test_names_tell_the_time_in_the_zone_of_the_settings(tmp_path: Path) -> None:
    folder = open_room(tmp_path, timezone="Asia/Tokyo", segment_name="{time} {number} {source} {identity}")
    record = save(folder, noise(100), BOB)
    assert record.file == "20251008_230523 001 screen_share_audio bob.wav"
    assert manifest(folder.path)[0]["start"] == "2025-10-08T14:05:23.000Z"


def test_numbers_continue_when_a_folder_is_opened_again(tmp_path: Path) -> None:
    for _ in range(3):
        save(open_room(tmp_path), noise(100))
    assert [line["number"] for line in manifest(open_room(tmp_path).path)] == [1, 2, 3]


def test_numbers_continue_after_deleted_files(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    for _ in range(3):
        (folder.path / save(folder, noise(100)).file).unlink()
    assert save(open_room(tmp_path), noise(100)).number == 4


def test_numbers_continue_after_deleted_files_of_another_recorder(tmp_path: Path) -> None:
    """With SAVE_AUDIO=false each WAV goes as soon as its text is safe; two recorders overlap at a hand-over."""
    first, second = open_room(tmp_path), open_room(tmp_path)
    numbers = []
    for folder in (first, second, first, second):
        record = save(folder, noise(100))
        numbers.append(record.number)
        (folder.path / record.file).unlink()
    assert numbers == [1, 2, 3, 4]


def test_numbers_continue_after_a_segment_that_is_still_open(tmp_path: Path) -> None:
    first, second = begin(open_room(tmp_path)), begin(open_room(tmp_path))
    assert [part.name[:11] for part in (first, second)] == ["segment_001", "segment_002"]
    first.commit(segment_of(noise(10)))
    second.commit(segment_of(noise(10)))


def test_a_recorder_lists_the_folder_once_and_reads_no_old_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work for a segment is the same after 3 and after 300 segments."""
    for _ in range(3):
        save(open_room(tmp_path), noise(10))
    parsed: list[bytes] = []

    def counted(lines: list[bytes], folder: Path) -> Iterator[SegmentRecord]:
        parsed.extend(lines)
        return records_in(lines, folder)

    monkeypatch.setattr("archive.numbers.records_in", counted)
    folder = open_room(tmp_path)
    assert save(folder, noise(10)).number == 4
    monkeypatch.setattr(os, "listdir", lambda path: pytest.fail(f"{path} is listed"))
    assert [save(folder, noise(10)).number for _ in range(2)] == [5, 6]
    assert len(parsed) == 3, "each line is read once, by the segment after it"


def test_a_number_that_was_given_but_not_kept_is_not_given_again(tmp_path: Path) -> None:
    """A kill between the two."""
    kept = save(open_room(tmp_path), noise(10))
    note = (tmp_path / "math101" / HIGHEST_NUMBER).read_bytes()
    lost = begin(open_room(tmp_path))
    (tmp_path / "math101" / HIGHEST_NUMBER).write_bytes(note)
    following = begin(open_room(tmp_path))
    assert [kept.number, lost.name[:11], following.name[:11]] == [1, "segment_002", "segment_003"]
    for part in (lost, following):
        part.commit(segment_of(noise(10)))


@pytest.mark.parametrize(
    "kept",
    [
        None,
        b"",
        b"[]",
        b'{"number": 1',
        b'{"number": -1, "manifest_bytes": 0, "manifest_digest": ""}',
        b'{"number": 1e999, "manifest_bytes": 0, "manifest_digest": ""}',
        b'{"number": 99999999999999999, "manifest_bytes": 0, "manifest_digest": ""}',
        b'{"number": 1, "manifest_bytes": 9, "manifest_digest": "of another manifest"}',
        b"[" * 50_000,
    ],
)
def test_numbers_continue_without_the_file_that_keeps_them(tmp_path: Path, kept: bytes | None) -> None:
    for _ in range(3):
        folder = open_room(tmp_path)
        (folder.path / save(folder, noise(10)).file).unlink()
    open_part = begin(open_room(tmp_path))
    path = tmp_path / "math101" / HIGHEST_NUMBER
    if kept is None:
        path.unlink()
    else:
        path.write_bytes(kept)
    assert save(open_room(tmp_path), noise(10)).number == 5
    crash(open_part)


def test_numbers_continue_behind_a_recorder_that_does_not_keep_them(tmp_path: Path) -> None:
    """An older version that runs in between, or on another machine with the same disk."""
    folder = open_room(tmp_path)
    save(folder, noise(10))
    before = (folder.path / HIGHEST_NUMBER).read_bytes()
    save(folder, noise(10))
    (folder.path / HIGHEST_NUMBER).write_bytes(before)
    assert save(open_room(tmp_path), noise(10)).number == 3


def test_two_recorders_of_one_room_never_share_a_number_or_a_file(tmp_path: Path) -> None:
    folders = [open_room(tmp_path), open_room(tmp_path)]
    spoken: dict[str, Pcm] = {}
    troubles: list[BaseException] = []

    def record(folder: RoomFolder, track: TrackInfo, seed: int) -> None:
        try:
            for index in range(25):
                pcm = noise(800 + seed, seed=seed + index)
                spoken[save(folder, pcm, track, index * 16_000).file] = pcm
        except BaseException as trouble:
            troubles.append(trouble)

    threads = [
        threading.Thread(target=record, args=(folder, track, seed))
        for folder, track, seed in zip(folders, (ANNA, BOB), (0, 1_000), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not troubles
    lines = assert_sound(folders[0].path, spoken)
    assert sorted(line["number"] for line in lines) == list(range(1, 51))


def test_two_recorders_whose_names_cannot_be_told_apart_overwrite_nothing(tmp_path: Path) -> None:
    """The number in such a name cannot be read back; a file that is there is still never touched."""
    first, second = (open_room(tmp_path, segment_name="{identity}_{number}") for _ in range(2))
    track = replace(ANNA, participant_identity="cam_001")
    spoken: dict[str, Pcm] = {}
    parts = [(first, begin(first, track)), (first, begin(first, track, 16_000))]
    parts[1][1].append(noise(900, seed=1)[:500])
    parts.append((second, begin(second, track, 32_000)))
    for seed, (_, part) in enumerate(parts):
        pcm = noise(900, seed=seed)
        spoken[part.commit(segment_of(pcm, seed * 16_000)).file] = pcm
    assert len(spoken) == 3
    assert_sound(first.path, spoken)


# --- the output folder ---


def test_the_output_folder_is_made(tmp_path: Path) -> None:
    prepare_output_dir(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_proof_of_the_disk_removes_those_that_were_killed_and_no_new_one(tmp_path: Path) -> None:
    left = [tmp_path / name for name in (".proof-0a1b2c3d.part", ".proof-0a1b2c3d")]
    new = tmp_path / ".proof-4e5f6a7b.part"
    for path in (*left, new):
        path.touch()
    for path in left:
        os.utime(path, (0, 0))
    assert prove_disk(tmp_path) > 0
    assert list(tmp_path.iterdir()) == [new]


def test_an_output_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError) as caught:
        prepare_output_dir(tmp_path / "file")
    assert str(caught.value).startswith(f"OUTPUT_DIR={tmp_path / 'file'} cannot be used: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_an_output_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    disk = RefusingDisk(monkeypatch)
    disk.refuse(error, first=0, times=99)
    with pytest.raises(StorageError, match=os.strerror(error)) as caught:
        prepare_output_dir(tmp_path / "a")
    assert "\n" not in str(caught.value)


# --- recovery ---


def test_nothing_to_recover_is_nothing_to_do(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    assert recover(folder) == []
    save(folder, noise(100))
    before = (folder.path / MANIFEST).read_bytes()
    assert recover(folder) == []
    assert recover_all(settings_for(tmp_path)) == []
    assert (folder.path / MANIFEST).read_bytes() == before


def test_a_part_becomes_a_segment_with_everything_that_was_known(tmp_path: Path) -> None:
    folder, pcm = open_room(tmp_path), noise(24_000)
    abandoned(folder, pcm, BOB, start_sample=16_000)
    (record,) = recover_all(settings_for(tmp_path))
    (line,) = assert_sound(folder.path, {record.file: pcm})
    assert record.end_reason is EndReason.RECOVERED
    assert (line["number"], line["participant_identity"], line["track_sid"]) == (1, "bob", "TR_B")
    assert (line["room_name"], line["room_sid"]) == ("math101", "RM_1")
    assert (line["start"], line["end"]) == ("2025-10-08T14:05:24.000Z", "2025-10-08T14:05:25.500Z")
    assert line["offset_seconds"] == 324.0
    assert (line["mean_probability"], line["lowest_probability"]) == (None, None)
    assert recover(folder) == []


def test_what_was_left_in_a_room_is_recovered_while_it_is_recorded(tmp_path: Path) -> None:
    """One by one: a segment can begin and be saved between two that are recovered."""
    earlier = open_room(tmp_path)
    for start in range(0, 64_000, 16_000):
        path = abandoned(earlier, noise(100), start_sample=start)
        os.replace(path, path.with_suffix(""))
    folder = open_room(tmp_path)
    recovering = folder.recovering()
    assert next(recovering).number == 1
    assert save(folder, noise(200), start_sample=64_000).number == 5
    assert [record.number for record in recovering] == [2, 3, 4]
    assert [line["number"] for line in assert_sound(folder.path)] == [1, 5, 2, 3, 4]


def test_a_part_without_its_note_is_dated_by_its_file(tmp_path: Path) -> None:
    folder, pcm = open_room(tmp_path), noise(32_000)
    path = abandoned(folder, pcm)
    (folder.path / ".segment_001_20251008_140523.json").unlink()
    os.utime(path, (1_760_000_000, 1_760_000_000))
    (record,) = recover(folder)
    assert_sound(folder.path, {record.file: pcm})
    assert record.number == 1
    assert record.end == datetime.fromtimestamp(1_760_000_000, UTC)
    assert record.duration_seconds == 2
    assert record.offset_seconds is None
    assert record.room_name == "math101"


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"number": 1}', b"\xff\xfe", b"[" * 50_000, b"null"])
def test_a_note_that_is_broken_counts_as_none(tmp_path: Path, note: bytes) -> None:
    folder, pcm = open_room(tmp_path), noise(1_000)
    abandoned(folder, pcm)
    (folder.path / ".segment_001_20251008_140523.json").write_bytes(note)
    (record,) = recover(folder)
    assert_sound(folder.path, {record.file: pcm})


def test_a_note_cannot_name_another_file(tmp_path: Path) -> None:
    folder, pcm = open_room(tmp_path), noise(1_000)
    abandoned(folder, pcm)
    note = folder.path / ".segment_001_20251008_140523.json"
    note.write_text(note.read_text().replace("segment_001_20251008_140523.wav", "../stolen.wav"))
    (record,) = recover(folder)
    assert_sound(folder.path, {record.file: pcm})
    assert wavs(tmp_path) == []


def test_a_part_without_a_sample_is_no_segment(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    part = begin(folder)
    crash(part)
    assert recover(folder) == []
    assert_sound(folder.path, {})


@pytest.mark.parametrize("content", [b"", b"RIFF", wav_header(0)[:43], wav_header(0) + b"x"])
def test_a_part_that_ends_in_its_header_is_no_segment(tmp_path: Path, content: bytes) -> None:
    folder = open_room(tmp_path)
    path = abandoned(folder, noise(10))
    path.write_bytes(content)
    assert recover(folder) == []
    assert_sound(folder.path, {})


def test_samples_beyond_the_size_in_the_header_are_kept(tmp_path: Path) -> None:
    folder, pcm = open_room(tmp_path), noise(3_000)
    path = abandoned(folder, pcm)
    path.write_bytes(wav_header(1_000) + pcm.tobytes())
    (record,) = recover(folder)
    assert_sound(folder.path, {record.file: pcm})


def test_half_a_sample_at_the_end_is_cut_off(tmp_path: Path) -> None:
    folder, pcm = open_room(tmp_path), noise(3_000)
    path = abandoned(folder, pcm)
    path.write_bytes(wav_header(3_000) + pcm.tobytes() + b"x")
    (record,) = recover(folder)
    assert_sound(folder.path, {record.file: pcm})


def test_a_wav_that_had_no_line_yet_gets_one(tmp_path: Path) -> None:
    folder, pcm = open_room(tmp_path), noise(3_000)
    path = abandoned(folder, pcm, BOB)
    os.replace(path, path.with_suffix(""))
    (record,) = recover(folder)
    (line,) = assert_sound(folder.path, {record.file: pcm})
    assert (line["participant_identity"], line["end_reason"]) == ("bob", "recovered")
    assert recover(folder) == []


def test_a_last_line_without_its_line_feed_names_its_wav(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    record = save(folder, noise(100))
    manifest_path = folder.path / MANIFEST
    manifest_path.write_bytes(manifest_path.read_bytes().rstrip(b"\n"))
    assert recover(folder) == []
    assert [line["file"] for line in manifest(folder.path)] == [record.file]


def test_a_wav_that_had_no_line_and_no_note_gets_one(tmp_path: Path) -> None:
    folder, pcm = open_room(tmp_path), noise(3_000)
    path = abandoned(folder, pcm)
    os.replace(path, path.with_suffix(""))
    (folder.path / ".segment_001_20251008_140523.json").unlink()
    (record,) = recover(folder)
    assert_sound(folder.path, {record.file: pcm})
    assert record.number == 1


def test_a_wav_that_had_no_line_yet_is_not_replaced_by_less(tmp_path: Path) -> None:
    """Renamed, but the folder's sync was refused; then the crash came while the segment was written once more."""
    folder, pcm = open_room(tmp_path), noise(3_000)
    path = abandoned(folder, pcm)
    os.replace(path, path.with_suffix(""))
    path.write_bytes(wav_header(1_000) + pcm[:1_000].tobytes())
    (record,) = recover(folder)
    assert_sound(folder.path, {record.file: pcm})


def test_all_wavs_get_a_line_when_the_manifest_is_gone(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    spoken = {}
    for seed in range(5):
        pcm = noise(1_000 + seed, seed)
        spoken[save(folder, pcm, start_sample=seed * 16_000).file] = pcm
    (folder.path / MANIFEST).unlink()
    assert len(recover(folder)) == 5
    lines = assert_sound(folder.path, spoken)
    assert [line["number"] for line in lines] == [1, 2, 3, 4, 5]


def test_a_note_without_its_audio_is_cleared_away(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    path = abandoned(folder, noise(10))
    path.unlink()
    assert leftovers(folder.path) == [".segment_001_20251008_140523.json"]
    assert recover(folder) == []
    assert_sound(folder.path, {})


def test_a_part_whose_segment_is_in_the_manifest_already_goes(tmp_path: Path) -> None:
    folder, pcm = open_room(tmp_path), noise(1_000)
    path = abandoned(folder, pcm)
    part, note = path.read_bytes(), (folder.path / ".segment_001_20251008_140523.json").read_bytes()
    recover(folder)
    path.write_bytes(part)
    (folder.path / ".segment_001_20251008_140523.json").write_bytes(note)
    assert recover(folder) == []
    assert len(assert_sound(folder.path)) == 1


def test_a_part_that_this_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    folder, pcm = open_room(tmp_path), noise(1_000)
    part = begin(folder)
    part.append(pcm)
    assert recover(folder) == []
    assert recover_all(settings_for(tmp_path)) == []
    record = part.commit(segment_of(pcm))
    assert record.end_reason is EndReason.PAUSE
    assert_sound(folder.path, {record.file: pcm})


def test_recovered_segments_are_listed_in_the_order_spoken(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    for start in (48_000, 16_000, 32_000):
        abandoned(folder, noise(100), start_sample=start)
    assert [place(line) for line in map(SegmentRecord.to_json, recover(folder))] == [16_000, 32_000, 48_000]


@pytest.mark.parametrize("is_renamed", [False, True])
def test_a_file_with_a_note_is_recovered_although_the_template_has_changed(
    tmp_path: Path, is_renamed: bool
) -> None:
    folder, pcm = open_room(tmp_path, segment_name="{time} {number}"), noise(1_000)
    path = abandoned(folder, pcm, BOB)
    if is_renamed:
        os.replace(path, path.with_suffix(""))
    (record,) = recover(folder)
    assert (record.file, record.participant_identity) == ("20251008_140523 001.wav", "bob")
    assert_sound(folder.path, {record.file: pcm})


# A split: the rest is in the next part before the first one gives it up.


def test_after_a_crash_in_a_split_the_rest_is_in_the_second_part_only(tmp_path: Path) -> None:
    folder, pcm = open_room(tmp_path), noise(10_000)
    abandoned(folder, pcm[:8_000])
    abandoned(folder, pcm[6_400:], start_sample=6_400)
    first, second = recover(folder)
    assert_sound(folder.path, {first.file: pcm[:6_400], second.file: pcm[6_400:]})


def test_after_a_crash_in_a_split_a_second_part_without_new_samples_is_removed(tmp_path: Path) -> None:
    folder, pcm = open_room(tmp_path), noise(8_000)
    abandoned(folder, pcm)
    abandoned(folder, pcm[6_400:7_400], start_sample=6_400)
    (record,) = recover(folder)
    assert_sound(folder.path, {record.file: pcm})


def test_after_a_crash_in_a_split_nothing_is_doubled_though_somebody_else_spoke_as_well(
    tmp_path: Path,
) -> None:
    folder, pcm, other = open_room(tmp_path), noise(10_000), noise(16_000, seed=1)
    abandoned(folder, pcm[:8_000])
    abandoned(folder, other, BOB, start_sample=3_200)
    abandoned(folder, pcm[6_400:], start_sample=6_400)
    first, between, second = recover(folder)
    assert_sound(folder.path, {first.file: pcm[:6_400], between.file: other, second.file: pcm[6_400:]})


def test_streams_of_one_track_do_not_cut_each_other(tmp_path: Path) -> None:
    """The same track after a reconnect: its samples count from a new beginning."""
    folder = open_room(tmp_path)
    first, second = noise(8_000), noise(8_000, seed=1)
    abandoned(folder, first)
    later = replace(CLOCK, anchor=CLOCK.anchor.replace(microsecond=250_000))
    part = folder.begin(ANNA, later, 0, 0)
    part.append(second)
    crash(part)
    one, other = recover(folder)
    assert_sound(folder.path, {one.file: first, other.file: second})


def test_two_parts_without_notes_are_two_segments(tmp_path: Path) -> None:
    """Equal lengths, and times in the same second, as in a folder that was restored from an archive."""
    folder = open_room(tmp_path)
    spoken = [noise(16_000, seed) for seed in range(2)]
    for index, pcm in enumerate(spoken):
        path = abandoned(folder, pcm, start_sample=index * 16_000)
        os.utime(path, (1_760_000_000, 1_760_000_000))
    for note in folder.path.glob(".*.json"):
        note.unlink()
    records = recover(folder)
    assert len(records) == 2
    assert_sound(folder.path, {record.file: pcm for record, pcm in zip(records, spoken, strict=True)})


# --- the manifest ---


def broken_lines() -> list[bytes]:
    good = json.loads(MANIFEST_LINE)
    wrong: list[Any] = [
        None,
        5,
        "text",
        [],
        [good],
        {},
        {**good, "number": None},
        {**good, "number": "x"},
        {**good, "number": float("inf")},
        {**good, "number": float("nan")},
        {**good, "start": 5},
        {**good, "start": None},
        {**good, "start": "yesterday"},
        {**good, "start": "2025-10-08T14:05:23"},
        {**good, "duration_seconds": "long"},
        {**good, "mean_probability": []},
        {**good, "end_reason": "fun"},
        {**good, "sample_rate": {}},
    ]
    raw = [b"", b"not JSON", b"\xff\xfe\x00", b"{" * 50_000, b"[" * 50_000, b"9" * 5_000, b"\x00" * 100]
    return raw + [json.dumps(line).encode() for line in wrong]


MANIFEST_LINE = json.dumps(
    {
        "schema_version": 1,
        "number": 1,
        "file": "segment_001_20251008_140523.wav",
        "room_name": "math101",
        "room_sid": "RM_1",
        "participant_identity": "anna",
        "participant_name": "Anna",
        "track_sid": "TR_A",
        "track_source": "microphone",
        "start": "2025-10-08T14:05:23.500Z",
        "end": "2025-10-08T14:05:26.000Z",
        "offset_seconds": 323.5,
        "duration_seconds": 2.5,
        "sample_rate": 16_000,
        "mean_probability": 0.9,
        "lowest_probability": 0.5,
        "end_reason": "pause",
        "sha256": "",
    }
)


@pytest.mark.parametrize("broken", broken_lines(), ids=lambda line: ascii(line[:40]))
def test_a_broken_line_is_skipped_with_a_warning(
    tmp_path: Path, broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    good = MANIFEST_LINE.encode()
    (tmp_path / MANIFEST).write_bytes(b"\n".join([good, broken, good]) + b"\n")
    assert len(list(read_manifest(tmp_path))) == 2
    (line,) = (record.getMessage() for record in caplog.records)
    assert "Line 2" in line and MANIFEST in line


def test_any_existing_manifest_accepts_a_new_segment(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    spoken = noise(500)
    (folder.path / MANIFEST).write_bytes(b"\n".join(broken_lines()) + b"\n")
    record = save(open_room(tmp_path), spoken)
    assert [line.file for line in read_manifest(folder.path)] == [record.file]


def test_a_line_that_was_torn_is_taken_back_by_the_next(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    first = save(folder, noise(100))
    with open(folder.path / MANIFEST, "ab") as file:
        file.write(MANIFEST_LINE.encode()[:70])
    second = save(open_room(tmp_path), noise(100))
    assert_sound(folder.path)
    assert [record.file for record in read_manifest(folder.path)] == [first.file, second.file]


def test_a_torn_line_longer_than_one_look_back_is_taken_back(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    first = save(folder, noise(100))
    with open(folder.path / MANIFEST, "ab") as file:
        file.write(b'{"participant_name": "' + b"x" * 10_000)
    save(open_room(tmp_path), noise(100))
    assert_sound(folder.path)
    assert next(read_manifest(folder.path)).file == first.file


def test_a_line_that_lacks_only_its_end_keeps_its_segment(tmp_path: Path) -> None:
    """Torn after its last brace: a reader takes it as complete, and the next writer adds the line feed."""
    folder = open_room(tmp_path)
    save(folder, noise(100), BOB)
    path = folder.path / MANIFEST
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    again = open_room(tmp_path)
    save(again, noise(100))
    recover(again)
    lines = assert_sound(folder.path)
    assert [line["participant_identity"] for line in lines] == ["bob", "anna"]


# --- somebody else's files ---


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_folder_of_another_program_is_not_touched(tmp_path: Path) -> None:
    other = tmp_path / "music"
    other.mkdir()
    for name in ("song.wav", "cover.json", "notes.txt"):
        (other / name).write_bytes(wav_header(100) + bytes(200))
    before = content_of(other)
    assert recover_all(settings_for(tmp_path)) == []
    assert content_of(other) == before


@pytest.mark.parametrize("name", [".eslintrc.json", "song.wav.part", ".lock"])
def test_a_folder_of_another_program_is_not_touched_with_any_content(tmp_path: Path, name: str) -> None:
    """A hidden JSON file and an unfinished download: neither is from a recorder."""
    other = tmp_path / "project"
    other.mkdir()
    (other / "song.wav").write_bytes(wav_header(100) + bytes(200))
    (other / name).write_bytes(
        b"somebody else's, and longer than the header of a WAV file would be: " + bytes(99)
    )
    before = content_of(other)
    assert recover_all(settings_for(tmp_path)) == []
    assert content_of(other) == before


def test_files_of_another_program_in_a_rooms_folder_are_not_touched(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    abandoned(folder, noise(100))
    foreign = {
        "cover.json": b"{}",
        ".config.json": b"{}",
        "jingle.wav": stereo_wav(),
        "notes.txt": b"",
        "broken.wav": b"no WAV at all",
        "download.wav.part": b"<html>" * 100,
    }
    for name, content in foreign.items():
        (folder.path / name).write_bytes(content)
    (record,) = recover(folder)
    assert record.number == 1
    for name, content in foreign.items():
        assert (folder.path / name).read_bytes() == content
    assert recover(folder) == []


def test_a_wav_of_the_same_format_is_only_a_segment_if_its_name_or_a_note_says_so(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    save(folder, noise(100))
    path = abandoned(folder, noise(200), start_sample=16_000)
    os.replace(path, path.with_suffix(""))
    foreign = {
        "whole lesson.wav": wav_header(3_000) + bytes(6_000),
        "half copied.wav": wav_header(3_000) + bytes(4_000),
    }
    for name, content in foreign.items():
        (folder.path / name).write_bytes(content)
    assert [record.number for record in recover(folder)] == [2]
    assert save(folder, noise(100), start_sample=32_000).number == 3
    assert [line["number"] for line in manifest(folder.path)] == [1, 2, 3]
    for name, content in foreign.items():
        assert (folder.path / name).read_bytes() == content


def test_a_segment_that_is_being_copied_back_is_recovered_when_it_is_whole(tmp_path: Path) -> None:
    folder, pcm = open_room(tmp_path), noise(3_000)
    save(folder, noise(100))
    copy = folder.path / "segment_002_20251008_140623.wav"
    content = wav_header(3_000) + pcm.tobytes()
    for size in (0, 20, 44, 1_000, len(content) - 1):
        copy.write_bytes(content[:size])
        assert recover(folder) == []
        assert copy.read_bytes() == content[:size]
    copy.write_bytes(content)
    (record,) = recover(folder)
    assert record.duration_seconds == 3_000 / 16_000


def stereo_wav() -> bytes:
    """One second of 48 kHz stereo: not a recorded WAV; read as one it would not be one second."""
    data = bytes(4 * 48_000)
    header = bytearray(wav_header(len(data) // 2))
    header[22:24] = (2).to_bytes(2, "little")
    header[24:28] = (48_000).to_bytes(4, "little")
    header[28:32] = (4 * 48_000).to_bytes(4, "little")
    header[32:34] = (4).to_bytes(2, "little")
    return bytes(header) + data


@pytest.mark.parametrize("name", ["old.wav", "old.wav.part"])
def test_a_folder_named_like_a_wav_does_not_block_a_room(tmp_path: Path, name: str) -> None:
    folder = open_room(tmp_path)
    save(folder, noise(100))
    (folder.path / name).mkdir()
    assert save(open_room(tmp_path), noise(100)).number == 2


@needs_posix
@pytest.mark.parametrize("name", ["linked.wav", "segment_009_20251008_140523.wav.part"])
def test_a_link_is_not_followed_and_does_not_block_a_room(tmp_path: Path, name: str) -> None:
    folder = open_room(tmp_path / "segments")
    save(folder, noise(100))
    target = tmp_path / "target"
    target.write_bytes(wav_header(100) + bytes(200))
    (folder.path / name).symlink_to(target)
    assert save(open_room(tmp_path / "segments"), noise(100)).number >= 2
    assert target.read_bytes() == wav_header(100) + bytes(200)


def test_a_folder_that_cannot_be_recovered_does_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        abandoned(open_room(tmp_path, replace(ROOM, name=name)), noise(100))
    scanned = os.scandir

    def refusing(path: Path) -> Any:
        if Path(path).name == "b":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return scanned(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert [record.room_name for record in recover_all(settings_for(tmp_path))] == ["a", "c"]
    (line,) = (record.getMessage() for record in caplog.records)
    assert "Folder b cannot be recovered" in line


# --- a disk that refuses, at every single step ---


class Recorder:
    """Saves a stream as the pipeline does: continues after an error, and repeats the commit until it succeeds."""

    def __init__(self, folder: RoomFolder, stream: Pcm) -> None:
        self.folder = folder
        self.stream = stream
        self.ends: dict[int, int] = {}
        """How far each segment is known to be on disk, by its first sample."""
        self._parts: dict[int, PartFile] = {}
        self._told: dict[int, int] = {}

    @property
    def safe_samples(self) -> int:
        """How far the stream is known to be on disk."""
        end = 0
        for start in sorted(self.ends):
            end = max(end, self.ends[start]) if start <= end else end
        return end

    def open(self, start: int) -> None:
        self._told[start] = start
        with contextlib.suppress(OSError):
            self._begin(start)

    def grow(self, start: int, end: int) -> None:
        piece_start, self._told[start] = self._told[start], end
        if start not in self._parts:
            return
        with contextlib.suppress(OSError):
            self._parts[start].append(self.stream[piece_start:end])
            if self.ends[start] == piece_start:
                self.ends[start] = end

    def close(self, start: int, end: int) -> None:
        if start in self.ends:
            self.ends[start] = min(self.ends[start], end)  # at a split the rest is the next segment's
        for _ in range(20):
            with contextlib.suppress(OSError):
                if start not in self._parts:
                    self._begin(start)
                self._parts[start].commit(segment_of(self.stream[start:end], start))
                self.ends[start] = end
                return
        raise AssertionError("a disk that works again does not take the segment")

    def _begin(self, start: int) -> None:
        self._parts[start] = begin(self.folder, ANNA, start)
        self.ends[start] = start


def one_segment(recorder: Recorder) -> None:
    recorder.open(0)
    recorder.grow(0, 1_000)
    recorder.grow(0, 2_000)
    recorder.grow(0, 3_000)
    recorder.close(0, 3_500)


def a_split(recorder: Recorder) -> None:
    """The second segment takes over the end of the first."""
    recorder.open(0)
    recorder.grow(0, 1_000)
    recorder.grow(0, 2_000)
    recorder.open(1_504)
    recorder.grow(1_504, 2_000)
    recorder.close(0, 1_504)
    recorder.grow(1_504, 3_000)
    recorder.close(1_504, 3_500)


SCRIPTS: dict[Callable[[Recorder], None], list[int]] = {one_segment: [0], a_split: [0, 1_504]}


def in_short(trouble: AssertionError) -> str:
    return " ".join(str(trouble).split())[:200]


@pytest.mark.parametrize(
    ("error", "times"),
    [(errno.ENOSPC, 1), (errno.EIO, 2), (errno.EROFS, 7)],
    ids=["full once", "broken twice", "read-only for a while"],
)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_each_segment_is_saved_once_after_any_refusal_of_the_disk(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: Callable[[Recorder], None],
    error: int,
    times: int,
) -> None:
    disk, stream, troubles = RefusingDisk(monkeypatch), noise(3_500), []
    for first in itertools.count():
        folder = open_room(tmp_path / str(first))
        disk.refuse(error, first, times)
        script(Recorder(folder, stream))
        disk.relent()
        recover(folder)  # clears away what a refused beginning has left
        try:
            lines = sorted(assert_sound(folder.path), key=place)
            assert [place(line) for line in lines] == SCRIPTS[script], "segments"
            spoken = [samples(folder.path / line["file"]) for line in lines]
            np.testing.assert_array_equal(np.concatenate(spoken), stream)
        except AssertionError as trouble:
            troubles.append(f"refused {disk.refused}: {in_short(trouble)}")
        if not disk.refused:
            break
    assert first > 20, "the disk was hardly asked for anything"
    assert not troubles, "\n\n".join(troubles)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_after_a_crash_at_any_point_recovery_finds_everything_synced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Callable[[Recorder], None]
) -> None:
    """Before each single step of a recording, and of recordings in which one step has been refused."""
    disk, stream = RefusingDisk(monkeypatch), noise(3_500)
    wrecks: dict[Wreck, str] = {}
    for first in itertools.count():
        folder = open_room(tmp_path / str(first))
        recorder = Recorder(folder, stream)

        def crash(folder: RoomFolder = folder, recorder: Recorder = recorder) -> None:
            wrecks.setdefault(Wreck.of(folder.path, recorder.safe_samples), f"refused {disk.refused}")

        disk.before_step = crash
        disk.refuse(errno.EIO, first)
        script(recorder)
        disk.relent()
        if not disk.refused:
            break
    troubles = []
    for index, (wreck, what) in enumerate(wrecks.items()):
        try:
            wreck.assert_recovered(tmp_path / f"wreck{index}", stream, at_most=len(SCRIPTS[script]))
        except AssertionError as trouble:
            files = {name: len(content) for name, content in wreck.files}
            troubles.append(f"{what}, crash with {files}: {in_short(trouble)}")
    assert len(wrecks) > 20, "too few crashes"
    assert not troubles, f"{len(troubles)} of {len(wrecks)}:\n\n" + "\n\n".join(troubles[:8])


def test_a_piece_that_was_refused_is_no_hole_in_the_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller continues after an error; the next piece must not be written in place of the missing one."""
    disk, folder, pcm = RefusingDisk(monkeypatch), open_room(tmp_path), noise(3_000)
    part = begin(folder)
    part.append(pcm[:1_000])
    disk.refuse(errno.ENOSPC, first=0)
    with pytest.raises(OSError):
        part.append(pcm[1_000:2_000])
    disk.relent()
    part.append(pcm[2_000:])
    record = part.commit(segment_of(pcm))
    assert_sound(folder.path, {record.file: pcm})


@pytest.mark.parametrize("while_committing", [False, True])
def test_what_a_failed_sync_may_have_dropped_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, while_committing: bool
) -> None:
    """After a failed fsync Linux drops the pages it could not write and calls them clean: the next fsync succeeds."""
    folder, pcm = open_room(tmp_path), noise(3_000)
    part = begin(folder)
    path = folder.path / f"{part.name}.part"
    sync, refusals = os.fsync, iter([True])

    def drop_and_fail(descriptor: int) -> None:
        if next(refusals, False):
            path.write_bytes(bytes(path.stat().st_size))
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", drop_and_fail)
    with pytest.raises(OSError):
        part.commit(segment_of(pcm)) if while_committing else part.append(pcm)
    record = part.commit(segment_of(pcm))
    assert_sound(folder.path, {record.file: pcm})


@needs_posix
@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP, errno.EBADF], ids=errno.errorcode.get)
def test_a_disk_that_cannot_sync_folders_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def sync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", sync)
    folder, pcm = open_room(tmp_path), noise(100)
    assert_sound(folder.path, {save(folder, pcm).file: pcm})


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_a_refused_beginning_leaves_no_file_and_uses_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """A disk that is full for an hour is asked every two seconds."""
    disk, troubles = RefusingDisk(monkeypatch), []
    for first in itertools.count():
        folder = open_room(tmp_path / str(first))
        disk.refuse(error, first)
        try:
            crash(begin(folder))
        except OSError:
            disk.relent()
            left, record = leftovers(folder.path), save(folder, noise(10))
            if left or record.number != 1:
                troubles.append(f"refused {disk.refused}: left {left}, next number {record.number}")
        disk.relent()
        if not disk.refused:
            break
    assert not troubles, "\n".join(troubles)


# --- other processes ---


class Writers:
    """Writers in processes of their own: started with a line, ended with a kill."""

    def __init__(self) -> None:
        self._program = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "support" / "writer.py")],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._program.stdin is not None and self._program.stdout is not None
        self._in: IO[str] = self._program.stdin
        self._out: IO[str] = self._program.stdout
        self.safe: dict[int, int] = {}
        """Samples of each segment that are known to be on disk."""
        self.saved: set[int] = set()
        self._pid = 0

    def start(self, command: str, output_dir: Path, first: int, until: str) -> None:
        """Starts a writer and waits until it has said ``until``."""
        self._in.write(f"{command}\t{output_dir}\t{first}\n")
        self._in.flush()
        while not self._heard().startswith(until):
            pass

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        while self._heard() != "dead":
            pass

    def end(self) -> None:
        self._in.close()
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
        self._program.wait()
        self._out.close()

    def _heard(self) -> str:
        line = self._out.readline()
        assert line, "the writer has ended"
        word, *numbers = line.split()
        if word == "pid":
            self._pid = int(numbers[0])
        elif word == "dead":
            self._pid = 0
        elif word == "safe":
            self.safe[int(numbers[0])] = int(numbers[1])
        elif word == "saved":
            self.saved.add(int(numbers[0]))
        return line.strip()


@pytest.fixture
def writers() -> Iterator[Writers]:
    if not hasattr(os, "fork"):
        pytest.skip("kills are tried where processes can fork")
    writers = Writers()
    yield writers
    writers.end()


def test_a_part_that_another_process_is_writing_is_left_alone_until_it_dies(
    tmp_path: Path, writers: Writers
) -> None:
    writers.start("hold", tmp_path, 0, until="safe 0 500")
    folder = open_room(tmp_path)
    assert recover(folder) == []
    assert recover_all(settings_for(tmp_path)) == []
    assert save(folder, noise(100), start_sample=STRIDE).number == 2
    writers.kill()
    (record,) = recover(folder)
    assert record.number == 1
    lines = assert_sound(folder.path)
    np.testing.assert_array_equal(samples(folder.path / record.file), sound_of(0)[:500])
    assert len(lines) == 2


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_loses_nothing_that_was_safe(tmp_path: Path, writers: Writers) -> None:
    chance, first, rounds = random.Random(7), 0, 0
    while rounds < 20 or not writers.saved:  # on a busy machine a writer does nothing for a while
        rounds += 1
        writers.start("write", tmp_path, first, until="pid")
        time.sleep(chance.uniform(0, 0.1 * (1 + rounds // 20)))
        writers.kill()
        first = max(writers.safe, default=-1) + 2  # the last one may have begun and not said so
        folder = open_room(tmp_path)
        folder.recover()
        by_place = {place(line): line for line in assert_sound(folder.path)}
        for index, safe in writers.safe.items():
            line = by_place.get(index * STRIDE)
            if line is None:
                assert safe == 0, f"segment {index} is lost"
                continue
            pcm, spoken = samples(folder.path / line["file"]), sound_of(index)
            np.testing.assert_array_equal(pcm, spoken[: len(pcm)])
            assert len(pcm) >= safe
            assert len(pcm) == len(spoken) or index not in writers.saved
