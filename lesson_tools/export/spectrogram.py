"""Spectrograms of speech for alignment, and their correlation.

A spectrogram has the energy in some bands of frequency, every 10 ms. What is compared is how it changes: that survives
another microphone, another codec, noise, and music underneath.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from core.records import SAMPLE_RATE

Floats = npt.NDArray[np.float32]
Spectrogram = npt.NDArray[np.float16]
"""Shape (frames, BANDS): compressed energy in each band, ``FRAMES_A_SECOND`` frames a second."""
Changes = npt.NDArray[np.float32]
"""Shape (frames, BANDS): how much louder each band gets."""

FRAMES_A_SECOND = 100
HOP = SAMPLE_RATE // FRAMES_A_SECOND
WINDOW = 512
BANDS = 20
LOWEST_HZ, HIGHEST_HZ = 120.0, 5000.0
"""Telephones and cheap codecs keep most of this."""
COMPRESSION = 0.3
"""Exponent of the energy. Below 1, so that loud sounds weigh more than soft ones but do not decide alone."""
STEADY_FRAMES = 2
"""The change is measured from this many frames before to this many after; a steady sound has none."""
COARSE = 4
"""Frames averaged into one for the search of the whole video."""
BLOCK = 100
"""Frames that are transformed at a time: more of them do not fit into a processor's cache, and take twice as long."""
MIN_ENERGY = 1e-6
"""The smallest energy that is used as a divisor: silence has none."""


def _band_edges() -> list[int]:
    """Returns the FFT bins at the bands' edges, spaced evenly on the mel scale."""
    low, high = (1127 * math.log1p(hz / 700) for hz in (LOWEST_HZ, HIGHEST_HZ))
    hertz = 700 * np.expm1(np.linspace(low, high, BANDS + 1) / 1127)
    return [int(edge) for edge in np.round(hertz * WINDOW / SAMPLE_RATE)]


_EDGES = _band_edges()
_TAPER = np.hanning(WINDOW).astype(np.float32)


def spectrogram(pieces: Iterable[npt.NDArray[np.int16] | Floats]) -> Spectrogram:
    """Computes the spectrogram of a sound that comes in pieces. It takes 4 kB for a second."""
    rest, rows = np.zeros(0, np.float32), [np.zeros((0, BANDS), np.float16)]
    for piece in pieces:
        rest = np.concatenate([rest, piece])
        count = (len(rest) - WINDOW) // HOP + 1
        if count >= FRAMES_A_SECOND:
            rows += _rows(rest)
            rest = rest[count * HOP :]
    if len(rest) >= WINDOW:
        rows += _rows(rest)
    return np.concatenate(rows)


def _rows(samples: Floats) -> Iterator[npt.NDArray[np.float16]]:
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    for begin in range(0, len(windows), BLOCK):
        yield _block(windows[begin : begin + BLOCK])


def _block(windows: Floats) -> npt.NDArray[np.float16]:
    if not windows.any():  # the pauses between segments
        return np.zeros((len(windows), BANDS), np.float16)
    energy = np.abs(np.fft.rfft(windows * _TAPER, axis=1)) ** 2
    bands = np.add.reduceat(energy[:, : _EDGES[-1]], _EDGES[:-1], axis=1)
    return np.minimum(bands**COMPRESSION, np.finfo(np.float16).max).astype(np.float16)


def changes(spectra: Spectrogram) -> Changes:
    """Computes how each band gets louder or softer. ``STEADY_FRAMES`` frames are missing at each end."""
    wide = spectra.astype(np.float32)
    earlier = wide[: max(0, len(wide) - 2 * STEADY_FRAMES)]
    return np.asarray(wide[2 * STEADY_FRAMES :] - earlier, np.float32)


def coarse(spectra: Spectrogram) -> Changes:
    """Averages ``COARSE`` frames into one, and computes how that changes."""
    whole = spectra[: len(spectra) // COARSE * COARSE]
    thin = whole.reshape(-1, COARSE, BANDS).mean(axis=1, dtype=np.float32)
    result = np.zeros(thin.shape, np.float32)
    result[1:-1] = thin[2:] - thin[:-2]
    return result


def peak_offset(values: Floats, peak: int) -> float:
    """Returns where the maximum near index ``peak`` lies, in frames from it (-0.5 to 0.5), by fitting a parabola."""
    if not 0 < peak < len(values) - 1:
        return 0.0
    before, at, after = (float(value) for value in values[peak - 1 : peak + 2])
    bend = before - 2 * at + after
    return 0.0 if bend >= 0 else max(-0.5, min(0.5, 0.5 * (before - after) / bend))


def correlation(wanted: Changes, searched: Changes) -> Floats:
    """Computes the normalised correlation of ``wanted`` at every place in ``searched``."""
    template, flat = wanted.ravel(), searched.ravel()
    starts = range(0, searched.size - wanted.size + 1, BANDS)
    products = np.array([flat[start : start + wanted.size] @ template for start in starts])
    running = np.concatenate([[0.0], np.cumsum(np.square(searched, dtype=np.float64).sum(axis=1))])
    energy = running[len(wanted) :] - running[: len(running) - len(wanted)]
    scores = products / np.sqrt(np.maximum(energy, MIN_ENERGY) * max(float((wanted**2).sum()), MIN_ENERGY))
    return np.asarray(scores, np.float32)
