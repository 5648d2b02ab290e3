"""`lessons.py play`: the right file reaches the system's player."""

from __future__ import annotations

import os
import stat
import sys
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from archive.rooms import Room
from core.records import RoomInfo, StreamClock, TrackInfo
from devtools.sample_room import ANNA, CLOCK, ROOM, noise, open_room, segment_of
from support.commands import run

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


def test_of_several_sessions_the_last_one_is_opened(tmp_path: Path) -> None:
    record(tmp_path)
    day, later = timedelta(days=1), StreamClock(CLOCK.anchor + timedelta(days=1))
    opened = open_room(tmp_path, RoomInfo("math101", "RM_2", ROOM.started_at + day))
    room = Room(opened.path)
    opened.begin(ANNA, later, 0, 0).commit(segment_of(noise(16_000, 9), 0))

    def shown(*options: str, which: str = "session 2 of 2, 2025-10-09 14:00\n") -> Path:
        result = run("play", "math101", "--print", *options, output_dir=tmp_path)
        assert result.code == 0 and result.err.startswith(which)
        return Path(result.out.strip())

    playlist = shown().read_text(encoding="utf-8")
    assert list(room.records())[-1].file in playlist and playlist.count("#EXTINF") == 1
    assert run("export", "math101", "--session", "all", "--format", "html", output_dir=tmp_path).code == 0
    assert shown() == room.path / "lesson_20251009_140000.html"
    first = shown("--session", "1", which="session 1 of 2, 2025-10-08 14:00\n")
    assert first == room.path / "lesson_20251008_140000.html"
    assert shown("1", which="").suffix == shown("4", which="").suffix == ".wav", (
        "numbers go on through the room"
    )
    assert "names 0 of 2 sessions" in run("play", "math101", "--session", "2024", output_dir=tmp_path).err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere"], 2, "There is no room 'nowhere'"),
        (["math101", "9"], 2, "Room 'math101' has no segment 9"),
        (["math101", "1", "--session", "1"], 2, "Segment 1 is in one session only"),
        (["math101", "3"], 2, "segment_003_20251008_140527.wav no longer exists"),
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
    assert result.err.startswith("This system has no program to open it with: ")
