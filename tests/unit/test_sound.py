"""The search for markers in recordings, and the markers themselves: what the other tests rely on."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise

import av
import numpy as np
import pytest
from livekit.local_inference import VAD, VAD_WINDOW_SAMPLES

from devtools import sound
from devtools.correlation import EnergyArray, FloatArray, correlated
from devtools.sound import SAMPLE_RATE, IntArray, Marker

pytestmark = pytest.mark.slow

OPUS_RATE = 48_000
FRAME = OPUS_RATE // 50
MARKERS = sound.markers()
FEW = MARKERS[:6]


# What can be told about a recording


def test_a_marker_is_found_once_and_where_it_was_said() -> None:
    recording, placed = sound.sequence(FEW, gap_seconds=0.4)
    for marker, place in zip(FEW, placed, strict=True):
        (occurrence,) = sound.find_marker(recording, marker)
        assert occurrence.start_sample == place.start_sample
        assert occurrence.score == pytest.approx(1, abs=0.01)


def test_a_marker_that_was_not_said_is_not_found() -> None:
    recording, _ = sound.sequence(FEW, gap_seconds=0.4)
    assert sound.heard(recording, MARKERS[6:]) == []
    assert all(sound.partly_heard(recording, marker) == 0 for marker in MARKERS[6:12])


def test_silence_and_nothing_at_all_hold_no_marker() -> None:
    assert sound.heard(np.zeros(SAMPLE_RATE, np.int16), FEW) == []
    assert sound.heard(np.zeros(0, np.int16), FEW) == []


@pytest.mark.parametrize("name", ["lecture", "student"])
def test_other_speech_holds_no_marker(name: str) -> None:
    assert sound.heard(sound.load(name), MARKERS) == []


def test_markers_are_heard_in_the_order_they_were_said() -> None:
    said = [MARKERS[index] for index in (7, 2, 9, 0)]
    recording, _ = sound.sequence(said, gap_seconds=[0.3, 2.0, 0.0])
    assert sound.heard(recording, MARKERS[:10]) == [7, 2, 9, 0]


def test_a_marker_said_twice_is_heard_twice() -> None:
    recording, _ = sound.sequence([FEW[0], FEW[1], FEW[0]], gap_seconds=0.0)
    assert sound.heard(recording, FEW) == [0, 1, 0]


def test_loudness_does_not_matter() -> None:
    recording, _ = sound.sequence(FEW, gap_seconds=0.4)
    assert sound.heard(recording // np.int16(20), FEW) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("lead_seconds", [5.0, 6.0, 7.0, 8.0])
def test_a_marker_on_the_border_of_two_transforms_is_found(lead_seconds: float) -> None:
    recording, _ = sound.sequence(FEW[:2], gap_seconds=0.0, lead_seconds=lead_seconds)
    assert sound.heard(recording, FEW) == [0, 1]


def test_as_many_gaps_as_there_are_between_markers() -> None:
    with pytest.raises(ValueError, match="2 gaps between the markers, but 3 lengths"):
        sound.sequence(FEW[:3], gap_seconds=[0.1, 0.2, 0.3])


@pytest.mark.parametrize("said_seconds", [0.4, 0.6, 0.7, 0.9, 1.1])
@pytest.mark.parametrize("marker", FEW, ids=lambda marker: str(marker.index))
def test_how_much_of_a_cut_off_marker_was_said(marker: Marker, said_seconds: float) -> None:
    said = round(said_seconds * SAMPLE_RATE)
    before, _ = sound.sequence(MARKERS[20:22], gap_seconds=0.4)
    recording = np.concatenate([before, marker.pcm[:said], sound.near_silence(1.0)])
    resolution = 0.25 * SAMPLE_RATE / marker.pcm.size
    assert sound.partly_heard(recording, marker) == pytest.approx(said / marker.pcm.size, abs=resolution)


def test_all_of_a_marker_was_said() -> None:
    recording, _ = sound.sequence(FEW, gap_seconds=0.4)
    assert all(sound.partly_heard(recording, marker) == 1 for marker in FEW)


def test_a_strict_threshold_tells_a_cut_off_marker_from_a_whole_one() -> None:
    beginning = FEW[1].pcm[: FEW[1].pcm.size // 3]
    recording = np.concatenate([FEW[0].pcm, sound.near_silence(0.5), beginning, sound.near_silence(0.5)])
    assert sound.heard(recording, FEW) == [0, 1]
    assert sound.heard(recording, FEW, threshold=0.75) == [0]


@pytest.mark.parametrize("length", [3200, 4799, 4800])
def test_a_correlation_by_transforms_is_the_sum_of_products(length: int) -> None:
    samples, template = (
        MARKERS[index].pcm[:size] / np.float32(32768) for index, size in ((0, 4800), (1, length))
    )
    wanted = np.correlate(samples, template, "valid")
    assert correlated(samples, template) == pytest.approx(wanted, abs=1e-4)


# What the way to a recording does to sound


@pytest.mark.parametrize("bits_per_second", [24_000, 32_000])
def test_every_marker_is_heard_once_through_opus(bits_per_second: int) -> None:
    received, placed = all_markers_through_opus(bits_per_second)
    assert sound.heard(received, MARKERS, threshold=0.75) == list(range(40))
    for marker, place in zip(FEW, placed, strict=False):
        (occurrence,) = sound.find_marker(received, marker)
        assert occurrence.start_sample == pytest.approx(place.start_sample, abs=0.015 * SAMPLE_RATE)


def test_all_of_every_marker_is_heard_through_opus() -> None:
    for marker in MARKERS:
        recording, _ = sound.sequence([marker], gap_seconds=0.0)
        assert sound.partly_heard(through_opus(recording, 16_000), marker) == 1


def test_how_much_was_said_is_told_through_opus() -> None:
    marker = MARKERS[33]
    recording, placed = sound.sequence([MARKERS[2], marker], gap_seconds=0.5)
    cut = placed[1].start_sample + round(0.8 * SAMPLE_RATE)
    received = through_opus(np.concatenate([recording[:cut], sound.near_silence(1.0)]), 24_000)
    assert sound.partly_heard(received, MARKERS[2]) == 1
    assert sound.partly_heard(received, marker) == pytest.approx(
        0.8 * SAMPLE_RATE / marker.pcm.size, abs=0.12
    )


def test_segments_without_their_silence_hold_the_same_markers() -> None:
    received, placed = all_markers_through_opus(24_000)
    margin = round(0.1 * SAMPLE_RATE)
    segments = [received[place.start_sample - margin : place.end_sample + margin] for place in placed]
    assert sound.heard(np.concatenate(segments), MARKERS) == list(range(40))


def test_a_recording_cut_inside_markers_and_joined_again_is_whole() -> None:
    recording, placed = sound.sequence(FEW, gap_seconds=0.4)
    received = through_opus(recording, 24_000)
    cuts = [0, *((place.start_sample + place.end_sample) // 2 for place in placed), received.size]
    joined = np.concatenate([received[start:end] for start, end in pairwise(cuts)])
    assert sound.heard(joined, FEW) == [0, 1, 2, 3, 4, 5]


def test_a_jitter_buffer_may_stretch_a_marker() -> None:
    pcm, _ = sound.sequence(MARKERS[:10], 0.3)
    pieces = [pcm[start : start + 8000] for start in range(0, len(pcm), 8000)]
    stretched = np.concatenate(
        [
            np.concatenate([piece, piece[-160 * (index % 3) or len(piece) :]])
            for index, piece in enumerate(pieces)
        ]
    )
    assert sound.heard(stretched, MARKERS) == list(range(10))


@pytest.mark.parametrize("parts_per_million", [-100, 100])
def test_clocks_may_drift(parts_per_million: int) -> None:
    recording, _ = sound.sequence(FEW, gap_seconds=0.4)
    times = np.arange(0, recording.size - 1, 1 + parts_per_million * 1e-6)
    drifted = np.interp(times, np.arange(recording.size), recording).astype(np.int16)
    assert sound.heard(drifted, FEW) == [0, 1, 2, 3, 4, 5]
    assert all(sound.partly_heard(drifted, marker) == 1 for marker in FEW)


@cache
def all_markers_through_opus(bits_per_second: int) -> tuple[IntArray, list[sound.Placed]]:
    """What arrives of all markers, with pauses of half a second, and where each was said."""
    recording, placed = sound.sequence(MARKERS, gap_seconds=0.5)
    return through_opus(recording, bits_per_second), placed


def through_opus(pcm: IntArray, bits_per_second: int) -> IntArray:
    """What arrives when 16 kHz speech travels as WebRTC sends it: 48 kHz Opus in frames of 20 ms."""
    encoder = av.AudioCodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = OPUS_RATE, "mono", "s16"
    encoder.bit_rate, encoder.options = bits_per_second, {"application": "voip"}
    decoder = av.AudioCodecContext.create("libopus", "r")
    decoder.sample_rate, decoder.layout = OPUS_RATE, "mono"
    sent = resampled(pcm, SAMPLE_RATE, OPUS_RATE)
    whole_frames = sent[: sent.size // FRAME * FRAME].reshape(-1, FRAME)
    packets = [packet for frame in whole_frames for packet in encoder.encode(audio_frame(frame, OPUS_RATE))]
    decoded = [frame.to_ndarray()[0] for packet in packets for frame in decoder.decode(packet)]
    return resampled(np.concatenate(decoded).astype(np.int16), OPUS_RATE, SAMPLE_RATE)


def resampled(pcm: IntArray, rate: int, new_rate: int) -> IntArray:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=new_rate)
    frames = [*resampler.resample(audio_frame(pcm, rate)), *resampler.resample(None)]
    heard: IntArray = np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.int16)
    return heard


def audio_frame(pcm: IntArray, rate: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(pcm[np.newaxis, :], format="s16", layout="mono")
    frame.sample_rate = rate
    return frame


# The speech itself


@pytest.mark.parametrize("name", ["lecture", "student"])
def test_sentences_sound_exactly_where_their_list_says(name: str) -> None:
    pcm = sound.load(name).astype(np.float64) / 32768
    listed = json.loads((sound.SPEECH / f"{name}.json").read_text(encoding="utf-8"))
    assert listed["sample_rate"] == SAMPLE_RATE
    position = 0
    for sentence in listed["sentences"]:
        start, end = (round(sentence[side] * SAMPLE_RATE) for side in ("start", "end"))
        assert decibels(pcm[position:start]) == pytest.approx(-65, abs=1)
        assert decibels(pcm[start : start + 800]) > -50
        assert decibels(pcm[end - 800 : end]) > -50
        position = end
    assert decibels(pcm[position:]) == pytest.approx(-65, abs=1)


def test_no_two_markers_resemble_each_other() -> None:
    recording, _ = sound.sequence(MARKERS, gap_seconds=2.0)
    assert sound.heard(recording, MARKERS, threshold=0.35) == list(range(40))


@pytest.mark.parametrize("marker", MARKERS, ids=lambda marker: str(marker.index))
def test_a_marker_is_speech_from_its_first_moment_to_its_last(marker: Marker) -> None:
    assert 0.8 <= marker.pcm.size / SAMPLE_RATE <= 1.8
    assert np.abs(marker.pcm.astype(float)).max() == pytest.approx(32767 * 10 ** (-3 / 20), abs=1)
    assert max(silent_seconds(marker.pcm), silent_seconds(marker.pcm[::-1])) < 0.020
    probabilities = speech_probabilities(marker.pcm)
    assert np.mean(probabilities > 0.5) >= 0.6
    assert probabilities.max() > 0.9


def test_markers_are_forty_different_sentences() -> None:
    assert [marker.index for marker in MARKERS] == list(range(40))
    assert len({marker.text for marker in MARKERS}) == 40


def silent_seconds(pcm: IntArray) -> float:
    """How long it takes to become louder than 45 dB below the loudest 5 ms."""
    frame = SAMPLE_RATE // 200
    energies = np.mean(pcm[: pcm.size // frame * frame].reshape(-1, frame).astype(float) ** 2, axis=1)
    return float(np.argmax(energies > energies.max() * 10**-4.5)) * frame / SAMPLE_RATE


def speech_probabilities(pcm: IntArray) -> FloatArray:
    detector = VAD()
    windows = pcm[: pcm.size // VAD_WINDOW_SAMPLES * VAD_WINDOW_SAMPLES].reshape(-1, VAD_WINDOW_SAMPLES)
    return np.array([detector.predict(window) for window in windows], dtype=np.float32)


def decibels(samples: EnergyArray) -> float:
    """Root mean square of samples from -1 to 1, in dBFS."""
    return float(10 * np.log10(np.mean(samples**2)))


@pytest.mark.parametrize("hole", [(0.0, 0.3), (0.3, 0.7), (0.5, 9.0)])
def test_what_is_left_of_a_marker_at_both_sides_of_a_hole_is_found_in_its_place(
    hole: tuple[float, float],
) -> None:
    for marker in MARKERS[:10]:
        start, end = round(hole[0] * SAMPLE_RATE), min(round(hole[1] * SAMPLE_RATE), marker.pcm.size)
        pcm = marker.pcm.copy()
        pcm[start:end] = 0
        count = sound.heard_in_place(np.pad(pcm, 2_400), marker.pcm, 2_400 + 800, 1_600)
        assert count == pytest.approx(pcm.size - (end - start), abs=0.21 * SAMPLE_RATE)


def test_a_marker_that_is_not_in_its_place_is_not_found_there() -> None:
    """One or two pieces of other speech may resemble it by chance."""
    pairs = list(zip(MARKERS[:20], MARKERS[20:], strict=True))
    shares = [
        sound.heard_in_place(np.pad(other.pcm, 2_400), one.pcm, 2_400, 2_400) / one.pcm.size
        for one, other in pairs
    ]
    assert np.median(shares) == 0
    assert max(shares) < 0.5
    assert sound.heard_in_place(np.zeros(16_000, np.int16), MARKERS[0].pcm, 0, 2_400) == 0
