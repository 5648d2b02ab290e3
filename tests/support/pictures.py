"""Speech as a picture: one character for each window of 32 ms, and the segments as a ruler below it.

    speech   "....SSSSSSSSSS............"
    segments "..[==========]............"

In ``speech``: ``S`` is sure speech, ``s`` weak speech (enough to go on, not to begin), ``.`` silence, and ``!``
breaks the stream off, as a mute does; the stream also ends where the text does. In ``segments``: ``[`` and ``]``
are the first and the last window of a segment. Below both, if it matters, stands how loud each window is, 0 to 9.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from audio_processor import WINDOW_SAMPLES, Closed, Segmenter, SegmenterOptions, Update
from core.records import SAMPLE_RATE, EndReason, Pcm, SpeechSegment

PROBABILITIES = {"S": 0.9, "s": 0.3, ".": 0.02}
BREAK = "!"

SHORT_PICTURES: dict[str, int] = {
    "min_speech": 3,
    "pre_roll": 2,
    "post_roll": 2,
    "pause": 4,
    "join": 8,
    "min_segment": 8,
    "fill": 0,
    "maximum": 24,
}
"""Lengths in windows. Every picture uses these, unless it names others."""


def options(**windows: int) -> SegmenterOptions:
    """Options with lengths in windows; the maximum leaves room for a remainder of less than a window."""
    lengths = {**SHORT_PICTURES, **windows}
    assert lengths.keys() == SHORT_PICTURES.keys(), f"unknown length among {sorted(windows)}"
    seconds = {name: count * WINDOW_SAMPLES / SAMPLE_RATE for name, count in lengths.items()}
    return SegmenterOptions(
        start_probability=0.4,
        end_probability=0.2,
        min_speech_seconds=seconds["min_speech"],
        pre_roll_seconds=seconds["pre_roll"],
        post_roll_seconds=seconds["post_roll"],
        pause_seconds=seconds["pause"],
        join_seconds=seconds["join"],
        min_segment_seconds=seconds["min_segment"],
        fill_seconds=seconds["fill"],
        max_segment_seconds=seconds["maximum"] + (WINDOW_SAMPLES - 0.5) / SAMPLE_RATE,
    )


def sound(windows: int, loudness: str | None = None, seed: int = 0) -> Pcm:
    """Noise of which no two windows are alike and all are equally loud, or as loud as the digits say."""
    random = np.random.default_rng(seed)
    one = random.integers(-1000, 1001, WINDOW_SAMPLES)
    if loudness is None:
        loudness = "9" * windows
    pieces = [random.permutation(one) * int(digit) // 9 for digit in loudness]
    pcm: Pcm = np.concatenate([np.zeros(0), *pieces]).astype(np.int16)
    return pcm


def windows_of(pcm: Pcm) -> list[Pcm]:
    return [pcm[start : start + WINDOW_SAMPLES] for start in range(0, len(pcm), WINDOW_SAMPLES)]


def told(speech: str, pcm: Pcm, segmenter: Segmenter, end: EndReason = EndReason.SHUTDOWN) -> list[Update]:
    """Every event of a segmenter for the speech of a picture."""
    updates: list[Update] = []
    windows = iter(windows_of(pcm))
    for character in speech:
        if character == BREAK:
            updates += segmenter.finish(EndReason.MUTED)
        else:
            updates += segmenter.push(next(windows), PROBABILITIES[character])
    return updates + segmenter.finish(end)


def closed(updates: Iterable[Update]) -> list[SpeechSegment]:
    return [update.segment for update in updates if isinstance(update, Closed)]


def cut(speech: str, *, loudness: str | None = None, **windows: int) -> list[SpeechSegment]:
    """The segments of the speech of a picture."""
    pcm = sound(len(speech.replace(BREAK, "")), loudness)
    return closed(told(speech, pcm, Segmenter(options(**windows))))


def ruler(segments: Sequence[SpeechSegment], speech: str) -> str:
    """The segments as they are drawn below the speech."""
    windows = ["."] * len(speech.replace(BREAK, ""))
    for segment in segments:
        first, last = segment.start_sample // WINDOW_SAMPLES, segment.end_sample // WINDOW_SAMPLES - 1
        assert set(windows[first : last + 1]) == {"."}, "segments overlap"
        windows[first : last + 1] = "[" + "=" * (last - first - 1) + "]"
    drawn = iter(windows)
    return "".join(BREAK if character == BREAK else next(drawn) for character in speech)


def assert_picture(
    speech: str, expected: str, *, loudness: str | None = None, **windows: int
) -> list[SpeechSegment]:
    """Cuts the speech and compares the segments with a picture of them, and that they have the stream's own sound."""
    segments = cut(speech, loudness=loudness, **windows)
    seen = ruler(segments, speech)
    assert seen == expected, f"\nspeech   {speech}\nexpected {expected}\nseen     {seen}"
    pcm = sound(len(speech.replace(BREAK, "")), loudness)
    for segment in segments:
        np.testing.assert_array_equal(segment.pcm, pcm[segment.start_sample : segment.end_sample])
    return segments
