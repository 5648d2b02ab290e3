"""A lesson is found in its video wherever it is, and never where it is not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

from devtools.correlation import FloatArray
from devtools.sample_lesson import made_lesson, sentences
from devtools.sound import SAMPLE_RATE
from devtools.videos import between, music, noise, stretched, write_video
from lesson_tools.decoding import Recording
from lesson_tools.export.alignment import AlignedSpan, Alignment, CannotAlign, Sound, TimeMap
from lesson_tools.export.video import sound_of
from lesson_tools.export.video_alignment import align

pytestmark = pytest.mark.slow

AN_HOUR = 3600.0
DRIFT = 1 / AN_HOUR
"""One second an hour."""
CLOSE_SECONDS = 0.05


@dataclass(frozen=True)
class Spoken:
    """A lesson: the segments of it, and all of its sound as one track."""

    sounds: list[Sound]
    track: FloatArray

    @property
    def loudness(self) -> float:
        return float(np.sqrt(np.mean(self.track[self.track != 0] ** 2)))


@cache
def lesson(seconds: float = 240.0, seed: int = 1) -> Spoken:
    return Spoken(*made_lesson(seconds, seed))


def find(spoken: Spoken, video: FloatArray) -> Alignment:
    """As if the video came piece by piece from a file."""
    pcm = np.round(np.clip(video, -1, 1) * 32767).astype(np.int16)
    return align(spoken.sounds, (pcm[at : at + 5_000] for at in range(0, len(pcm), 5_000)))


def find_in_file(sounds: list[Sound], path: Path) -> Alignment:
    with Recording(path) as recording:
        return align(sounds, sound_of(recording, lambda seconds: None))


def assert_close(found: Alignment, spoken: Spoken, truth: Callable[[float], float | None]) -> None:
    """Every segment is where it should be, or known not to be in the video."""
    for one in spoken.sounds:
        wanted, time = truth(one.start), found.video_time(one.start)
        if wanted is None:
            assert time is None, f"{one.start:.1f} s is not in the video, but was put at {time:.2f} s"
        else:
            assert time is not None, f"{one.start:.1f} s was not found"
            assert time == pytest.approx(wanted, abs=CLOSE_SECONDS)


# --- found ---


@pytest.mark.parametrize("earlier", [0.0, 3.7, 317.25])
def test_a_video_that_began_earlier(earlier: float) -> None:
    found = find(lesson(), between(earlier, lesson().track))
    assert_close(found, lesson(), lambda at: at + earlier)
    assert found.agreeing == found.measured == sum(one.seconds >= 0.6 for one in lesson().sounds)


def test_a_video_that_began_minutes_later_and_ended_sooner() -> None:
    late, end = 80.3, 215.0
    video = lesson().track[round(late * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    assert_close(find(lesson(), video), lesson(), lambda at: at - late if late <= at <= end else None)


@pytest.mark.parametrize("drift", [DRIFT, -DRIFT])
def test_clocks_that_drift_by_a_second_an_hour(drift: float) -> None:
    video = between(40, stretched(lesson().track, 1 + drift))
    found = find(lesson(), video)
    assert_close(found, lesson(), lambda at: 40 + (1 + drift) * at)
    assert found.spans[0].time_map.drift == pytest.approx(drift, abs=20e-6)


def test_a_whole_hour_after_which_the_clocks_are_a_second_apart() -> None:
    """Minutes into the video, with hiss, a break without sound, and a part that was cut out."""
    hour = lesson(AN_HOUR, 5)
    video = between(400, stretched(hour.track, 1 + DRIFT))
    video += noise(len(video) / SAMPLE_RATE, hour.loudness / 3, seed=9)
    video[1500 * SAMPLE_RATE : 1600 * SAMPLE_RATE] = 0
    cut, again = (next(one.start for one in hour.sounds if one.start > at) - 0.1 for at in (2400, 2700))
    first, last = (round((400 + (1 + DRIFT) * at) * SAMPLE_RATE) for at in (cut, again))
    found = find(hour, np.concatenate([video[:first], video[last:]]))

    def truth(at: float) -> float | None:
        if cut < at < again:
            return None
        return 400 + (1 + DRIFT) * at - (0 if at <= cut else (last - first) / SAMPLE_RATE)

    assert len(found.spans) == 2
    assert_close(found, hour, truth)


@pytest.mark.parametrize("decibels", [10, 0, -5])
def test_noise(decibels: int) -> None:
    video = between(60, lesson().track)
    video = video + noise(len(video) / SAMPLE_RATE, lesson().loudness * 10 ** (-decibels / 20), seed=9)
    assert_close(find(lesson(), video), lesson(), lambda at: at + 60)


def test_music_underneath() -> None:
    video = between(60, lesson().track)
    video = video + music(len(video) / SAMPLE_RATE + 1, lesson().loudness)[: len(video)]
    assert_close(find(lesson(), video), lesson(), lambda at: at + 60)


def test_music_in_between() -> None:
    pauses = lesson().track == 0
    video = lesson().track + pauses * 2 * music(len(pauses) / SAMPLE_RATE + 1, 0.2)[: len(pauses)]
    assert_close(find(lesson(), between(25, video)), lesson(), lambda at: at + 25)


def test_a_video_that_was_muted_for_a_while() -> None:
    """What cannot be heard is still in the video; that it was not heard is said."""
    spoken = lesson(420.0)
    video = between(40, spoken.track)
    video[150 * SAMPLE_RATE : 250 * SAMPLE_RATE] = 0
    found = find(spoken, video)
    assert_close(found, spoken, lambda at: at + 40)
    unheard = sum(112 <= one.start <= one.end <= 208 and one.seconds >= 0.6 for one in spoken.sounds)
    assert 10 < unheard <= found.measured - found.agreeing


def test_a_room_with_an_echo() -> None:
    echo = np.exp(-np.arange(1600) / 400) * np.random.default_rng(2).normal(size=1600) * 0.2
    echo[0] = 1
    size = 1 << (len(lesson().track) + len(echo)).bit_length()
    heard = np.fft.irfft(np.fft.rfft(lesson().track, size) * np.fft.rfft(echo, size), size)
    heard = heard[: len(lesson().track)]
    assert_close(find(lesson(), between(12, heard.astype(np.float32))), lesson(), lambda at: at + 12)


def test_a_part_that_was_cut_out_of_the_video() -> None:
    pause = next(one for one in lesson().sounds if one.start > 80)
    again = next(one for one in lesson().sounds if one.start > 140)
    first, last = round((pause.start - 0.1) * SAMPLE_RATE), round((again.start - 0.1) * SAMPLE_RATE)
    video = between(30, np.concatenate([lesson().track[:first], lesson().track[last:]]))
    gone = (last - first) / SAMPLE_RATE

    def truth(at: float) -> float | None:
        if at < pause.start:
            return at + 30
        return at + 30 - gone if at >= again.start else None

    found = find(lesson(), video)
    assert len(found.spans) == 2
    assert_close(found, lesson(), truth)


def test_an_intermission_in_the_video() -> None:
    pause = next(one for one in lesson().sounds if one.start > 120)
    at_sample = round((pause.start - 0.1) * SAMPLE_RATE)
    video = np.concatenate([lesson().track[:at_sample], music(75), lesson().track[at_sample:]])
    found = find(lesson(), video)
    assert_close(found, lesson(), lambda at: at if at < pause.start else at + 75)


def test_a_lesson_of_half_a_minute_in_a_long_video() -> None:
    few = Spoken(lesson().sounds[:8], lesson().track)
    assert_close(find(few, between(90, lesson().track)), few, lambda at: at + 90)


def test_two_who_speak_at_once() -> None:
    other = [Sound(one.at, one.end - one.at, partial(np.copy, one.pcm)) for one in sentences("student", 30.0)]
    track = lesson().track.copy()
    for one in other:
        track[round(one.start * SAMPLE_RATE) :][: len(one.load())] += one.load() / np.float32(32768)
    both = Spoken(sorted([*lesson().sounds, *other], key=lambda one: one.start), track)
    assert_close(find(both, between(5, track)), both, lambda at: at + 5)


def test_segments_whose_sound_is_gone_are_placed_by_the_others() -> None:
    sounds = [
        Sound(one.start, one.seconds, lambda: np.zeros(0, np.int16)) if number % 4 == 0 else one
        for number, one in enumerate(lesson().sounds)
    ]
    spoken = Spoken(sounds, lesson().track)
    assert_close(find(spoken, between(33, lesson().track)), spoken, lambda at: at + 33)


# --- refused ---


@pytest.mark.parametrize("seed", range(20, 28))
def test_another_lesson_with_the_same_sentences_is_refused(seed: int) -> None:
    with pytest.raises(CannotAlign):
        find(lesson(), lesson(200.0, seed).track)


@pytest.mark.parametrize(("seconds", "why"), [(25, "no part"), (60, "alike")])
def test_another_lesson_with_the_same_opening_is_refused(seconds: int, why: str) -> None:
    video = lesson(seed=40).track.copy()
    video[: seconds * SAMPLE_RATE] = lesson().track[: seconds * SAMPLE_RATE]
    with pytest.raises(CannotAlign, match=why):
        find(lesson(), video)


@pytest.mark.parametrize("speed", [25 / 24, 24 / 25, 1.01])
def test_a_video_that_plays_at_another_speed_is_refused(speed: float) -> None:
    """No clock is so wrong: some of it may seem to fit, and the rest would be off by seconds."""
    with pytest.raises(CannotAlign):
        find(lesson(), stretched(lesson().track, 1 / speed))


@pytest.mark.parametrize(
    "made",
    [
        partial(music, 300),
        partial(noise, 300, 0.1),
        partial(np.zeros, 300 * SAMPLE_RATE, np.float32),
        partial(noise, 0.5),
        partial(noise, 0.0),
    ],
)
def test_a_video_without_speech_is_refused(made: Callable[[], FloatArray]) -> None:
    with pytest.raises(CannotAlign):
        find(lesson(), made())


def test_speech_under_far_too_much_noise_is_refused_or_right() -> None:
    video = between(60, lesson().track)
    video = video + noise(len(video) / SAMPLE_RATE, lesson().loudness * 16, seed=9)
    try:
        found = find(lesson(), video)
    except CannotAlign:
        return
    assert_close(found, lesson(), lambda at: at + 60)


def test_too_little_speech_is_refused_before_the_video_is_opened() -> None:
    with pytest.raises(CannotAlign, match="less than 8 s"):
        align(lesson().sounds[:1], iter(lambda: pytest.fail("it was opened"), None))


# --- files ---


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("lecture.mp4", "aac", 44_100),
        ("lecture.webm", "libopus", 48_000),
        ("lecture.mp3", "libmp3lame", 16_000),
        ("lecture.mkv", "ac3", 48_000),
        ("lecture.wav", "pcm_s16le", 8_000),
    ],
)
def test_files_of_many_kinds(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    spoken = lesson(60.0)
    video = between(15.5, stretched(spoken.track, 1 - DRIFT))
    path = write_video(tmp_path / name, video + noise(len(video) / SAMPLE_RATE, 0.02), codec, rate)
    found = find_in_file(spoken.sounds, path)
    assert_close(found, spoken, lambda at: 15.5 + (1 - DRIFT) * at)
    assert found.source == "sound" and found.residual_seconds < 0.01


def test_sound_that_begins_later_than_the_pictures_is_where_its_time_stamps_say(tmp_path: Path) -> None:
    """A player counts from the first picture."""
    import av

    whole = write_video(tmp_path / "whole.mkv", lesson(60.0).track, picture="libvpx")
    late = tmp_path / "late.mkv"
    with av.open(str(whole)) as source, av.open(str(late), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is None or (
                packet.stream.type == "audio" and (packet.pts or 0) * (packet.time_base or 0) < 20
            ):
                continue
            packet.stream = streams[packet.stream.index]
            target.mux(packet)
    found = find_in_file([one for one in lesson(60.0).sounds if one.start > 21], late)
    assert_close(found, lesson(60.0), lambda at: at)


# --- what an alignment tells ---


def test_an_offset_is_taken_at_its_word() -> None:
    found = Alignment.from_offset(-12.5)
    assert found.video_time(20) == 7.5
    assert found.video_time(10) is None


def test_between_two_parts_nothing_is_in_the_video_that_does_not_fit() -> None:
    parts = (AlignedSpan(TimeMap(10), 0, 100), AlignedSpan(TimeMap(-40), 150, 300))
    cut = Alignment(parts, "sound", video_seconds=250)
    assert [cut.video_time(at) for at in (0, 100, 125, 150, 290, 291)] == [10, 110, None, 110, 250, None]
    paused = Alignment((AlignedSpan(TimeMap(0), 0, 100), AlignedSpan(TimeMap(60), 103, 300)), "sound")
    assert paused.video_time(101) == 101
    assert math.isinf(paused.video_seconds)
