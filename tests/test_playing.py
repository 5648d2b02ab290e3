"""`lessons.py play`: the right file reaches the system's player."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from commands import run
from disk import ANNA, CLOCK, ROOM, noise, open_room, segment_of

from archive import Room
from segments import RoomInfo, TrackInfo

HOSTILE = TrackInfo("bob", "Bob\n#EXTINF:1,\u202eevil\r\n/etc/passwd", "TR_B", "microphone")


def record(folder: Path, room: RoomInfo = ROOM) -> Room:
    opened = open_room(folder, room)
    for track, at in ((ANNA, 0), (HOSTILE, 32_000), (ANNA, 64_000)):
        opened.begin(track, CLOCK, at, at).commit(segment_of(noise(16_000, at), at))
    return Room(opened.path)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the opener cannot be replaced there")
def test_the_segment_is_handed_to_the_system(tmp_path: Path) -> None:
    room = record(tmp_path / "segments", RoomInfo("math 101; rm -rf", "RM_1", ROOM.started_at))
    opener = tmp_path / "bin" / "xdg-open"
    opener.parent.mkdir()
    opener.write_text(f'#!/bin/sh\necho "$1" > "{tmp_path}/opened"\n')
    opener.chmod(opener.stat().st_mode | stat.S_IXUSR)
    path = f"{opener.parent}{os.pathsep}{os.environ['PATH']}"
    result = run("play", room.name, "2", output_dir=tmp_path / "segments", PATH=path)
    assert result.code == 0, result.err
    opened = Path((tmp_path / "opened").read_text().strip())
    assert opened == Path(result.out.strip())
    assert opened.name == list(room.records())[1].file


def test_the_lesson_is_a_playlist_in_the_order_spoken(tmp_path: Path) -> None:
    room = record(tmp_path)
    playlist = Path(run("play", "math101", "--print", output_dir=tmp_path, TMPDIR=str(tmp_path)).out.strip())
    lines = playlist.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#EXTM3U"
    assert len(lines) == 7, "no name adds a line"
    files = [Path(unquote(urlsplit(line).path)).name for line in lines[2::2]]
    assert files == [one.file for one in room.records()]
    assert sorted(path.name for path in room.path.iterdir() if path.suffix == ".m3u8") == []


def test_the_exported_page_is_preferred(tmp_path: Path) -> None:
    room = record(tmp_path)
    (room.path / "lesson.html").write_text("<p>")
    assert run("play", "math101", "--print", output_dir=tmp_path).out.strip() == str(
        room.path / "lesson.html"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere"], 2, "There is no room 'nowhere'"),
        (["math101", "9"], 2, "Room 'math101' has no segment 9"),
        (["math101", "3"], 2, "segment_003_20251008_140527.wav is not there any more"),
    ],
)
def test_what_cannot_be_played_is_one_line(
    tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    room = record(tmp_path)
    (room.path / list(room.records())[2].file).unlink()
    result = run("play", *arguments, output_dir=tmp_path)
    assert result.code == code
    assert result.err.startswith(said)
    assert result.err.count("\n") == 1


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="they always have an opener")
def test_a_system_without_a_player_is_one_line(tmp_path: Path) -> None:
    record(tmp_path)
    result = run("play", "math101", "1", output_dir=tmp_path, PATH=str(tmp_path))
    assert result.code == 1
    assert result.err.startswith("This system has nothing to open it with: ")
