"""Searches a whole video for stretches of a lesson."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.records import SAMPLE_RATE
from lesson_tools.export.alignment import Sound
from lesson_tools.export.spectrogram import (
    COARSE,
    FRAMES_A_SECOND,
    HOP,
    MIN_ENERGY,
    WINDOW,
    Changes,
    Floats,
    Spectrogram,
    coarse,
    peak_offset,
    spectrogram,
)

STRETCHES = 48
"""A lesson is divided into at most this many stretches."""
STRETCH_SPEECH_SECONDS, STRETCH_SECONDS = 10.0, 40.0
"""A stretch has this much speech, in at most this much time."""
PLACES = 4
"""Candidates kept for each stretch."""
PLACES_APART_SECONDS = 0.5


@dataclass(frozen=True)
class Place:
    """A place in the video that resembles a stretch of the lesson."""

    stretch: int
    moment: float
    """Lesson time of the stretch's middle."""
    period: tuple[float, float]
    """Lesson time of the stretch and of its neighbours."""
    offset: float
    """Video time minus lesson time."""
    score: float


def likely_places(sounds: Sequence[Sound], video: Spectrogram) -> list[Place]:
    """Finds for each stretch of the lesson the places in the video that resemble it most."""
    search = _Search(coarse(video))
    stretches = _stretches(sounds)
    places = []
    for number, stretch in enumerate(stretches):
        start, spectra, known = _mixed(stretch)
        middle, period = (start + stretch[-1].end) / 2, _period_around(stretches, number, sounds)
        places += [
            Place(number, middle, period, at - start, score)
            for at, score in search.best(coarse(spectra), known)
        ]
    return places


def _period_around(
    stretches: Sequence[Sequence[Sound]], number: int, sounds: Sequence[Sound]
) -> tuple[float, float]:
    """Returns the lesson time of a stretch with its neighbours, the farthest that its time map may reach."""
    before = stretches[max(0, number - 1)]
    behind = stretches[number + 1] if number + 1 < len(stretches) else sounds
    return before[0].start, behind[-1].end


def _stretches(sounds: Sequence[Sound]) -> list[list[Sound]]:
    """Groups neighbouring segments until each group is long enough to be distinctive; evenly over the lesson."""
    found = []
    for begin in range(0, len(sounds), math.ceil(len(sounds) / STRETCHES)):
        stretch = [sounds[begin]]
        for sound in sounds[begin + 1 :]:
            too_long = sound.end - stretch[0].start > STRETCH_SECONDS
            if too_long or sum(one.seconds for one in stretch) >= STRETCH_SPEECH_SECONDS:
                break
            stretch.append(sound)
        found.append(stretch)
    return found


def _mixed(stretch: Sequence[Sound]) -> tuple[float, Spectrogram, npt.NDArray[np.bool_]]:
    """Returns when a stretch begins, its spectrogram, and which of its coarse frames are known (have speech)."""
    start = stretch[0].start
    length = round((max(sound.end for sound in stretch) - start) * SAMPLE_RATE) + WINDOW
    mix, known = np.zeros(length, np.float32), np.zeros(length, np.bool_)
    for sound in stretch:
        at = round((sound.start - start) * SAMPLE_RATE)
        pcm = sound.load()[: length - at]
        mix[at : at + len(pcm)] += pcm
        known[at : at + len(pcm)] = True
    spectra = spectrogram([mix])
    frames = known[: len(spectra) * HOP].reshape(-1, HOP)[:, 0]
    known_coarse = frames[: len(frames) // COARSE * COARSE].reshape(-1, COARSE).min(axis=1)
    return start, spectra, np.asarray(known_coarse, np.bool_)


class _Search:
    """Correlates many stretches with one video, whose spectra are computed once."""

    def __init__(self, video: Changes) -> None:
        self._frames = len(video)
        self._longest = round((STRETCH_SECONDS + 60) * FRAMES_A_SECOND / COARSE)
        self._size = 1 << (len(video) + 2 * self._longest).bit_length()
        self._bands = [self._spectrum(band) for band in video.T]
        self._energy = self._spectrum((video**2).sum(axis=1))

    def _spectrum(self, values: Floats) -> npt.NDArray[np.complex64]:
        return np.fft.rfft(values, self._size).astype(np.complex64)

    def best(self, wanted: Changes, known: npt.NDArray[np.bool_]) -> Iterator[tuple[float, float]]:
        """Yields where in the video it may begin (seconds, may be negative) and the normalised correlation there."""
        wanted = wanted[: self._longest] * known[: self._longest, None]
        correlation = self._correlated(self._products(wanted))
        local = self._correlated(
            self._energy * np.conj(self._spectrum(known[: self._longest].astype(np.float32)))
        )
        own = float((wanted**2).sum())
        # At the video's edges only a part of the stretch overlaps, and that part may match by chance.
        least = max(0.25 * float(np.median(local[self._longest :])), MIN_ENERGY)
        scores = np.asarray(
            correlation / np.sqrt(np.maximum(local, least) * max(own, MIN_ENERGY)), np.float32
        )
        apart = round(PLACES_APART_SECONDS * FRAMES_A_SECOND / COARSE)
        for _ in range(PLACES):
            peak = int(np.argmax(scores))
            fraction = peak_offset(scores, peak)
            yield (peak + fraction - self._longest) * COARSE / FRAMES_A_SECOND, float(scores[peak])
            scores[max(0, peak - apart) : peak + apart + 1] = -1

    def _products(self, wanted: Changes) -> npt.NDArray[np.complex64]:
        total = np.zeros_like(self._energy)
        for of_video, band in zip(self._bands, wanted.T, strict=True):
            total += of_video * np.conj(self._spectrum(band))
        return total

    def _correlated(self, spectrum: npt.NDArray[np.complex64]) -> Floats:
        """Transforms back; the first value is for ``-longest`` frames, so a stretch may begin before the video does."""
        values = np.roll(np.fft.irfft(spectrum, self._size), self._longest)
        return values[: self._longest + self._frames].astype(np.float32)
