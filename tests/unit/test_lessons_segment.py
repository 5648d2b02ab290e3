"""`lessons.py segment`: any recording is cut like live speech; runs are killed and repeated, files are damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from archive.rooms import Room
from archive.session_files import read_session
from audio_processor import WINDOW_SAMPLES, Closed, Segmenter
from core.errors import InputError
from core.records import SAMPLE_RATE, EndReason, Pcm, SpeechSegment, StreamClock, parse_utc
from core.session_records import ClosedBy
from devtools import sound
from devtools.room_folders import recorded, samples
from devtools.sample_room import segment_of, settings_for
from lesson_tools.decoding import Recording
from lesson_tools.importing import Covered, fingerprint, segment_file
from lesson_tools.inspection import inspect
from recording.speech_detector import load_detector
from support import ROOT
from support.commands import environment, run
from support.disk import NAMES, assert_sound, manifest, place
from support.recordings import CODECS, write_pieces, write_recording

pytestmark = pytest.mark.slow

BEGAN = datetime(2025, 10, 8, 14, 0, tzinfo=UTC)


def spoken(count: int = 6, gap_seconds: float = 0.8) -> Pcm:
    """The first markers with pauses between them."""
    return sound.sequence(sound.markers()[:count], gap_seconds)[0]


def live(pcm: Pcm) -> list[SpeechSegment]:
    """What the live worker would make of a stream."""
    detector, segmenter = load_detector("native")(), Segmenter()
    whole = len(pcm) - len(pcm) % WINDOW_SAMPLES
    updates = []
    for start in range(0, whole, WINDOW_SAMPLES):
        window = pcm[start : start + WINDOW_SAMPLES]
        updates += segmenter.push(window, detector.probability(window))
    updates += segmenter.finish(EndReason.SHUTDOWN, pcm[whole:])
    return [update.segment for update in updates if isinstance(update, Closed)]


@pytest.mark.parametrize("ending", CODECS)
def test_every_container_gives_every_word(tmp_path: Path, ending: str) -> None:
    path = write_recording(tmp_path / f"lecture.{ending}", spoken(), video=ending in ("mp4", "webm"))
    outcome = segment_file(settings_for(tmp_path / "out"), path, None, BEGAN)
    room = tmp_path / "out" / "lecture"
    assert sound.heard(recorded(room), sound.markers()[:6]) == list(range(6))
    assert_sound(room)
    assert inspect(Room(room), NAMES).findings == []
    assert (outcome.segments, outcome.room, outcome.folder) == (len(manifest(room)), "lecture", "lecture")
    assert outcome.duration_seconds == pytest.approx(len(spoken()) / SAMPLE_RATE, abs=0.2)


def test_it_is_what_the_live_worker_would_have_saved(tmp_path: Path) -> None:
    pcm = np.concatenate([spoken(), sound.load("lecture")])
    path = write_recording(tmp_path / "lecture.mkv", pcm)
    segment_file(settings_for(tmp_path), path, "math101", BEGAN, "anna")
    wanted, lines = live(pcm), manifest(tmp_path / "math101")
    assert [place(line, StreamClock(BEGAN)) for line in lines] == [one.start_sample for one in wanted]
    assert [line["end_reason"] for line in lines] == [one.end_reason.value for one in wanted]
    assert {line["participant_identity"] for line in lines} == {"anna"}
    for line, one in zip(lines, wanted, strict=True):
        np.testing.assert_array_equal(samples(tmp_path / "math101" / line["file"]), one.pcm)


def test_a_second_run_doubles_nothing(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "lecture.mp3", spoken())
    first = segment_file(settings_for(tmp_path / "out"), path, None, BEGAN)
    before = manifest(tmp_path / "out" / "lecture")
    path.touch()
    again = segment_file(settings_for(tmp_path / "out"), path.rename(tmp_path / "copy.mp3"), "lecture", None)
    assert (again.new_segments, again.segments, again.start) == (0, first.segments, BEGAN)
    assert manifest(tmp_path / "out" / "lecture") == before
    with pytest.raises(InputError, match="leave out --start"):
        segment_file(settings_for(tmp_path / "out"), tmp_path / "copy.mp3", "lecture", BEGAN.replace(hour=15))


def test_two_recordings_of_one_room_are_two_sessions(tmp_path: Path) -> None:
    for name, count in (("one", 3), ("two", 4)):
        path = write_recording(tmp_path / f"{name}.wav", spoken(count))
        segment_file(settings_for(tmp_path / "out"), path, "math101", BEGAN)
    sessions = Room(tmp_path / "out" / "math101").sessions()
    assert len(sessions) == 2
    assert_sound(tmp_path / "out" / "math101")
    files = [read_session(tmp_path / "out" / "math101", session.room_sid) for session in sessions]
    assert [one.closed_by if one else None for one in files] == [ClosedBy.IMPORT] * 2
    assert sum(one.segments for one in files if one) == len(manifest(tmp_path / "out" / "math101"))


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_run_that_was_killed_goes_on_where_it_ended(tmp_path: Path) -> None:
    pcm = np.concatenate([spoken(8, 1.0)] * 6)
    path = write_recording(tmp_path / "lecture.mkv", pcm)
    command = [sys.executable, str(ROOT / "lessons.py"), "segment", str(path), "--start", "2025-10-08T14:00"]
    process = subprocess.Popen(command, env=environment(OUTPUT_DIR=str(tmp_path / "out")))
    room = tmp_path / "out" / "lecture"
    while process.poll() is None and not (room / "segments.jsonl").exists():
        time.sleep(0.002)
    process.kill()
    process.wait()
    done = len(Room(room).parts()) + len(list(Room(room).records()))
    result = run("segment", str(path), "--json", output_dir=tmp_path / "out")
    assert result.code == 0
    (outcome,) = json.loads(result.out)["recordings"]
    wanted = live(pcm)
    assert done <= outcome["segments"]
    lines = sorted(assert_sound(room), key=lambda line: str(line["start"]))
    position = 0
    for line in lines:
        start = place(line, StreamClock(BEGAN))
        assert start >= position, "nothing is there twice"
        heard = samples(room / line["file"])
        np.testing.assert_array_equal(heard, pcm[start : start + len(heard)])
        position = start + len(heard)
    missing = sum(len(one.pcm) for one in wanted) - sum(len(samples(room / line["file"])) for line in lines)
    assert abs(missing) <= SAMPLE_RATE // 2, "at most the sliver of one segment"


def test_what_is_left_of_a_segment_that_is_partly_there() -> None:
    pcm = np.arange(32_000, dtype=np.int16)
    whole = segment_of(pcm, 100_000)
    assert Covered([]).rest(whole) == [whole]
    assert Covered([(0, 100_000), (132_000, 140_000)]).rest(whole) == [whole]
    assert Covered([(100_000, 132_000)]).rest(whole) == []
    assert Covered([(99_000, 131_000)]).rest(whole) == [], "a sliver is nothing"
    (end,) = Covered([(100_000, 110_000)]).rest(whole)
    assert (end.start_sample, end.speech_start_sample, end.end_sample) == (110_000, 110_000, 132_000)
    np.testing.assert_array_equal(end.pcm, pcm[10_000:])
    parts = Covered([(124_000, 200_000), (108_000, 116_000)]).rest(whole)
    assert [(part.start_sample, part.end_sample) for part in parts] == [
        (100_000, 108_000),
        (116_000, 124_000),
    ]


def test_another_process_at_the_same_recording_is_turned_away(tmp_path: Path) -> None:
    from archive.files import Reservation

    path = write_recording(tmp_path / "lecture.wav", spoken(2))
    room = tmp_path / "out" / "lecture"
    room.mkdir(parents=True)
    with Reservation(room, f"FILE_{fingerprint(path)}"):
        with pytest.raises(InputError, match="by another process"):
            segment_file(settings_for(tmp_path / "out"), path, None, BEGAN)
    segment_file(settings_for(tmp_path / "out"), path, None, BEGAN)


# --- times ---


def test_the_start_is_what_is_given_or_what_the_file_says_or_its_date(tmp_path: Path) -> None:
    pcm = spoken(2)
    write_recording(tmp_path / "dated.mp4", pcm, creation_time="2024-05-06T07:08:09Z")
    write_recording(tmp_path / "plain.wav", pcm)
    os.utime(tmp_path / "plain.wav", (1_700_000_000, 1_700_000_000))
    files = [str(tmp_path / name) for name in ("dated.mp4", "plain.wav")]
    result = run("segment", *files, "--json", output_dir=tmp_path / "out")
    dated, plain = json.loads(result.out)["recordings"]
    assert dated["start"] == "2024-05-06T07:08:09.000Z"
    length = len(pcm) / SAMPLE_RATE
    assert parse_utc(plain["start"]).timestamp() == pytest.approx(1_700_000_000 - length, abs=0.01)
    given = ["--start", "2025-10-08T16:00", "--room", "berlin"]
    result = run("segment", files[1], *given, "--json", output_dir=tmp_path / "out", TIMEZONE="Europe/Berlin")
    assert json.loads(result.out)["recordings"][0]["start"] == "2025-10-08T14:00:00.000Z"


def test_sound_that_begins_later_than_the_picture_is_dated_so(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "lecture.mp4", spoken(2), sound_from=3.0, video=True)
    segment_file(settings_for(tmp_path), path, None, BEGAN)
    (first, *_) = manifest(tmp_path / "lecture")
    assert first["offset_seconds"] == pytest.approx(
        3.0 + live(spoken(2))[0].start_sample / SAMPLE_RATE, abs=0.1
    )


def test_a_hole_in_the_recording_is_silence_of_its_length(tmp_path: Path) -> None:
    one, two = spoken(2), spoken(3)
    path = write_pieces(tmp_path / "lecture.mkv", [(0.0, one), (60.0, two)])
    segment_file(settings_for(tmp_path), path, None, BEGAN)
    lines = manifest(tmp_path / "lecture")
    second = [line for line in lines if line["offset_seconds"] > 59]
    assert second[0]["offset_seconds"] == pytest.approx(60 + live(two)[0].start_sample / SAMPLE_RATE, abs=0.1)
    assert sound.heard(recorded(tmp_path / "lecture"), sound.markers()[:3]) == [0, 1, 0, 1, 2]


# --- bad input ---


def no_sound(path: Path) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((72, 64), np.uint8), "yuv420p")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def bad_files(folder: Path) -> Iterator[tuple[Path, str]]:
    whole = write_recording(folder / "whole.m4a", spoken(2)).read_bytes()
    cut = folder / "cut.m4a"
    cut.write_bytes(whole[: len(whole) // 2])
    yield cut, "cannot be read as a recording"
    text = folder / "text.mp3"
    text.write_text("This is no recording. " * 100)
    yield text, "cannot be read as a recording"
    empty = folder / "empty.wav"
    empty.touch()
    yield empty, "cannot be read as a recording"
    yield no_sound(folder / "silent.mp4"), "has no sound"
    playlist = folder / "playlist.m3u8"
    playlist.write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{folder / 'whole.m4a'}\n#EXT-X-ENDLIST\n"
    )
    yield playlist, "cannot be read as a recording"
    concat = folder / "list.txt"
    concat.write_text(f"ffconcat version 1.0\nfile '{folder / 'whole.m4a'}'\n")
    yield concat, "cannot be read as a recording"


def test_what_is_no_recording_is_one_line_each_and_the_others_are_done(tmp_path: Path) -> None:
    bad = list(bad_files(tmp_path))
    good = tmp_path / "whole.m4a"
    result = run("segment", *(str(path) for path, _ in bad), str(good), output_dir=tmp_path / "out")
    assert result.code == 1
    for line, (path, reason) in zip(result.err.splitlines(), bad, strict=True):
        assert line.startswith(f"{path} {reason}")
    assert result.out.startswith(f"{good}: ")
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["whole"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.wav"], "nowhere.wav does not exist\n"),
        ([str(ROOT)], f"{ROOT} is not a file\n"),
        ([str(ROOT / "README.md"), "--start", "tomorrow"], "--start tomorrow: a time looks like"),
        (
            [str(ROOT / "README.md"), "--start", "9999-12-31T23:59:59"],
            "--start 9999-12-31T23:59:59: from 1900 to",
        ),
        ([str(ROOT / "README.md"), "--start", "0001-01-01T00:00"], "--start 0001-01-01T00:00: "),
        ([str(ROOT / "README.md")] * 2 + ["--start", "2025-10-08T14:00"], "--start is for one file"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = run("segment", *arguments, output_dir=tmp_path)
    assert result.code == 2
    assert result.err.startswith(said)
    assert result.err.count("\n") == 1


def test_a_damaged_place_loses_only_itself(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "lecture.mp3", spoken(6))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)
    segment_file(settings_for(tmp_path / "out"), path, None, BEGAN)
    heard = sound.heard(recorded(tmp_path / "out" / "lecture"), sound.markers()[:6])
    assert {0, 1, 4, 5} <= set(heard)


def test_a_name_that_looks_like_an_address_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "concat:x.wav").write_bytes(write_recording(tmp_path / "a.wav", spoken(2)).read_bytes())
    with Recording(Path("concat:x.wav")) as recording:
        assert sum(map(len, recording.sound())) == pytest.approx(len(spoken(2)), abs=100)
