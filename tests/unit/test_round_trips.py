"""What we write, read by the programs that other people have: ffmpeg, SoX, and libsndfile.

The other half of it, WebVTT in a browser's own ``<track>``, stands in test_lesson_page.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from archive.rooms import Room
from conftest import Tool
from devtools.sample_lesson import Recorded, record, school_lesson, sentences
from devtools.sound import SAMPLE_RATE, IntArray
from lesson_tools.export.subtitles import RIGHT_TO_LEFT_MARK, WORD_JOINER, Cue, Spoken, cues, srt
from lesson_tools.lesson import Lesson, read_lesson
from support.commands import run

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]
"""A build machine installs the programs first."""

LANGUAGES = ("en", "es", "ar")
HOSTILE = r"The <b> tag, {\an8}, <font color=red> & 00:00:01,000 --> 00:00:02,000"


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """An exported lesson in which somebody says text that looks like markup."""
    lesson = school_lesson(tmp_path_factory.mktemp("lesson"))
    last = lesson.said[-1]
    said = [*lesson.said, replace(last, at=last.end + 2, text=HOSTILE)]
    lesson = record(tmp_path_factory.mktemp("hostile"), said)
    assert run("export", "math101", "--format", "srt,vtt", output_dir=lesson.output_dir).code == 0
    return lesson


def read(recorded: Recorded) -> Lesson:
    room = Room(recorded.folder)
    return read_lesson(room, room.sessions()[-1])


def wanted(recorded: Recorded, language: str) -> list[Cue]:
    """The cues of the subtitles; their texts contain the names, for which SubRip has no field."""
    last, named = None, []
    for one in read(recorded).said(language):
        named.append(replace(one, text=one.text if one.speaker == last else f"{one.speaker}: {one.text}"))
        last = one.speaker
    return cues(named)


def blocks(file: str) -> list[tuple[int, int, list[str]]]:
    """Begin and end (ms) and the lines of every cue of a SubRip file."""
    found = []
    for block in re.split(r"\n\n(?=\d+\n\d\d:)", file.strip()):
        _, times, *lines = block.splitlines()
        begin, end = (
            sum(factor * int(part) for factor, part in zip((3_600_000, 60_000, 1000, 1), parts, strict=True))
            for parts in (re.split("[:,]", time) for time in times.split(" --> "))
        )
        found.append((begin, end, lines))
    return found


def shown(text: str) -> str:
    """Without invisible characters."""
    return text.replace(RIGHT_TO_LEFT_MARK, "").replace(WORD_JOINER, "")


# --- subtitles ---


@pytest.mark.parametrize("language", LANGUAGES)
def test_ffprobe_reads_the_times_of_every_cue(lesson: Recorded, ffprobe: Tool, language: str) -> None:
    answer = json.loads(ffprobe("-show_streams", "-show_packets", lesson.folder / f"lesson.{language}.srt"))
    assert [stream["codec_name"] for stream in answer["streams"]] == ["subrip"]
    expected = wanted(lesson, language)
    for packet, cue in zip(answer["packets"], expected, strict=True):
        assert float(packet["pts_time"]) == pytest.approx(cue.start, abs=0.0006)
        assert float(packet["duration_time"]) == pytest.approx(cue.end - cue.start, abs=0.0011)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("ending", ["srt", "vtt"])
def test_ffmpeg_decodes_every_cue(lesson: Recorded, ffmpeg: Tool, language: str, ending: str) -> None:
    """Reads both formats, and writes them as SubRip."""
    again = blocks(ffmpeg("-i", lesson.folder / f"lesson.{language}.{ending}", "-f", "srt", "-").decode())
    expected = wanted(lesson, language) if ending == "srt" else cues(read(lesson).said(language))
    assert len(again) == len(expected) >= 16
    for (begin, end, lines), cue in zip(again, expected, strict=True):
        assert (begin, end) == (round(cue.start * 1000), round(cue.end * 1000))
        assert [shown(line).replace("\\{", "{") for line in lines] == list(cue.lines)


def test_a_video_carries_the_subtitles(lesson: Recorded, ffmpeg: Tool, tmp_path: Path) -> None:
    """Subtitles are muxed into an MP4, and extracted again."""
    video = tmp_path / "lesson.mp4"
    ffmpeg("-i", lesson.folder / "lesson.ar.srt", "-c:s", "mov_text", video)
    expected = wanted(lesson, "ar")
    found = [block for block in blocks(ffmpeg("-i", video, "-f", "srt", "-").decode()) if any(block[2])]
    assert [[shown(line) for line in lines] for _, _, lines in found] == [list(cue.lines) for cue in expected]
    for (begin, end, _), cue in zip(found, expected, strict=True):
        assert [begin / 1000, end / 1000] == pytest.approx([cue.start, cue.end], abs=0.002)


def test_a_long_lesson_keeps_its_hours_and_its_formulas(ffmpeg: Tool, tmp_path: Path) -> None:
    """A backslash and a letter are no line break, although they are in ASS, into which players convert SubRip."""
    spoken = [
        Spoken(1.25, 9.0, r"Now \nabla f is \hbar times \Nu. " * 4),
        Spoken(100_000, 100_008, "だから、どこを見ても青い光があなたに向かってきています。夕方は？"),
    ]
    path = tmp_path / "long.srt"
    path.write_text(srt(spoken), encoding="utf-8-sig")
    found = blocks(ffmpeg("-i", path, "-f", "srt", "-").decode())
    assert [(begin, end, tuple(map(shown, lines))) for begin, end, lines in found] == [
        (round(cue.start * 1000), round(cue.end * 1000), cue.lines) for cue in cues(spoken)
    ]


# --- sound ---


def sound_of(sox: Tool, path: Path) -> tuple[list[str], IntArray]:
    """Rate, channels, bits and number of samples as SoX reads them from the header, and the samples."""
    about = [sox("--info", option, path).decode().strip() for option in ("-r", "-c", "-b", "-s")]
    return about, np.frombuffer(sox(path, "-t", "raw", "-e", "signed", "-b", "16", "-L", "-"), np.int16)


def test_sox_and_soundfile_read_exactly_what_was_said(lesson: Recorded, sox: Tool) -> None:
    for one, kept in zip(lesson.said, lesson.records, strict=True):
        path = lesson.folder / kept.file
        about, heard = sound_of(sox, path)
        assert about == [str(SAMPLE_RATE), "1", "16", str(len(one.pcm))]
        assert np.array_equal(heard, one.pcm)
        pcm, rate = soundfile.read(path, dtype="int16")
        assert rate == SAMPLE_RATE and np.array_equal(pcm, one.pcm)


def test_what_a_crash_left_is_as_readable(tmp_path: Path, sox: Tool) -> None:
    """The header of a part is finished by recovery."""
    from devtools.sample_room import ANNA, CLOCK, noise, open_room

    room = open_room(tmp_path)
    left, pcm = room.begin(ANNA, CLOCK, 0, 0), noise(40_000)
    left.append(pcm)
    left.abandon()
    assert run("check", "--repair", output_dir=tmp_path).code == 0
    (kept,) = Room(room.path).records()
    about, heard = sound_of(sox, room.path / kept.file)
    assert about == [str(SAMPLE_RATE), "1", "16", "40000"] and np.array_equal(heard, pcm)


def test_segments_of_a_recording_are_its_samples(tmp_path: Path, sox: Tool) -> None:
    """Sixteen kilohertz in, the same out: each segment is where the manifest says it was."""
    pcm = np.concatenate([one.pcm for one in sentences("lecture", 0.0)[:6]])
    soundfile.write(tmp_path / "lecture.wav", pcm, SAMPLE_RATE)
    done = run(
        "segment", str(tmp_path / "lecture.wav"), "--start", "2025-10-08T12:00Z", output_dir=tmp_path / "out"
    )
    assert done.code == 0, done.err
    room = Room(tmp_path / "out" / "lecture")
    (session,) = room.sessions()
    for kept in room.records():
        _, heard = sound_of(sox, room.path / kept.file)
        at = round((kept.start - session.started_at).total_seconds() * SAMPLE_RATE)
        near = pcm[max(0, at - 16) : at + len(heard) + 16]
        places = np.lib.stride_tricks.sliding_window_view(near, len(heard))
        assert any(np.array_equal(place, heard) for place in places), kept.file
