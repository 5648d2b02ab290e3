"""The detector on the shipped speech: cut in mid-speech, quiet, in noise; and noise alone opens no segment."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from audio_processor import WINDOW_SAMPLES, Closed, Segmenter, Update
from benchmarks import corpus
from benchmarks.corpus import Labels
from benchmarks.noises import NOISES
from core.records import SAMPLE_RATE, EndReason, Pcm, SpeechSegment
from devtools import sound
from recording.speech_detector import (
    MAX_GAIN_DB,
    RENEW_WINDOWS,
    REPEATED_WINDOWS,
    SURE_PROBABILITY,
    NativeDetector,
    OnnxDetector,
    SpeechDetector,
    VoiceLevel,
)

pytestmark = pytest.mark.slow

RUNTIMES = [NativeDetector, OnnxDetector]
AFTER = 4 * SAMPLE_RATE


def segments(pcm: Pcm, detector: SpeechDetector | None = None) -> list[SpeechSegment]:
    detector, segmenter, updates = detector or NativeDetector(), Segmenter(), list[Update]()
    whole = len(pcm) - len(pcm) % WINDOW_SAMPLES
    for start in range(0, whole, WINDOW_SAMPLES):
        window = pcm[start : start + WINDOW_SAMPLES]
        updates += segmenter.push(window, detector.probability(window))
    updates += segmenter.finish(EndReason.SHUTDOWN, pcm[whole:])
    return [update.segment for update in updates if isinstance(update, Closed)]


def saved(pcm: Pcm, detector: SpeechDetector | None = None) -> Labels:
    """Which samples are saved."""
    mask = np.zeros(len(pcm), np.bool_)
    for segment in segments(pcm, detector):
        mask[segment.start_sample : segment.end_sample] = True
    return mask


def lesson(seconds: float = 40, pause: float = 1.0, noise: float = corpus.NOISE) -> corpus.Labelled:
    return corpus.recording(corpus.shipped(), 0, seconds, lambda _: pause, noise)


def lost_percent(one: corpus.Labelled, kept: Labels) -> float:
    return 100 * int((one.labels & ~kept).sum()) / int(one.labels.sum())


# --- a stream that begins in the middle of a word ---


@pytest.mark.parametrize(("new_detector", "cuts"), [(NativeDetector, 60), (OnnxDetector, 6)])
def test_a_new_detector_hears_the_word_in_which_it_begins(
    new_detector: Callable[[], SpeechDetector], cuts: int
) -> None:
    whole = lesson()
    uncut = saved(whole.pcm)
    random = np.random.default_rng(1)
    lost = speech = 0
    for cut in random.choice(np.flatnonzero(whole.labels[: -2 * AFTER]), cuts):
        labels = whole.labels[cut : cut + AFTER]
        kept = saved(whole.pcm[cut : cut + AFTER + SAMPLE_RATE], new_detector())[:AFTER]
        speech += int(labels.sum())
        lost += int((labels & uncut[cut : cut + AFTER] & ~kept).sum())
    assert 100 * lost / speech <= 0.2


def seconds_saved(noise: str, seed: int) -> float:
    room = NOISES[noise](np.random.default_rng(seed), 25 * SAMPLE_RATE, corpus.shipped())
    return sum(segment.duration_seconds for segment in segments(corpus.clipped(room)))


@pytest.mark.parametrize("noise", ["a quiet room", "a fan", "a keyboard"])
def test_noise_alone_opens_no_segment(noise: str) -> None:
    """Neither at the beginning of a stream nor when the model is renewed."""
    assert seconds_saved(noise, seed=2) == 0


def test_most_of_what_people_say_far_away_is_not_saved() -> None:
    assert sum(seconds_saved("people far away", seed) for seed in range(2, 6)) <= 0.2 * 4 * 25


# --- a quiet voice ---


@pytest.mark.parametrize("level_db", [0, -9, -20, -26, -32])
def test_a_quiet_voice_is_heard(level_db: float) -> None:
    one = lesson()
    pcm = corpus.clipped(one.pcm * 10 ** (level_db / 20))
    assert lost_percent(one, saved(pcm)) <= 0.35


def test_what_is_saved_is_as_quiet_as_it_was() -> None:
    pcm = corpus.clipped(lesson().pcm * 10 ** (-26 / 20))
    found = segments(pcm)
    assert found
    for segment in found:
        np.testing.assert_array_equal(segment.pcm, pcm[segment.start_sample : segment.end_sample])


def tone(level_db: float) -> Pcm:
    amplitude = 2**0.5 * 32768 * 10 ** (level_db / 20)
    return corpus.clipped(amplitude * np.sin(np.arange(WINDOW_SAMPLES) / 8))


def after(
    seconds: float, level_db: float, probability: float = 1.0, level: VoiceLevel | None = None
) -> VoiceLevel:
    level = level or VoiceLevel()
    for _ in range(round(seconds * SAMPLE_RATE / WINDOW_SAMPLES)):
        level.learn(tone(level_db), probability)
    return level


def decibels(gain: float) -> float:
    return float(20 * np.log10(gain))


def test_a_loud_voice_is_not_amplified() -> None:
    level = after(1, -10)
    assert level.gain == 1
    assert level.amplified(window := tone(-10)) is window


def test_a_quiet_voice_is_amplified_slowly_and_not_beyond_the_bound() -> None:
    assert decibels(after(1, -60).gain) == pytest.approx(2, abs=0.1)
    assert decibels(after(60, -60).gain) == pytest.approx(MAX_GAIN_DB)


def test_a_loud_voice_after_a_quiet_one_ends_the_gain_at_once() -> None:
    quiet = after(60, -60)
    assert decibels(after(0.5, -10, level=quiet).gain) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("level_db", [-60, -3])
def test_noise_changes_no_gain(level_db: float) -> None:
    assert after(60, level_db, probability=SURE_PROBABILITY).gain == VoiceLevel().gain


def test_what_is_too_loud_with_its_gain_is_clipped() -> None:
    level = after(60, -60)
    heard = level.amplified(np.array([32767, -32768] * 256, np.int16))
    assert (int(heard.max()), int(heard.min())) == (32767, -32768)


# --- the state of the model ---


def test_speech_is_heard_after_a_long_time_in_steady_noise() -> None:
    one = lesson(30)
    noise = NOISES["a fan"](np.random.default_rng(3), len(one.pcm) + 60 * SAMPLE_RATE, [])
    pcm = np.concatenate([np.zeros(60 * SAMPLE_RATE, np.int16), one.pcm])
    kept = saved(corpus.clipped(pcm + noise))[60 * SAMPLE_RATE :]
    assert lost_percent(one, kept) <= 0.35


class Recorded:
    """A model that answers with a given probability, and keeps its input since the last reset."""

    def __init__(self) -> None:
        self.says = 0.0
        self.heard: list[Pcm] = []
        self.resets = 0

    def predict(self, window: Pcm) -> float:
        self.heard.append(window)
        return self.says

    def reset(self) -> None:
        self.heard, self.resets = [], self.resets + 1


class OwnModel(NativeDetector):
    """The detector with a model of the test."""

    def __init__(self, model: Recorded) -> None:
        super(NativeDetector, self).__init__(model)


def windows(count: int) -> list[Pcm]:
    return np.split(np.random.default_rng(4).integers(-9, 9, count * WINDOW_SAMPLES).astype(np.int16), count)


def test_in_silence_the_model_is_renewed_and_hears_the_latest_again() -> None:
    model = Recorded()
    detector, silence = OwnModel(model), windows(RENEW_WINDOWS)
    for window in silence:
        assert model.resets == 0
        detector.probability(window)
    assert model.resets == 1
    level = VoiceLevel()
    expected = [level.amplified(window) for window in silence[-REPEATED_WINDOWS:]]
    np.testing.assert_array_equal(model.heard[-REPEATED_WINDOWS:], expected)
    assert not np.any(model.heard[:-REPEATED_WINDOWS])


@pytest.mark.parametrize("probability", [0.1, 0.2, 1.0])
def test_the_model_is_not_renewed_while_there_may_be_speech(probability: float) -> None:
    model = Recorded()
    detector = OwnModel(model)
    for index, window in enumerate(windows(3 * RENEW_WINDOWS)):
        model.says = 0.0 if index % RENEW_WINDOWS else probability
        detector.probability(window)
    assert model.resets == 0


def test_the_shipped_lecture_is_as_loud_as_a_voice_that_needs_no_gain() -> None:
    detector = NativeDetector()
    saved(sound.load("lecture"), detector)
    assert decibels(detector._level.gain) < 6
