"""How exactly and how fast `lessons.py export --video` finds a lesson in its video.

Sentences of the shipped speech in random order with random pauses, so that all lessons resemble each other; one hour of
it, in a video that began two minutes earlier and whose clock is off by one second an hour. The error is the largest of
all segments. "Of 20 other lessons" is how often a video of another lesson, made of the same sentences, was taken for
the right one. The time for an hour of MP4 (AAC) includes decoding and searching.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, Options, Outcome
from core.records import SAMPLE_RATE
from devtools import sound
from devtools.correlation import FloatArray
from devtools.sample_lesson import made_lesson
from devtools.videos import between, music, noise, stretched, write_video
from lesson_tools.decoding import Recording
from lesson_tools.export.alignment import Alignment, CannotAlign, Sound
from lesson_tools.export.video_alignment import align

NAME = "video"

EARLIER = 120.0
FASTER = 1 + 1 / 3600
MAX_MILLISECONDS = 50.0
OTHER_LESSONS = 20
Track = FloatArray


def measure(options: Options) -> Outcome:
    """Everything is seeded, so only the times differ between runs."""
    length = 180.0 if options.quick else 3600.0
    sounds, track = made_lesson(length, seed=1)
    loudness = float(np.sqrt(np.mean(track[track != 0] ** 2)))
    film = between(EARLIER, stretched(track, FASTER))
    seconds = len(film) / SAMPLE_RATE
    conditions: dict[str, Callable[[], Track]] = {
        "clean": lambda: film,
        "noise as loud as the speech": lambda: film + noise(seconds + 1, loudness, 3)[: len(film)],
        "music as loud as the speech": lambda: film + music(seconds + 1, loudness, 4)[: len(film)],
    }
    figures = [
        Figure(f"error, {name}", "ms", [_worst_error(sounds, make())], at_most=MAX_MILLISECONDS, digits=2)
        for name, make in conditions.items()
    ]
    wrong = sum(
        _is_taken(sounds, seed, length) for seed in range(100, 100 + (2 if options.quick else OTHER_LESSONS))
    )
    figures.append(Figure("mistaken, of 20 other lessons", "videos", [wrong], digits=0, at_most=0))
    times = [_file_seconds(sounds, film) for _ in range(options.runs)]
    figures.append(Figure("an hour of MP4", "s CPU", [one * 3600 / seconds for one in times]))
    return Outcome(NAME, figures)


def _worst_error(sounds: list[Sound], film: Track) -> float:
    return _error(align(sounds, [_pcm(film)]), sounds)


def _error(found: Alignment, sounds: list[Sound]) -> float:
    """Milliseconds; a segment that is not found counts as a day."""
    times = [found.video_time(one.start) for one in sounds]
    return max(
        86_400_000.0 if time is None else 1000 * abs(time - EARLIER - FASTER * one.start)
        for one, time in zip(sounds, times, strict=True)
    )


def _is_taken(sounds: list[Sound], seed: int, length: float) -> bool:
    _, other = made_lesson(min(length, 600.0), seed)
    try:
        align(sounds, [_pcm(other)])
    except CannotAlign:
        return False
    return True


def _file_seconds(sounds: list[Sound], film: Track) -> float:
    """CPU seconds for decoding and searching."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_video(Path(folder) / "lecture.mp4", film, "aac", 44_100)
        began = time.process_time()
        with Recording(path) as recording:
            error = _error(align(sounds, recording.sound()), sounds)
        taken = time.process_time() - began
    if error > MAX_MILLISECONDS:
        raise RuntimeError(f"the lesson was put {error:.0f} ms off")
    return taken


def _pcm(film: Track) -> sound.IntArray:
    return np.round(np.clip(film, -1, 1) * 32767).astype(np.int16)
