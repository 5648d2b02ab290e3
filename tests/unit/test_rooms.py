"""Reading the rooms' folders: after a crash, after changes by other programs, and with 100,000 segments."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from archive.jsonl import Lines
from archive.names import is_plain_name
from archive.rooms import Archive, Room
from archive.texts import Text
from core.errors import InputError
from core.records import RoomInfo, SegmentRecord, TrackInfo
from devtools.sample_room import ANNA, BOB, CLOCK, ROOM, noise, open_room, segment_of, settings_for
from storage import RoomFolder
from support.disk import NAMES


def speak(folder: RoomFolder, at_seconds: float = 0.0, track: TrackInfo = ANNA) -> SegmentRecord:
    """Saves a segment of 2 s."""
    start = round(at_seconds * 16_000)
    pcm = noise(32_000, seed=start)
    return folder.begin(track, CLOCK, start, start).commit(segment_of(pcm, start))


def archive(output_dir: Path) -> Archive:
    return Archive.from_settings(settings_for(output_dir))


def note(folder: Path, *lines: dict[str, Any] | str) -> None:
    """Adds lines to texts.jsonl."""
    with open(folder / "texts.jsonl", "a", encoding="utf-8") as file:
        file.writelines((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)


def test_rooms_are_the_folders_that_hold_something_of_ours(tmp_path: Path) -> None:
    speak(open_room(tmp_path))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.wav").write_bytes(b"RIFF")
    (tmp_path / "notes.txt").write_text("mine")
    being_spoken = open_room(tmp_path, RoomInfo("art", "RM_2", ROOM.started_at))
    part = being_spoken.begin(ANNA, CLOCK, 0, 0)
    assert [room.name for room in archive(tmp_path).rooms()] == ["art", "math101"]
    part.abandon()


def test_a_room_is_found_by_its_name_and_by_its_folder(tmp_path: Path) -> None:
    hostile = RoomInfo("../../\x00évil\n", "RM_9", ROOM.started_at)
    speak(open_room(tmp_path, hostile))
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert archive(tmp_path).one(hostile.name).path == folder
    assert archive(tmp_path).one(folder.name).name == hostile.name


@pytest.mark.parametrize("name", ["nowhere", "..", "", "/etc", "a\x00b", "CON", "x" * 5000])
def test_an_unknown_room_is_refused(tmp_path: Path, name: str) -> None:
    speak(open_room(tmp_path))
    with pytest.raises(InputError, match="There is no room"):
        archive(tmp_path).find(name)


def test_a_folder_of_another_program_is_no_room(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="contains no recording"):
        archive(tmp_path).find("photos")


def test_another_programs_list_of_the_same_name_makes_no_room(tmp_path: Path) -> None:
    """Nothing of it is read, and `check --repair` cannot reach it."""
    theirs = tmp_path / "dataset" / "segments.jsonl"
    theirs.parent.mkdir()
    theirs.write_text('{"audio": "a.flac"}\n' * 3 + "no JSON\n")
    assert archive(tmp_path).rooms() == []
    with pytest.raises(InputError, match="contains no recording"):
        archive(tmp_path).find("dataset")
    speak(open_room(tmp_path))
    manifest = tmp_path / "math101" / "segments.jsonl"
    manifest.write_bytes(b"torn\n" + manifest.read_bytes())
    next((tmp_path / "math101").glob("*.wav")).unlink()
    assert [room.name for room in archive(tmp_path).rooms()] == ["math101"], "one good line is enough"


def test_a_missing_output_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing has been recorded yet"):
        archive(tmp_path / "none").rooms()


def test_sessions_with_a_folder_each_are_found_together(tmp_path: Path) -> None:
    for sid in ("RM_1", "RM_2"):
        speak(open_room(tmp_path, replace(ROOM, sid=sid), room_dir="{room_sid}"))
    found = archive(tmp_path).find("math101")
    assert [room.path.name for room in found] == ["RM_1", "RM_2"]
    with pytest.raises(InputError, match="2 folders"):
        archive(tmp_path).one("math101")


def test_a_folder_with_several_sessions(tmp_path: Path) -> None:
    first = open_room(tmp_path)
    speak(first, 10)
    speak(first, 20, BOB)
    later = RoomInfo("math101", "RM_2", ROOM.started_at + timedelta(days=1))
    speak(open_room(tmp_path, later), 30)
    room = archive(tmp_path).one("math101")
    one, two = room.sessions()
    assert (one.room_sid, one.segments, [who.identity for who in one.participants]) == (
        "RM_1",
        2,
        ["anna", "bob"],
    )
    assert one.started_at == ROOM.started_at
    assert one.speech_seconds == pytest.approx(4.0)
    assert (one.speech_ended_at - one.speech_began_at).total_seconds() == pytest.approx(12.0)
    assert (two.room_sid, two.segments) == ("RM_2", 1)
    assert [record.number for record in room.records("RM_2")] == [3]


def test_broken_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    good = speak(folder)
    evil = {**good.to_json(), "number": 7, "file": "../../../etc/passwd"}
    with open(folder.path / "segments.jsonl", "a", encoding="utf-8") as file:
        file.write('{"number": 2, "fi\n\x00\n[1]\n' + json.dumps(evil) + "\n")
        file.write('{"number": ' + "9" * 5000 + "}\n" + "[" * 100_000 + "\n" + "x" * (3 << 20) + "\n")
        file.write(json.dumps(good.to_json()) + "\n")
    lines = Lines()
    assert [record.number for record in Room(folder.path).records(lines=lines)] == [1]
    assert lines.broken == [2, 3, 4, 5, 6, 7, 8]
    assert lines.read == 9


def test_texts_are_what_the_last_line_says(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    one, two, three, four = (speak(folder, at) for at in (0, 10, 20, 30))
    note(
        folder.path,
        {"number": 1, "file": one.file, "language": "en", "transcript": "Old", "translations": {}},
        {"number": 2, "file": two.file, "refused": "blocked: SAFETY"},
        "not JSON",
        {"number": 1, "file": one.file, "language": "en", "transcript": "New", "translations": {"ar": "جديد"},
         "model": "m"},
        {"number": 3, "file": three.file, "language": "en", "transcript": "", "translations": {"es": ""}},
    )  # fmt: skip
    with Room(folder.path).texts() as texts:
        assert texts.get(one) == Text("en", {"en": "New", "ar": "جديد"}, model="m")
        assert texts.get(two) == Text(None, {}, refused="blocked: SAFETY")
        assert texts.get(three) == Text("en", {})
        assert texts.get(four) is None
        assert [record in texts for record in (one, two, three, four)] == [True, True, True, False]
        assert texts.lines.broken == [3]


def test_texts_come_from_the_files_where_no_line_quotes_them(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    one, two = speak(folder), speak(folder, 10)
    for record, tag, text in ((one, "en", "Hello"), (one, "es", "Hola"), (two, "pt-BR", "Olá")):
        path = folder.path / record.file.replace(".wav", f"_{tag}.txt")
        path.write_text(text + "\n", encoding="utf-8")
    note(folder.path, {"number": 1, "file": one.file, "language": "en", "files": []})
    with Room(folder.path).texts() as texts:
        assert texts.get(one) == Text("en", {"en": "Hello", "es": "Hola"})
        olá = two.file.replace(".wav", "_pt-BR.txt")
        assert texts.get(two) == Text(None, {"pt-BR": "Olá"}, files={"pt-BR": olá})


def test_two_recorders_that_delivered_to_one_place_keep_their_words_apart(tmp_path: Path) -> None:
    """Both have counted from 1, and their lists were merged: only number and WAV together name a segment."""
    folder = open_room(tmp_path)
    ours, others = speak(folder), replace(speak(folder, 60), number=1)
    manifest = folder.path / "segments.jsonl"
    manifest.write_text("".join(json.dumps(one.to_json()) + "\n" for one in (ours, others)))
    said = {"number": 1, "language": "en", "translations": {}}
    note(folder.path, {**said, "file": ours.file, "transcript": "Ours."})
    with Room(folder.path).texts() as texts:
        assert (ours in texts, others in texts) == (True, False)
        assert texts.get(others) is None
    note(folder.path, {**said, "file": others.file, "transcript": "Theirs."})
    with Room(folder.path).texts() as texts:
        assert [text.transcript for one in (ours, others) if (text := texts.get(one))] == ["Ours.", "Theirs."]
        assert len(texts) == 2


def test_a_text_that_names_no_file_is_of_the_only_segment_of_its_number(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    one, two, three = (speak(folder, at) for at in (0, 10, 20))
    note(
        folder.path,
        {"number": 1, "file": one.file, "language": "en", "transcript": "Old."},
        {"number": 1, "language": "en", "transcript": "New."},
        {"number": 2, "language": "en", "transcript": "Two."},
        {"number": 3, "language": "en", "transcript": "Whose?"},
    )
    with open(folder.path / "segments.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({**three.to_json(), "file": "another.wav"}) + "\n")
    with Room(folder.path).texts() as texts:
        said = [text.transcript if (text := texts.get(record)) else None for record in (one, two, three)]
    assert said == ["New.", "Two.", None]


def test_texts_of_a_hostile_file_are_bounded_to_the_folder(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    record = speak(folder)
    lines = [
        {"number": True, "language": "en", "transcript": "x"},
        {
            "number": 1,
            "language": "../../x",
            "transcript": "a",
            "translations": {"../y": "b", "es": 5, "fr": "c"},
        },
    ]
    note(folder.path, *lines, "[" * 100_000, "null", '"x"')
    with Room(folder.path).texts() as texts:
        assert texts.get(record) == Text(None, {"fr": "c"})
        assert texts.lines.broken == [1, 3, 4, 5]


def test_what_is_being_spoken_is_told_from_what_a_crash_left(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    speak(folder)
    left = folder.begin(BOB, CLOCK, 0, 0)
    left.abandon()
    living = folder.begin(ANNA, CLOCK, 320_000, 320_000)
    room = Room(folder.path)
    assert room.parts_being_written() == [living.name + ".part"]
    assert [path.name for path in room.parts()] == sorted([left.name + ".part", living.name + ".part"])
    living.abandon()
    assert room.parts_being_written() == []


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_are_not_followed(tmp_path: Path) -> None:
    folder = open_room(tmp_path)
    record = speak(folder)
    outside = tmp_path / "outside.wav"
    (folder.path / record.file).rename(outside)
    (folder.path / record.file).symlink_to(outside)
    assert Room(folder.path).wav(record) is None
    (tmp_path / "linked").symlink_to(folder.path)
    assert [room.path.name for room in archive(tmp_path).rooms()] == ["math101"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", ".hidden", "c:x", "a\0b", "x" * 256, "\ud800.wav"]
)
def test_names_that_are_none(name: str) -> None:
    assert not is_plain_name(name)


def test_names_of_segment_files_are_plain_names() -> None:
    for name in ("segment_001_20251008_140523.wav", "العربية.wav", "a b.wav"):
        assert is_plain_name(name)
    assert NAMES.number_in("segment_001_20251008_140523.wav") == 1
