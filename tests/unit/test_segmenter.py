"""The segmenter, tested with pictures and with examples that hypothesis generates. pictures.py explains the pictures.

Unless a picture says otherwise: minimum speech 3 windows, pre-roll 2, post-roll 2, pause 4, join 8, segments
of 8 to 24.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from audio_processor import (
    SURVIVING_ONSET_WINDOWS,
    WINDOW_SAMPLES,
    Closed,
    Grown,
    Opened,
    Segmenter,
    SegmenterOptions,
    SpeechState,
    Update,
)
from config import Settings
from core.errors import ConfigError
from core.records import SAMPLE_RATE, EndReason, Pcm, SpeechSegment
from support.pictures import SHORT_PICTURES, assert_picture, closed, cut, options, sound, told, windows_of

# --- a word begins and ends ---


def test_a_word_is_kept_with_pre_roll_and_post_roll() -> None:
    assert_picture(
        "......SSSSSSSSSS..........",
        "....[============]........",
    )


def test_rolls_of_zero_length_keep_only_the_word() -> None:
    assert_picture(
        "......SSSSSSSSSS..........",
        "......[========]..........",
        pre_roll=0,
        post_roll=0,
    )


def test_pre_roll_begins_where_the_stream_begins_at_the_earliest() -> None:
    assert_picture(
        ".SSSSSSSSSSS..........",
        "[============]........",
    )


def test_pre_roll_never_reaches_into_the_segment_before() -> None:
    assert_picture(
        "......SSSSSSSSSS.....SSSSSSSSSS......",
        "..[==============][=============]....",
        pre_roll=4,
    )


def test_pre_roll_after_a_break_begins_at_the_break() -> None:
    assert_picture(
        "..SSSSSSSSSS......!.SSSSSSSSSS......",
        "[============]....![===========]....",
    )


def test_the_word_begins_after_its_pre_roll() -> None:
    (segment,) = cut("......SSSSSSSSSS..........")
    assert segment.speech_start_sample == 6 * WINDOW_SAMPLES
    assert segment.start_sample == 4 * WINDOW_SAMPLES


def test_silence_is_not_saved() -> None:
    assert_picture(
        "..........................",
        "..........................",
    )


# --- what counts as speech ---


def test_weak_sound_opens_nothing() -> None:
    assert_picture(
        "......ssssssssssss......",
        "........................",
    )


def test_weak_sound_goes_on_with_what_sure_speech_began() -> None:
    assert_picture(
        "......SsssssssSssss......",
        "....[===============]....",
    )


def test_a_single_sure_window_makes_weak_ones_count_towards_the_minimum() -> None:
    assert_picture(
        "......Sss..............",
        "....[=====]............",
    )


def test_weak_sound_before_the_word_is_pre_roll_at_most() -> None:
    assert_picture(
        "...ssssssSSSSSSSS......",
        ".......[==========]....",
    )


def test_a_cough_opens_nothing() -> None:
    assert_picture(
        "......SS..........",
        "..................",
    )


def test_a_cough_is_dropped_and_the_speech_after_it_has_its_pre_roll() -> None:
    assert_picture(
        "......SS......SSSSSSSSS......",
        "............[===========]....",
    )


def test_a_cough_right_before_the_speech_belongs_to_it() -> None:
    assert_picture(
        "......SS..SSSSSSSSS......",
        "....[===============]....",
    )


def test_sounds_that_are_close_enough_make_a_word_together() -> None:
    assert_picture(
        "......S...S...S.........",
        "....[===========].......",
    )


def test_sounds_that_are_not_close_enough_are_coughs() -> None:
    assert_picture(
        "......S....S....S.......",
        "........................",
    )


def test_a_pre_roll_longer_than_the_gap_holds_the_cough_as_well() -> None:
    assert_picture(
        "....S.....SSSSSSSSS......",
        "....[===============]....",
        pre_roll=6,
    )


def test_a_minimum_of_nothing_takes_every_window_of_speech() -> None:
    assert_picture(
        "......S......S............",
        "....[==========]..........",
        min_speech=0,
    )


def test_the_confidence_is_that_of_the_speech_without_its_rolls() -> None:
    (segment,) = cut("......SSSSSSSsss....")
    assert segment.mean_probability == pytest.approx((7 * 0.9 + 3 * 0.3) / 10)
    assert segment.lowest_probability == pytest.approx(0.3)


def test_the_confidence_of_each_part_of_a_split_is_its_own() -> None:
    first, second = cut("SSSSSSSSSSSSSSSS..sssssssssss......")
    assert first.mean_probability == pytest.approx(0.9)
    assert (second.mean_probability, second.lowest_probability) == pytest.approx((0.3, 0.3))


def test_an_hour_of_silence_is_not_held_in_memory() -> None:
    segmenter = Segmenter(options())
    alive: list[weakref.ref[Pcm]] = []
    for _ in range(1_000):
        window = np.zeros(WINDOW_SAMPLES, np.int16)
        alive.append(weakref.ref(window))
        segmenter.push(window, 0.02)
    del window
    assert sum(reference() is not None for reference in alive) <= SHORT_PICTURES["pre_roll"] + 1


# --- pauses ---


def test_a_pause_ends_a_segment_that_is_long_enough() -> None:
    assert_picture(
        "......SSSSSSSSSS....SSSSSSSSSS......",
        "....[============][============]....",
    )


def test_a_breath_does_not_end_a_segment() -> None:
    assert_picture(
        "......SSSSSSS...SSSSSS......",
        "....[==================]....",
    )


def test_short_utterances_close_together_join() -> None:
    assert_picture(
        "....SSS.......SSS.............SSSSSSSSSSSS......",
        "..[===============].........[==============]....",
    )


def test_a_short_utterance_does_not_wait_for_ever() -> None:
    (segment, _) = assert_picture(
        "....SSS........SSSSSSSSSSSSSSSSS......",
        "..[=====]....[===================]....",
    )
    assert segment.end_reason is EndReason.PAUSE


def test_a_segment_that_stays_too_short_keeps_more_of_the_silence_behind_it() -> None:
    assert_picture(
        "....SSS..................",
        "..[======]...............",
        fill=3,
    )
    assert_picture(
        "....SSS..................",
        "..[========].............",
        fill=3,
        min_segment=20,
    )


def test_what_is_long_enough_includes_the_rolls() -> None:
    assert_picture(
        "....SSSS......SSSSSSSS......",
        "..[======]..[==========]....",
    )


def test_a_wait_that_would_become_too_long_a_segment_ends() -> None:
    assert_picture(
        "..SSSS..................SSSSSSSSSSS......",
        "[======]..............[=============]....",
        join=60,
        min_segment=12,
        maximum=16,
    )


# --- the maximum ---


def test_long_speech_is_cut_at_its_longest_pause_before_the_maximum() -> None:
    first, _ = assert_picture(
        "..SSSSSSSSSSS...SSS.SSSSSSSSSSSSSS......",
        "[============][====================]....",
    )
    assert first.end_reason is EndReason.MAX_LENGTH


def test_of_equal_pauses_the_later_one_is_the_cut() -> None:
    assert_picture(
        "..SSSSSSSSSSS..SSS..SSSSSSSSSSSSSSSS......",
        "[=================][=================]....",
    )


def test_a_pause_in_the_first_half_is_no_place_to_cut() -> None:
    assert_picture(
        "..SSS...SSSSSSSSSSSSSSSSSSSSSS......",
        "[==============][==============]....",
        loudness="999999999999999119999999999999999999",
    )


def test_the_first_part_of_a_split_has_the_minimum_of_a_segment() -> None:
    assert_picture(
        "..SSSSSSSSSS..SSSSSSSSSSSSSSSSSSSS......",
        "[=================][===============]....",
        loudness="9999999999999999991199999999999999999999",
        min_segment=16,
    )


def test_a_split_at_the_very_last_word_changes_nothing_about_its_post_roll() -> None:
    assert_picture(
        "..SSSSSSSSSSSSSSSSSSSS......",
        "[=========][===========]....",
    )


def test_at_a_long_pause_inside_a_split_the_silence_between_is_dropped() -> None:
    first, second = assert_picture(
        "..SSSSSSSSSSS.......SSSSSSSSSSSSSS......",
        "[=============]...[================]....",
        pause=8,
    )
    assert (first.end_reason, second.end_reason) == (EndReason.PAUSE, EndReason.SHUTDOWN)


def test_at_a_pause_that_both_rolls_fill_the_parts_meet() -> None:
    first, second = assert_picture(
        "..SSSSSSSSSSS....SSSSSSSSSSSSSS......",
        "[=============][================]....",
        pause=8,
    )
    assert (first.end_reason, second.end_reason) == (EndReason.MAX_LENGTH, EndReason.SHUTDOWN)


def test_speech_without_a_pause_is_cut_at_its_quietest_moment() -> None:
    assert_picture(
        "..SSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSS......",
        "[===============][=================]....",
        loudness="9999999999999999119999999999999999999999",
    )


def test_endless_speech_is_split_sample_to_sample() -> None:
    segments = assert_picture(
        "..SSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSS......",
        "[=========][=========][=========][=====================]....",
    )
    *split, last = segments
    assert {segment.end_reason for segment in split} == {EndReason.MAX_LENGTH}
    assert last.end_reason is EndReason.PAUSE
    assert [segment.end_sample for segment in split] == [segment.start_sample for segment in segments[1:]]


def test_five_minutes_without_a_pause_lose_nothing() -> None:
    speech = "S" * (300 * SAMPLE_RATE // WINDOW_SAMPLES)
    pcm = sound(len(speech))
    spoken = np.concatenate([segment.pcm for segment in closed(told(speech, pcm, Segmenter()))])
    np.testing.assert_array_equal(spoken, pcm)


def test_a_long_post_roll_leaves_room_for_a_split() -> None:
    """The shortest segment plus the post-roll is more than the longest segment; all three are allowed settings."""
    segments = cut("S" * 60, pre_roll=0, post_roll=8, min_segment=20, maximum=24)
    assert sum(len(segment.pcm) for segment in segments) == 60 * WINDOW_SAMPLES


def test_an_onset_full_of_gaps_is_no_longer_than_the_maximum() -> None:
    """Speech so thin that its beginning alone takes longer than a segment may."""
    segments = cut(("S" + "." * 9) * 10 + "SS........", min_speech=10, maximum=24)
    assert max(len(segment.pcm) for segment in segments) <= 24 * WINDOW_SAMPLES


# --- the stream is broken off ---


def test_in_silence_a_break_brings_nothing() -> None:
    assert_picture(
        "........!",
        "........!",
    )


def test_in_an_onset_that_was_cut_off_a_break_keeps_the_word() -> None:
    assert SURVIVING_ONSET_WINDOWS == 2
    assert_picture(
        "......SS!",
        "....[==]!",
    )


def test_in_an_onset_too_short_to_be_a_word_a_break_brings_nothing() -> None:
    assert_picture(
        "......S!",
        ".......!",
    )


def test_in_speech_a_break_keeps_everything_up_to_it() -> None:
    (segment,) = assert_picture(
        "......SSSSSSSSSS!",
        "....[==========]!",
    )
    assert segment.end_reason is EndReason.MUTED


def test_in_a_pause_a_break_keeps_the_post_roll() -> None:
    assert_picture(
        "......SSSSSSSSSS...!",
        "....[============].!",
    )


def test_in_a_pause_shorter_than_the_post_roll_a_break_keeps_what_there_is() -> None:
    assert_picture(
        "......SSSSSSSSSS.!",
        "....[===========]!",
    )


def test_after_a_break_the_segmenter_goes_on() -> None:
    assert_picture(
        "....SSSSSSSS!SSSSSSSS.....!....SSSSS..!....SS!.....S!..",
        "..[========]![========]...!..[=======]!..[==]!......!..",
    )


def test_a_break_forgets_half_an_onset() -> None:
    assert_picture(
        "....S!SS.........",
        ".....!...........",
    )


@pytest.mark.parametrize(
    ("speech", "keeps_the_remainder"),
    [
        ("......SSSSSSSSSS", True),
        ("......SSSSSSSSSS.", True),
        ("......SSSSSSSSSS....", False),
        ("..SS", True),
    ],
)
def test_a_remainder_belongs_to_the_segment_that_reaches_it(speech: str, keeps_the_remainder: bool) -> None:
    remainder = np.arange(300, dtype=np.int16)
    segmenter = Segmenter(options(pause=8))
    updates: list[Update] = []
    for window, character in zip(windows_of(sound(len(speech))), speech, strict=True):
        updates += segmenter.push(window, {"S": 0.9, ".": 0.02}[character])
    updates += segmenter.finish(EndReason.LEFT, remainder)
    (segment,) = closed(updates)
    if keeps_the_remainder:
        np.testing.assert_array_equal(segment.pcm[-300:], remainder)
    else:
        assert segment.end_sample == 18 * WINDOW_SAMPLES
    assert segmenter.position == len(speech) * WINDOW_SAMPLES + 300


def test_a_remainder_alone_is_no_speech() -> None:
    segmenter = Segmenter(options())
    assert segmenter.finish(EndReason.LEFT, np.zeros(500, np.int16)) == []
    assert segmenter.position == 500


def test_places_after_a_remainder_count_it() -> None:
    segmenter = Segmenter(options())
    segmenter.finish(EndReason.MUTED, np.zeros(100, np.int16))
    speech = "..SSSSSSSS......"
    (segment,) = closed(told(speech, sound(len(speech)), segmenter))
    assert segment.start_sample == 100


def test_a_break_is_where_a_break_was() -> None:
    """A second finish() without audio in between yields nothing."""
    segmenter = Segmenter(options())
    assert closed(told("SSSSSSSSSS", sound(10), segmenter, EndReason.MUTED))
    assert segmenter.finish(EndReason.LEFT) == []


@pytest.mark.parametrize("windows_before", range(8))
@pytest.mark.parametrize("windows_after", range(8))
def test_a_cut_anywhere_in_a_word_keeps_all_of_it(windows_before: int, windows_after: int) -> None:
    if windows_before + windows_after < SHORT_PICTURES["min_speech"]:
        return
    speech = "." * 9 + "S" * windows_before + "!" + "S" * windows_after + "." * 12
    segmenter, updates = Segmenter(options()), list[Update]()
    windows = iter(windows_of(sound(len(speech) - 1)))
    for character in speech:
        if character == "!":
            updates += segmenter.cut(EndReason.MUTED)
        else:
            updates += segmenter.push(next(windows), {"S": 0.9, ".": 0.02}[character])
    segments = closed(updates)
    first = segments[0].start_sample // WINDOW_SAMPLES
    last = segments[-1].end_sample // WINDOW_SAMPLES
    assert first <= 9 - SHORT_PICTURES["pre_roll"]
    assert last >= 9 + windows_before + windows_after
    assert sum(len(segment.pcm) for segment in segments) == (last - first) * WINDOW_SAMPLES


@pytest.mark.parametrize("length", [0, 1, 511, 513, 1024])
def test_a_window_of_another_length_is_refused(length: int) -> None:
    segmenter = Segmenter()
    with pytest.raises(ValueError, match="512"):
        segmenter.push(np.zeros(length, np.int16), 0.9)
    assert segmenter.position == 0


# --- what is told, and when ---


def test_the_states_of_a_word() -> None:
    segmenter = Segmenter(options())
    states = []
    for window, probability in zip(windows_of(sound(12)), [0.02] * 2 + [0.9] * 4 + [0.02] * 6, strict=True):
        segmenter.push(window, probability)
        states.append(segmenter.state)
    onset, speech, pause = SpeechState.ONSET, SpeechState.SPEECH, SpeechState.PAUSE
    assert (
        states
        == [SpeechState.SILENCE] * 2 + [onset] * 2 + [speech] * 2 + [pause] * 3 + [SpeechState.SILENCE] * 3
    )


@pytest.mark.parametrize("windows_of_speech", [0, 1, 2, 5, 30])
def test_after_a_break_there_is_silence(windows_of_speech: int) -> None:
    segmenter = Segmenter(options())
    told("S" * windows_of_speech, sound(windows_of_speech), segmenter, EndReason.MUTED)
    assert segmenter.state is SpeechState.SILENCE


def test_a_segment_opens_grows_and_closes_in_this_order() -> None:
    speech = "......SSSSSSSSSS.........."
    updates = told(speech, sound(len(speech)), Segmenter(options()))
    opened, *grown, over = updates
    assert opened == Opened(4 * WINDOW_SAMPLES, 6 * WINDOW_SAMPLES)
    assert grown and all(isinstance(update, Grown) for update in grown)
    assert isinstance(over, Closed)


def test_a_segment_has_grown_to_all_of_its_sound_when_it_closes_at_a_pause() -> None:
    speech = "......SSSSSSSSSS.........."
    updates = told(speech, sound(len(speech)), Segmenter(options()))
    (segment,) = closed(updates)
    grown = np.concatenate([update.pcm for update in updates if isinstance(update, Grown)])
    np.testing.assert_array_equal(grown, segment.pcm)


def test_silence_after_the_post_roll_is_passed_on_only_when_it_is_inside_the_segment() -> None:
    speech, pcm = "......SSSSSS.......SSSSSSS......", sound(32)
    segmenter = Segmenter(options(join=12, min_segment=20))
    told_samples = []
    for window, character in zip(windows_of(pcm), speech, strict=True):
        updates = segmenter.push(window, {"S": 0.9, ".": 0.02}[character])
        told_samples.append(sum(len(update.pcm) for update in updates if isinstance(update, Grown)))
    in_windows = [samples // WINDOW_SAMPLES for samples in told_samples]
    assert in_windows[:20] == [0] * 8 + [5] + [1] * 3 + [1] * 2 + [0] * 5 + [6]


def test_at_a_split_the_rest_is_passed_on_before_the_first_part_closes() -> None:
    speech = "..SSSSSSSSSSSSSSSSSSSSSSSSSSSS......"
    updates = told(speech, sound(len(speech)), Segmenter(options()))
    kinds = [type(update).__name__ for update in updates if not isinstance(update, Grown)]
    assert kinds == ["Opened", "Opened", "Closed", "Closed"]
    first_close = next(index for index, update in enumerate(updates) if isinstance(update, Closed))
    opened, grown, over = updates[first_close - 2 : first_close + 1]
    assert isinstance(opened, Opened) and isinstance(grown, Grown) and isinstance(over, Closed)
    assert opened.start_sample == grown.start_sample == over.segment.end_sample


# --- whatever the lengths and cuts ---


@dataclass(frozen=True)
class Run:
    """Some windows that are much alike."""

    windows: int
    probability: float


@dataclass(frozen=True)
class Break:
    """The stream is interrupted after a remainder, and continues."""

    remainder: int


@dataclass(frozen=True)
class Lesson:
    """A stream, and the rules to cut it by."""

    options: SegmenterOptions
    parts: tuple[Run | Break, ...]
    seed: int

    def windows(self) -> int:
        return sum(part.windows for part in self.parts if isinstance(part, Run))

    def pcm(self) -> Pcm:
        samples = self.windows() * WINDOW_SAMPLES
        samples += sum(part.remainder for part in self.parts if isinstance(part, Break))
        return np.random.default_rng(self.seed).integers(-32768, 32768, samples, dtype=np.int16)

    def steps(self) -> Iterator[tuple[list[Update], int]]:
        """The updates of each window and each interruption, and how far the audio is settled then."""
        segmenter, pcm, position = Segmenter(self.options), self.pcm(), 0
        for part in self.parts:
            if isinstance(part, Break):
                remainder = pcm[position : position + part.remainder]
                yield segmenter.finish(EndReason.MUTED, remainder), segmenter.settled
                position += part.remainder
                continue
            for _ in range(part.windows):
                window = pcm[position : position + WINDOW_SAMPLES]
                yield segmenter.push(window, part.probability), segmenter.settled
                position += WINDOW_SAMPLES
        assert segmenter.position == position
        yield segmenter.finish(EndReason.SHUTDOWN), segmenter.settled

    def updates(self) -> list[Update]:
        return [update for updates, _ in self.steps() for update in updates]

    def segments(self) -> list[SpeechSegment]:
        return closed(self.updates())

    def speech(self) -> Iterator[tuple[int, int]]:
        """Where there must be a segment, in samples: unbroken runs of sure speech, not shorter than a cough."""
        shortest = max(1, -(-self.options.min_speech_seconds * SAMPLE_RATE // WINDOW_SAMPLES))
        position, start = 0, None
        for part in (*self.parts, Break(0)):
            is_speech = isinstance(part, Run) and part.probability >= self.options.start_probability
            if not is_speech and start is not None:
                if position - start >= shortest * WINDOW_SAMPLES:
                    yield start, position
                start = None
            if is_speech and start is None:
                start = position
            position += part.windows * WINDOW_SAMPLES if isinstance(part, Run) else part.remainder


def _one_of_or_between(*often: float) -> st.SearchStrategy[float]:
    return st.sampled_from(often) | st.floats(min(often), max(often))


@st.composite
def allowed_options(draw: st.DrawFn) -> SegmenterOptions:
    """Any rules that the settings allow, with maxima short enough that a stream of a test reaches them."""
    longest = draw(_one_of_or_between(3, 3.5, 5, 8))
    rolls = longest / 3
    pre_roll = draw(_one_of_or_between(0, 0.3, min(2.0, rolls)))
    drawn = {
        "speech_start_probability": draw(_one_of_or_between(0.05, 0.4, 0.95)),
        "speech_end_probability": draw(_one_of_or_between(0.01, 0.05, 0.2, 0.4)),
        "min_speech_seconds": draw(_one_of_or_between(0.032, 0.16, 1)),
        "pre_roll_seconds": pre_roll,
        "post_roll_seconds": draw(_one_of_or_between(0, min(2.0, rolls - pre_roll))),
        "pause_seconds": draw(_one_of_or_between(0.1, 0.5, 5)),
        "join_seconds": draw(_one_of_or_between(0.1, 2, 10)),
        "min_segment_seconds": draw(_one_of_or_between(0, 1, longest - 1)),
        "max_segment_seconds": longest,
    }
    environ = {name.upper(): repr(value) for name, value in drawn.items()}
    environ |= {"LIVEKIT_URL": "ws://localhost", "LIVEKIT_API_KEY": "key", "LIVEKIT_API_SECRET": "secret"}
    try:
        return SegmenterOptions.from_settings(Settings.from_env(environ))
    except ConfigError:
        assume(False)
        raise


LENGTHS = st.integers(1, 8) | st.integers(1, 60) | st.integers(60, 300)
SPEECH = st.builds(Run, LENGTHS, st.sampled_from([0.95, 1.0]))
SILENCE = st.builds(Run, LENGTHS, st.just(0.0))
RUNS = st.builds(Run, LENGTHS, st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.9]) | st.floats(0, 1))
BREAKS = st.builds(Break, st.sampled_from([0, 1, 511]) | st.integers(0, 511))
PARTS = st.one_of(SPEECH, SILENCE, SPEECH, SILENCE, RUNS, BREAKS)
LESSONS = st.builds(
    Lesson,
    allowed_options(),
    st.one_of(st.lists(PARTS, max_size=8), st.lists(PARTS, min_size=12, max_size=40)).map(tuple),
    st.integers(0, 3),
)

# Rules that are allowed, and streams that make the most of them.
_THIN_SPEECH = Lesson(
    SegmenterOptions(min_speech_seconds=1, max_segment_seconds=3, min_segment_seconds=2),
    tuple(Run(count, probability) for _ in range(31) for count, probability in ((1, 0.9), (30, 0.0)))
    + (Run(4, 0.9),),
    seed=0,
)
_LONG_POST_ROLL = Lesson(
    SegmenterOptions(max_segment_seconds=3, min_segment_seconds=2, pre_roll_seconds=0, post_roll_seconds=1),
    (Run(300, 0.9),),
    seed=0,
)
_DEFAULTS = Lesson(SegmenterOptions(), (Run(20, 0.0), Run(700, 0.9), Break(100), Run(400, 0.9)), seed=0)

whatever = hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@whatever
@given(LESSONS)
@example(_THIN_SPEECH)
@example(_LONG_POST_ROLL)
@example(_DEFAULTS)
def test_all_speech_is_in_exactly_one_segment(lesson: Lesson) -> None:
    times_kept = np.zeros(len(lesson.pcm()), np.int8)
    for segment in lesson.segments():
        times_kept[segment.start_sample : segment.end_sample] += 1
    assert times_kept.max(initial=0) <= 1, "a sample is in two segments"
    for start, end in lesson.speech():
        assert times_kept[start:end].all(), f"speech from {start} to {end} is not all there"


@whatever
@given(LESSONS)
@example(_DEFAULTS)
def test_every_segment_is_a_piece_of_the_stream_and_they_come_in_order(lesson: Lesson) -> None:
    pcm, end = lesson.pcm(), 0
    for segment in lesson.segments():
        assert segment.start_sample >= end
        assert segment.start_sample <= segment.speech_start_sample < segment.end_sample
        np.testing.assert_array_equal(segment.pcm, pcm[segment.start_sample : segment.end_sample])
        end = segment.end_sample


@whatever
@given(LESSONS)
@example(_THIN_SPEECH)
@example(_DEFAULTS)
def test_no_segment_is_longer_than_the_maximum(lesson: Lesson) -> None:
    longest = max((len(segment.pcm) for segment in lesson.segments()), default=0)
    assert longest <= lesson.options.max_segment_seconds * SAMPLE_RATE


@whatever
@given(LESSONS)
@example(_DEFAULTS)
def test_a_segment_that_was_too_long_goes_on_in_the_next_one_sample_to_sample(lesson: Lesson) -> None:
    segments = lesson.segments()
    for segment, following in zip_longest(segments, segments[1:]):
        if segment.end_reason is EndReason.MAX_LENGTH:
            assert following is not None and following.start_sample == segment.end_sample


@whatever
@given(LESSONS)
def test_the_confidence_is_between_the_lowest_and_one(lesson: Lesson) -> None:
    for segment in lesson.segments():
        assert lesson.options.end_probability <= segment.lowest_probability
        assert segment.lowest_probability <= segment.mean_probability + 1e-9 <= 1 + 1e-9


@pytest.mark.slow
@whatever
@given(LESSONS)
def test_the_same_stream_is_cut_the_same_way(lesson: Lesson) -> None:
    first, second = lesson.segments(), lesson.segments()
    assert [segment.end_reason for segment in first] == [segment.end_reason for segment in second]
    assert [(segment.start_sample, segment.end_sample) for segment in first] == [
        (segment.start_sample, segment.end_sample) for segment in second
    ]


@pytest.mark.slow
@whatever
@given(LESSONS)
@example(_DEFAULTS)
def test_earlier_updates_equal_the_final_segment(lesson: Lesson) -> None:
    """As the storage does it: append what has grown, and at the end cut off what has moved to the next segment."""
    parts: dict[int, Pcm] = {}
    pcm = lesson.pcm()
    for update in lesson.updates():
        if isinstance(update, Opened):
            assert update.start_sample not in parts and len(parts) <= 1
            parts[update.start_sample] = np.empty(0, np.int16)
        elif isinstance(update, Grown):
            parts[update.start_sample] = np.concatenate([parts[update.start_sample], update.pcm])
        else:
            segment = update.segment
            grown = parts.pop(segment.start_sample)
            common = min(len(grown), len(segment.pcm))
            np.testing.assert_array_equal(grown[:common], segment.pcm[:common])
            moved_end = segment.start_sample + len(grown)
            if moved_end > segment.end_sample:
                _assert_all_speech_has_moved(lesson, segment.end_sample, moved_end, parts)
    assert not parts, "a segment was opened and never closed"
    for segment in lesson.segments():
        np.testing.assert_array_equal(segment.pcm, pcm[segment.start_sample : segment.end_sample])


@whatever
@given(LESSONS)
@example(_THIN_SPEECH)
@example(_DEFAULTS)
def test_all_speech_of_settled_audio_has_been_passed_on(lesson: Lesson) -> None:
    speech = np.zeros(len(lesson.pcm()), bool)
    for start, end in lesson.speech():
        speech[start:end] = True
    told_so_far = np.zeros(len(speech), bool)
    ends: dict[int, int] = {}
    checked = 0
    for updates, settled in lesson.steps():
        for update in updates:
            if isinstance(update, Grown):
                begin = ends.get(update.start_sample, update.start_sample)
                ends[update.start_sample] = begin + len(update.pcm)
                told_so_far[begin : begin + len(update.pcm)] = True
            elif isinstance(update, Closed):
                told_so_far[update.segment.start_sample : update.segment.end_sample] = True
        assert settled >= checked or not told_so_far[settled:checked].any()
        assert told_so_far[checked:settled][speech[checked:settled]].all()
        checked = max(checked, settled)
    assert checked == len(speech)


def _assert_all_speech_has_moved(lesson: Lesson, start: int, end: int, parts: dict[int, Pcm]) -> None:
    ((next_start, next_grown),) = parts.items()
    assert next_start >= start and next_start + len(next_grown) >= end
    for speech_start, speech_end in lesson.speech():
        nowhere = range(max(start, speech_start), min(next_start, speech_end))
        assert not nowhere, "the rest was nowhere for a moment"
